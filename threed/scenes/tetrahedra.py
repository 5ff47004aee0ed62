"""Marching tetrahedra: the zero surface of a signed distance on a grid, with gradients to it.

Doi and Koide (1991), made to learn as in Deep Marching Tetrahedra (Shen et al. 2021,
arXiv:2111.04276): which edges the surface crosses is decided by signs, where it crosses them is a
differentiable function of the distances and the places of an edge's two ends.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from threed.core.mesh import Mesh

EDGES = tuple(itertools.combinations(range(4), 2))  # of a tetrahedron, as pairs of its corners
MOVE = 1 / 6  # cells a point may move along each axis before a tetrahedron could turn inside out


class NoSurfaceError(ValueError):
    """The distance has one sign everywhere."""


@dataclass(frozen=True)
class Marched:
    """The surface between the points inside (below zero) and those outside."""

    vertices: Tensor  # [V, 3] in the units of the places
    faces: Tensor  # [F, 3] int64, counter-clockwise seen from outside
    ends: Tensor  # [E, 2] int64 the ends of the grid's edges that it crosses; here one a vertex
    deviation: Tensor | None = None  # [] of dual methods: how far vertices are from the crossings


def grid_points(cells: int) -> Tensor:
    """[(cells + 1)³, 3] the points of a grid over [-1, 1]³; z runs fastest."""
    axis = torch.linspace(-1, 1, cells + 1)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(-1, 3)


def march(distance: Tensor, places: Tensor) -> Marched:
    """The surface where `distance` [P³] crosses zero, P points a side, at `places` [P³, 3].

    Each cube of eight neighbours is cut into six tetrahedra around one diagonal, which fit together
    face to face: the surface has no hole except where it leaves the grid, and does not cross itself
    while no place is more than MOVE cells away along an axis. Differentiable in both. Where a
    distance is exactly 0, triangles may have no area. NoSurfaceError if no edge is crossed.
    """
    size = round(len(distance) ** (1 / 3))
    if size**3 != len(distance) or places.shape != (len(distance), 3):
        raise ValueError(f"distance must be [P³] and places [P³, 3], got {list(distance.shape)} "
                         f"and {list(places.shape)}")  # fmt: skip
    inside = distance.detach() < 0
    corners = _mixed_cubes(inside.view(size, size, size))
    tetrahedra = corners[:, _cut(distance.device)].view(-1, 4)  # of every mixed cube
    power = torch.tensor([1, 2, 4, 8], device=distance.device)
    case = (inside[tetrahedra] * power).sum(1)
    faces = _triangles(tetrahedra, case)
    if len(faces) == 0:
        raise NoSurfaceError("the distance has one sign everywhere: there is no surface")
    keys, index = torch.unique(faces[..., 0] * len(distance) + faces[..., 1], return_inverse=True)
    ends = torch.stack([keys // len(distance), keys % len(distance)], 1)
    low, high = distance[ends].unbind(1)
    share = (low / (low - high))[:, None]
    vertices = torch.lerp(places[ends[:, 0]], places[ends[:, 1]], share)
    return Marched(vertices, index, ends)


def edges(faces: Tensor) -> Tensor:
    """[E, 2] the ends of the edges of faces [F, 3], each edge once, the smaller vertex first."""
    ends = faces[:, [0, 1, 1, 2, 2, 0]].view(-1, 2).sort(1).values
    count = int(faces.max()) + 1
    keys = torch.unique(ends[:, 0] * count + ends[:, 1])
    return torch.stack([keys // count, keys % count], 1)


def consistency(vertices: Tensor, faces: Tensor, ends: Tensor) -> Tensor:
    """Mean of 1 - cos of the angle between the normals of the two ends [E, 2] of every edge.

    A vertex's normal is the sum of its faces', by area (threestudio's `normal_consistency`).
    """
    normal = Mesh(vertices, faces).vertex_normals()[ends]
    cosine: Tensor = (normal[:, 0] * normal[:, 1]).sum(-1)
    return (1 - cosine).mean()


def laplacian(vertices: Tensor, ends: Tensor) -> Tensor:
    """Mean length of the sum of a vertex's edges [E, 2], as vectors from it, in units.

    That is the uniform Laplacian, not divided by the number of neighbours (threestudio's).
    """
    along = vertices[ends[:, 1]] - vertices[ends[:, 0]]
    total = torch.zeros_like(vertices).index_add(0, ends[:, 0], along)
    length: Tensor = total.index_add(0, ends[:, 1], -along).norm(dim=-1)
    return length.mean()


def sign_changes(distance: Tensor, ends: Tensor) -> Tensor:
    """How firmly the points [V, 2] on both sides of the surface disagree, in nats.

    The mean binary cross entropy of sigmoid(distance) of each against the sign of the other
    (Munkberg et al. 2022, arXiv:2111.12503, eq. 2): pieces that no picture asks for fade.
    """
    values = distance[ends]
    other = (values.detach().flip(1) > 0).to(values.dtype)
    return F.binary_cross_entropy_with_logits(values, other)


def _mixed_cubes(inside: Tensor) -> Tensor:
    """[C, 8] the corners, as point numbers, of cubes that are neither all inside nor all outside.

    inside [P, P, P] bool. Corner k lies k & 1, k >> 1 & 1, k >> 2 steps along x, y and z.
    """
    size = len(inside)
    shifted = [
        inside[x : size - 1 + x, y : size - 1 + y, z : size - 1 + z]
        for z, y, x in itertools.product((0, 1), repeat=3)
    ]
    some, every = shifted[0], shifted[0]
    for corner in shifted[1:]:
        some, every = some | corner, every & corner
    x, y, z = (some & ~every).nonzero().unbind(1)
    step = torch.tensor([size * size, size, 1], device=inside.device)
    bits = torch.tensor([[k & 1, k >> 1 & 1, k >> 2] for k in range(8)], device=inside.device)
    # a sum of products, since a GPU multiplies no matrices of integers
    first = (torch.stack([x, y, z], 1) * step).sum(1)
    return first[:, None] + (bits * step).sum(1)


def _triangles(tetrahedra: Tensor, case: Tensor) -> Tensor:
    """[F, 3, 2] for each corner of each triangle the edge it lies on, the smaller point first."""
    pair = torch.tensor(EDGES, device=case.device)
    found = []
    for number, triangles in enumerate(_table()):
        if triangles:
            here = tetrahedra[case == number]
            corners = pair[torch.tensor(triangles, device=case.device)]  # [n, 3, 2]
            found.append(here[:, corners].view(-1, 3, 2))
    return torch.cat(found).sort(-1).values


@lru_cache
def _table() -> tuple[tuple[tuple[int, int, int], ...], ...]:
    """For each of the 16 sets of corners inside, as bits, its triangles as triples of EDGES.

    One corner alone is cut off by a triangle, two and two are parted by a quadrilateral; it is
    turned so that its normal points away from the corners inside, in one tetrahedron and so in all
    of the same orientation: (b - a) · (c - a) × (d - a) > 0.
    """
    place = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    table: list[tuple[tuple[int, int, int], ...]] = []
    for case in range(16):
        within = [k for k in range(4) if case >> k & 1]
        without = [k for k in range(4) if not case >> k & 1]
        if len(within) == 2:
            (a, b), (c, d) = within, without
            ring = [(a, c), (a, d), (b, d), (b, c)]
        else:
            ring = list(itertools.product(within, without))
        if not ring:
            table.append(())
            continue
        points = torch.stack([place[list(pair)].mean(0) for pair in ring])
        normal = torch.linalg.cross(points[1] - points[0], points[2] - points[0])
        if float(normal @ (place[without].mean(0) - place[within].mean(0))) < 0:
            ring.reverse()
        number = [EDGES.index((min(pair), max(pair))) for pair in ring]
        fan = [(number[0], number[k], number[k + 1]) for k in range(1, len(number) - 1)]
        table.append(tuple(fan))
    return tuple(table)


def _cut(device: torch.device) -> Tensor:
    """[6, 4] the corners of the six tetrahedra of a cube, all of the table's orientation.

    Each walks from corner 0 to corner 7 along the three axes in one of their six orders
    (Freudenthal 1942); the odd orders come out mirrored, and two corners are swapped.
    """
    rows = []
    for order in itertools.permutations(range(3)):
        walk = [0, 1 << order[0], 1 << order[0] | 1 << order[1], 7]
        odd = order in ((0, 2, 1), (2, 1, 0), (1, 0, 2))
        rows.append([walk[0], walk[2], walk[1], walk[3]] if odd else walk)
    return torch.tensor(rows, device=device)
