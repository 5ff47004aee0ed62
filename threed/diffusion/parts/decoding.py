"""The seam of decoding: features on the way through the VAE, and what is kept of a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle


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


def _adding(skip: Tensor) -> Any:
    """The hook that adds a skip to a module's first input."""
    return lambda module, given: (given[0] + skip.to(given[0]), *given[1:])


def repainting(backbone: Any, repainted: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """How latents [B, C, h, w] become pictures of which a part is kept: the last by `repainted`."""
    return lambda latents: repainted(backbone.decode_latents(latents))


def repaint(made: Tensor, picture: Tensor, mask: Tensor) -> Tensor:
    """[B, 3, H, W] what was made where mask [B, 1, H, W] is 1, and the picture where it is 0."""
    return torch.lerp(picture, made, mask)
