"""Fewer faces for the same shape."""

from __future__ import annotations

from dataclasses import replace

import fast_simplification
import numpy as np
import torch
from scipy.spatial import cKDTree

from threed.core.budget import FEWEST
from threed.core.errors import InputError
from threed.core.mesh import Mesh


def simplify(mesh: Mesh, faces: int) -> Mesh:
    """The mesh with at most about `faces` faces, by collapsing edges (Garland and Heckbert 1997).

    A mesh with no more than that is returned as it is. Vertices keep the colour of the nearest one
    before. InputError for fewer than 4 faces; ValueError for a mesh with uv.
    """
    if faces < FEWEST:
        raise InputError(f"faces must be at least {FEWEST}, got {faces}")
    if mesh.uv is not None:
        raise ValueError("simplify a mesh before it is unwrapped")
    if len(mesh.faces) <= faces:
        return mesh
    before = mesh.vertices.numpy()
    vertices, triangles = fast_simplification.simplify(
        before, mesh.faces.numpy().astype(np.int32), target_count=faces
    )
    places = torch.from_numpy(np.ascontiguousarray(vertices, np.float32))
    colors = None
    if mesh.colors is not None:
        _, nearest = cKDTree(before).query(places.numpy())
        colors = mesh.colors[torch.from_numpy(nearest)]
    return replace(
        mesh,
        vertices=places,
        faces=torch.from_numpy(triangles.astype(np.int64)),
        colors=colors,
    )
