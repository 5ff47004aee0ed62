"""What is done to an example's pictures so that few are many: moved, and coloured otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from threed.learning.losses import chosen


@dataclass(frozen=True, eq=False)
class Move:
    """Where each of B pictures goes."""

    shift: Tensor  # [B, 2] to the right and down, in widths and heights
    scale: Tensor  # [B]
    mirrored: Tensor  # [B] bool

    def __call__(self, pictures: Tensor, ground: float = 0.0) -> Tensor:
        """[B, C, H, W] moved; what comes into sight is the ground."""
        size = torch.where(self.mirrored, -self.scale, self.scale), self.scale
        rows = [torch.stack([1 / side, torch.zeros_like(side), -2 * move / side], -1)
                for side, move in zip(size, self.shift.unbind(-1))]  # fmt: skip
        rows[1] = rows[1][:, [1, 0, 2]]
        where = F.affine_grid(torch.stack(rows, 1).to(pictures), list(pictures.shape), False)
        return F.grid_sample(pictures - ground, where, align_corners=False) + ground


def draw_moves(
    n: int, generator: torch.Generator, *, shift: float, scale: float, share: float = 0.5
) -> Move:
    """Draw moves for n pictures, of which a share is moved at all, and none is mirrored.

    By up to `shift` of a side, at 1 - scale to 1 + scale of their size.
    """
    moved = chosen(n, share, generator)
    far = (2 * torch.rand(n, 3, generator=generator) - 1) * moved[:, None]
    return Move(shift * far[:, :2], 1 + scale * far[:, 2], torch.zeros(n, dtype=torch.bool))


@dataclass(frozen=True, eq=False)
class Tint:
    """How each of B pictures is coloured otherwise."""

    hue: Tensor  # [B] turns of the colours round grey, in degrees
    saturation: Tensor  # [B] added
    light: Tensor  # [B] added
    contrast: Tensor  # [B] factor, around a half

    def __call__(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1]."""
        hue, *others = (value.to(pictures)[:, None, None, None] for value in
                        (self.hue, self.saturation, self.light, self.contrast))  # fmt: skip
        saturation, light, contrast = others
        grey = pictures.mean(1, keepdim=True)
        turned = (1 + saturation) * _turned(pictures - grey, torch.deg2rad(hue))
        return ((grey + turned + light - 0.5) * contrast + 0.5).clamp(0, 1)


def _turned(colours: Tensor, angle: Tensor) -> Tensor:
    """Colours [B, 3, H, W] without grey, turned round it by [B, 1, 1, 1] radians."""
    across = (colours.roll(1, 1) - colours.roll(-1, 1)) / 3**0.5
    return colours * angle.cos() + across * angle.sin()


def draw_tints(
    n: int,
    generator: torch.Generator,
    *,
    hsv: tuple[float, float, float],
    light: tuple[float, float],
    contrast: float,
    share: float = 0.5,
) -> Tint:
    """Draw tints for n pictures, of which a share changes its hue and a share its light.

    hsv: degrees of hue, saturation, light, each by up to so much; light: from and to; contrast: by
    up to so much.
    """
    far = 2 * torch.rand(n, 5, generator=generator) - 1
    far[:, :3] *= chosen(n, share, generator)[:, None] * torch.tensor(hsv)
    lit, low, high = chosen(n, share, generator), *light
    more = (low + (high - low) * (far[:, 3] + 1) / 2) * lit
    return Tint(far[:, 0], far[:, 1], far[:, 2] + more, 1 + contrast * far[:, 4] * lit)
