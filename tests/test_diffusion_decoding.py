"""Decoding with features on the way, and what is kept of a picture."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from threed.diffusion.backbone import Backbone
from threed.diffusion.parts.decoding import repaint

SHAPES = ((16, 8), (16, 16), (8, 32), (8, 32))  # channels and sides of what is added to


def skips(n: int, scale: float = 1.0) -> list[Tensor]:
    return [scale * torch.randn(n, c, side, side) for c, side in SHAPES]


def test_without_skips_and_with_zeros_decoding_is_bitwise_plain(backbone: Backbone) -> None:
    z = torch.randn(2, 4, 8, 8)
    plain = backbone.decode_latents(z)
    assert torch.equal(backbone.decode_latents(z, skips(2, 0.0)), plain)
    assert float((backbone.decode_latents(z, skips(2)) - plain).abs().max()) > 1e-3
    assert torch.equal(backbone.decode_latents(z), plain), "of one call only"


def test_each_skip_is_added_to_what_enters_its_block(backbone: Backbone) -> None:
    decoder = backbone.vae.decoder  # type: ignore[attr-defined]
    z, added = torch.randn(2, 4, 8, 8), skips(2)
    latents = z / backbone.vae.config.scaling_factor  # type: ignore[attr-defined]
    h = backbone.vae.post_quant_conv(latents)  # type: ignore[attr-defined]
    h = decoder.mid_block(decoder.conv_in(h))
    for block, skip in zip(decoder.up_blocks, added):
        h = block(h + skip)
    h = decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(h)) + added[-1])
    expected = (h / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(backbone.decode_latents(z, added), expected)


def test_a_batch_is_its_items_and_gradients_reach_every_skip(backbone: Backbone) -> None:
    z, added = torch.randn(2, 4, 8, 8), [skip.requires_grad_() for skip in skips(2, 0.1)]
    both = backbone.decode_latents(z, added)
    for i in range(2):
        alone = backbone.decode_latents(z[i : i + 1], [skip[i : i + 1] for skip in added])
        torch.testing.assert_close(alone, both[i : i + 1], atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad(both[1].sum(), added)
    for gradient in gradients:
        assert float(gradient[1].abs().max()) > 0
        assert float(gradient[0].abs().max()) == 0


def test_another_number_of_skips_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="takes 4 skips, got 3"):
        backbone.decode_latents(torch.randn(2, 4, 8, 8), skips(2)[:3])


def test_repainting_keeps_the_picture_to_the_bit() -> None:
    made, picture = torch.rand(2, 2, 3, 8, 8).unbind()
    mask = (torch.rand(2, 1, 8, 8) > 0.5).float()
    out = repaint(made, picture, mask)
    assert torch.equal(out, torch.where(mask.bool(), made, picture))
    half = repaint(made, picture, mask / 2)
    torch.testing.assert_close(half, torch.where(mask.bool(), (made + picture) / 2, picture))
