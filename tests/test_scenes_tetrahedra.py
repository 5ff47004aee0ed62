"""Marching tetrahedra against spheres, planes and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from exporters import topology
from tests import shapes
from threed.core.mesh import Mesh
from threed.scenes import tetrahedra
from threed.scenes.tetrahedra import (
    MOVE,
    Marched,
    NoSurfaceError,
    consistency,
    edges,
    grid_points,
    laplacian,
    march,
    sign_changes,
)


def mesh_of(found: Marched) -> Mesh:
    return Mesh(found.vertices.detach().float(), found.faces)


def ball(cells: int, radius: float = 0.6) -> tuple[Tensor, Tensor]:
    places = grid_points(cells)
    return places.norm(dim=-1) - radius, places


def test_the_table_has_one_triangle_for_one_corner_and_two_for_two() -> None:
    table = tetrahedra._table()
    count = [len(triangles) for triangles in table]
    bits = [bin(case).count("1") for case in range(16)]
    assert count == [{0: 0, 1: 1, 2: 2, 3: 1, 4: 0}[n] for n in bits]
    for case, triangles in enumerate(table):
        for edge in {edge for triangle in triangles for edge in triangle}:
            a, b = tetrahedra.EDGES[edge]
            assert (case >> a & 1) != (case >> b & 1), "only edges that are crossed"


@pytest.mark.parametrize("cells", [8, 17])
def test_a_ball_is_closed_round_and_looks_outwards(cells: int) -> None:
    found = march(*ball(cells))
    mesh = mesh_of(found)
    assert topology.is_watertight(topology.edges(mesh.faces))
    v, e, f = len(mesh.vertices), len(topology.edges(mesh.faces).ends), len(mesh.faces)
    assert v - e + f == 2, "a sphere and nothing else"
    exact = 4 / 3 * math.pi * 0.6**3
    assert float(topology.volumes(mesh).sum()) == pytest.approx(exact, rel=6 / cells**2)
    assert (mesh.vertices.norm(dim=-1) - 0.6).abs().max() < 4 / cells**2


def test_random_distances_and_places_still_close_without_crossing_themselves() -> None:
    generator = torch.Generator().manual_seed(1)
    cells = 9
    places = grid_points(cells)
    distance = torch.randn(len(places), generator=generator)
    distance[(places.abs() > 0.99).any(1)] = 1.0  # so that it does not leave the grid
    moved = places + (2 * torch.rand(places.shape, generator=generator) - 1) * MOVE * 2 / cells
    mesh = mesh_of(march(distance, moved))
    edges = topology.edges(mesh.faces)
    assert topology.is_watertight(edges)
    # the volume that the surface encloses is the volume below zero of the linear interpolation:
    # between that of the tetrahedra all inside and that of those not all outside
    corners = torch.stack([
        torch.arange(10**3).view(10, 10, 10)[x : 9 + x, y : 9 + y, z : 9 + z].reshape(-1)
        for z in (0, 1) for y in (0, 1) for x in (0, 1)
    ], 1)  # fmt: skip
    tets = corners[:, tetrahedra._cut(torch.device("cpu"))].view(-1, 4)
    a, b, c, d = moved[tets].double().unbind(1)
    volume = ((b - a) * torch.linalg.cross(c - a, d - a)).sum(-1) / 6
    assert float(volume.min()) > 0, "no tetrahedron is turned inside out"
    assert float(volume.sum()) == pytest.approx(8, rel=0.1)
    below = (distance[tets] < 0).sum(1)
    enclosed = float(topology.volumes(mesh).sum())
    assert float(volume[below == 4].sum()) < enclosed < float(volume[below > 0].sum())


def test_gradients_are_those_of_finite_differences() -> None:
    cells = 3
    places = grid_points(cells).double()
    distance = (places - torch.tensor([0.1, -0.05, 0.2])).norm(dim=-1) - 0.5
    weight = torch.randn(len(march(distance, places).vertices), 3, dtype=torch.float64)

    def seen(distance: Tensor, places: Tensor) -> Tensor:
        return (march(distance, places).vertices * weight).sum()

    distance.requires_grad_()
    places.requires_grad_()
    assert torch.autograd.gradcheck(seen, (distance, places), eps=1e-6, atol=1e-6)


def test_a_distance_learns_the_volume_it_is_asked_for() -> None:
    distance, places = ball(12, 0.35)
    distance.requires_grad_()
    optimizer = torch.optim.Adam([distance], lr=0.01)
    for _ in range(60):
        found = march(distance, places)
        a, b, c = found.vertices[found.faces].unbind(1)
        volume = (a * torch.linalg.cross(b, c)).sum() / 6
        optimizer.zero_grad()
        (volume - 0.5).square().backward()
        optimizer.step()
    assert float(volume.detach()) == pytest.approx(0.5, rel=0.05)


def test_regularisers_have_closed_forms() -> None:
    tetrahedron = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    sides = torch.tensor([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
    assert edges(sides).tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    # normals point to the corners, whose directions have a cosine of -1/3
    assert float(consistency(tetrahedron, sides, edges(sides))) == pytest.approx(4 / 3)
    angle = torch.arange(3) * (2 * torch.pi / 3)
    corners = torch.stack([angle.cos(), angle.sin(), torch.zeros(3)], 1)
    pyramid = torch.cat([corners, torch.tensor([[0, 0, 0.5]])])
    fan = edges(torch.tensor([[0, 1, 3], [1, 2, 3], [2, 0, 3]]))
    # from a corner, the other two and the top sum up to -4 times itself, and 0.5 upwards
    expected = (3 * math.hypot(4, 0.5) + 3 * 0.5) / 4
    assert float(laplacian(pyramid, fan)) == pytest.approx(expected)
    smooth = [consistency(m.vertices, m.faces, edges(m.faces))
              for m in (shapes.sphere(0.6, 32, 48), shapes.sphere(0.6, 8, 12))]  # fmt: skip
    assert float(smooth[0]) < float(smooth[1]) / 4


def test_regularisers_are_threestudios_on_a_rough_ball() -> None:
    # their formulas (threestudio/models/mesh.py) once more, with dense matrices
    distance, places = ball(8, 0.6)
    g = torch.Generator().manual_seed(0)
    rough = distance + 0.05 * torch.randn(distance.shape, generator=g)
    found = march(rough.double(), places.double())
    vertices, faces = found.vertices.detach().requires_grad_(), found.faces
    near = torch.zeros(len(vertices), len(vertices), dtype=torch.float64)
    member = torch.zeros(len(vertices), len(faces), dtype=torch.float64)
    for number, face in enumerate(faces.tolist()):
        for corner in range(3):
            member[face[corner], number] = 1
            near[face[corner], face[corner - 1]] = near[face[corner - 1], face[corner]] = 1
    a, b, c = vertices[faces].unbind(1)
    normal = torch.nn.functional.normalize(member @ torch.linalg.cross(b - a, c - a), dim=1)
    theirs = {
        "consistency": ((1 - normal @ normal.T) * near).sum() / near.sum(),
        "laplacian": (torch.diag(near.sum(1)) @ vertices - near @ vertices).norm(dim=1).mean(),
    }
    ends = edges(faces)
    ours = {"consistency": consistency(vertices, faces, ends),
            "laplacian": laplacian(vertices, ends)}  # fmt: skip
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected)
        gradients = [torch.autograd.grad(loss, vertices, retain_graph=True)[0]
                     for loss in (ours[name], expected)]  # fmt: skip
        torch.testing.assert_close(*gradients)


def test_sign_changes_fade_where_both_sides_come_near_zero() -> None:
    ends = torch.tensor([[0, 1]])
    firm, faint = torch.tensor([-2.0, 2.0]), torch.tensor([-0.1, 0.1])
    assert float(sign_changes(firm, ends)) == pytest.approx(math.log1p(math.exp(2.0)))
    assert float(sign_changes(faint, ends)) < float(sign_changes(firm, ends))
    faint.requires_grad_()
    sign_changes(faint, ends).backward()
    assert faint.grad is not None
    assert faint.grad[0] < 0 < faint.grad[1], "descent brings each over to the other's side"


def test_nothing_to_march_is_said() -> None:
    places = grid_points(4)
    with pytest.raises(NoSurfaceError, match="one sign everywhere"):
        march(torch.ones(len(places)), places)
    with pytest.raises(ValueError, match=r"distance must be \[P³\]"):
        march(torch.ones(7), places)
