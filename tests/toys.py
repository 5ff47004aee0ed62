"""Toys of the toybox world as textured meshes, the best assets there could be; a bumpy ball."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mcubes
import numpy as np
import torch
from numba import njit
from torch import Tensor

from exporters.bake import bake
from exporters.unwrap import unwrap
from tests.shapes import sphere
from threed.core.mesh import Mesh
from threed.toybox.world.draw import COLOR, CUT, EMBLEM, SHAPE, Array, _carved
from threed.toybox.world.toys import random_toy

RADIUS = 0.6  # of the bumpy ball


def bumpy() -> Mesh:
    """A ball with waves that a few hundred faces cannot have, and no colours."""
    mesh = sphere(RADIUS, 80, 120)
    waves = 1 + 0.02 * torch.sin(18 * mesh.vertices / RADIUS).sum(1, keepdim=True)
    return replace(mesh, vertices=mesh.vertices * waves, colors=None)


@njit(cache=True)
def _solids(parts: Any, points: Any, distance: Any, owner: Any) -> None:
    for i in range(len(points)):
        x, y, z = points[i]
        distance[i] = 1e9
        for j in range(len(parts)):
            if parts[j, CUT] < 0.5:
                d, which = _carved(parts, j, x, y, z)
                if d < distance[i]:
                    distance[i], owner[i] = d, which


def solids(parts: Array, points: Array) -> tuple[Array, Array]:
    """Signed distances [N], and the parts [N] that are nearest."""
    distance, owner = np.empty(len(points), np.float32), np.empty(len(points), np.int64)
    _solids(parts, points, distance, owner)
    return distance, owner


def toy(kind: str, color: str, *, resolution: int = 64, texture: int = 256) -> Mesh:
    """A plain toy of a kind and a colour, from the front +x, its texture painted."""
    parts = random_toy(np.random.default_rng(0), kind, color, "plain").packed()
    return solid(parts, resolution, texture)


def solid(parts: Array, resolution: int = 64, texture: int = 256) -> Mesh:
    """What packed parts are, with their colours, and without patterns and emblems."""
    parts = parts[parts[:, SHAPE] < EMBLEM]
    axis = np.linspace(-1, 1, resolution, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    field = solids(parts, grid)[0].reshape((resolution,) * 3)
    vertices, faces = mcubes.marching_cubes(-field, 0.0)
    places = torch.from_numpy(vertices).float() * (2 / (resolution - 1)) - 1
    mesh = Mesh(places, torch.from_numpy(faces.astype(np.int64)))

    def painted(points: Tensor, _: Tensor) -> Tensor:
        return torch.from_numpy(parts[solids(parts, points.numpy())[1], COLOR : COLOR + 3])

    return bake(unwrap(mesh, texture), painted, texture)
