"""A flat map of a surface: texture coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import xatlas

from exporters.charts import Charts, Floats
from exporters.mapping import find_doubles
from exporters.topology import Ints
from threed.core.mesh import Mesh, flip_v

PADDING = 4  # texels between charts: what bilinear look-ups and two mip levels need
FILLED = 0.6  # of the square that charts usually fill, for a first guess of their scale
FINER = 2  # points a texel looked at along each side: also small folds are found
ROUNDS = 8  # of taking apart what overlaps


@dataclass(frozen=True)
class _Map:
    """Charts packed into a square."""

    uv: torch.Tensor  # [T, 2] float32 in [0, 1], v upwards
    faces: torch.Tensor  # [F, 3] int64
    scale: float  # texels a world unit at which the square would have had the right size


def unwrap(mesh: Mesh, texture: int = 1024) -> Mesh:
    """Give the mesh texture coordinates for a square texture of that many texels a side.

    Charts are cut by `exporters.charts` and packed by xatlas, about PADDING texels apart; no texel
    shows two places of the surface, and all charts have about the scale of the surface. The same
    mesh gives the same map.
    """
    charts = Charts(mesh)
    area = max(charts.flat_area(), 1e-30)
    packed = _pack(charts, mesh, texture, texture * math.sqrt(FILLED / area))
    for attempt in range(ROUNDS):
        # xatlas keeps the scale that it is given and lets the square grow: so once more
        packed = _pack(charts, mesh, texture, packed.scale)
        behind = _overlapping(charts, packed, texture)
        if len(behind) == 0:
            break
        # the pieces that lie behind; in the end, where they are few, each of their faces by itself
        charts.split(behind, apart=attempt >= ROUNDS // 2)
    return replace(mesh, uv=flip_v(packed.uv), uv_faces=packed.faces)


def _overlapping(charts: Charts, packed: _Map, texture: int) -> Ints:
    """Find of every two faces over one point of a fine grid the one that lies farther behind."""
    first, last = find_doubles(packed.uv, packed.faces, FINER * texture)
    both = np.unique(torch.stack([first, last], -1)[first != last].numpy(), axis=0)
    depth = (charts.corners.mean(1) * charts.directions()[charts.label]).sum(1)
    behind: Ints = np.unique(both[np.arange(len(both)), depth[both].argmin(1)])
    return behind


def _pack(charts: Charts, mesh: Mesh, texture: int, scale: float) -> _Map:
    """Pack the charts at `scale` texels a world unit."""
    flat = charts.spread()
    key = charts.label[:, None] * len(mesh.vertices) + mesh.faces.numpy()
    _, first, index = np.unique(key, return_index=True, return_inverse=True)
    corners = index.reshape(-1, 3)
    places = flat.reshape(-1, 2)[first]
    uv, faces, side = _run_xatlas(places * scale, corners)
    square = torch.from_numpy(uv / side).float().clamp(0, 1)
    return _Map(square, torch.from_numpy(faces), scale * texture / side)


def _run_xatlas(places: Floats, corners: Ints) -> tuple[Floats, Ints, int]:
    """Pack charts given in texels, places [T, 2] and corners [F, 3] among them.

    Return their places in the square [T', 2], the corners [F, 3] among these, and the square's side
    in texels.
    """
    atlas = xatlas.Atlas()
    atlas.add_uv_mesh(places.astype(np.float32), corners.astype(np.uint32))
    options = xatlas.PackOptions()
    options.texels_per_unit, options.padding = 1.0, PADDING
    options.rotate_charts = False  # it would mirror some of them
    atlas.generate(xatlas.ChartOptions(), options)
    _, faces, uv = atlas[0]
    size = np.array([atlas.width, atlas.height])
    return uv * size, faces.astype(np.int64), int(size.max())
