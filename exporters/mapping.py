"""What can be said of a texture map in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from exporters import topology
from threed.core.mesh import Mesh

STRETCHED = 4.0  # how much longer one way than the other a circle on the surface may get in the map


@dataclass(frozen=True)
class Mapping:
    """The numbers of the map of a mesh."""

    charts: int  # pieces of the map
    seam_length: float  # world units along which neighbours on the surface are apart in the map
    stretched: float  # part of the surface whose map is STRETCHED or more
    texel_spread: float  # density where it is high over where it is low: 90th, 10th percentile


def measure(mesh: Mesh) -> Mapping:
    """Measure the map of a mesh; ValueError if it has none."""
    if mesh.uv is None or mesh.uv_faces is None:
        raise ValueError("a mesh without uv has no map")
    area = topology.areas(mesh)
    large, small = _scales(mesh.vertices[mesh.faces].double(), mesh.uv[mesh.uv_faces].double())
    known = area > 0
    stretched = (area * (large > STRETCHED * small))[known].sum() / area.sum().clamp(min=1e-30)
    density = (large * small).sqrt()[known]
    low, high = (_quantile(density, area[known], q) for q in (0.1, 0.9))
    return Mapping(
        charts=topology.components(mesh.uv_faces)[0],
        seam_length=_seam_length(mesh, mesh.uv_faces),
        stretched=float(stretched),
        texel_spread=high / max(low, 1e-12),
    )


def _scales(corner: Tensor, uv: Tensor) -> tuple[Tensor, Tensor]:
    """[F] the largest and the smallest scale of the maps of triangles, [F, 3, 3] to [F, 3, 2].

    The singular values of the map, from the metrics of both triangles. 0 without area.
    """
    space, flat = corner[:, 1:] - corner[:, :1], uv[:, 1:] - uv[:, :1]
    space, flat = space @ space.mT, flat @ flat.mT  # [F, 2, 2]
    size = torch.linalg.det(space)
    safe = torch.where(size > 0, size, 1.0)
    # the trace and the determinant of inverse(space) @ flat
    trace = (space[:, 1, 1] * flat[:, 0, 0] + space[:, 0, 0] * flat[:, 1, 1]
             - 2 * space[:, 0, 1] * flat[:, 0, 1]) / safe  # fmt: skip
    product = torch.linalg.det(flat).clamp(min=0) / safe
    gap = (trace**2 / 4 - product).clamp(min=0).sqrt()
    large = torch.where(size > 0, (trace / 2 + gap).clamp(min=0).sqrt(), 0.0)
    return large, torch.where(large > 0, product.sqrt() / large.clamp(min=1e-30), 0.0)


def _quantile(values: Tensor, weights: Tensor, part: float) -> float:
    """The value below which that part of the weights lies; 0 of nothing."""
    if len(values) == 0:
        return 0.0
    order = values.argsort()
    reached = weights[order].cumsum(0)
    index = int(torch.searchsorted(reached, part * reached[-1]))
    return float(values[order[min(index, len(order) - 1)]])


def _seam_length(mesh: Mesh, uv_faces: Tensor) -> float:
    edges = topology.edges(mesh.faces)
    apart = torch.zeros(len(edges.ends), dtype=torch.bool)
    start, end = mesh.faces, mesh.faces.roll(-1, 1)
    near, far = uv_faces, uv_faces.roll(-1, 1)
    upwards = start < end
    for corner in (torch.where(upwards, near, far), torch.where(upwards, far, near)):
        index, values = edges.of_face.flatten(), corner.flatten()
        low = torch.full((len(apart),), len(mesh.faces) * 3).scatter_reduce(
            0, index, values, "amin"
        )
        high = torch.full((len(apart),), -1).scatter_reduce(0, index, values, "amax")
        apart |= low != high
    a, b = mesh.vertices.double()[edges.ends[apart]].unbind(1)
    return float((a - b).norm(dim=-1).sum())
