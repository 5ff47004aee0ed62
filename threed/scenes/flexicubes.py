"""FlexiCubes (Shen et al. 2023, arXiv:2308.05371) through kaolin, where it is installed.

A dual method: one vertex a piece of surface in a cube, placed by weights that learn, so that sharp
edges need no finer grid. kaolin.ops.conversions.FlexiCubes does it; what stands here is how our
grid is told to it.
"""

from __future__ import annotations

import functools
import importlib
import itertools
from typing import Any

import torch
from torch import Tensor

from renderers.kernels import cuda
from threed.core.errors import InputError
from threed.scenes.tetrahedra import Marched, NoSurfaceError

EDGES, CORNERS = 12, 8  # of a cube, each with a weight; one more says how its faces are split
WEIGHTS = EDGES + CORNERS + 1


def check() -> None:
    """InputError, with the reason, where kaolin cannot be used."""
    problem = cuda.problem("kaolin")
    if problem is not None:
        raise InputError(f"surface.mesher=flexicubes needs kaolin: {problem}; "
                         "surface.mesher=tetrahedra needs nothing")  # fmt: skip


@functools.lru_cache(maxsize=2)
def cubes(cells: int, device: torch.device) -> Tensor:
    """[cells³, 8] the points of `tetrahedra.grid_points` at each cube's corners, x fastest."""
    size = cells + 1
    points = torch.arange(size**3, device=device).view(size, size, size)
    ranges = itertools.product(range(2), repeat=3)
    corners = [points[x : cells + x, y : cells + y, z : cells + z] for z, y, x in ranges]
    return torch.stack(corners, -1).view(-1, CORNERS)


@functools.lru_cache(maxsize=2)
def _extractor(device: torch.device) -> Any:
    """kaolin's tables on a device."""
    return importlib.import_module(cuda.MODULES["kaolin"]).FlexiCubes(device=str(device))


def march(distance: Tensor, places: Tensor, weights: Tensor, cells: int) -> Marched:
    """The surface where `distance` [P³] crosses zero, as `tetrahedra.march` has it.

    weights [cells³, WEIGHTS], before they are brought into their ranges: 0 is neutral. `ends` are
    the crossed edges of the grid, `deviation` is how far vertices lie from the crossings around
    them (equation 8). NoSurfaceError if no edge is crossed.
    """
    edge, corner, split = torch.split(weights, [EDGES, CORNERS, 1], 1)
    vertices, faces, deviation = _extractor(places.device)(
        places, distance, cubes(cells, places.device), cells, beta=edge, alpha=corner,
        gamma_f=split[:, 0], training=torch.is_grad_enabled(),
    )  # fmt: skip
    if len(faces) == 0:
        raise NoSurfaceError("the distance has one sign everywhere: there is no surface")
    a, b, c = vertices.detach()[faces].unbind(1)
    if float((a * torch.linalg.cross(b, c)).sum()) < 0:
        faces = faces.flip(1)  # outwards, whichever side it calls the inside
    return Marched(vertices, faces, crossed(distance, cells), deviation.mean())


def crossed(distance: Tensor, cells: int) -> Tensor:
    """[E, 2] the neighbours on the grid whose distances [P³] have different signs."""
    size = cells + 1
    inside = (distance.detach() < 0).view(size, size, size)
    points = torch.arange(size**3, device=distance.device).view(size, size, size)
    found = []
    for axis in range(3):
        changes = inside.narrow(axis, 0, cells) != inside.narrow(axis, 1, cells)
        pair = (points.narrow(axis, 0, cells)[changes], points.narrow(axis, 1, cells)[changes])
        found.append(torch.stack(pair, 1))
    return torch.cat(found)
