"""The shape that simplification took, kept as a picture: normal maps."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from exporters import axes
from exporters.bake import rasterize_uv, spread
from exporters.corners import corners
from exporters.transfer import Skin
from renderers.kernels.raster import interpolate, texture
from threed.core.mesh import Mesh

WORTH_DEG = 4.0  # mean angle between the two surfaces' normals from which a map shows something
LOOKED_AT = 5000  # texels for a first impression of it
LEAST = 0.05  # of a normal's part out of the surface: leaning farther, it would be lit from behind


@torch.no_grad()
def bake_normals(mesh: Mesh, dense: Skin, size: int, *, worth_deg: float = WORTH_DEG) -> Mesh:
    """The mesh with a normal map, size² texels, of a denser surface; as it is where none helps.

    None helps where the normals of the two surfaces differ by less than worth_deg on average. Red
    follows u, green v, blue the surface's normal, in the frames of MikkTSpace that the GLB's
    tangents and Blender agree on. ValueError for a mesh without uv.
    """
    if mesh.uv is None or mesh.uv_faces is None:
        raise ValueError("unwrap a mesh before its normals are baked")
    buffer = rasterize_uv(mesh.uv, mesh.uv_faces, size)
    known = buffer[0, ..., 3] > 0
    row, column = known.nonzero(as_tuple=True)
    step = max(1, len(row) // LOOKED_AT)
    few = _Texels(mesh, buffer[:, row[::step], column[::step]][:, :, None])
    if len(row) == 0 or few.angle_deg(dense) < worth_deg:
        return replace(mesh, material=replace(mesh.material, normal=None))
    texels = _Texels(mesh, buffer[:, row, column][:, :, None])
    image = torch.zeros(size, size, 3)
    image[row, column] = (texels.relative(dense) + 1) / 2
    return replace(mesh, material=replace(mesh.material, normal=spread(image, known)))


@torch.no_grad()
def relief(mesh: Mesh) -> Tensor | None:
    """[H, W, 3] unit normals in the world that a mesh's normal map makes, on its map; None without.

    As far as pictures of ours show it: `renderers.film.film`.
    """
    image = mesh.material.normal
    if image is None or mesh.material.albedo is None or mesh.uv is None or mesh.uv_faces is None:
        return None
    buffer = rasterize_uv(mesh.uv, mesh.uv_faces, max(image.shape[:2]))
    known = buffer[0, ..., 3] > 0
    row, column = known.nonzero(as_tuple=True)
    texels = _Texels(mesh, buffer[:, row, column][:, :, None])
    uv = interpolate(mesh.uv, buffer[:, row, column][:, :, None], mesh.uv_faces)
    lean = texture(image, uv)[0, :, 0] * 2 - 1
    found = torch.zeros(*known.shape, 3)
    found[row, column] = F.normalize(
        lean[:, :1] * texels.tangent
        + lean[:, 1:2] * texels.bitangent
        + lean[:, 2:] * texels.normal,
        dim=-1,
    )
    return spread(found, known)


class _Texels:
    """Where texels lie on the surface [N, 3], and the frames of the map there."""

    def __init__(self, mesh: Mesh, hits: Tensor) -> None:
        rows = corners(mesh, tangents=True)
        if rows.tangent is None:
            raise ValueError("tangents need uv")
        parts = [axes.from_y_up(part) for part in (rows.position, rows.normal, rows.tangent[:, :3])]
        values = interpolate(torch.cat([*parts, rows.tangent[:, 3:]], 1), hits, rows.faces)
        self.place, self.normal, self.tangent, side = torch.split(values[0, :, 0], [3, 3, 3, 1], 1)
        self.bitangent = side * torch.linalg.cross(self.normal, self.tangent)

    def angle_deg(self, dense: Skin) -> float:
        """Between the surface's normals and those of the dense one, on average."""
        unit = F.normalize(self.normal, dim=-1)
        cosine = (unit * dense.normal(self.place, unit)).sum(-1)
        return float(torch.rad2deg(cosine.clamp(-1, 1).acos()).mean())

    def relative(self, dense: Skin) -> Tensor:
        """[N, 3] unit normals of the dense surface, in the frames."""
        wanted = dense.normal(self.place, F.normalize(self.normal, dim=-1))
        t, b, n = self.tangent, self.bitangent, self.normal
        # the rows of the inverse of [t b n], up to its determinant: the frames are not quite square
        rows = [torch.linalg.cross(b, n), torch.linalg.cross(n, t), torch.linalg.cross(t, b)]
        lean = F.normalize(torch.stack([(row * wanted).sum(-1) for row in rows], -1), dim=-1)
        return F.normalize(torch.cat([lean[:, :2], lean[:, 2:].clamp(min=LEAST)], 1), dim=-1)
