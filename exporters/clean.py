"""Repairs: floaters and cavities away, holes filled, a smoother surface."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.spatial import cKDTree
from torch import Tensor

from exporters import topology
from threed.core.errors import InputError
from threed.core.mesh import Mesh

FLOATER = 0.01  # of the largest piece's area: what is smaller is dropped ...
SPECK = 1e-6  # ... and of a mesh that somebody made, whose small parts are wanted
ROUNDS = 4  # of repairs: closing one hole may show another


@dataclass(frozen=True)
class Repairs:
    """What was done to a mesh, in numbers; all 0 for one that was whole."""

    welded: int = 0  # vertices that lay exactly on another one
    floaters: int = 0  # small loose pieces that went
    cavities: int = 0  # pieces that went because nobody can see them
    holes: int = 0  # that were filled
    faces: int = 0  # without area, doubled, or crowding an edge, that went
    turned: int = 0  # faces that looked the other way than those around them, or inwards

    def __add__(self, other: Repairs) -> Repairs:
        """Count both, one after the other."""
        pairs = zip(asdict(self).items(), asdict(other).values())
        return Repairs(**{name: a + b for (name, a), b in pairs})


def clean(mesh: Mesh, *, floater: float = FLOATER) -> Mesh:
    """Drop debris from a mesh and close it where that is possible: see `repair`."""
    return repair(mesh, floater=floater)[0]


def repair(mesh: Mesh, *, floater: float = FLOATER) -> tuple[Mesh, Repairs]:
    """Drop debris from a mesh, close it where that is possible, and count what was done to it.

    Equal vertices become one; faces without area, doubled faces, and the faces that make an edge
    belong to more than two go; pieces smaller than `floater` times the largest one's area go, and
    so do cavities, which nobody can see; holes are filled. ValueError for a mesh with uv, since a
    filled hole has none; InputError if nothing is left.
    """
    if mesh.uv is not None:
        raise ValueError("clean a mesh before it is unwrapped")
    welded = weld(mesh)
    done = Repairs(welded=len(mesh.vertices) - len(welded.vertices))
    mesh, done = _without_faces(welded, drop_degenerate(welded), done)
    mesh, done = _without_pieces(mesh, floater, done)
    for _ in range(ROUNDS):
        edges = topology.edges(mesh.faces)
        if topology.is_watertight(edges):
            break
        mesh, done = _without_faces(mesh, drop_degenerate(_drop_crowding(mesh)), done)
        loops = topology.boundary_loops(mesh.faces, topology.edges(mesh.faces))
        done = replace(done, holes=done.holes + sum(len(loop) > 2 for loop in loops))
        mesh = fill_holes(mesh)
    return _without_pieces(mesh, floater, done)


def _without_faces(before: Mesh, after: Mesh, done: Repairs) -> tuple[Mesh, Repairs]:
    gone = len(before.faces) - len(after.faces)
    return after, replace(done, faces=done.faces + gone)


def _without_pieces(mesh: Mesh, floater: float, done: Repairs) -> tuple[Mesh, Repairs]:
    small, hidden, piece = _find_debris(mesh, floater)
    kept = compact(mesh, ~(small | hidden)[piece])
    return kept, done + Repairs(floaters=int(small.sum()), cavities=int((hidden & ~small).sum()))


def weld(mesh: Mesh, near: float = 0.0) -> Mesh:
    """Make one vertex of those at exactly the same place, or within `near` world units."""
    places, index = torch.unique(mesh.vertices, dim=0, return_inverse=True)
    if near > 0:
        pairs = cKDTree(places.numpy()).query_pairs(near, output_type="ndarray")
        label = torch.from_numpy(topology.label_joined(pairs, len(places)))
        places, index = places[topology.first_places(label)], label[index]
    if len(places) == len(mesh.vertices):
        return mesh
    colors = None
    if mesh.colors is not None:
        colors = torch.zeros_like(places).index_copy_(0, index, mesh.colors)
    return replace(mesh, vertices=places, faces=index[mesh.faces], colors=colors)


def _find_debris(mesh: Mesh, floater: float) -> tuple[Tensor, Tensor, Tensor]:
    """Find the pieces [C] bool that are floaters and cavities, and the piece [F] of each face."""
    count, piece = topology.components(mesh.faces)
    area = torch.zeros(count, dtype=torch.float64).index_add(0, piece, topology.areas(mesh))
    volume = topology.piece_volumes(mesh, count, piece)
    edges = topology.edges(mesh.faces)
    closed = torch.ones(count, dtype=torch.bool)
    closed[piece[edges.open[edges.of_face].any(1)]] = False
    # a closed piece that looks inwards is the wall of a cavity
    hidden = closed & (volume < 0) & bool(volume[area.argmax()] > 0)
    return area < floater * area.max(), hidden, piece


def fill_holes(mesh: Mesh) -> Mesh:
    """Fill each hole with a fan of triangles, from a new vertex in its middle."""
    places = mesh.vertices if mesh.colors is None else torch.cat([mesh.vertices, mesh.colors], 1)
    middles: list[Tensor] = []
    faces = [mesh.faces]
    for loop in topology.boundary_loops(mesh.faces, topology.edges(mesh.faces)):
        ring = torch.tensor(loop)
        if len(loop) == 3:
            faces.append(ring[None])
        elif len(loop) > 3:
            middle = torch.full_like(ring, len(places) + len(middles))
            faces.append(torch.stack([ring, ring.roll(-1), middle], 1))
            middles.append(places[ring].mean(0, keepdim=True))
    places = torch.cat([places, *middles])
    colors = None if mesh.colors is None else places[:, 3:]
    return replace(mesh, vertices=places[:, :3], faces=torch.cat(faces), colors=colors)


def smooth(mesh: Mesh, iterations: int = 10) -> Mesh:
    """Iron noise out without shrinking: Taubin's λ|μ smoothing (1995) with .5 and -.53."""
    ends = topology.edges(mesh.faces).ends.numpy()
    count = len(mesh.vertices)
    rows, columns = np.concatenate([ends, ends[:, ::-1]]).T
    weight = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count)).tocsr()
    neighbours = np.maximum(np.asarray(weight.sum(1)), 1)
    places = mesh.vertices.double().numpy()
    for _ in range(iterations):
        for factor in (0.5, -0.53):
            places = places + factor * (weight @ places / neighbours - places)
    return replace(mesh, vertices=torch.from_numpy(places).float())


def compact(mesh: Mesh, keep: Tensor) -> Mesh:
    """Keep only the faces that `keep` [F] bool marks, and the vertices that they use."""
    faces = mesh.faces[keep]
    if len(faces) == 0:
        raise InputError("no face of the mesh is left after cleaning: it has no surface")
    used, index = torch.unique(faces, return_inverse=True)
    colors = None if mesh.colors is None else mesh.colors[used]
    return replace(mesh, vertices=mesh.vertices[used], faces=index, colors=colors)


def drop_degenerate(mesh: Mesh) -> Mesh:
    """Drop faces that name a vertex twice, and doubles of a face."""
    mesh = drop_collapsed(mesh)
    rows = mesh.faces.sort(1).values
    _, index = torch.unique(rows, dim=0, return_inverse=True)
    return compact(mesh, topology.first_places(index)[index] == torch.arange(len(rows)))


def drop_collapsed(mesh: Mesh) -> Mesh:
    """Drop faces that name a vertex twice."""
    a, b, c = mesh.faces.unbind(1)
    return compact(mesh, (a != b) & (b != c) & (c != a))


def _drop_crowding(mesh: Mesh) -> Mesh:
    """Drop the smallest faces at edges that more than two share, or that two walk one way."""
    edges = topology.edges(mesh.faces)
    bad = edges.crowded | ((edges.faces == 2) & (edges.balance != 0))
    area = topology.areas(mesh)
    doomed = bad[edges.of_face].any(1).nonzero()[:, 0]
    keep = torch.ones(len(mesh.faces), dtype=torch.bool)
    left, balance = edges.faces.clone(), edges.balance.clone()
    for face in doomed[area[doomed].argsort(stable=True)].tolist():
        mine = edges.of_face[face]
        if bool(((left[mine] > 2) | ((left[mine] == 2) & (balance[mine] != 0))).any()):
            keep[face] = False
            left[mine] -= 1
            ends = mesh.faces[face]
            balance[mine] -= torch.where(ends < ends.roll(-1), 1, -1)
    return compact(mesh, keep)
