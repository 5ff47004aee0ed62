"""What self-guidance (arXiv:2306.00986, section 3) measures on a word's attention, differentiable.

Maps are [n, h, w], how much each place looks at a word. Positions are (x, y) in fractions of the
picture, to the right and down.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-4


def centroid(maps: Tensor) -> Tensor:
    """[n, 2] the centre of mass (equation 3)."""
    height, width = maps.shape[1:]
    x = (torch.arange(width, device=maps.device, dtype=maps.dtype) + 0.5) / width
    y = (torch.arange(height, device=maps.device, dtype=maps.dtype) + 0.5) / height
    weights = maps / maps.sum((1, 2), keepdim=True).clamp_min(TINY)
    return torch.stack([(weights.sum(1) * x).sum(1), (weights.sum(2) * y).sum(1)], 1)


def shape(maps: Tensor) -> Tensor:
    """[n, h, w] in 0..1 a soft threshold: what the map marks, whatever its contrast (section 3.1).

    Stretched to 0..1, through a steep sigmoid, stretched again. A map that is the same everywhere
    marks nothing.
    """
    return _stretched(torch.sigmoid(10 * (_stretched(maps) - 0.5)))


def size(maps: Tensor) -> Tensor:
    """[n] the share of the picture that the map marks (equation 4)."""
    return shape(maps).mean((1, 2))


def appearance(maps: Tensor, features: Tensor) -> Tensor:
    """[n, C] the mean of features [n, C, h, w] over what the map marks (equation 6).

    The map is brought to the features' size, and only selects: no gradient goes through it.
    """
    mask = F.interpolate(shape(maps).detach()[:, None], features.shape[-2:], mode="bilinear")
    return (mask * features).sum((2, 3)) / (mask.sum((2, 3)) + TINY)


def moved(maps: Tensor, shift: tuple[float, float], factor: float) -> Tensor:
    """[n, h, w] the maps shifted by fractions of the picture, and grown about their centroid.

    factor is that of the area; what comes in from outside is 0.
    """
    if shift == (0.0, 0.0) and factor == 1:
        return maps
    n, height, width = maps.shape
    grid = F.affine_grid(torch.eye(2, 3, device=maps.device).expand(n, 2, 3), [n, 1, height, width],
                         align_corners=False)  # fmt: skip
    centre = 2 * centroid(maps)[:, None, None] - 1
    away = grid - centre - 2 * torch.tensor(shift, device=maps.device)
    places = away / factor**0.5 + centre
    return F.grid_sample(maps[:, None], places.to(maps.dtype), align_corners=False)[:, 0]


def _stretched(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low + TINY)
