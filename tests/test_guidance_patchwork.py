"""Pictures of a surface that are painted one after the other, each point of it once."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from guidance.edits import Album
from guidance.patchwork import ASIDE, WELL, Patchwork, Surface, surface_of
from renderers.raster import render_mesh
from tests import shapes
from threed.core.cameras import orbit
from threed.core.errors import InputError

N, SIDE = 8, 32


@pytest.fixture(scope="module")
def surface() -> Surface:
    mesh, cameras = shapes.sphere(), orbit(N, SIDE)
    seen = [render_mesh(mesh, cameras[i : i + 1], antialias_factor=1) for i in range(N)]
    return surface_of(cameras, seen)


class Painter:
    """Paints every picture in another grey, and keeps what it was given."""

    def __init__(self) -> None:
        self.asked: list[tuple[Tensor, Tensor]] = []

    def __call__(self, picture: Tensor, where: Tensor, generator: Generator) -> Tensor:
        self.asked.append((picture, where))
        return torch.where(where > 0, 0.1 * len(self.asked), picture)


def patchwork(surface: Surface, painter: Painter) -> Patchwork:
    """The lower half of a white ball is to be painted."""
    masks = surface.depth.isfinite() & (surface.points[..., 2] < 0)
    album = Album(surface.cameras, torch.ones(N, SIDE, SIDE, 3))
    return Patchwork(album, surface, masks, [painter] * N, every=1)


def follow(guide: Patchwork, first: int, last: int) -> None:
    for step in range(first, last):
        guide(torch.rand(1, SIDE, SIDE, 3), guide.album.cameras[:1], step, Generator())


def test_a_view_sees_its_own_points_where_they_are(surface: Surface) -> None:
    seen, there = surface.seen_from(2, 2)
    assert torch.equal(seen, surface.depth[2].isfinite())
    grid = torch.stack(torch.meshgrid(*[torch.arange(SIDE)] * 2, indexing="ij"), -1)
    assert torch.equal(there[seen], grid[seen])


def test_what_is_behind_is_not_seen(surface: Surface) -> None:
    assert not bool(surface.seen_from(0, N // 2)[0][surface.facing[0] > 0.3].any())
    near, there = surface.seen_from(0, 1)
    share = near.sum() / surface.depth[0].isfinite().sum()
    assert 0.6 < float(share) < 1
    points = surface.points[1][there[near][:, 0], there[near][:, 1]]
    assert float((points - surface.points[0][near]).norm(dim=-1).median()) < 0.05


def test_each_point_is_painted_by_one_view(surface: Surface) -> None:
    painter = Painter()
    guide = patchwork(surface, painter)
    follow(guide, 0, N)
    assert sorted(guide.order) == list(range(N))
    well = guide.masks & (surface.facing >= WELL + 0.2)
    for view in range(N):
        own, others = guide.painted[view], torch.zeros_like(guide.masks[view])
        for other in guide.order[: guide.order.index(view)]:
            seen, there = surface.seen_from(view, other)
            taken = seen & guide.painted[other][there[..., 0], there[..., 1]]
            assert not bool((own & taken).any())
            colours = guide.pictures[other][there[..., 0], there[..., 1]]
            first = taken & ~others & guide.masks[view]
            assert torch.equal(guide.pictures[view][first], colours[first])
            others |= taken
        assert float(((own | others) & well[view]).sum()) >= 0.97 * float(well[view].sum())
    painted = guide.painted.flatten(1).sum(1)[guide.order]
    assert int(painted[0]) > 2 * int(painted[-1]), "ever less is left"


def test_a_painter_is_shown_what_is_painted_and_asked_for_the_rest(surface: Surface) -> None:
    painter = Painter()
    guide = patchwork(surface, painter)
    follow(guide, 0, 3)
    (first, everything), _, (picture, where) = painter.asked
    assert bool((first == 1).all())
    assert torch.equal(everything[0, 0] > 0, guide.masks[0])
    # a quarter of a turn from the first
    assert bool((picture < 1).any()), "it is shown what is painted"
    assert float(where.sum()) < float(everything.sum())


def test_of_what_is_not_painted_nothing_is_learned(surface: Surface) -> None:
    guide = patchwork(surface, Painter())
    assert bool((guide.weights[guide.masks] == 0).all())
    assert bool((guide.weights[~guide.masks] == 1).all())
    follow(guide, 0, 1)
    (view,) = guide.order
    inside = guide.weights[view, ..., 0][guide.masks[view]]
    assert sorted(inside.unique().tolist()) == pytest.approx([ASIDE, 1.0])
    other = next(number for number in range(N) if number != view)
    wrong = torch.where(guide.masks[other][..., None], 0.3, guide.pictures[other])
    guide.every = 1000
    loss = guide(wrong[None], guide.album.cameras[other : other + 1], 1, Generator())
    where = guide._views(1, 1)
    assert float(loss["edit"]) == pytest.approx(
        float(((wrong - guide.pictures[where[0]]).abs() * guide.weights[where[0]]).mean())
    )


def test_nothing_is_painted_twice_and_a_cut_changes_nothing(surface: Surface) -> None:
    painter = Painter()
    guide = patchwork(surface, painter)
    follow(guide, 0, 3)
    again = patchwork(surface, painter)
    again.load_state_dict(guide.state_dict())
    calls = len(painter.asked)
    follow(again, 3, N)
    asked = len(painter.asked)
    assert asked > calls
    follow(again, N, 3 * N)
    assert len(painter.asked) == asked
    whole = patchwork(surface, Painter())
    follow(whole, 0, N)
    assert torch.equal(whole.pictures, again.pictures)
    assert torch.equal(whole.weights, again.weights)


def test_what_another_way_of_dressing_left_is_refused(surface: Surface) -> None:
    guide = patchwork(surface, Painter())
    with pytest.raises(InputError, match="begun when views were painted each by themselves"):
        guide.load_state_dict({"pictures": guide.pictures})
