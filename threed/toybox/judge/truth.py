"""The truth of a drawn set as pictures, for people."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from threed.toybox.world.toys import Set


def passes(drawn: Set) -> Tensor:
    """[5 * V, 3, H, W] in [0, 1]: rgb of all V views, then alpha, depth, normals and parts.

    Depth is bright where near, over the set's own range; a normal n has the colour (n + 1) / 2.
    """
    pictures = drawn.pictures
    depth = np.stack([picture.depth for picture in pictures])
    seen = depth > 0
    low, high = (depth[seen].min(), depth[seen].max()) if seen.any() else (0.0, 1.0)
    near = np.where(seen, 0.15 + 0.85 * (high - depth) / max(high - low, 1e-6), 0)
    normal = np.stack([picture.normal for picture in pictures])
    part = np.stack([picture.part for picture in pictures])
    # hues a golden ratio apart: neighbours in the list look different
    hue = np.modf(part * 0.618)[0][..., None] + np.array([0, 1 / 3, 2 / 3])
    rows = [
        np.stack([picture.rgb for picture in pictures]),
        _grey(np.stack([picture.alpha for picture in pictures])),
        _grey(near),
        np.where(seen[..., None], (normal + 1) / 2, 0),
        np.where((part >= 0)[..., None], 0.55 + 0.4 * np.cos(2 * np.pi * hue), 0),
    ]
    return torch.from_numpy(np.concatenate(rows)).float().permute(0, 3, 1, 2)


def _grey(values: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(values[..., None], 3, axis=-1)
