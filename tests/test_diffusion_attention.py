"""The attention seam: neutral without edits, and edits that compose."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F

from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.diffusion.condition import Condition
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
    plain,
)
from threed.diffusion.parts.norms import Decoded


@dataclass(frozen=True)
class Twice:
    """Every key and value twice: softmax attention cannot tell."""

    def __call__(self, site: Site, attend: Attend) -> Attend:
        def doubled(
            q: Tensor, k: Tensor, v: Tensor, *,
            bias: Tensor | None = None, change: Change | None = None,
        ) -> Tensor:  # fmt: skip
            both = None if bias is None else torch.cat([bias, bias], -1)
            return attend(q, torch.cat([k, k], 1), torch.cat([v, v], 1), bias=both, change=change)

        return doubled


UNIFORM = Rewrite(lambda site: True, lambda w: torch.full_like(w, 1 / w.shape[-1]))


def crossing(site: Site) -> bool:
    return site.layer.cross


def at(layer: Layer, batch: int = 1) -> Site:
    """A site whose hidden state nobody reads."""
    hidden = torch.zeros(batch, 1, 1)
    return Site(layer, 1, 1, hidden, lambda context: (context, context))


def inputs(backbone: StableDiffusion) -> tuple[Tensor, Tensor, Condition]:
    condition = backbone.encode_text(["a red mug", "a hat", "", "two"])
    return torch.randn(4, 4, 8, 8), torch.tensor([1, 300, 600, 900]), condition


def test_without_edits_the_unet_is_the_stock_one(backbone: StableDiffusion) -> None:
    x, t, condition = inputs(backbone)
    stock = UNet2DConditionModel.from_pretrained(backbone.folder / "unet")
    with torch.no_grad():
        expected = stock(x, t, condition.tokens).sample
    torch.testing.assert_close(backbone.predict_noise(x, t, condition), expected)


def test_open_attention_is_fused_attention() -> None:
    q, k, v = torch.randn(2, 7, 24), torch.randn(2, 5, 24), torch.randn(2, 5, 24)
    attend = plain(heads=3)
    torch.testing.assert_close(attend(q, k, v), attend(q, k, v, change=lambda weights: weights))


@pytest.mark.parametrize(("cross", "keys"), [(True, {32}), (False, {16, 64, 4})])
def test_recording_keeps_the_weights_and_the_result(
    backbone: StableDiffusion, cross: bool, keys: set[int]
) -> None:
    x, t, condition = inputs(backbone)
    record = Record(lambda site: site.layer.cross == cross)
    noise = backbone.predict_noise(x, t, replace(condition, attention=(record,)))
    torch.testing.assert_close(noise, backbone.predict_noise(x, t, condition), atol=1e-5, rtol=1e-5)
    assert record.kept
    for layer, weights in record.kept.items():
        assert layer.name.endswith("attn2" if cross else "attn1")
        assert weights.shape[-1] in keys
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_the_decoders_activations_are_what_its_last_layers_make_noise_of(
    backbone: StableDiffusion,
) -> None:
    x, t, condition = inputs(backbone)
    x.requires_grad_()
    decoded = Decoded()
    noise = backbone.predict_noise(x, t, replace(condition, norms=(decoded,)))
    assert torch.equal(noise, backbone.predict_noise(x, t, condition))  # nothing is changed
    assert decoded.features is not None
    unet, features = backbone.unet, decoded.features
    assert features.shape == (len(x), unet.config.block_out_channels[0], *x.shape[-2:])
    torch.testing.assert_close(unet.conv_out(F.silu(unet.conv_norm_out(features))), noise)
    (gradient,) = torch.autograd.grad(features.square().sum(), x)
    assert float(gradient.abs().amax((1, 2, 3)).min()) > 0


def test_layers_know_their_place_their_size_and_when_they_run(backbone: StableDiffusion) -> None:
    condition = backbone.encode_text(["a hat"])
    record = Record(lambda site: True)
    backbone.predict_noise(
        torch.randn(1, 4, 12, 6), torch.tensor([5]), replace(condition, attention=(record,))
    )
    assert [layer.order for layer in record.kept] == list(range(len(record.kept)))
    assert [layer.place for layer in record.kept] == ["down"] * 2 + ["mid"] * 2 + ["up"] * 4
    for layer, weights in record.kept.items():
        assert layer.shape(12, 6) == (6, 3)
        assert weights.shape[1:3] == (6, 3)


def test_edits_compose_from_the_outside_in(backbone: StableDiffusion) -> None:
    x, t, condition = inputs(backbone)
    expected = backbone.predict_noise(x, t, condition)
    outside, inside = Record(crossing), Record(crossing)
    edits = (outside, Twice(), inside)
    noise = backbone.predict_noise(x, t, replace(condition, attention=edits))
    torch.testing.assert_close(noise, expected, atol=1e-5, rtol=1e-5)
    # the inner one runs on the weights last asked for: both see the doubled keys
    assert {w.shape[-1] for w in inside.kept.values()} == {2 * condition.tokens.shape[1]}
    for layer, weights in inside.kept.items():
        left, right = weights.chunk(2, -1)
        torch.testing.assert_close(left, right)
        torch.testing.assert_close(outside.kept[layer], weights)


def test_of_two_rewritings_the_outer_has_the_last_word(backbone: StableDiffusion) -> None:
    x, t, condition = inputs(backbone)
    first = Rewrite(crossing, lambda w: w[..., :1].expand_as(w))
    seen, before = Record(crossing), Record(crossing)
    backbone.predict_noise(x, t, replace(condition, attention=(seen, UNIFORM, first, before)))
    for layer, weights in seen.kept.items():
        torch.testing.assert_close(weights, torch.full_like(weights, 1 / 32))
        assert float((before.kept[layer] - weights).abs().max()) > 1e-4


def test_replaced_weights_reach_the_result_and_only_this_call(backbone: StableDiffusion) -> None:
    x, t, condition = inputs(backbone)
    expected = backbone.predict_noise(x, t, condition)
    changed = backbone.predict_noise(x, t, replace(condition, attention=(UNIFORM,)))
    assert float((changed - expected).abs().max()) > 1e-4
    assert torch.equal(backbone.predict_noise(x, t, condition), expected)


def test_joined_views_are_attention_over_all_their_tokens() -> None:
    layer = Layer("mid.attn1", cross=False, heads=2)
    q, k, v = torch.randn(3, 6, 5, 8)  # 6 pictures of 5 tokens: 3 groups of 2
    joined = Views(2)(at(layer), plain(2))(q, k, v)
    for group in range(3):
        rows = slice(2 * group, 2 * group + 2)
        flat = [x[rows].reshape(1, 10, 8) for x in (q, k, v)]
        torch.testing.assert_close(joined[rows].reshape(1, 10, 8), plain(2)(*flat))
    attend = plain(2)
    assert Views(2)(at(Layer("mid.attn2", cross=True, heads=2)), attend) is attend
    assert Views(1)(at(layer), attend) is attend


def test_residuals_of_zero_change_nothing_and_several_add_up(backbone: StableDiffusion) -> None:
    x, t, condition = inputs(backbone)
    shapes = [(16, 8), (16, 8), (16, 4), (32, 4)]

    def net(value: float):  # type: ignore[no-untyped-def]
        def residuals(x: Tensor, t: Tensor, c: Condition) -> tuple[list[Tensor], Tensor]:
            skips = [torch.full((len(x), n, size, size), value) for n, size in shapes]
            return skips, torch.full((len(x), 32, 4, 4), value)

        return residuals

    def noise(*values: float) -> Tensor:
        nets = tuple(net(value) for value in values)
        return backbone.predict_noise(x, t, replace(condition, residuals=nets))

    torch.testing.assert_close(noise(0.0), backbone.predict_noise(x, t, condition))
    torch.testing.assert_close(noise(0.1, 0.2), noise(0.3))
    assert float((noise(0.3) - noise(0.0)).abs().max()) > 1e-3


def test_a_unet_of_another_family_is_refused() -> None:
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("SimpleCrossAttnDownBlock2D",),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D",),
        block_out_channels=(16,),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    with pytest.raises(InputError, match=r"attentions.0 is unlike Stable Diffusion's \(group_norm"):
        install(unet)


def test_a_batch_that_does_not_fit_its_condition_is_refused(backbone: StableDiffusion) -> None:
    x, t, condition = inputs(backbone)
    with pytest.raises(ValueError, match="one batch, got 3, 4 and 4"):
        backbone.predict_noise(x[:3], t, condition)
    with pytest.raises(ValueError, match="cannot be told cameras"):
        backbone.predict_noise(x, t, replace(condition, cameras=orbit(4, 32)))
