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
    uv: Tensor | None  # [N, 2] float32, v downwards
    color: Tensor | None  # [N, 3] float32 sRGB
    tangent: Tensor | None  # [N, 4] float32, unit, y up, and the side of the bitangent: 1 or -1
    faces: Tensor  # [F, 3] int64


def to_corners(mesh: Mesh, *, tangents: bool | None = None) -> Corners:
    """Turn a mesh y up and give it one index.

    With tangents if `tangents` says so; None means if the mesh has a normal map.
    """
    place, normal = axes.to_y_up(mesh.vertices.float()), axes.to_y_up(unit_normals(mesh))
    painted = mesh.uv is not None and mesh.material.albedo is not None
    color = None if mesh.colors is None or painted else mesh.colors.float().clamp(0, 1)
    if mesh.uv is None:
        return Corners(place, normal, None, color, None, mesh.faces)
    if tangents is None:
        tangents = mesh.material.normal is not None
    flat, uv_faces = mesh.opengl_map()
    keys = mesh.faces * len(flat) + uv_faces
    if tangents:  # where faces of a map meet their mirror image, each side has its own
        keys = keys * 2 + (signed_areas(flat[uv_faces]) < 0)[:, None]
    keys, index = torch.unique(keys, return_inverse=True)
    if tangents:
        keys = keys // 2
    vertex, row = keys // len(flat), keys % len(flat)
    color = None if color is None else color[vertex]
    rows = Corners(place[vertex], normal[vertex], mesh.uv.float()[row], color, None, index)
    return replace(rows, tangent=_find_tangents(rows, flat[row])) if tangents else rows


@dataclass(frozen=True)
class Frames:
    """N frames of a map that normals are relative to, in our axes; not quite square."""

    tangent: Tensor  # [N, 3] where u grows
    bitangent: Tensor  # [N, 3] where v falls
    normal: Tensor  # [N, 3] out of the surface

    @staticmethod
    def split(rows: Tensor) -> tuple[Tensor, Frames]:
        """Split rows [N, 10] between those of `tangent_rows`: places [N, 3], and the frames."""
        place, normal, tangent, side = torch.split(rows, [3, 3, 3, 1], 1)
        return place, Frames(tangent, side * torch.linalg.cross(normal, tangent), normal)

    def turn(self, lean: Tensor) -> Tensor:
        """Turn vectors [N, 3] relative to the frames into the world; of unit length."""
        t, b, n = self.tangent, self.bitangent, self.normal
        return F.normalize(lean[:, :1] * t + lean[:, 1:2] * b + lean[:, 2:] * n, dim=-1)

    def lean(self, vectors: Tensor) -> Tensor:
        """Find vectors [N, 3] in the world relative to the frames; of unit length."""
        t, b, n = self.tangent, self.bitangent, self.normal
        # the rows of the inverse of [t b n], up to its determinant
        rows = [torch.linalg.cross(b, n), torch.linalg.cross(n, t), torch.linalg.cross(t, b)]
        return F.normalize(torch.stack([(row * vectors).sum(-1) for row in rows], -1), dim=-1)


def tangent_rows(mesh: Mesh) -> tuple[Tensor, Tensor]:
    """Place, normal, tangent and side of the corners of a mesh: [N, 10] in our axes, faces [F, 3].

    ValueError for a mesh without uv.
    """
    rows = to_corners(mesh, tangents=True)
    if rows.tangent is None:
        raise ValueError("tangents need texture coordinates: unwrap the mesh first")
    parts = [axes.from_y_up(part) for part in (rows.position, rows.normal, rows.tangent[:, :3])]
    return torch.cat([*parts, rows.tangent[:, 3:]], 1), rows.faces


def polygons(mesh: Mesh) -> list[Tensor]:
    """List the polygons as rows of corners, which count as in mesh.faces.flatten().

    Triangles [T, 3] and quads [Q, 4]. A quad whose map is cut along its diagonal is two triangles.
    """
    every = torch.arange(3 * len(mesh.faces))
    if not mesh.quads:
        return [every.view(-1, 3)]
    six = every.view(-1, 6)
    whole = torch.ones(len(six), dtype=torch.bool)
    if mesh.uv_faces is not None:
        whole = (mesh.uv_faces[::2, [0, 2]] == mesh.uv_faces[1::2, :2]).all(1)
    return [six[~whole].view(-1, 3), six[whole][:, [0, 1, 2, 5]]]


def unit_normals(mesh: Mesh) -> Tensor:
    """[V, 3] the normals of the vertices; upwards where faces cancel each other out."""
    normal = mesh.vertex_normals()
    normal[normal.norm(dim=-1) < 0.5] = torch.tensor([0.0, 0.0, 1.0])
    return normal


def signed_areas(uv: Tensor) -> Tensor:
    """[F] areas of triangles [F, 3, 2], v upwards: negative where the map is mirrored."""
    a, b = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    return (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2


def _find_tangents(rows: Corners, flat: Tensor) -> Tensor:
    """[N, 4] the tangents that MikkTSpace (Mikkelsen 2008, section 3.3) gives each row.

    The direction in which u grows on each face, laid into the plane of the row's normal, averaged
    over its faces by their angles there; the bitangent is cross(normal, tangent) times the fourth
    number, and shows where v grows. `flat` [N, 2] are the texture coordinates, v upwards.
    """
    place, uv = rows.position[rows.faces].double(), flat[rows.faces].double()
    area = signed_areas(uv)
    along, up = place[:, 1:] - place[:, :1], (uv[:, 1:] - uv[:, :1])[..., 1]
    direction = F.normalize(along[:, 0] * up[:, 1:] - along[:, 1] * up[:, :1], dim=-1)
    direction = direction * area.sign()[:, None]
    total = torch.zeros(len(rows.position), 3, dtype=torch.float64)
    for k in range(3):
        row = rows.faces[:, k]
        normal = rows.normal[row].double()
        sides = [_lay(place[:, (k + j) % 3] - place[:, k], normal) for j in (1, 2)]
        angle = (sides[0] * sides[1]).sum(-1).clamp(-1, 1).acos()
        total.index_add_(0, row, _lay(direction, normal) * angle[:, None])
    normal = rows.normal.double()
    # rows whose faces have no area in the map: any direction across the normal is valid
    across = torch.linalg.cross(normal, torch.eye(3, dtype=torch.float64)[normal.abs().argmin(1)])
    bare = total.norm(dim=-1, keepdim=True) < 1e-9
    tangent = F.normalize(torch.where(bare, across, total), dim=-1)
    side = torch.ones(len(tangent), dtype=torch.float64)
    side[rows.faces[area < 0].flatten()] = -1.0
    return torch.cat([tangent, side[:, None]], 1).float()


def _lay(vectors: Tensor, normal: Tensor) -> Tensor:
    """Project `vectors` [N, 3] into the planes of unit normals [N, 3]; of unit length."""
    return F.normalize(vectors - (vectors * normal).sum(-1, keepdim=True) * normal, dim=-1)
