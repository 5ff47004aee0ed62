"""The seam of decoding: features on the way through the VAE, and what is kept of a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from threed.diffusion.parts.hooks import hooked


def decoder_hooks(vae: Any, skips: Sequence[Tensor]) -> list[RemovableHandle]:
    """Add features to what enters each up block of a decoder and, last, its final convolution.

    One [B, C, h, w] for each, in the shape of what it is added to (EMASC of LaDI-VTON,
    arXiv:2305.13501). Without any, nothing is hooked. ValueError for another number of them.
    """
    if not skips:
        return []
    places = [*vae.decoder.up_blocks, vae.decoder.conv_out]
    if len(skips) != len(places):
        raise ValueError(f"the decoder takes {len(places)} skips, got {len(skips)}")
    return [place.register_forward_pre_hook(_adding(skip)) for place, skip in zip(places, skips)]


def encoder_features(vae: Any, picture: Tensor) -> list[Tensor]:
    """What leaves an encoder's first convolution, and what enters each of its down blocks.

    picture [B, 3, H, W] in [0, 1]; from fine to coarse.
    """
    kept: list[Tensor] = []
    encoder = vae.encoder
    handles = [encoder.conv_in.register_forward_hook(lambda module, given, out: kept.append(out))]
    handles += [block.register_forward_pre_hook(lambda module, given: kept.append(given[0]))
                for block in encoder.down_blocks]  # fmt: skip
    with hooked(handles):
        encoder((2 * picture - 1).to(vae.dtype))
    return kept


def _adding(skip: Tensor) -> Any:
    """The hook that adds a skip to a module's first input."""
    return lambda module, given: (given[0] + skip.to(given[0]), *given[1:])


def repainting(
    backbone: Any, repainted: Callable[[Tensor], Tensor], skips: Sequence[Tensor] = ()
) -> Callable[[Tensor], Tensor]:
    """How latents are decoded where a picture is kept: by a backbone, and then as `repainted`.

    skips [N, C, h, w]: as of decoder_hooks, for N neighbours, which may come several times.
    """

    def decode(latents: Tensor) -> Tensor:
        each = [skip.repeat(len(latents) // len(skip), 1, 1, 1) for skip in skips]
        made: Tensor = backbone.decode_latents(latents, each)
        return repainted(made)

    return decode


def repaint(made: Tensor, picture: Tensor, mask: Tensor) -> Tensor:
    """[B, 3, H, W] what was made where mask [B, 1, H, W] is 1, and the picture where it is 0."""
    return torch.lerp(picture, made, mask)
