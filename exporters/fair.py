"""Ironing lumps out of a surface, while its edges stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from exporters import topology
from threed.core.mesh import Mesh

ALIKE = 0.3  # difference of unit normals: neighbours that are 17 degrees apart count 0.6 of others
ROUNDS = 5  # in each the normals are averaged, and then the vertices follow
REACH = 0.075  # world units that normals are averaged over: the size of the lumps
MOST = 8  # averages of a round
FOLLOWED = 5  # times
Rows = NDArray[np.float64]
Indices = NDArray[np.int64]


def fair(mesh: Mesh) -> Mesh:
    """Move the vertices of a mesh so that faces look where their surroundings do.

    The normals of faces are averaged with those of neighbours, the more the larger and the more
    alike these are, so that edges stay; then vertices move until the faces are square to them
    (Zheng, Fu, Au and Tai 2011, local and iterative; Sun, Rosin, Martin and Langbein 2007). A mesh
    whose faces are larger than lumps stays as it is.
    """
    faces, places = mesh.faces.numpy(), mesh.vertices.double().numpy()
    beside, times = neighbours(mesh), _averages(places, faces)
    if times == 0:
        return mesh
    count, corners = len(faces), faces.T.ravel()
    around = csr_matrix((np.ones(3 * count), (corners, np.tile(np.arange(count), 3))),
                        shape=(len(places), count))  # fmt: skip
    shared = np.maximum(np.asarray(around.sum(1)), 1)
    for _ in range(ROUNDS):
        wanted = _averaged(places, faces, beside, times)
        square = (wanted[:, :, None] * wanted[:, None]).reshape(count, 9)
        own = (around @ square).reshape(-1, 3, 3)
        for _ in range(FOLLOWED):
            high = (wanted * places[faces].mean(1)).sum(1, keepdims=True)
            pull = around @ (wanted * high) - (own @ places[:, :, None])[:, :, 0]
            places = places + pull / shared
    return replace(mesh, vertices=torch.from_numpy(places).float())


def _averages(places: Rows, faces: Indices) -> int:
    """How many averages with the neighbours reach about as far as REACH."""
    edge = float(np.median(np.linalg.norm(places[faces] - places[np.roll(faces, 1, 1)], axis=2)))
    return min(round((REACH / max(edge, 1e-9)) ** 2), MOST)


def neighbours(mesh: Mesh) -> tuple[Indices, Indices]:
    """The faces [E] on one side and [E] on the other of each edge that has two."""
    edges = topology.edges(mesh.faces)
    order = edges.of_face.ravel().argsort(stable=True)
    owner, edge = order // 3, edges.of_face.ravel()[order]
    twice = (edge[1:] == edge[:-1]) & (edges.faces[edge[1:]] == 2)
    return owner[:-1][twice].numpy(), owner[1:][twice].numpy()


def _averaged(places: Rows, faces: Indices, beside: tuple[Indices, Indices], times: int) -> Rows:
    """The unit normals [F, 3] of faces, averaged so often with those of their neighbours."""
    a, b, c = (places[faces[:, corner]] for corner in range(3))
    cross = np.cross(b - a, c - a)
    area = np.linalg.norm(cross, axis=1)
    normals: Rows = cross / np.maximum(area, 1e-30)[:, None]
    rows, columns = np.concatenate(beside), np.concatenate(beside[::-1])
    for _ in range(times):
        apart = ((normals[rows] - normals[columns]) ** 2).sum(1)
        weight = np.exp(-apart / (2 * ALIKE**2)) * area[columns]
        total = csr_matrix((weight, (rows, columns)), shape=(len(faces), len(faces))) @ normals
        total += area[:, None] * normals
        normals = total / np.maximum(np.linalg.norm(total, axis=1), 1e-30)[:, None]
    return normals
