"""Parts of conditions on their way: with their batch, into shared calls, to the UNet.

The parts are the smallest that published systems need, each beside its own formula.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from torch import Tensor, nn

from threed.diffusion.condition import Condition, stack
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.attention import (
    Attend,
    Change,
    Layer,
    Record,
    Rewrite,
    Site,
    Views,
    install,
    more_keys,
    plain,
)
from threed.diffusion.parts.control import Around, Control, new_controlnet
from threed.diffusion.score import cfg, score

T = torch.tensor([1, 300, 600, 900])
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def counted(backbone: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the UNet's batches from now on."""
    sizes: list[int] = []
    plain = backbone.unet.forward

    def forward(x: Tensor, *args: Any, **options: Any) -> Any:
        sizes.append(len(x))
        return plain(x, *args, **options)

    monkeypatch.setattr(backbone.unet, "forward", forward)
    return sizes


def same_one_by_one(backbone: StableDiffusion, x: Tensor, condition: Condition) -> None:
    """The batch's noise is that of its items, each in a call of its own, in any order."""
    together = backbone.predict_noise(x, T, condition)
    for i in range(len(x)):
        alone = condition.select(torch.tensor([i]))
        one = backbone.predict_noise(x[i : i + 1], T[i : i + 1], alone)
        torch.testing.assert_close(one, together[i : i + 1], **CLOSE)
    order = torch.tensor([2, 0, 3, 3])
    mixed = backbone.predict_noise(x[order], T[order], condition.select(order))
    torch.testing.assert_close(mixed, together[order], **CLOSE)


def shares_a_call(
    backbone: StableDiffusion, x: Tensor, conditions: Sequence[Condition],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Conditions in one call are what they are in calls of their own, at twice the batch, too."""
    each = [backbone.predict_noise(x, T, condition) for condition in conditions]
    sizes = counted(backbone, monkeypatch)
    guided = score(backbone, conditions, lambda e, x, t: torch.stack([*e]))
    torch.testing.assert_close(guided(x, T), torch.stack(each), **CLOSE)
    twice = guided(x.repeat(2, 1, 1, 1), T.repeat(2))
    torch.testing.assert_close(twice, torch.stack(each).repeat(1, 2, 1, 1, 1), **CLOSE)
    assert sizes == [4 * len(conditions), 8 * len(conditions)]


# image tokens: IP-Adapter (arXiv:2308.06721) and MS-Diffusion (arXiv:2406.07209)


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """A second cross-attention, to tokens [B, T, C] by maps of its own, masked or not."""

    tokens: Tensor
    maps: Mapping[str, nn.ModuleList]  # keys' and values', by layer
    scale: float
    boxes: Tensor | None = None  # [B, T, 4] where in the picture each token is seen

    def select(self, index: Tensor) -> ImageTokens:
        boxes = None if self.boxes is None else self.boxes[index]
        return replace(self, tokens=self.tokens[index], boxes=boxes)

    def join(self, others: Sequence[Any]) -> ImageTokens | None:
        if any(getattr(other, "maps", None) is not self.maps for other in others):
            return None
        return replace(self, tokens=torch.cat([self.tokens, *(o.tokens for o in others)]))

    def __call__(self, site: Site, attend: Attend) -> Attend:
        if not site.layer.cross:
            return attend
        keys, values = (part(self.tokens) for part in self.maps[site.layer.name])
        outside = None if self.boxes is None else self.outside(site)

        def both(
            q: Tensor, k: Tensor, v: Tensor, *,
            bias: Tensor | None = None, change: Change | None = None,
        ) -> Tensor:  # fmt: skip
            text = attend(q, k, v, bias=bias, change=change)
            if outside is None:
                return text + self.scale * attend(q, keys, values)
            image = attend(q, keys, values, bias=-1e4 * outside[:, None])
            return text + self.scale * image * (1 - outside.amin(-1, keepdim=True))

        return both

    def outside(self, site: Site) -> Tensor:
        """[B, L, T] 1 for places that are not in a token's box (left, top, right, bottom)."""
        assert self.boxes is not None
        y, x = (torch.arange(n).add(0.5) / n for n in (site.rows, site.columns))
        left, top, right, bottom = self.boxes.unbind(-1)
        inside = ((y[:, None, None, None] >= top) & (y[:, None, None, None] < bottom)
                  & (x[:, None, None] >= left) & (x[:, None, None] < right))  # fmt: skip
        return (~inside).permute(2, 0, 1, 3).flatten(1, 2).to(self.tokens)


def new_maps(backbone: StableDiffusion, width: int) -> dict[str, nn.ModuleList]:
    """Random maps from tokens of a width to each cross-attention's keys and values."""
    return {
        name: nn.ModuleList(nn.Linear(width, attn.inner_dim, bias=False) for _ in range(2))
        for name, attn in backbone.unet.named_modules()
        if name.endswith("attn2")
    }


def test_image_tokens_are_the_ip_adapters(
    backbone: StableDiffusion, x: Tensor, told: Condition
) -> None:
    maps, tokens, scale = new_maps(backbone, 12), torch.randn(4, 5, 12), 0.7
    with_image = replace(told, attention=(ImageTokens(tokens, maps, scale),))
    ours = backbone.predict_noise(x, T, with_image)
    processors = dict(backbone.unet.attn_processors)
    try:
        for name, (to_k, to_v) in maps.items():
            attn = backbone.unet.get_submodule(name)
            theirs = IPAdapterAttnProcessor2_0(attn.inner_dim, 12, (5,), [scale])
            theirs.to_k_ip, theirs.to_v_ip = nn.ModuleList([to_k]), nn.ModuleList([to_v])
            attn.set_processor(theirs)
        with torch.no_grad():
            expected = backbone.unet(x, T, (told.tokens, [tokens[:, None]])).sample
    finally:
        backbone.unet.set_attn_processor(processors)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)
    assert float((ours - backbone.predict_noise(x, T, told)).detach().abs().max()) > 1e-3
    same_one_by_one(backbone, x, with_image)


def test_image_tokens_on_one_side_of_guidance_share_its_call(
    backbone: StableDiffusion, x: Tensor, told: Condition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside none, beside others of their kind, and beside another edit."""
    maps = new_maps(backbone, 12)
    some, others = (ImageTokens(torch.randn(4, 5, 12), maps, 1.0) for _ in range(2))
    edits: list[tuple[Any, ...]] = [(some,), (), (others,), (some, Views(1)), (Views(1),)]
    conditions = [replace(told, attention=edit) for edit in edits]
    shares_a_call(backbone, x, conditions, monkeypatch)
    (joined,) = stack([conditions[0], conditions[2]]).attention
    assert isinstance(joined, ImageTokens)
    assert torch.equal(joined.tokens, torch.cat([some.tokens, others.tokens]))


def test_gradients_reach_image_tokens_and_their_maps_through_guidance(
    backbone: StableDiffusion, x: Tensor, told: Condition
) -> None:
    maps, tokens = new_maps(backbone, 12), torch.randn(4, 5, 12, requires_grad=True)
    text = replace(told, attention=(ImageTokens(tokens, maps, 1.0),))
    noise = score(backbone, [text, told], cfg(5.0))(x, T)
    leaves = [tokens, *(part.weight for pair in maps.values() for part in pair)]
    gradients = torch.autograd.grad(noise.square().sum(), leaves)
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients)


def test_masked_image_tokens_are_a_plain_softmax_over_what_is_in_the_box(
    backbone: StableDiffusion, x: Tensor, told: Condition
) -> None:
    """MS-Diffusion's: -1e4 on the logits of places outside of a token's box; 0 outside of all."""
    maps, heads = new_maps(backbone, 12), 2
    left, right = torch.tensor([[0, 0, 0.5, 1], [0.5, 0.25, 1, 1]]).unbind()
    boxes = torch.stack([left, left, right]).expand(4, 3, 4)
    edit = ImageTokens(torch.randn(4, 3, 12), maps, 1.0, boxes)
    (name, (to_k, to_v)), *_ = maps.items()
    layer, width = Layer(name, True, heads), to_k.out_features
    rows, columns = 4, 6
    site = Site(layer, rows, columns, torch.zeros(4, 24, 1), lambda c: (c, c))
    q = torch.randn(4, 24, width)
    zeros = torch.zeros(4, 1, width)
    with torch.no_grad():
        out = edit(site, plain(heads))(q, zeros, zeros).view(4, rows, columns, heads, -1)
        keys, values = (part(edit.tokens).view(4, 3, heads, -1) for part in (to_k, to_v))
    q = q.view(4, rows, columns, heads, -1)
    for row in range(rows):
        for column in range(columns):
            seen = [0, 1] if column < 3 else [2] * (row > 0)
            logits = torch.einsum("bhc,bthc->bht", q[:, row, column], keys[:, seen])
            weights = (logits / q.shape[-1] ** 0.5).softmax(-1)
            expected = torch.einsum("bht,bthc->bhc", weights, values[:, seen])
            torch.testing.assert_close(out[:, row, column], expected, atol=1e-6, rtol=1e-5)
    same_one_by_one(backbone, x, replace(told, attention=(edit,)))


def test_a_bias_is_the_same_fused_and_in_the_open() -> None:
    q, k, v = torch.randn(2, 7, 24), torch.randn(2, 5, 24), torch.randn(2, 5, 24)
    bias, attend = torch.randn(2, 1, 7, 5), plain(heads=3)
    fused = attend(q, k, v, bias=bias)
    torch.testing.assert_close(fused, attend(q, k, v, bias=bias, change=lambda w: w))
    assert torch.equal(attend(q, k, v, bias=torch.zeros(1, 1, 1, 5)), attend(q, k, v))
    shut = torch.zeros(1, 1, 1, 5)
    shut[..., 3:] = -torch.inf
    torch.testing.assert_close(attend(q, k, v, bias=shut), attend(q, k[:, :3], v[:, :3]))
    alone = [attend(*(part[i : i + 1] for part in (q, k, v)), bias=bias[i : i + 1]) for i in (0, 1)]
    torch.testing.assert_close(torch.cat(alone), fused)
    assert more_keys(None, 2) is None
    more = more_keys(shut, 2)
    assert more is not None
    assert more[..., 5:].tolist() == [[[[0.0, 0.0]]]]
    (gradient,) = torch.autograd.grad(attend(q, k, v, bias=bias.requires_grad_()).sum(), bias)
    assert float(gradient.abs().max()) > 0


# edits that hold nothing for their items


def test_edits_of_weights_keep_to_their_rows_in_a_shared_call(
    backbone: StableDiffusion, x: Tensor, told: Condition, monkeypatch: pytest.MonkeyPatch
) -> None:
    uniform = Rewrite(lambda site: True, lambda w: torch.full_like(w, 1 / w.shape[-1]))
    record = Record(lambda site: site.layer.cross)
    changed = replace(told, attention=(record, uniform))
    shares_a_call(backbone, x, [changed, told], monkeypatch)
    assert {len(weights) for weights in record.kept.values()} == {8}, "twice four, not all sixteen"
    shared = stack([changed, told])
    twice, both = x.repeat(2, 1, 1, 1), T.repeat(2)
    rows = torch.tensor([5, 0, 0, 7, 2])
    torch.testing.assert_close(backbone.predict_noise(twice[rows], both[rows], shared.select(rows)),
                               backbone.predict_noise(twice, both, shared)[rows],
                               atol=1e-5, rtol=1e-4)  # fmt: skip
    around = replace(shared, attention=(record, *shared.attention))
    with pytest.raises(ValueError, match="edits around those of several conditions"):
        backbone.predict_noise(twice, both, around)


def test_equal_edits_are_one_edit_of_all_rows(told: Condition) -> None:
    views = replace(told, attention=(Views(4),))
    assert stack([views, replace(told, attention=(Views(4),))]).attention == (Views(4),)


# nets beside the UNet


def control(backbone: StableDiffusion, hint: Tensor, **options: Any) -> Control:
    """A net with something in its convolutions of zeros, always the same."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        net = new_controlnet(backbone)
        for value in net.parameters():
            if float(value.abs().max()) == 0:
                value.copy_(torch.randn_like(value) * 0.05)
    return Control(backbone, Around(net.eval().requires_grad_(False)), hint, **options)


def test_hints_go_with_their_batch_and_share_a_call(
    backbone: StableDiffusion, x: Tensor, told: Condition, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = control(backbone, torch.rand(4, 3, 32, 24))
    second = replace(first, hint=torch.rand(4, 3, 32, 24))
    weak = replace(first, strength=0.5)
    nets: list[tuple[Any, ...]] = [(first,), (), (second,), (weak,), (first, second)]
    conditions = [replace(told, residuals=net) for net in nets]
    same_one_by_one(backbone, x, conditions[0])
    shares_a_call(backbone, x, conditions, monkeypatch)
    (joined,) = stack([conditions[0], conditions[2]]).residuals
    assert isinstance(joined, Control), "one call of the net for both"
    assert torch.equal(joined.hint, torch.cat([first.hint, second.hint]))
    with pytest.raises(ValueError, match="4 hints for a batch of 1"):
        first(x[:1], T[:1], told.select(torch.tensor([0])))


def test_a_net_without_strength_is_bitwise_plain(
    backbone: StableDiffusion, x: Tensor, told: Condition
) -> None:
    off = replace(told, residuals=(control(backbone, torch.rand(4, 3, 32, 24), strength=0.0),))
    assert torch.equal(backbone.predict_noise(x, T, off), backbone.predict_noise(x, T, told))


def test_a_net_with_tokens_of_its_own_is_not_told_the_text(
    backbone: StableDiffusion, x: Tensor, told: Condition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """InstantID's IdentityNet (arXiv:2401.07519) sees the face only."""
    face = torch.randn(4, 3, 32, requires_grad=True)
    net = control(backbone, torch.rand(4, 3, 32, 24), tokens=face)
    for text in (told, backbone.encode_text([""] * 4)):
        skips, middle = net(x, T, text)
        plain = replace(net, tokens=None)(x, T, Condition(face))
        assert torch.equal(middle, plain[1])
        assert all(torch.equal(a, b) for a, b in zip(skips, plain[0]))
    told_face = replace(told, residuals=(net,))
    same_one_by_one(backbone, x, told_face)
    (gradient,) = torch.autograd.grad(backbone.predict_noise(x, T, told_face)[2].sum(), face)
    assert gradient.flatten(1).abs().amax(1).gt(0).tolist() == [False, False, True, False]
    other = replace(net, tokens=torch.randn(4, 3, 32))
    conditions = [told_face, replace(told, residuals=(other,)), told]
    with torch.no_grad():
        shares_a_call(backbone, x, conditions, monkeypatch)


def test_installing_again_changes_nothing(
    backbone: StableDiffusion, x: Tensor, told: Condition
) -> None:
    expected = backbone.predict_noise(x, T, told)
    install(backbone.unet)
    assert torch.equal(backbone.predict_noise(x, T, told), expected)
