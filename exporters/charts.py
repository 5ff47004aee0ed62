"""A surface cut into pieces that lie flat: the charts of a texture map.

xatlas cuts by growing charts face by face, which suits clean shapes; on a surface with the fine
noise of a learned field it makes thousands of them and takes minutes to pack. Here each face goes
to one of six directions, as its surroundings do, and a chart is a piece of one direction seen along
it. A few dozen charts, in linear time, whatever the noise.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import coo_matrix
from torch.nn import functional as F

from exporters import topology
from exporters.topology import Ints
from threed.core.mesh import Mesh

Floats = npt.NDArray[np.float64]
DIRECTIONS = np.concatenate([np.eye(3), -np.eye(3)])
FACING = 0.15  # cosine to its chart's direction below which a face would be drawn too thin
ROUNDS = 8  # of asking the neighbours
SMALL = 2e-3  # of the surface: charts smaller than this join a neighbour if they can


class Charts:
    """The charts of a mesh, by face."""

    def __init__(self, mesh: Mesh) -> None:
        a, b, c = mesh.vertices.double()[mesh.faces].unbind(1)
        cross = torch.linalg.cross(b - a, c - a)
        self.corners = torch.stack([a, b, c], 1).numpy()  # [F, 3, 3]
        self.area: Floats = cross.norm(dim=-1).numpy() / 2
        self.normal: Floats = F.normalize(cross, dim=-1).numpy()
        self.quads = mesh.quads
        self.pairs = _find_neighbours(mesh)  # [P, 2] faces that share an edge
        self.label: Ints = self._number_pieces(self._pick_directions())
        self._join_small()
        for _ in range(3):
            if not self.split(self._find_turned_away()):
                break
        self.split(self._find_turned_away(), apart=True)

    def directions(self) -> Floats:
        """[C, 3] unit vectors that the charts are seen along: their mean normals."""
        total = np.zeros((self.label.max() + 1, 3))
        np.add.at(total, self.label, self.normal * self.area[:, None] + 1e-12 * self.normal)
        length = np.linalg.norm(total, axis=1, keepdims=True)
        return np.asarray(total / np.maximum(length, 1e-30))

    def flat(self) -> Floats:
        """[F, 3, 2] the corners on their charts' planes, world units, faces counter-clockwise."""
        ahead = self.directions()
        # the right-handed frame whose first axis lies in the world's horizon, where there is one
        aside = np.stack([-ahead[:, 1], ahead[:, 0], np.zeros(len(ahead))], 1)
        upright = np.linalg.norm(aside, axis=1) < 1e-3
        aside[upright] = [1.0, 0.0, 0.0]
        aside -= (aside * ahead).sum(1, keepdims=True) * ahead
        aside /= np.linalg.norm(aside, axis=1, keepdims=True)
        up = np.cross(ahead, aside)
        frame = np.stack([aside, up], 1)[self.label]  # [F, 2, 3]
        return np.asarray(np.einsum("fij,fkj->fki", frame, self.corners))

    def spread(self) -> Floats:
        """Move every chart of `flat` to a cell of its own in a grid: [F, 3, 2].

        xatlas takes corners at one place for one corner, whichever charts they belong to.
        """
        flat, count = self.flat(), int(self.label.max()) + 1
        low = np.full((count, 2), np.inf)
        np.minimum.at(low, self.label, flat.min(1))
        flat = flat - low[self.label][:, None]
        side = math.ceil(math.sqrt(count))
        cell = np.stack([np.arange(count) % side, np.arange(count) // side], 1)
        return np.asarray(flat + 1.01 * flat.max() * cell[self.label][:, None])

    def flat_area(self) -> float:
        """World units² of all charts together."""
        cosine = (self.normal * self.directions()[self.label]).sum(1)
        return float((self.area * np.abs(cosine)).sum())

    def split(self, faces: Ints, *, apart: bool = False) -> bool:
        """Make charts of their own from some faces: of their pieces, or of each face alone."""
        if len(faces) == 0:
            return False
        group = self.label * 2
        group[faces] += 1
        if apart:
            group[faces] = group.max() + 1 + np.arange(len(faces))
        similar = (self.normal[self.pairs[:, 0]] * self.normal[self.pairs[:, 1]]).sum(1) > 0.5
        chosen = np.zeros(len(self.label), bool)
        chosen[faces] = True
        self.label = self._number_pieces(group, similar | ~chosen[self.pairs].all(1))
        return True

    def _pick_directions(self) -> Ints:
        """[F] which of DIRECTIONS each face goes to."""
        count = len(self.area)
        ones = np.ones(len(self.pairs))
        near = coo_matrix((ones, self.pairs.T), shape=(count, count))
        near = (near + near.T).tocsr()
        normal = self.normal
        weight = self.area[:, None] + 1e-12
        for _ in range(ROUNDS):
            summed = normal * weight + near @ (normal * weight)
            normal = summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-30)
        own = normal @ DIRECTIONS.T
        own[self.normal @ DIRECTIONS.T < FACING] -= 4
        own = self._agreed(own)
        choice: Ints = own.argmax(1)
        for _ in range(ROUNDS):
            votes = self._agreed(near @ np.eye(len(DIRECTIONS))[choice])
            choice = (own + 0.4 * votes).argmax(1)
        return choice

    def _agreed(self, rows: Floats) -> Floats:
        """Rows [F, K] of the faces, those of the halves of a quad averaged."""
        return rows.reshape(-1, 2, rows.shape[1]).mean(1).repeat(2, 0) if self.quads else rows

    def _number_pieces(self, group: Ints, joined: npt.NDArray[np.bool_] | None = None) -> Ints:
        """[F] a number for each connected piece of a group, in the order of its first face."""
        same = group[self.pairs[:, 0]] == group[self.pairs[:, 1]]
        if joined is not None:
            same &= joined
        return topology.label_joined(self.pairs[same], len(group))

    def _join_small(self) -> None:
        """Give small charts to the neighbour that they share most edges with, if it suits them."""
        for _ in range(ROUNDS):
            count = self.label.max() + 1
            area = np.bincount(self.label, self.area, count)
            small = area < SMALL * area.sum()
            ahead = self.directions()
            sides = self.label[self.pairs]
            both = np.concatenate([sides, sides[:, ::-1]])
            both = both[(both[:, 0] != both[:, 1]) & small[both[:, 0]]]
            # larger neighbours only, so that no two swap
            both = both[area[both[:, 1]] > area[both[:, 0]]]
            target = self._find_targets(both, ahead, count)
            if bool((target == np.arange(count)).all()):
                return
            while bool((target[target] != target).any()):
                target = target[target]
            self.label = self._number_pieces(target[self.label])

    def _find_targets(self, both: Ints, ahead: Floats, count: int) -> Ints:
        """[count] the chart that each one joins: itself, or the best of the pairs `both` [P, 2]."""
        keys, shared = np.unique(both[:, 0] * count + both[:, 1], return_counts=True)
        target = np.arange(count)
        best = np.zeros(count)
        members = np.argsort(self.label, kind="stable")
        starts = np.searchsorted(self.label[members], np.arange(count + 1))
        for key, edges in zip(keys.tolist(), shared.tolist()):
            small, large = divmod(key, count)
            faces = members[starts[small] : starts[small + 1]]
            if edges > best[small] and (self.normal[faces] @ ahead[large]).min() > FACING:
                best[small], target[small] = edges, large
        return target

    def _find_turned_away(self) -> Ints:
        """Find the faces that their chart's direction sees too thin, or from behind."""
        cosine = (self.normal * self.directions()[self.label]).sum(1)
        return np.flatnonzero((cosine < FACING) & (self.area > 0))


def _find_neighbours(mesh: Mesh) -> Ints:
    """[P, 2] the faces that share an edge: each edge's first with its second, and so on."""
    edges = topology.edges(mesh.faces)
    order = edges.of_face.view(-1).argsort(stable=True)
    face = (order // 3).numpy()
    edge = edges.of_face.view(-1)[order].numpy()
    follows = np.flatnonzero(edge[1:] == edge[:-1])
    return np.stack([face[follows], face[follows + 1]], 1)
