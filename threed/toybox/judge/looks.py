"""How colourful, contrasty and sharp pictures are, beside pictures of real toys."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from threed.core.cameras import orbit
from threed.toybox.world.draw import Light
from threed.toybox.world.toys import draw_set, random_toy

TOYS = 4  # real toys that are averaged over
LUMA = (0.299, 0.587, 0.114)  # Rec. 601
INSIDE = 0.999  # opacity from which a pixel and its neighbours are the toy alone


@dataclass(frozen=True)
class Looks:
    """Means over the pixels inside the silhouettes."""

    saturation: float  # (max - min) / max of a pixel's channels, 0..1
    contrast: float  # standard deviation of luma within a picture
    sharpness: float  # length of luma's gradient, per pixel

    def beside(self, real: Looks) -> dict[str, float]:
        """Divide each by that of real pictures: 1 is as real."""
        pairs = zip(asdict(self).items(), asdict(real).values())
        return {name: round(mine / max(theirs, 1e-6), 3) for (name, mine), theirs in pairs}


def looks(rgb: Tensor, opacity: Tensor) -> Looks:
    """Measure pictures [V, 3, H, W] in [0, 1] where their opacity [V, 1, H, W] is whole.

    ValueError where no pixel is inside a silhouette.
    """
    # a pixel beside the background would count the outline as contrast
    inside = F.max_pool2d(1 - opacity, 3, stride=1, padding=1) < 1 - INSIDE
    if not inside.any():
        raise ValueError("no picture shows anything")
    luma = torch.einsum("c,vchw->vhw", torch.tensor(LUMA), rgb)[:, None]
    high, low = rgb.amax(1, keepdim=True), rgb.amin(1, keepdim=True)
    saturation = ((high - low) / high.clamp(min=1e-3))[inside].mean()
    contrast = torch.stack([view[mask].std() for view, mask in zip(luma, inside) if mask.sum() > 1])
    padded = F.pad(luma, (1, 1, 1, 1), mode="replicate")
    x = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    y = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    sharpness = torch.hypot(x, y)[inside].mean()
    return Looks(float(saturation), float(contrast.mean()), float(sharpness))


def real_looks(kind: str, color: str, finish: str, views: int = 8, size: int = 64) -> Looks:
    """Measure real toys of this kind, colour and finish, seen from an orbit on white."""
    rgb, alpha = [], []
    for seed in range(TOYS):
        toy = random_toy(np.random.default_rng(seed), kind, color, finish)
        white = np.ones((2, 3), np.float32)
        for picture in draw_set(toy, orbit(views, size), Light(), white).pictures:
            rgb.append(torch.from_numpy(picture.rgb).permute(2, 0, 1))
            alpha.append(torch.from_numpy(picture.alpha)[None])
    return looks(torch.stack(rgb), torch.stack(alpha))
