"""Polygons cut into triangles, whether or not they bulge outwards everywhere."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from threed.core.errors import InputError

Ints = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]
TURN = 1e-9  # sine of a turn inwards that is taken for one
WORK = 5 * 10**8  # comparisons that all polygons of a file together may take


def triangulate(points: Doubles, corners: Ints, sizes: Ints) -> tuple[Ints, Ints]:
    """Cut polygons into triangles that cover them, without new vertices.

    points: [N, 3]. corners [C] are rows of it, polygon after polygon. sizes [P] says how many
    corners each has, at least 3. Returns triangles [T, 3] as places in `corners`, polygon after
    polygon, and the polygon [T] of each. A polygon that turns inwards somewhere is cut by clipping
    ears (Meisters 1975), any other one is a fan. InputError for polygons so large that it would
    take more than WORK comparisons.
    """
    first = np.cumsum(sizes) - sizes
    polygon = np.repeat(np.arange(len(sizes)), sizes - 2)
    start = np.cumsum(sizes - 2) - (sizes - 2)
    step = np.arange(len(polygon)) - start[polygon]
    triangles = first[polygon, None] + np.stack([0 * step, step + 1, step + 2], 1)
    large = np.flatnonzero(sizes > 3)
    if len(large):
        hollow, flat = _find_hollow(points, corners, sizes[large], first[large])
        if hollow.any():
            chosen = large[hollow]
            _clip(flat, triangles, (first[chosen], sizes[chosen], start[chosen]))
    return triangles, polygon


def _find_hollow(
    points: Doubles, corners: Ints, sizes: Ints, first: Ints
) -> tuple[npt.NDArray[np.bool_], Doubles]:
    """Which polygons [P] turn inwards somewhere, and all corners [C, 2] laid flat.

    Each is laid along the axis that its normal (Newell's) is nearest to, so that it runs
    counter-clockwise. What belongs to no polygon here is 0.
    """
    mine = np.repeat(np.arange(len(sizes)), sizes)
    step = np.arange(len(mine)) - (np.cumsum(sizes) - sizes)[mine]
    place = first[mine] + step
    onward = first[mine] + (step + 1) % sizes[mine]
    here = points[corners[place]]
    begin = np.cumsum(sizes) - sizes
    with np.errstate(all="ignore"):
        side = points[corners[onward]] - here
        before = side[np.arange(len(mine)) + np.where(step > 0, -1, sizes[mine] - 1)]
        arm = here - here[begin[mine]]
        normal = np.add.reduceat(np.cross(arm, arm + side), begin)
        turn = (np.cross(before, side) * normal[mine]).sum(1)
        scale = np.linalg.norm(before, axis=1) * np.linalg.norm(side, axis=1)
        inwards = turn < -TURN * scale * np.linalg.norm(normal, axis=1)[mine]
    axis = np.abs(normal).argmax(1)
    away = normal[np.arange(len(axis)), axis] < 0
    order = (axis[:, None] + np.where(away[:, None], [2, 1], [1, 2])) % 3
    flat = np.zeros((len(corners), 2))
    flat[place] = np.take_along_axis(here, order[mine], 1)
    return np.logical_or.reduceat(inwards, begin), flat


def _clip(flat: Doubles, triangles: Ints, chosen: tuple[Ints, Ints, Ints]) -> None:
    """Write the triangles of the chosen polygons: their first corners, sizes, first triangles."""
    from exporters.ears import clip_ears

    links = np.zeros((2, len(flat)), np.int64)
    if not clip_ears(flat, triangles, *chosen, links, WORK):
        most = int(chosen[1].max())
        raise InputError(f"its polygons, of up to {most:,} corners, are too intricate to be cut "
                         "into triangles; triangulate it in another program")  # fmt: skip
