"""Doubled walls, fins, pieces inside out, pieces that touch: on meshes whose answers are known."""

from __future__ import annotations

import pytest
import torch

from exporters import topology
from exporters.shells import outwards, winding, with_bars, without_doubles, without_fins
from tests.broken import ball, cells, crossings, inverted, joined, moved, signed_volume, with_fins
from tests.shapes import cube
from threed.core.errors import InputError
from threed.core.mesh import Mesh


def rows(mesh: Mesh) -> set[tuple[int, ...]]:
    """The faces, from whichever corner they are told."""
    return {tuple(row[i:] + row[:i]) for row in mesh.faces.tolist() for i in [row.index(min(row))]}


def welded(mesh: Mesh) -> Mesh:
    places, index = torch.unique(mesh.vertices, dim=0, return_inverse=True)
    return Mesh(places, index[mesh.faces])


def test_the_judge_of_crossings_sees_them() -> None:
    two = joined(ball(), moved(ball(), 1.0, 0.1, 0.05))
    assert crossings(ball()) == 0
    assert crossings(joined(ball(), moved(ball(), 2.1, 0, 0))) == 0
    assert 100 < crossings(two) < 200
    needle = Mesh(torch.tensor([[0.2, 0.2, -1], [0.2, 0.2, 1], [5.0, 5, 0]]), torch.arange(3)[None])
    plate = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.arange(3)[None])
    assert crossings(joined(needle, plate)) == 2
    assert crossings(joined(moved(needle, 0, 0, 3), plate)) == 0


def test_doubled_faces_and_walls_back_to_back_go() -> None:
    whole = ball()
    again = Mesh(whole.vertices, torch.cat([whole.faces, whole.faces[:9].roll(1, 1)]))
    assert rows(without_doubles(again)) == rows(whole)
    degenerate = torch.tensor([[0, 0, 1], [5, 7, 5]])
    flat = Mesh(whole.vertices, torch.cat([whole.faces, degenerate]))
    assert rows(without_doubles(flat)) == rows(whole)
    mirrored = inverted(Mesh(cube().vertices * torch.tensor([-1.0, 1, 1]), cube().faces))
    two = welded(joined(cube(), mirrored))
    outside = without_doubles(two)
    assert len(outside.faces) == len(two.faces) - 4
    assert topology.is_solid(outside)
    assert signed_volume(outside) == pytest.approx(12)
    assert bool((outside.vertices[outside.faces][..., 0] != 0).any(1).all()), "no wall is left"


def test_a_surface_written_from_both_sides_keeps_one() -> None:
    whole = ball(1)
    both = Mesh(whole.vertices, torch.cat([whole.faces, whole.faces.flip(1)]))
    assert rows(without_doubles(both)) == rows(whole)


def test_fins_go_and_nothing_else() -> None:
    whole = ball()
    assert rows(without_fins(with_fins(whole, 40))) == rows(whole)
    torn = Mesh(whole.vertices, whole.faces[7:])
    assert rows(without_fins(with_fins(torn, 40))) == rows(torn)


def test_a_wall_that_divides_a_room_goes() -> None:
    box = cube()
    a, b, c, d = 0, 4, 5, 1  # a side of the cube; the wall goes from it to the opposite edge
    wall = torch.tensor([[a, b, 7], [a, 7, 3]])
    edges = topology.edges(torch.cat([box.faces, wall]))
    assert bool((edges.faces == 3).any())
    assert rows(without_fins(Mesh(box.vertices, torch.cat([box.faces, wall])))) == rows(box)
    assert {a, b, c, d} <= set(box.faces.flatten().tolist())


def test_solids_that_touch_in_an_edge_are_no_fins() -> None:
    small = Mesh(0.5 * cube().vertices * torch.tensor([1, 1, 2.0]), cube().faces)
    mesh = welded(joined(cube(), moved(small, 1, 2, 0)))
    assert int((topology.edges(mesh.faces).faces == 4).sum()) == 1
    assert rows(without_fins(mesh)) == rows(mesh)


def test_pieces_are_turned_outwards_and_cavities_stay() -> None:
    body, inner, beside = ball(), inverted(ball(2, 0.4)), inverted(moved(ball(2), 1.0, 0.2, 0))
    solid = signed_volume(body) + signed_volume(inner) - signed_volume(beside)
    assert signed_volume(outwards(joined(body, inner, beside))) == pytest.approx(solid, rel=1e-6)
    turned = outwards(inverted(joined(body, inner)))
    assert signed_volume(turned) == pytest.approx(
        signed_volume(body) + signed_volume(inner), rel=1e-6
    )
    assert rows(outwards(body)) == rows(body)


def test_the_winding_number() -> None:
    nested = joined(ball(), ball(2, 0.5))
    points = torch.tensor([[0.0, 0, 0], [0.75, 0, 0.1], [0, 3.0, 0], [-0.2, 0.1, 0.3]])
    found = winding(nested.vertices[nested.faces], points)
    torch.testing.assert_close(found, torch.tensor([2.0, 1, 0, 2]).double(), atol=1e-6, rtol=0)
    open_ball = Mesh(ball().vertices, ball().faces[ball().vertices[ball().faces].mean(1)[:, 2] < 0])
    half = winding(open_ball.vertices[open_ball.faces], torch.zeros(1, 3))
    assert float(half) == pytest.approx(0.5, abs=0.05)


def test_bars_lie_along_the_edges_that_pieces_share() -> None:
    mesh, _ = cells()
    crowded = topology.edges(mesh.faces)
    count = int(crowded.crowded.sum())
    barred = with_bars(mesh)
    bars = Mesh(barred.vertices, barred.faces[len(mesh.faces) :])
    assert len(bars.faces) == 8 * count > 0
    assert topology.is_solid(bars)
    assert topology.components(bars.faces)[0] == count
    middle = mesh.vertices[crowded.ends[crowded.crowded]].mean(1)
    places = bars.vertices[len(mesh.vertices) :].view(count, 6, 3).mean(1)
    torch.testing.assert_close(places, middle, atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="no face of the mesh is left"):
        without_doubles(Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 1]])))
