"""Colour in space painted onto a texture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional as F

from renderers.kernels.raster import interpolate, rasterize
from threed.core.budget import SIZES
from threed.core.errors import InputError
from threed.core.mesh import Mesh

PIECE = 2**17  # texels whose colour is asked for at once
# points and unit normals of the surface, [N, 3] each -> sRGB [N, 3]
SurfaceColor = Callable[[Tensor, Tensor], Tensor]


def bake(mesh: Mesh, color: SurfaceColor, size: int = 1024) -> Mesh:
    """The mesh with an albedo texture, size² texels, that shows what `color` says of its surface.

    InputError for a size out of SIZES; ValueError for a mesh without uv.
    """
    return replace(mesh, material=replace(mesh.material, albedo=paint(mesh, color, size)))


def bake_gloss(mesh: Mesh, gloss: SurfaceColor, size: int = 1024) -> Mesh:
    """The mesh with a map of the roughness and metallic [N, 2] that `gloss` says of its surface.

    Errors as from `bake`.
    """

    def packed(points: Tensor, normals: Tensor) -> Tensor:
        """Red is free in glTF's packing; where programs read an occlusion there, 1 means none."""
        return F.pad(gloss(points, normals), (1, 0), value=1.0)

    image = paint(mesh, packed, size)
    maps = replace(mesh.material, metallic=1.0, roughness=1.0, metallic_roughness=image)
    return replace(mesh, material=maps)


@torch.no_grad()
def paint(mesh: Mesh, color: SurfaceColor, size: int) -> Tensor:
    """[size, size, 3] what `color` says of the surface, on the mesh's map.

    Texels between the charts take the colour of the nearest chart, so that neither bilinear look-up
    nor mip-mapping ever shows a background. Errors as from `bake`.
    """
    if mesh.uv is None or mesh.uv_faces is None:
        raise ValueError("unwrap a mesh before it is baked")
    if not SIZES[0] <= size <= SIZES[1]:
        raise InputError(f"the texture must have {SIZES[0]} to {SIZES[1]} texels a side, "
                         f"got {size}")  # fmt: skip
    buffer = rasterize_uv(mesh.uv, mesh.uv_faces, size)
    row, column = torch.nonzero(buffer[0, ..., 3] > 0, as_tuple=True)
    hits = buffer[:, row, column][:, :, None]
    surface = torch.cat([mesh.vertices, mesh.vertex_normals()], 1)
    place, normal = torch.split(interpolate(surface, hits, mesh.faces)[0, :, 0], 3, -1)
    normal = F.normalize(normal, dim=-1)
    pieces = zip(torch.split(place, PIECE), torch.split(normal, PIECE))
    painted = torch.cat([color(p, n).float().cpu() for p, n in pieces])
    image = torch.zeros(size, size, 3)
    image[row, column] = painted.clamp(0, 1)
    return spread(image, buffer[0, ..., 3] > 0)


def rasterize_uv(uv: Tensor, uv_faces: Tensor, size: int) -> Tensor:
    """[1, size, size, 4] which face of the map lies at each texel's centre: a rasterize buffer."""
    clip = F.pad(F.pad(uv * 2 - 1, (0, 1)), (0, 1), value=1.0)
    return rasterize(clip[None], uv_faces, (size, size))


def spread(image: Tensor, known: Tensor) -> Tensor:
    """The image [H, W, C] with every pixel that is not `known` [H, W] like the nearest that is."""
    if not bool(known.any()):
        return image
    nearest = distance_transform_edt(~known.numpy(), return_distances=False, return_indices=True)
    row, column = torch.from_numpy(nearest).long()
    return image[row, column]
