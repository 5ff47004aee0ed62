"""The shape that simplification took, kept as a picture: normal maps."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from exporters.bake import find_texels
from exporters.corners import Frames, tangent_rows
from exporters.transfer import Skin
from renderers.kernels.raster import interpolate, texture
from threed.core.mesh import Mesh

WORTH_DEG = 4.0  # mean angle between the two surfaces' normals from which a map shows something
LOOKED_AT = 5000  # texels for a first impression of it
LEAST = 0.05  # of a normal's part out of the surface: leaning farther, it would be lit from behind


@torch.no_grad()
def bake_normals(mesh: Mesh, dense: Skin, size: int, *, worth_deg: float = WORTH_DEG) -> Mesh:
    """Give the mesh a normal map, size² texels, of a denser surface; none where it would not help.

    None helps where the normals of the two surfaces differ by less than worth_deg on average. Red
    follows u, green rises against v, blue follows the surface's normal, in the frames of MikkTSpace
    that the GLB's tangents and Blender agree on. ValueError for a mesh without uv.
    """
    texels = find_texels(mesh, size)
    count = texels.hits.shape[1]
    few = texels.hits[:, :: max(1, count // LOOKED_AT)]
    if count == 0 or _mean_angle_deg(mesh, few, dense) < worth_deg:
        return replace(mesh, material=replace(mesh.material, normal=None))
    place, frames = find_frames(mesh, texels.hits)
    wanted = dense.normal(place, F.normalize(frames.normal, dim=-1))
    lean = frames.lean(wanted)
    lean = F.normalize(torch.cat([lean[:, :2], lean[:, 2:].clamp(min=LEAST)], 1), dim=-1)
    return replace(mesh, material=replace(mesh.material, normal=texels.fill((lean + 1) / 2)))


@torch.no_grad()
def bake_relief(mesh: Mesh) -> Tensor | None:
    """Bake the unit normals in the world [H, W, 3] that a mesh's normal map makes; None without.

    They lie on the mesh's map, as pictures of ours show them: `renderers.film.film`.
    """
    image = mesh.material.normal
    if image is None or mesh.material.albedo is None or mesh.uv is None:
        return None
    texels = find_texels(mesh, max(image.shape[:2]))
    _, frames = find_frames(mesh, texels.hits)
    uv, uv_faces = mesh.opengl_map()
    lean = texture(image, interpolate(uv, texels.hits, uv_faces))[0, :, 0] * 2 - 1
    return texels.fill(frames.turn(lean))


def find_frames(mesh: Mesh, hits: Tensor) -> tuple[Tensor, Frames]:
    """The places [N, 3] on the surface at the entries of a buffer [1, N, 1, 4]; their frames."""
    rows, faces = tangent_rows(mesh)
    return Frames.split(interpolate(rows, hits, faces)[0, :, 0])


def _mean_angle_deg(mesh: Mesh, hits: Tensor, dense: Skin) -> float:
    """The angle between the normals of a mesh and those of a denser one, on average over hits."""
    place, frames = find_frames(mesh, hits)
    unit = F.normalize(frames.normal, dim=-1)
    cosine = (unit * dense.normal(place, unit)).sum(-1)
    return float(torch.rad2deg(cosine.clamp(-1, 1).acos()).mean())
