"""Meshes as files have them: one index for everything a vertex has."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from exporters import axes
from threed.core.mesh import Mesh


@dataclass(frozen=True)
class Corners:
    """A mesh with one row a vertex, a vertex on a seam of the texture once for each side."""

    position: Tensor  # [N, 3] float32, y up
    normal: Tensor  # [N, 3] float32, unit, y up; smooth across the seams
    uv: Tensor | None  # [N, 2] float32, (0, 0) is the lower left corner
    v_down: Tensor | None  # [N] float32, v counted from the top
    color: Tensor | None  # [N, 3] float32 sRGB
    tangent: Tensor | None  # [N, 4] float32, unit, y up, and the side of the bitangent: 1 or -1
    faces: Tensor  # [F, 3] int64


def corners(mesh: Mesh, *, tangents: bool | None = None) -> Corners:
    """The mesh y up and with one index; with tangents if it has a normal map, or as is said."""
    normal = mesh.vertex_normals()
    # a vertex of faces that cancel each other out has no normal; any unit vector is valid
    normal[normal.norm(dim=-1) < 0.5] = torch.tensor([0.0, 0.0, 1.0])
    place, normal = axes.to_y_up(mesh.vertices.float()), axes.to_y_up(normal)
    painted = mesh.uv is not None and mesh.material.albedo is not None
    color = None if mesh.colors is None or painted else mesh.colors.float().clamp(0, 1)
    if mesh.uv is None or mesh.uv_faces is None:
        return Corners(place, normal, None, None, color, None, mesh.faces)
    if tangents is None:
        tangents = mesh.material.normal is not None
    flat = mesh.uv.float()
    keys = mesh.faces * len(flat) + mesh.uv_faces
    if tangents:  # where faces of a map meet their mirror image, each side has its own
        keys = keys * 2 + (_handedness(flat[mesh.uv_faces]) < 0)[:, None]
    keys, index = torch.unique(keys, return_inverse=True)
    if tangents:
        keys = keys // 2
    vertex, row = keys // len(flat), keys % len(flat)
    down = 1 - flat[:, 1] if mesh.v_down is None else mesh.v_down.float()
    color = None if color is None else color[vertex]
    rows = Corners(place[vertex], normal[vertex], flat[row], down[row], color, None, index)
    return replace(rows, tangent=_tangents(rows)) if tangents else rows


def _handedness(uv: Tensor) -> Tensor:
    """[F] twice the signed areas of triangles [F, 3, 2]: negative where the map is mirrored."""
    a, b = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _tangents(rows: Corners) -> Tensor:
    """[N, 4] the tangents that MikkTSpace (Mikkelsen 2008, section 3.3) gives each row.

    The direction in which u grows on each face, laid into the plane of the row's normal, averaged
    over its faces by their angles there; the bitangent is cross(normal, tangent) times the fourth
    number, and shows where v grows.
    """
    if rows.uv is None:
        raise ValueError("tangents need uv")
    place, uv = rows.position[rows.faces].double(), rows.uv[rows.faces].double()
    area = _handedness(uv)
    along, up = place[:, 1:] - place[:, :1], (uv[:, 1:] - uv[:, :1])[..., 1]
    direction = F.normalize(along[:, 0] * up[:, 1:] - along[:, 1] * up[:, :1], dim=-1)
    direction = direction * area.sign()[:, None]
    total = torch.zeros(len(rows.position), 3, dtype=torch.float64)
    for k in range(3):
        row = rows.faces[:, k]
        normal = rows.normal[row].double()
        sides = [_laid(place[:, (k + j) % 3] - place[:, k], normal) for j in (1, 2)]
        angle = (sides[0] * sides[1]).sum(-1).clamp(-1, 1).acos()
        total.index_add_(0, row, _laid(direction, normal) * angle[:, None])
    normal = rows.normal.double()
    # rows whose faces have no area in the map: any direction across the normal is valid
    across = torch.linalg.cross(normal, torch.eye(3, dtype=torch.float64)[normal.abs().argmin(1)])
    bare = total.norm(dim=-1, keepdim=True) < 1e-9
    tangent = F.normalize(torch.where(bare, across, total), dim=-1)
    side = torch.ones(len(tangent), dtype=torch.float64)
    side[rows.faces[area < 0].flatten()] = -1.0
    return torch.cat([tangent, side[:, None]], 1).float()


def _laid(vectors: Tensor, normal: Tensor) -> Tensor:
    """Unit vectors [N, 3]: what is left of `vectors` in the planes of the unit normals [N, 3]."""
    return F.normalize(vectors - (vectors * normal).sum(-1, keepdim=True) * normal, dim=-1)
