"""Features of the masked person on their way into the decoder: EMASC of LaDI-VTON.

Enhanced mask-aware skip connections (arXiv:2305.13501, section 3.2): what the VAE would lose of
faces and hands goes past its latents, where the mask leaves the person as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threed.diffusion.models.convert import read_state
from threed.diffusion.models.latent import LatentModel
from threed.diffusion.parts.decoding import encoder_features
from threed.diffusion.weights import NET, filled

LOOKS = 0.5  # how much they count beside pixels


class Emasc(nn.Module):
    """Two convolutions for each level of a VAE, from its encoder's width to its decoder's."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        first, *_, last = widths = tuple(vae.config.block_out_channels)
        self.conv = nn.ModuleList(
            nn.Sequential(nn.Conv2d(one, one, 3, padding=1), nn.SiLU(),
                          nn.Conv2d(one, two, 3, padding=1))
            for one, two in zip((first, first, *widths[:-1]), (*widths, last))
        )  # fmt: skip

    def forward(self, features: Sequence[Tensor], mask: Tensor) -> tuple[Tensor, ...]:
        """Features from fine to coarse -> what is added in the decoder, from coarse to fine.

        mask: [B, 1, H, W], 1 where the picture is made anew, so that nothing is added there.
        """
        made = [conv(x) * (1 - F.interpolate(mask, x.shape[-2:]))
                for conv, x in zip(self.conv, features, strict=True)]  # fmt: skip
        return tuple(made[::-1])


def emasc_skips(base: LatentModel, net: Emasc, person: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """What a decoder is told of a masked person [B, 3, H, W] in [0, 1]; mask [B, 1, H, W]."""
    with torch.no_grad():
        features = encoder_features(base.vae, person.to(base.device))
    skips: tuple[Tensor, ...] = net(features, mask.to(base.device))
    return skips


def load_emasc(base: LatentModel, path: Path) -> Emasc:
    """Load the net of a training's folder, or the published emasc_*.pth; InputError if none."""
    file = path / NET if path.is_dir() else path
    net: Emasc = filled(Emasc(base.vae), read_state(file), str(file))
    return net


def emasc_loss(
    base: LatentModel, net: Emasc, latents: Tensor, person: Tensor, masked: Tensor, mask: Tensor,
    looks: Callable[[Tensor, Tensor], Tensor] | None,
) -> Tensor:  # fmt: skip
    """[] what a person's latents [B, C, h, w] lose of them, where the mask lets EMASC help.

    person and masked are [B, 3, H, W] in [0, 1], mask is [B, 1, H, W]. The loss is by pixels and,
    if there is a measure of them, by looks.
    """
    made, real = base.decoded(latents, emasc_skips(base, net, masked, mask)), 2 * person - 1
    loss = F.l1_loss(made, real)
    return loss if looks is None else loss + LOOKS * looks(made, real)
