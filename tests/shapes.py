"""Meshes and fields known in closed form, for the tests of exporters and assets."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from renderers import volume
from threed.core.cameras import Cameras
from threed.core.mesh import Mesh
from threed.core.render import RenderOutput

FORMATS = (".glb", ".obj", ".ply", ".stl")  # that meshes are written in and read from


def sphere(radius: float = 0.6, rows: int = 16, columns: int = 24) -> Mesh:
    """A closed sphere whose colours follow its height: red below, blue above."""
    theta = torch.linspace(0, math.pi, rows + 1)[1:-1, None]
    phi = torch.arange(columns)[None] * (2 * math.pi / columns)
    ring = torch.stack(
        [theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos().expand(-1, columns)], -1
    )
    unit = torch.cat([ring.reshape(-1, 3), torch.tensor([[0, 0, 1.0], [0, 0, -1.0]])])
    north, south = len(unit) - 2, len(unit) - 1
    faces = []
    for c in range(columns):
        d = (c + 1) % columns
        faces.append((north, c, d))
        for r in range(rows - 2):
            a, b = r * columns, (r + 1) * columns
            faces += [(a + c, b + c, b + d), (a + c, b + d, a + d)]
        last = (rows - 2) * columns
        faces.append((last + c, south, last + d))
    height = (unit[:, 2:] + 1) / 2
    colors = torch.cat([1 - height, torch.full_like(height, 0.25), height], 1)
    return Mesh(radius * unit, torch.tensor(faces), colors)


def cube(side: float = 1.0) -> Mesh:
    """Eight vertices, twelve faces, no colours; its middle off the origin and its sides unequal."""
    corners = torch.tensor([[x, y, z] for x in (0.0, 1) for y in (0.0, 2) for z in (0.0, 3)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]
    return Mesh(side * corners, torch.tensor(faces))


class Ball:
    """A field: a ball of RADIUS with a soft edge, its colour a smooth function of the place."""

    RADIUS = 0.55

    def __init__(self, peak: float = 150.0, floater: bool = False) -> None:
        self.peak, self.floater = peak, floater
        self.occupied = torch.ones(8, 8, 8, dtype=torch.bool)

    def density_and_color(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density [N] and colour [N, 3]."""
        inside = self.RADIUS - points.norm(dim=-1)
        density = self.peak * torch.sigmoid(200 * inside)
        # hollow in the middle, as fields are where no picture looks
        density = density * (points.norm(dim=-1) > 0.2)
        if self.floater:
            away = 0.05 - (points - torch.tensor([0.0, 0.0, 0.8])).norm(dim=-1)
            density = density + self.peak * torch.sigmoid(100 * away)
        return density, self.color(points)

    def color(self, points: Tensor) -> Tensor:
        """sRGB [N, 3]."""
        return 0.5 + 0.4 * torch.sin(3 * points)

    def render(self, cameras: Cameras, *, background: Tensor | None = None) -> RenderOutput:
        """Pictures over a background [3], white if None."""
        seen = volume.Volume(self.density_and_color, self.occupied, step=0.02)
        behind = torch.ones(3) if background is None else background
        return volume.render(seen, cameras, background=behind)


def lopsided() -> Mesh:
    """A cube of sides 1, 2, 3 with one corner at the origin: no turn or mirror leaves it alone."""
    mesh = cube()
    return replace(mesh, colors=torch.linspace(0, 1, 24).view(8, 3))
