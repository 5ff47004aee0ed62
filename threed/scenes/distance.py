"""How far the points of a grid are from a mesh, and on which side of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from threed.core.mesh import Mesh

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BAND = 2.0  # cells from the surface up to which distances are exact; farther ones are all BAND
SPACING = 0.5  # cells between the samples that say which triangles are near
NEAREST = 6  # samples whose triangles are looked at exactly
PIECE = 2**21  # crossings of lines with boxes around triangles held at once
# what no line should meet is an edge exactly: lines run this far beside the points, in cells
BESIDE = np.array([1.37e-4, 2.71e-4])


def signed_distance(mesh: Mesh, cells: int) -> Tensor:
    """[(cells + 1)³] distance to the mesh in cells, below 0 inside, at most BAND either way.

    For the points of `tetrahedra.grid_points`. A point is inside if lines along at least two of the
    three axes say so, by how the surface winds around it; so a mesh with holes still has an inside,
    and pieces may overlap. A surface that encloses nothing, a sheet, has none.
    """
    corners = (mesh.vertices.double().cpu().numpy()[mesh.faces.cpu().numpy()] + 1) * (cells / 2)
    size = cells + 1
    votes = np.zeros((size,) * 3, np.int8)
    for axis in range(3):
        votes += np.moveaxis(_inside(np.roll(corners, -1 - axis, 2), size), 2, axis)
    inside = (votes >= 2).ravel()
    samples, owner = _samples(corners)
    grid = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), -1).reshape(-1, 3)
    far = np.full(size**3, BAND)
    tree = cKDTree(samples)
    gap, _ = tree.query(grid, distance_upper_bound=BAND + SPACING)
    near = np.nonzero(np.isfinite(gap))[0]
    if len(near):
        _, index = tree.query(grid[near], k=min(NEAREST, len(samples)))
        triangles = corners[owner[index.reshape(len(near), -1)]]
        exact = _to_triangles(grid[near, None].astype(np.float64), triangles).min(1)
        far[near] = np.minimum(exact, BAND)
    return torch.from_numpy(np.where(inside, -far, far)).float()


def _inside(corners: Floats, size: int) -> npt.NDArray[np.bool_]:
    """[P, P, P] bool which points have the surface wound around them, judged along the last axis.

    corners [F, 3, 3] in cells.
    """
    flat, height = corners[..., :2] - BESIDE, corners[..., 2]
    low = np.maximum(np.ceil(flat.min(1)), 0).astype(np.int64)
    high = np.minimum(np.floor(flat.max(1)), size - 1).astype(np.int64)
    extent = np.maximum(high - low + 1, 0)
    count = extent.prod(1)
    turns = np.zeros(size**2 * (size + 1), np.int64)
    ends = np.cumsum(count)
    first = 0
    while first < len(count):
        done = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, done + PIECE, "right")), first + 1)
        face = np.repeat(np.arange(first, last), count[first:last])
        place = np.arange(len(face)) - np.repeat(ends[first:last] - count[first:last] - done,
                                                 count[first:last])  # fmt: skip
        x, y = low[face, 0] + place // extent[face, 1], low[face, 1] + place % extent[face, 1]
        z, sign = _crossings(flat[face], height[face], np.stack([x, y], 1))
        hit = sign != 0
        above = np.clip(np.ceil(z[hit]), 0, size).astype(np.int64)
        np.add.at(turns, (x[hit] * size + y[hit]) * (size + 1) + above, sign[hit])
        first = last
    wound = turns.reshape(size, size, size + 1).cumsum(2)[..., :size]
    inside: npt.NDArray[np.bool_] = wound != 0
    return inside


def _crossings(flat: Floats, height: Floats, points: Ints) -> tuple[Floats, Ints]:
    """Where lines up through points [N, 2] meet triangles: height [N], and which side comes first.

    The side is 1 or -1, 0 where they miss. flat [N, 3, 2] and height [N, 3] are the corners.
    """
    to = flat - points[:, None]
    weight = np.stack([_cross(to[:, (k + 1) % 3], to[:, (k + 2) % 3]) for k in range(3)], 1)
    area = weight.sum(1)
    sign = np.where((weight > 0).all(1), -1, 0) + np.where((weight < 0).all(1), 1, 0)
    z = (weight * height).sum(1) / np.where(area == 0, 1, area)
    return z, sign


def _cross(a: Floats, b: Floats) -> Floats:
    product: Floats = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    return product


def _samples(corners: Floats) -> tuple[Floats, Ints]:
    """Points [S, 3] on triangles [F, 3, 3], at most about SPACING apart, and whose they are [S]."""
    sides = np.linalg.norm(corners - np.roll(corners, 1, 1), axis=-1).max(1)
    parts = np.maximum(np.ceil(sides / SPACING), 1).astype(np.int64)
    points, owner = [], []
    for n in np.unique(parts):
        here = np.nonzero(parts == n)[0]
        i, j = (v.ravel() for v in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
        u, v = (i + 1 / 3)[i + j < n] / n, (j + 1 / 3)[i + j < n] / n
        weight = np.stack([1 - u - v, u, v], 1)
        points.append(np.einsum("sk,fkc->fsc", weight, corners[here]).reshape(-1, 3))
        owner.append(np.repeat(here, len(weight)))
    return np.concatenate(points), np.concatenate(owner)


def _to_triangles(points: Floats, triangles: Floats) -> Floats:
    """[..., ] distance from points [N, 1, 3] to triangles [N, K, 3, 3]."""
    nearest = np.full(triangles.shape[:2], np.inf)
    for k in range(3):  # to each side
        start, side = triangles[:, :, k], triangles[:, :, (k + 1) % 3] - triangles[:, :, k]
        length = np.maximum((side * side).sum(-1), 1e-30)
        share = np.clip(((points - start) * side).sum(-1) / length, 0, 1)
        gap = np.linalg.norm(points - start - share[..., None] * side, axis=-1)
        nearest = np.minimum(nearest, gap)
    a, b, c = (triangles[:, :, k] for k in range(3))
    normal = np.cross(b - a, c - a)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-30)
    height = ((points - a) * normal).sum(-1)
    foot = points - height[..., None] * normal
    over = np.ones(nearest.shape, bool)  # the foot lies inside all three sides
    for p, q in ((a, b), (b, c), (c, a)):
        over &= (np.cross(q - p, foot - p) * normal).sum(-1) >= 0
    distance: Floats = np.where(over, np.minimum(nearest, np.abs(height)), nearest)
    return distance
