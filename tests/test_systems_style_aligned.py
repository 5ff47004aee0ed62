"""StyleAligned: its formulas beside plain ones, and what a reference does to a series."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests import tiny
from tests.systems import asked, prepared, sampled
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.images import save_image
from threed.diffusion.inversion import levels
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.paint import paint
from threed.diffusion.parts.adapters import Lora
from threed.diffusion.parts.attention import Layer, Site, plain
from threed.diffusion.parts.control import Around, Control, new_controlnet
from threed.diffusion.parts.norms import Norm
from threed.diffusion.parts.shared_style import (
    SharedAttention,
    SharedNorms,
    adain,
    first_of,
    followed,
    sharing,
)
from threed.diffusion.score import cfg, score
from threed.systems.control import controlnet
from threed.systems.personalization.style_aligned import SYSTEM, Knobs, build

HEADS, ROWS = 2, 3
LAYER = Layer("down_blocks.0.attentions.0.transformer_blocks.0.attn1", False, HEADS)
PROMPTS = ("a blue hat", "a red mug", "a green car")
APART = Knobs(plain_share=1.0, norms=False)  # nothing is shared


def tokens(seed: int) -> Tensor:
    return torch.randn(2 * ROWS, 5, 8, generator=torch.Generator().manual_seed(seed))


def site() -> Site:
    return Site(LAYER, 1, 5, tokens(0), lambda hidden: (hidden, hidden))


def published(q: Tensor, k: Tensor, v: Tensor, scale: float, shift: float) -> Tensor:
    """Equation 5 by loops: each picture, each head, its own and the reference's keys."""
    out = torch.zeros_like(q)
    width = q.shape[-1] // HEADS
    for item in range(len(q)):
        first = item // ROWS * ROWS
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)
            one_q, one_k, ref_k = q[item, :, part], k[item, :, part], k[first, :, part]
            one_q, one_k = (
                (x - x.mean(0)) / (x.var(0) + 1e-5).sqrt() * (y.var(0) + 1e-5).sqrt() + y.mean(0)
                for x, y in ((one_q, q[first, :, part]), (one_k, ref_k))
            )
            ref_k = ref_k if item == first else scale * ref_k
            logits = torch.cat([one_q @ one_k.T, one_q @ ref_k.T + shift * width**0.5], 1)
            weights = (logits / width**0.5).softmax(1)
            out[item, :, part] = weights @ torch.cat([v[item, :, part], v[first, :, part]])
    return out


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.3, math.log(2))])
def test_attention_is_the_published_one(scale: float, shift: float) -> None:
    edit = SharedAttention(ROWS, frozenset([LAYER.name]), scale=scale, shift=shift)
    q, k, v = tokens(1), tokens(2), tokens(3)
    ours = edit(site(), plain(HEADS))(q, k, v)
    torch.testing.assert_close(ours, published(q, k, v, scale, shift), atol=1e-6, rtol=1e-5)


def test_a_bias_of_another_edit_still_holds_for_its_own_keys() -> None:
    edit = SharedAttention(ROWS, frozenset([LAYER.name]), shift=0.5)
    q, k, v = tokens(1), tokens(2), tokens(3)
    closed = torch.full((1, 1, 1, 5), -torch.inf)
    only_first = edit(site(), plain(HEADS))(q, k, v, bias=closed)
    expected = plain(HEADS)(adain(q, ROWS), first_of(k, ROWS), first_of(v, ROWS))
    torch.testing.assert_close(only_first, expected)


def test_cross_attention_and_layers_that_are_not_named_stay() -> None:
    attend = plain(HEADS)
    assert SharedAttention(ROWS, frozenset())(site(), attend) is attend


def test_norms_share_the_statistics_of_the_first() -> None:
    norm = torch.nn.GroupNorm(2, 4)
    x = torch.randn(ROWS, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    shared = SharedNorms(ROWS)(Norm("norm1", True), norm)(x)
    for item in range(ROWS):
        both = torch.stack([x[item], x[0]]).view(2, 2, 2, 9)
        mean = both.mean((0, 2, 3))
        std = (both.var((0, 2, 3), unbiased=False) + norm.eps).sqrt()
        expected = (x[item].view(2, 2, 9) - mean[:, None, None]) / std[:, None, None]
        torch.testing.assert_close(shared[item], expected.view(4, 3, 3))
    layer = torch.nn.LayerNorm(4)
    assert SharedNorms(ROWS)(Norm("norm2", False), layer) is layer


def test_the_reference_is_the_picture_that_its_prompt_makes_alone(
    backbone: StableDiffusion,
) -> None:
    x = torch.randn(ROWS, 4, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(1))
    t = torch.full((ROWS,), 600)
    together = build(backbone, PROMPTS)(x, t)
    alone = sampled(backbone, PROMPTS[0])(x[:1], t[:1])
    torch.testing.assert_close(together[:1], alone, atol=2e-5, rtol=1e-4)
    others = sampled(backbone, *PROMPTS[1:])(x[1:], t[1:])
    assert float((together[1:] - others).abs().mean()) > 1e-2


@pytest.mark.parametrize(
    ("share", "plain_layers"),
    [(0.0, ""), (0.05, ""), (0.3, "adgj"), (0.5, "acegi"), (0.7, "bcefhi"), (1.0, "abcdefghij")],
)
def test_layers_are_chosen_as_published(share: float, plain_layers: str) -> None:
    names = list("abcdefghij")
    assert set(names) - sharing(names, share) == set(plain_layers)


def test_a_series_has_its_reference_first_and_noise_of_its_own(backbone: StableDiffusion) -> None:
    request = asked("a red mug", size=32, reference="a blue hat", also=("a green car", "a duck"))
    ready = prepared(SYSTEM, backbone, request)
    assert (ready.rows, ready.results) == (4, (1, 2, 3))
    pictures = paint(backbone, ready, n=2, steps=3, size=32)
    assert pictures.shape == (8, 3, 32, 32)
    pair = prepared(SYSTEM, backbone, asked("a duck", size=32, reference="a hat"))
    alone = paint(backbone, pair, steps=3, size=32)
    assert len(alone) == 2
    assert float((alone[0] - alone[1]).abs().mean()) > 1e-3


def test_a_real_picture_is_followed_to_its_end(backbone: StableDiffusion, tmp_path: Path) -> None:
    picture = torch.zeros(3, 32, 32)
    picture[:, 8:20, 8:20] = torch.tensor([0.9, 0.2, 0.1])[:, None, None]
    path = tmp_path / "style.png"
    save_image(picture, path)
    request = asked("a red mug", size=32, steps=4, reference="a blue hat", image=path,
                    knobs=Knobs(offset=1))  # fmt: skip
    ready = prepared(SYSTEM, backbone, request)
    pair = paint(backbone, ready, steps=4, size=32)
    assert pair.shape == (2, 3, 32, 32)
    plain_pair = prepared(SYSTEM, backbone, asked("a red mug", size=32, reference="a blue hat"))
    other = paint(backbone, plain_pair, steps=4, size=32)
    assert float((pair[1] - other[1]).abs().mean()) > 1e-3


def test_the_way_of_a_picture_is_ahead_at_first(backbone: StableDiffusion) -> None:
    timesteps = levels(backbone, 10)
    way = torch.arange(11.0)[:, None, None, None]
    follow = followed(way, timesteps, 2, offset=5)
    x = torch.full((2, 1, 1, 1), -1.0)
    seen = [float(follow(x, t.expand(2))[0]) for t in timesteps]
    # as the published callback has it: zts[offset], then zts[max(offset + 1, step)]
    assert seen == [5, 6, 6, 6, 6, 6, 6, 7, 8, 9]
    assert float(follow(x, timesteps[:1].expand(2))[1]) == -1


def test_a_net_beside_the_unet_leaves_the_reference_alone(backbone: StableDiffusion) -> None:
    torch.manual_seed(0)
    nets = new_controlnet(backbone).requires_grad_(False)
    for value in nets.parameters():
        value.data += 0.02 * torch.randn_like(value)
    control = Control(backbone, Around(nets), torch.rand(ROWS, 3, 32, 32))
    x, t = torch.randn(2 * ROWS, 4, tiny.SIZE, tiny.SIZE), torch.full((2 * ROWS,), 600)
    plain, steered = build(backbone, PROMPTS), build(backbone, PROMPTS, residuals=[control])
    shift = (steered(x, t) - plain(x, t)).unflatten(0, (2, ROWS)).abs().amax((2, 3, 4))
    assert float(shift[:, 0].max()) < 1e-5
    assert float(shift[:, 1:].min()) > 1e-2
    # where nothing is shared, the others are ControlNet's
    nothing = build(backbone, PROMPTS, residuals=[control], knobs=APART)(x[:ROWS], t[:ROWS])
    given = controlnet.Given(nets, control.hint[1:])
    expected = controlnet.build(backbone, PROMPTS[1:], [given], guide=Guide())
    torch.testing.assert_close(nothing[1:], expected(x[1:ROWS], t[1:ROWS]), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_an_adapter_holds_for_the_whole_series(tmp_path: Path) -> None:
    backbone = load_backbone(str(tiny.tiny_folder(tmp_path)), device="cpu")
    assert isinstance(backbone, StableDiffusion)
    torch.manual_seed(0)
    for value in Lora(backbone.unet, "toy", rank=2, seed=0).parameters.values():
        value.data += 0.2 * torch.randn_like(value)
    x, t = torch.randn(ROWS, 4, tiny.SIZE, tiny.SIZE), torch.full((ROWS,), 600)
    learned = copy.copy(backbone)
    learned.adapters = {"toy": 0.7}
    made = build(learned, PROMPTS, knobs=APART)(x, t)
    texts, empty = (backbone.encode_text(p) for p in (PROMPTS, [""] * ROWS))
    toy = [replace(told, adapters={"toy": 0.7}) for told in (texts, empty)]
    assert torch.equal(made, score(backbone, toy, cfg(Guide().scale))(x, t))
    shared = build(learned, PROMPTS)(x, t)
    torch.testing.assert_close(shared[0], made[0], atol=2e-5, rtol=1e-4)
    assert float((shared[1:] - build(backbone, PROMPTS)(x, t)[1:]).abs().mean()) > 1e-3


def test_a_style_needs_a_reference() -> None:
    with pytest.raises(InputError, match=r"needs --reference: the prompt of .*what --image shows"):
        SYSTEM.request("a mug", {"image": ("x.png",)})
