"""One picture that shows a mesh from all around."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from exporters import files, pictures
from exporters.normals import relief
from renderers.film import film
from renderers.shading import Look
from threed.core.cameras import orbit
from threed.core.mesh import Mesh

VIEWS = 8
LOOKS: tuple[Look, ...] = ("albedo", "normal")  # a row each


def contact_sheet(mesh: Mesh, path: Path, *, size: int = 256) -> None:
    """Write a PNG of 8 views, from the front on counter-clockwise; colours above, normals below.

    Each view has size² pixels; the mesh fills it whatever its own size.
    """
    files.write({path: pictures.png(sheet(mesh, size))})


def sheet(mesh: Mesh, size: int = 256) -> Tensor:
    """[2 * size, 8 * size, 3] sRGB in [0, 1]."""
    mesh, cameras = pictures.framed(mesh), orbit(VIEWS, size)
    rows = [
        film(mesh, cameras, background=torch.ones(3), look=look, relief=relief(mesh))
        for look in LOOKS
    ]
    return torch.cat([torch.cat(list(row), 1) for row in rows])
