"""How the faces of a mesh hang together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from threed.core.mesh import Mesh

Ints = npt.NDArray[np.int64]
FLAT = 1e-6  # of a piece's area to the power of 3/2: with less volume it is flat


@dataclass(frozen=True)
class Edges:
    """The sides of the faces, each pair of neighbours together."""

    ends: Tensor  # [E, 2] int64 vertices, the smaller first
    of_face: Tensor  # [F, 3] int64 edges of a face: from its corner 0 to 1, 1 to 2, 2 to 0
    faces: Tensor  # [E] int64, how many faces share the edge
    balance: Tensor  # [E] int64, how many walk it upwards minus how many downwards

    @property
    def open(self) -> Tensor:
        """[E] bool: only one face there."""
        return self.faces == 1

    @property
    def crowded(self) -> Tensor:
        """[E] bool: more than two faces there."""
        return self.faces > 2


def edges(faces: Tensor) -> Edges:
    """Find the edges of faces [F, 3]."""
    sides = torch.stack([faces, faces.roll(-1, 1)], -1).view(-1, 2)
    low, high = sides.amin(1), sides.amax(1)
    count = int(faces.max()) + 1
    # one number an edge sorts much faster than rows of two
    keys, inverse, shared = torch.unique(
        low * count + high, return_inverse=True, return_counts=True
    )
    ends = torch.stack([keys // count, keys % count], 1)
    direction = torch.where(sides[:, 0] == low, 1, -1)
    balance = torch.zeros_like(shared).index_add_(0, inverse, direction)
    return Edges(ends, inverse.view(-1, 3), shared, balance)


def is_watertight(edges: Edges) -> bool:
    """Whether every edge has exactly two faces that look the same way."""
    return bool(((edges.faces == 2) & (edges.balance == 0)).all())


def is_solid(mesh: Mesh) -> bool:
    """Whether every piece is watertight and looks outwards: outside, no back of a face shows."""
    if not is_watertight(edges(mesh.faces)):
        return False
    count, piece = components(mesh.faces)
    volume = torch.zeros(count, dtype=torch.float64).index_add(0, piece, volumes(mesh))
    return bool((volume > 0).all())


def components(faces: Tensor) -> tuple[int, Tensor]:
    """Count the pieces that share no vertex, and give the piece [F] int64 of each face."""
    pairs = torch.cat([faces[:, :2], faces[:, 1:]])
    label = torch.from_numpy(label_joined(pairs.numpy(), int(faces.max()) + 1))
    used, piece = torch.unique(label[faces[:, 0]], return_inverse=True)
    return len(used), piece


def label_joined(pairs: Ints, count: int) -> Ints:
    """Number the sets of `count` things that pairs [P, 2] join, from 0 on: [count]."""
    graph = coo_matrix((np.ones(len(pairs), np.int8), pairs.T), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def areas(mesh: Mesh) -> Tensor:
    """[F] float64 areas of the faces, world units²."""
    a, b, c = mesh.vertices.double()[mesh.faces].unbind(1)
    twice: Tensor = torch.linalg.vector_norm(torch.linalg.cross(b - a, c - a), dim=-1)
    return twice / 2


def volumes(mesh: Mesh) -> Tensor:
    """[F] float64 signed volumes between the faces and the origin; their sum is the mesh's."""
    a, b, c = mesh.vertices.double()[mesh.faces].unbind(1)
    sixfold: Tensor = (a * torch.linalg.cross(b, c)).sum(-1)
    return sixfold / 6


def piece_volumes(mesh: Mesh, count: int, piece: Tensor) -> Tensor:
    """Find the signed volumes [C] float64 of `count` pieces, given that of each face, piece [F].

    That of an open piece is as if it were closed towards its middle; that of a flat one is 0.
    """
    corner = mesh.vertices.double()[mesh.faces]
    zero, size = torch.zeros(count, dtype=torch.float64), torch.bincount(piece, minlength=count)
    middle = torch.zeros(count, 3, dtype=torch.float64).index_add(0, piece, corner.mean(1))
    a, b, c = (corner - (middle / size[:, None])[piece][:, None]).unbind(1)
    found = zero.index_add(0, piece, (a * torch.linalg.cross(b, c)).sum(-1) / 6)
    area = zero.index_add(0, piece, areas(mesh))
    return torch.where(found.abs() > FLAT * area**1.5, found, 0.0)


def first_places(index: Tensor) -> Tensor:
    """Find where each of the numbers 0..C - 1 stands first in an index [N]: [C]."""
    first = torch.full((int(index.max()) + 1,), len(index))
    return first.scatter_reduce(0, index, torch.arange(len(index)), "amin")


def find_distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Find the different rows [C, K] of rows [N, K], and the place [N] of each row among them.

    They come in the order of their first appearance.
    """
    values, index = torch.unique(rows, dim=0, return_inverse=True)
    order = first_places(index).argsort()
    return values[order], order.argsort()[index]


def boundary_loops(faces: Tensor, edges: Edges) -> list[list[int]]:
    """Find the holes of faces [F, 3]: closed walks over open edges, lists of vertices.

    They go in the direction that faces filling them need.
    """
    row, side = edges.open[edges.of_face].nonzero(as_tuple=True)
    start, end = faces[row, side].tolist(), faces[row, (side + 1) % 3].tolist()
    onward: dict[int, list[int]] = {}
    for a, b in zip(start, end):
        onward.setdefault(b, []).append(a)
    loops = []
    while onward:
        path = [next(iter(onward))]
        place = {path[0]: 0}
        while path and path[-1] in onward:
            here = path[-1]
            step = onward[here].pop()
            if not onward[here]:
                del onward[here]
            if step in place:  # closed; what led here goes on without the loop
                loops.append(path[place[step] :])
                for left in path[place[step] + 1 :]:
                    del place[left]
                path = path[: place[step] + 1]
            else:
                place[step] = len(path)
                path.append(step)
    return loops
