"""Signed distances of meshes against solids known in closed form."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from exporters import topology
from tests import shapes
from threed.core.mesh import Mesh
from threed.scenes.distance import BAND, signed_distance
from threed.scenes.tetrahedra import grid_points, march

CELLS = 24


def test_a_ball() -> None:
    mesh = shapes.sphere(0.6, 48, 64)
    exact = (grid_points(CELLS).norm(dim=-1) - 0.6) * (CELLS / 2)
    found = signed_distance(mesh, CELLS)
    assert (found - exact.clamp(-BAND, BAND)).abs().max() < 0.04


def test_a_box_of_twelve_large_faces() -> None:
    corner, size = torch.tensor([-0.31, -0.42, -0.83]), 0.55
    mesh = shapes.cube(size)
    mesh = replace(mesh, vertices=mesh.vertices + corner)
    half = torch.tensor([1.0, 2, 3]) * size / 2
    away = (grid_points(CELLS) - corner - half).abs() - half
    exact = away.clamp(min=0).norm(dim=-1) + away.amax(-1).clamp(max=0)
    found = signed_distance(mesh, CELLS)
    assert (found - (exact * CELLS / 2).clamp(-BAND, BAND)).abs().max() < 1e-3


def test_marching_the_distance_gives_the_mesh_back() -> None:
    mesh = shapes.sphere(0.6, 24, 36)
    found = march(signed_distance(mesh, CELLS), grid_points(CELLS))
    assert (found.vertices.norm(dim=-1) - 0.6).abs().max() < 0.01
    assert topology.is_watertight(topology.edges(found.faces))


def test_what_is_broken_still_has_an_inside() -> None:
    mesh = shapes.sphere(0.6, 32, 48)
    truth = signed_distance(mesh, CELLS) < 0
    torn = replace(mesh, faces=mesh.faces[mesh.vertices[mesh.faces].mean(1)[:, 2] < 0.55])
    assert len(torn.faces) < len(mesh.faces) - 100
    missed = (signed_distance(torn, CELLS) < 0) != truth
    assert int(missed.sum()) < 0.02 * int(truth.sum())
    turned = replace(mesh, faces=mesh.faces.flip(1))
    assert torch.equal(signed_distance(turned, CELLS) < 0, truth)
    shifted = replace(mesh, vertices=mesh.vertices * 0.9 + torch.tensor([0.0, 0, 0.1]))
    both = Mesh(
        torch.cat([mesh.vertices, shifted.vertices]),
        torch.cat([mesh.faces, shifted.faces + len(mesh.vertices)]),
    )
    union = truth | (signed_distance(shifted, CELLS) < 0)
    assert torch.equal(signed_distance(both, CELLS) < 0, union)


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_a_sheet_has_no_inside_even_beyond_the_grid(factor: float) -> None:
    sheet = Mesh(factor * torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]),
                 torch.tensor([[0, 1, 2], [0, 2, 3]]))  # fmt: skip
    assert bool((signed_distance(sheet, CELLS) >= 0).all())
