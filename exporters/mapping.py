"""What can be said of a texture map in numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from exporters import topology
from exporters.bake import Size, rasterize_uv
from exporters.corners import signed_areas
from threed.core.mesh import Mesh

GRID = 1024  # texels a side that a map is judged at when it has no texture
STRETCHED = 4.0  # how much longer one way than the other a circle on the surface may get in the map
OFFSET = (0.1379, 0.2713)  # texels: so that no edge of a map runs through the points looked at


@dataclass(frozen=True)
class Mapping:
    """The numbers of the map of a mesh."""

    uv_coverage: float  # part of the texture's square that shows on the mesh
    uv_overlap: float  # part of what shows that shows more than once
    texture: int | None  # texels a side, the larger one; None without an albedo
    texel_density: float | None  # texels a world unit
    charts: int  # pieces of the map
    seam_length: float  # world units along which neighbours on the surface are apart in the map
    stretched: float  # part of the surface whose map is STRETCHED or more
    texel_spread: float  # density where it is high over where it is low: 90th, 10th percentile


def measure_map(mesh: Mesh) -> Mapping:
    """Measure the map of a mesh; ValueError if it has none."""
    uv, uv_faces = mesh.opengl_map()
    flat = uv[uv_faces]
    areas, image = topology.areas(mesh), mesh.material.albedo
    area = float(areas.sum())
    texels = 0 if image is None else image.shape[0] * image.shape[1]
    texels_on_map = float(signed_areas(flat.double()).abs().sum()) * texels
    size = GRID if image is None else max(image.shape[:2])
    coverage, overlap = measure_use(uv, uv_faces, size)
    large, small = _find_scales(mesh.vertices[mesh.faces].double(), flat.double())
    known = areas > 0
    stretched = (areas * (large > STRETCHED * small))[known].sum() / max(area, 1e-30)
    density = (large * small).sqrt()[known]
    low, high = (_find_quantile(density, areas[known], q) for q in (0.1, 0.9))
    return Mapping(
        uv_coverage=coverage,
        uv_overlap=overlap,
        texture=None if image is None else size,
        texel_density=math.sqrt(texels_on_map / area) if texels and area > 0 else None,
        charts=topology.components(uv_faces)[0],
        seam_length=_measure_seams(mesh, uv_faces),
        stretched=float(stretched),
        texel_spread=high / max(low, 1e-12),
    )


def measure_use(uv: Tensor, uv_faces: Tensor, size: int) -> tuple[float, float]:
    """The part of size² texels that a map covers, and the part of these that it covers twice.

    uv [T, 2], v upwards, and faces [F, 3] into them.
    """
    first, last = find_doubles(uv, uv_faces, size)
    covered = int((first >= 0).sum())
    return covered / size**2, int((first != last).sum()) / max(covered, 1)


def find_doubles(uv: Tensor, uv_faces: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Find the first and the last face [H, W] over each texel; equal if one, -1 if none.

    uv [T, 2], v upwards, and faces [F, 3] into them.
    """
    height, width = (size, size) if isinstance(size, int) else size
    moved = uv + torch.tensor(OFFSET) / torch.tensor([width, height])
    first = rasterize_uv(moved, uv_faces, size)[0, ..., 3].long() - 1
    last = rasterize_uv(moved, uv_faces.flip(0), size)[0, ..., 3].long() - 1
    return first, torch.where(last >= 0, len(uv_faces) - 1 - last, last)


def _find_scales(corner: Tensor, uv: Tensor) -> tuple[Tensor, Tensor]:
    """[F] the largest and the smallest scale of the maps of triangles, [F, 3, 3] to [F, 3, 2].

    The singular values of the map, from the metrics of both triangles. 0 without area.
    """
    space, flat = corner[:, 1:] - corner[:, :1], uv[:, 1:] - uv[:, :1]
    space, flat = space @ space.mT, flat @ flat.mT  # [F, 2, 2]
    size = torch.linalg.det(space)
    safe = torch.where(size > 0, size, 1.0)
    # the trace and the determinant of inverse(space) @ flat
    straight = space[:, 1, 1] * flat[:, 0, 0] + space[:, 0, 0] * flat[:, 1, 1]
    trace = (straight - 2 * space[:, 0, 1] * flat[:, 0, 1]) / safe
    product = torch.linalg.det(flat).clamp(min=0) / safe
    gap = (trace**2 / 4 - product).clamp(min=0).sqrt()
    large = torch.where(size > 0, (trace / 2 + gap).clamp(min=0).sqrt(), 0.0)
    return large, torch.where(large > 0, product.sqrt() / large.clamp(min=1e-30), 0.0)


def _find_quantile(values: Tensor, weights: Tensor, part: float) -> float:
    """The value below which that part of the weights lies; 0 of nothing."""
    if len(values) == 0:
        return 0.0
    order = values.argsort()
    reached = weights[order].cumsum(0)
    index = int(torch.searchsorted(reached, part * reached[-1]))
    return float(values[order[min(index, len(order) - 1)]])


def _measure_seams(mesh: Mesh, uv_faces: Tensor) -> float:
    """World units along which neighbours on the surface are apart in the map."""
    edges = topology.edges(mesh.faces)
    apart = torch.zeros(len(edges.ends), dtype=torch.bool)
    index, upwards = edges.of_face.flatten(), mesh.faces < mesh.faces.roll(-1, 1)
    near, far = uv_faces, uv_faces.roll(-1, 1)
    for ends in (torch.where(upwards, near, far), torch.where(upwards, far, near)):
        # all faces of an edge that is not a seam have the same row of the map at an end of it
        own = ends.flatten()
        any_face = torch.zeros(len(apart), dtype=torch.int64).index_copy_(0, index, own)
        apart[index[any_face[index] != own]] = True
    a, b = mesh.vertices.double()[edges.ends[apart]].unbind(1)
    return float((a - b).norm(dim=-1).sum())
