"""Colour in space painted onto a texture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional as F

from renderers.kernels.raster import interpolate, rasterize
from threed.core.budget import SIZES
from threed.core.errors import InputError
from threed.core.mesh import Mesh

PIECE = 2**17  # texels whose colour is asked for at once
Size = int | tuple[int, int]  # texels a side, or rows and columns
# points and unit normals of the surface, [N, 3] each -> sRGB [N, 3]
SurfaceColor = Callable[[Tensor, Tensor], Tensor]


def bake(mesh: Mesh, color: SurfaceColor, size: int = 1024) -> Mesh:
    """Give the mesh an albedo texture, size² texels, that shows what `color` says of its surface.

    InputError for a size out of SIZES; ValueError for a mesh without uv.
    """
    return replace(mesh, material=replace(mesh.material, albedo=paint(mesh, color, size)))


def bake_part(mesh: Mesh, color: SurfaceColor, part: Tensor) -> Mesh:
    """Paint a mesh's albedo [H, W, 3] anew as far as `part` [H, W], in 0..1, says.

    Where that is 0 it stays bit by bit. Errors as from `bake`.
    """
    albedo = mesh.material.albedo
    assert albedo is not None  # the mesh was made ready for it
    made = paint(mesh, color, (part.shape[0], part.shape[1]))
    mixed = torch.lerp(albedo, made, part[..., None])
    return replace(mesh, material=replace(mesh.material, albedo=mixed))


def bake_gloss(mesh: Mesh, gloss: SurfaceColor, size: int = 1024) -> Mesh:
    """Give the mesh a map of the roughness and metallic [N, 2] that `gloss` says of its surface.

    Errors as from `bake`.
    """

    def packed(points: Tensor, normals: Tensor) -> Tensor:
        """Red is free in glTF's packing; where programs read an occlusion there, 1 means none."""
        return F.pad(gloss(points, normals), (1, 0), value=1.0)

    image = paint(mesh, packed, size)
    maps = replace(mesh.material, metallic=1.0, roughness=1.0, metallic_roughness=image)
    return replace(mesh, material=maps)


@torch.no_grad()
def paint(mesh: Mesh, color: SurfaceColor, size: Size) -> Tensor:
    """Paint what `color` says of the surface on the mesh's map: [H, W, 3].

    Errors as from `bake`.
    """
    sides = (size, size) if isinstance(size, int) else size
    if not SIZES[0] <= min(sides) <= max(sides) <= SIZES[1]:
        low, high = SIZES
        raise InputError(f"the texture must have {low} to {high} texels a side, got {size}")
    texels = find_texels(mesh, size)
    surface = torch.cat([mesh.vertices, mesh.vertex_normals()], 1)
    place, normal = torch.split(interpolate(surface, texels.hits, mesh.faces)[0, :, 0], 3, -1)
    normal = F.normalize(normal, dim=-1)
    pieces = zip(torch.split(place, PIECE), torch.split(normal, PIECE))
    painted = torch.cat([color(p, n).float().cpu() for p, n in pieces])
    return texels.fill(painted.clamp(0, 1))


@dataclass(frozen=True)
class Texels:
    """The N texels of a texture that show the surface of a mesh."""

    known: Tensor  # [H, W] bool: which of all texels they are
    hits: Tensor  # [1, N, 1, 4] what each shows: entries of a rasterize buffer

    def fill(self, values: Tensor) -> Tensor:
        """Make an image [H, W, C] of the texels' values [N, C].

        Texels between the charts take the value of the nearest chart, so that neither bilinear
        look-up nor mip-mapping ever shows a background.
        """
        image = torch.zeros(*self.known.shape, values.shape[1])
        image[self.known] = values
        return spread(image, self.known)


def find_texels(mesh: Mesh, size: Size) -> Texels:
    """Find the texels of a texture of a size that show a mesh; ValueError without uv."""
    buffer = rasterize_uv(*mesh.opengl_map(), size)
    known = buffer[0, ..., 3] > 0
    return Texels(known, buffer[:, known][:, :, None])


def rasterize_uv(uv: Tensor, uv_faces: Tensor, size: Size) -> Tensor:
    """Find the face of a map at each texel's centre: a rasterize buffer [1, H, W, 4].

    uv [T, 2], v upwards, and faces [F, 3] into them.
    """
    clip = F.pad(F.pad(uv * 2 - 1, (0, 1)), (0, 1), value=1.0)
    return rasterize(clip[None], uv_faces, (size, size) if isinstance(size, int) else size)


def spread(image: Tensor, known: Tensor) -> Tensor:
    """Give every pixel of an image [H, W, C] that is not `known` [H, W] the nearest one's value."""
    if not bool(known.any()):
        return image
    nearest = distance_transform_edt(~known.numpy(), return_distances=False, return_indices=True)
    row, column = torch.from_numpy(nearest).long()
    return image[row, column]
