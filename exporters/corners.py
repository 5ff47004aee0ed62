"""Meshes as files have them: one index for everything a vertex has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from exporters import axes
from threed.core import Mesh


@dataclass(frozen=True)
class Corners:
    """A mesh with one row a vertex, a vertex on a seam of the texture once for each side."""

    position: Tensor  # [N, 3] float32, y up
    normal: Tensor  # [N, 3] float32, unit, y up; smooth across the seams
    uv: Tensor | None  # [N, 2] float32, (0, 0) is the lower left corner
    color: Tensor | None  # [N, 3] float32 sRGB
    faces: Tensor  # [F, 3] int64


def corners(mesh: Mesh) -> Corners:
    """The mesh y up and with one index."""
    normal = mesh.vertex_normals()
    # a vertex of faces that cancel each other out has no normal; any unit vector is valid
    normal[normal.norm(dim=-1) < 0.5] = torch.tensor([0.0, 0.0, 1.0])
    place, normal = axes.to_y_up(mesh.vertices.float()), axes.to_y_up(normal)
    if mesh.uv is None or mesh.uv_faces is None:
        color = None if mesh.colors is None else mesh.colors.float().clamp(0, 1)
        return Corners(place, normal, None, color, mesh.faces)
    pairs = mesh.faces.view(-1) * len(mesh.uv) + mesh.uv_faces.view(-1)
    keys, index = torch.unique(pairs, return_inverse=True)
    vertex, uv = keys // len(mesh.uv), mesh.uv.float()[keys % len(mesh.uv)]
    return Corners(place[vertex], normal[vertex], uv, None, index.view(-1, 3))
