"""Topology, repairs, simplification: on meshes whose answers are known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from exporters import topology
from exporters.clean import Repairs, clean, fill_holes, repair, smooth, weld
from exporters.simplify import simplify
from tests.shapes import cube, sphere
from threed.core.errors import InputError
from threed.core.mesh import Mesh


def joined(*meshes: Mesh) -> Mesh:
    """Several meshes as one."""
    vertices, faces, count = [], [], 0
    for mesh in meshes:
        vertices.append(mesh.vertices)
        faces.append(mesh.faces + count)
        count += len(mesh.vertices)
    return Mesh(torch.cat(vertices), torch.cat(faces))


def moved(mesh: Mesh, x: float) -> Mesh:
    return replace(mesh, vertices=mesh.vertices + torch.tensor([x, 0, 0]), colors=None)


def volume(mesh: Mesh) -> float:
    return float(topology.volumes(mesh).sum())


def closed(mesh: Mesh) -> bool:
    return topology.is_watertight(topology.edges(mesh.faces))


def test_a_cube_in_numbers() -> None:
    mesh = cube()
    edges = topology.edges(mesh.faces)
    assert len(edges.ends) == 18
    assert bool((edges.faces == 2).all())
    assert closed(mesh)
    assert volume(mesh) == pytest.approx(6)
    assert float(topology.areas(mesh).sum()) == pytest.approx(22)
    assert topology.components(mesh.faces)[0] == 1
    assert topology.boundary_loops(mesh.faces, edges) == []
    turned = mesh.faces.clone()
    turned[0] = turned[0].flip(0)
    assert not topology.is_watertight(topology.edges(turned))


def test_solids_are_closed_and_look_outwards() -> None:
    assert topology.is_solid(joined(cube(), moved(cube(), 5)))
    inwards = replace(cube(), faces=cube().faces.flip(1))
    assert not topology.is_solid(joined(cube(), moved(inwards, 5)))
    assert not topology.is_solid(replace(cube(), faces=cube().faces[1:]))


def test_pieces_are_told_apart() -> None:
    mesh = joined(cube(), moved(cube(), 5), moved(cube(), 9))
    count, piece = topology.components(mesh.faces)
    assert count == 3
    assert piece.tolist() == [0] * 12 + [1] * 12 + [2] * 12


def test_holes_are_counted_and_filled_in_the_right_direction() -> None:
    whole = sphere()
    keep = torch.ones(len(whole.faces), dtype=torch.bool)
    top, bottom = whole.vertices[:, 2].argmax(), whole.vertices[:, 2].argmin()
    for pole in (top, bottom):
        keep &= (whole.faces != pole).all(1)
    keep[310] = False  # and a single triangle
    mesh = replace(whole, faces=whole.faces[keep])
    edges = topology.edges(mesh.faces)
    assert sorted(len(r) for r in topology.boundary_loops(mesh.faces, edges)) == [3, 24, 24]
    filled = fill_holes(mesh)
    assert closed(filled)
    # two flat lids instead of the caps
    assert 0.97 * volume(whole) < volume(filled) < volume(whole)
    assert filled.colors is not None
    assert filled.colors.shape == filled.vertices.shape


def test_two_holes_that_touch_in_a_vertex() -> None:
    whole = sphere()
    keep = torch.ones(len(whole.faces), dtype=torch.bool)
    vertex = 5 * 24 + 3
    around = (whole.faces == vertex).any(1).nonzero()[:, 0]
    assert len(around) == 6
    keep[around[[0, 3]]] = False
    mesh = replace(whole, faces=whole.faces[keep])
    loops = topology.boundary_loops(mesh.faces, topology.edges(mesh.faces))
    assert sorted(map(len, loops)) == [3, 3]
    assert closed(fill_holes(mesh))


def test_floaters_and_cavities_go_and_other_pieces_stay() -> None:
    small = replace(moved(sphere(0.02), 2.0))
    cavity = replace(sphere(0.3), faces=sphere(0.3).faces.flip(1), colors=None)
    body, other = replace(sphere(), colors=None), moved(sphere(0.2), -2.0)
    mesh = clean(joined(body, small, cavity, other))
    assert topology.components(mesh.faces)[0] == 2
    assert volume(mesh) == pytest.approx(volume(body) + volume(other), rel=1e-5)
    assert len(mesh.vertices) == len(body.vertices) + len(other.vertices)


def test_repairs_are_counted() -> None:
    small, inner = moved(sphere(0.02), 2.0), sphere(0.3)
    cavity = replace(inner, faces=inner.faces.flip(1), colors=None)
    body = replace(sphere(), colors=None)
    top = body.vertices[:, 2].argmax()
    body = replace(body, faces=body.faces[(body.faces != top).all(1)])
    whole = joined(body, small, cavity)
    double = replace(whole, faces=torch.cat([whole.faces, whole.faces[:2]]))
    mesh, done = repair(double)
    assert closed(mesh)
    assert done == Repairs(welded=0, floaters=1, cavities=1, holes=1, faces=2)
    soup = Mesh(
        mesh.vertices[mesh.faces].view(-1, 3), torch.arange(3 * len(mesh.faces)).view(-1, 3)
    )
    again, done = repair(soup)
    assert done == Repairs(welded=3 * len(mesh.faces) - len(mesh.vertices))
    assert repair(again)[1] == Repairs()


def test_equal_vertices_become_one() -> None:
    mesh = sphere()
    soup = Mesh(
        mesh.vertices[mesh.faces].view(-1, 3), torch.arange(3 * len(mesh.faces)).view(-1, 3),
        mesh.colors[mesh.faces].view(-1, 3) if mesh.colors is not None else None,
    )  # fmt: skip
    assert not closed(soup)
    one = weld(soup)
    assert closed(one)
    assert len(one.vertices) == len(mesh.vertices)
    assert volume(one) == pytest.approx(volume(mesh), rel=1e-6)
    assert one.colors is not None
    height = (one.vertices[:, 2] / 0.6 + 1) / 2
    torch.testing.assert_close(one.colors[:, 2], height, atol=1e-5, rtol=0)


def test_degenerate_doubled_and_crowding_faces_go() -> None:
    mesh = replace(sphere(), colors=None)
    a, b, c = mesh.faces[100].tolist()
    extra = torch.tensor([[a, a, b], [b, c, a], [a, b, len(mesh.vertices)]])
    spike = mesh.vertices[[a]] * 1.01
    dirty = Mesh(torch.cat([mesh.vertices, spike]), torch.cat([mesh.faces, extra]))
    assert bool(topology.edges(dirty.faces).crowded.any())
    tidy = clean(dirty)
    assert closed(tidy)
    assert not bool(topology.edges(tidy.faces).crowded.any())
    assert len(tidy.faces) == len(mesh.faces)
    assert volume(tidy) == pytest.approx(volume(mesh), rel=1e-6)


def test_smoothing_takes_noise_and_leaves_the_size() -> None:
    exact = sphere(0.6, 40, 60)
    noise = torch.randn(exact.vertices.shape, generator=torch.Generator().manual_seed(0))
    rough = replace(exact, vertices=exact.vertices + 0.01 * noise)
    even = smooth(rough)

    def deviation(mesh: Mesh) -> float:
        return float((mesh.vertices.norm(dim=-1) - 0.6).std())

    assert deviation(even) < 0.45 * deviation(rough)
    assert volume(even) == pytest.approx(volume(exact), rel=0.02)
    assert torch.equal(even.faces, rough.faces)


def test_simplify_keeps_the_shape_and_the_colours() -> None:
    mesh = sphere(0.6, 60, 80)
    fewer = simplify(mesh, 1000)
    assert 900 <= len(fewer.faces) <= 1010
    assert closed(clean(fewer))
    assert volume(fewer) == pytest.approx(0.6**3 * 4 / 3 * math.pi, rel=0.01)
    assert fewer.colors is not None
    height = (fewer.vertices[:, 2] / 0.6 + 1) / 2
    assert (fewer.colors[:, 2] - height).abs().max() < 0.05
    assert simplify(mesh, 10**6) is mesh
    again = simplify(mesh, 1000)
    assert torch.equal(again.vertices, fewer.vertices)
    assert torch.equal(again.faces, fewer.faces)


def test_errors() -> None:
    with pytest.raises(InputError, match="faces must be at least 4, got 3"):
        simplify(sphere(), 3)
    flat = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 1]]))
    with pytest.raises(InputError, match="no face of the mesh is left after cleaning"):
        clean(flat)
    mesh = cube()
    mapped = replace(mesh, uv=torch.zeros(8, 2), uv_faces=mesh.faces)
    with pytest.raises(ValueError, match="clean a mesh before it is unwrapped"):
        clean(mapped)
    with pytest.raises(ValueError, match="simplify a mesh before it is unwrapped"):
        simplify(mapped, 4)
