"""Meshes that are broken in known ways, and a judge of what crosses itself."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree

from exporters import meshlab
from threed.core.mesh import Mesh

needs_meshlab = pytest.mark.skipif(
    not meshlab.installed(), reason="needs pymeshlab: pip install 'threed[repair]'"
)
Floats = npt.NDArray[np.float64]


def mesh_of(found: trimesh.Trimesh) -> Mesh:
    """Ours, of trimesh's."""
    places = torch.from_numpy(np.asarray(found.vertices, np.float32))
    return Mesh(places, torch.from_numpy(np.asarray(found.faces, np.int64)))


def ball(detail: int = 3, radius: float = 1.0) -> Mesh:
    """A closed sphere of even triangles."""
    return mesh_of(trimesh.creation.icosphere(detail, radius))


def joined(*meshes: Mesh) -> Mesh:
    """Several meshes as one."""
    vertices, faces, count = [], [], 0
    for mesh in meshes:
        vertices.append(mesh.vertices)
        faces.append(mesh.faces + count)
        count += len(mesh.vertices)
    return Mesh(torch.cat(vertices), torch.cat(faces))


def moved(mesh: Mesh, *by: float) -> Mesh:
    return Mesh(mesh.vertices + torch.tensor(by), mesh.faces)


def inverted(mesh: Mesh) -> Mesh:
    return Mesh(mesh.vertices, mesh.faces.flip(1))


def eight(rows: int = 120, columns: int = 16) -> Mesh:
    """A tube along a figure of eight: closed, one piece, and it runs through itself once."""
    t = np.linspace(0, 2 * np.pi, rows, endpoint=False) + 0.01
    middle = np.stack([np.sin(2 * t), 1.5 * np.sin(t), 0 * t], 1)
    along = np.stack([2 * np.cos(2 * t), 1.5 * np.cos(t), 0 * t], 1)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    side, up = np.cross(along, [0, 0, 1]), np.array([0, 0, 1.0])
    a = np.linspace(0, 2 * np.pi, columns, endpoint=False)[:, None]
    ring = np.cos(a) * side[:, None] + np.sin(a) * up
    places = (middle[:, None] + 0.25 * ring).reshape(-1, 3)
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    here, below = row * columns, (row + 1) % rows * columns
    beside = (column + 1) % columns
    corners = [here + column, below + column, below + beside, here + beside]
    a, b, c, d = (corner.ravel() for corner in corners)
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    found = mesh_of(trimesh.Trimesh(places, faces, process=False))
    return found if signed_volume(found) > 0 else inverted(found)


def cells(count: int = 4) -> tuple[Mesh, int]:
    """Cubes of side 1 at random places of a grid, welded: walls between them, edges of 4 to 8.

    And how many they are.
    """
    taken = np.argwhere(np.random.default_rng(0).random((count,) * 3) < 0.5)
    box = trimesh.creation.box((1, 1, 1))
    boxes = [box.copy().apply_translation(place) for place in taken]
    found = trimesh.util.concatenate(boxes)
    found.merge_vertices()
    return mesh_of(found), len(taken)


def with_fins(mesh: Mesh, count: int) -> Mesh:
    """The mesh and so many triangles that stand out from, or into, it along an edge each."""
    rng = np.random.default_rng(0)
    sides = torch.cat([mesh.faces[:, :2], mesh.faces[:, 1:], mesh.faces[:, ::2]]).sort(1).values
    sides, faces = torch.unique(sides, dim=0, return_counts=True)
    sides = sides[faces == 2]
    chosen = sides[torch.from_numpy(rng.choice(len(sides), count, replace=False))]
    scale = torch.from_numpy(rng.uniform(0.9, 1.1, (count, 1))).float()
    tips = mesh.vertices[chosen].mean(1) * scale
    ends = len(mesh.vertices) + torch.arange(count)[:, None]
    vertices = torch.cat([mesh.vertices, tips])
    return Mesh(vertices, torch.cat([mesh.faces, torch.cat([chosen, ends], 1)]))


def soup(mesh: Mesh, noise: float, turned: float = 0.0) -> Mesh:
    """Its triangles, each by itself and each corner somewhere near; a part inside out."""
    rng = np.random.default_rng(0)
    corners = mesh.vertices[mesh.faces]
    corners = corners + torch.from_numpy(rng.normal(0, noise, corners.shape)).float()
    over = torch.from_numpy(rng.random(len(corners)) < turned)
    corners[over] = corners[over].flip(1)
    return Mesh(corners.view(-1, 3), torch.arange(3 * len(corners)).view(-1, 3))


def signed_volume(mesh: Mesh) -> float:
    """By the divergence theorem, written out."""
    a, b, c = mesh.vertices.double()[mesh.faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def edge_lengths(mesh: Mesh) -> Floats:
    """Of every edge once."""
    found = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    return np.asarray(found.edges_unique_length, np.float64)


def crossings(mesh: Mesh) -> int:
    """How many faces another one, that shares no vertex with it, is pierced by or pierces.

    For every two faces whose balls touch, each side of the one is cut with the plane of the other.
    """
    corners = mesh.vertices.double().numpy()[mesh.faces.numpy()]
    middle = corners.mean(1)
    radius = np.linalg.norm(corners - middle[:, None], axis=2).max(1)
    pairs = cKDTree(middle).query_pairs(2 * radius.max(), output_type="ndarray")
    near = np.linalg.norm(np.subtract(*middle[pairs.T]), axis=1) < radius[pairs].sum(1)
    pairs = pairs[near]
    faces = mesh.faces.numpy()[pairs]
    shared = (faces[:, 0, :, None] == faces[:, 1, None, :]).any((1, 2))
    pairs = pairs[~shared]
    hit = _pierce(corners[pairs[:, 0]], corners[pairs[:, 1]])
    hit |= _pierce(corners[pairs[:, 1]], corners[pairs[:, 0]])
    return len(np.unique(pairs[hit]))


def _pierce(one: Floats, other: Floats) -> npt.NDArray[np.bool_]:
    """[N] whether a side of triangles [N, 3, 3] runs through the inside of others."""
    a, u, v = other[:, 0], other[:, 1] - other[:, 0], other[:, 2] - other[:, 0]
    normal = np.cross(u, v)
    found = np.zeros(len(one), bool)
    tiny = 1e-9
    for k in range(3):
        start, way = one[:, k], one[:, (k + 1) % 3] - one[:, k]
        with np.errstate(all="ignore"):
            share = ((a - start) * normal).sum(1) / (way * normal).sum(1)
            place = start + share[:, None] * way - a
            size = (normal * normal).sum(1)
            second = (np.cross(place, v) * normal).sum(1) / size
            third = (np.cross(u, place) * normal).sum(1) / size
        inside = (second > tiny) & (third > tiny) & (second + third < 1 - tiny)
        found |= (share > tiny) & (share < 1 - tiny) & inside
    return found
