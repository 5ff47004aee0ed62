"""One picture that shows a mesh from all around."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from exporters import pictures
from exporters.normals import bake_relief
from renderers.film import film
from renderers.shading import Look
from threed.core import files
from threed.core.cameras import orbit
from threed.core.mesh import Mesh

VIEWS = 8
LOOKS: tuple[Look, ...] = ("albedo", "normal")  # a row each


def save_contact_sheet(mesh: Mesh, path: Path, *, size: int = 256) -> None:
    """Write a PNG of 8 views, from the front on counter-clockwise; colours above, normals below.

    Each view has size² pixels; the mesh fills it whatever its own size.
    """
    files.write(path, pictures.encode_png(draw_sheet(mesh, size)))


def draw_sheet(mesh: Mesh, size: int) -> Tensor:
    """Draw the picture: [2 * size, 8 * size, 3] sRGB in [0, 1]."""
    mesh, cameras = pictures.fit_ball(mesh), orbit(VIEWS, size)
    white, relief = torch.ones(3), bake_relief(mesh)
    rows = [film(mesh, cameras, background=white, look=look, relief=relief) for look in LOOKS]
    return torch.cat([torch.cat(list(row), 1) for row in rows])
