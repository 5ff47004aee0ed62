"""Which way is up in which file.

Ours is z up with the front at +x. glTF and OBJ files are y up with the front at +z, PLY and STL
files z up with the front at -y; so every one of them stands upright in Blender, whose importers
expect just that, and shows its front in Blender's front view.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_y_up(v: Tensor) -> Tensor:
    """Turn points or directions [N, 3] from our axes to those of glTF and OBJ."""
    return v[:, [1, 2, 0]]


def from_y_up(v: Tensor) -> Tensor:
    """Turn points or directions [N, 3] from the axes of glTF and OBJ to ours."""
    return v[:, [2, 0, 1]]


def to_z_up(v: Tensor) -> Tensor:
    """Turn points or directions [N, 3] from our axes to those of PLY and STL."""
    return torch.stack([v[:, 1], -v[:, 0], v[:, 2]], 1)


def from_z_up(v: Tensor) -> Tensor:
    """Turn points or directions [N, 3] from the axes of PLY and STL to ours."""
    return torch.stack([-v[:, 1], v[:, 0], v[:, 2]], 1)
