"""Iterative dataset updates: whose turn it is, what an editor is given, and where it ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from guidance.edits import Album, DatasetUpdate
from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.core.schedule import Schedule

N = 12


def chance(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def make(edit: Any, every: int = 3, low: float = 0.2, high: float = 0.6) -> DatasetUpdate:
    pictures = torch.rand(N, 4, 4, 3, generator=chance())
    bounds = (Schedule(((0, value),)) for value in (low, high))
    t_min, t_max = bounds
    return DatasetUpdate(
        Album(orbit(N, 4), pictures), [edit] * N, every=every, t_min=t_min, t_max=t_max
    )


def darker(before: Tensor, now: Tensor, level: float, generator: Generator) -> Tensor:
    return before / 2


def shown(guide: DatasetUpdate, step: int, n: int = 4) -> list[int]:
    """Which of the views a step looks at."""
    seen = guide.cameras(step, orbit(n, 4))
    return [int((guide.album.cameras.c2w == c).flatten(1).all(1).nonzero()) for c in seen.c2w]


@pytest.mark.parametrize("every", [1, 3, 4, 6, 10])
def test_every_view_is_edited_once_before_one_is_twice(every: int) -> None:
    guide = make(darker, every)
    renewed = []
    for step in range(2 * N * every):
        before = guide.pictures.clone()
        guide.pictures.fill_(2.0)
        guide(torch.rand(4, 4, 4, 3), guide.album.cameras[:4], step, chance())
        changed = (guide.pictures != 2).flatten(1).any(1).nonzero().flatten().tolist()
        assert len(changed) == (step % every == 0)
        renewed += changed
        guide.pictures = before
    assert sorted(renewed[:N]) == sorted(renewed[N:]) == list(range(N))


@pytest.mark.parametrize("every", [1, 3, 5, 12])
def test_all_views_are_shown_about_equally_often(every: int) -> None:
    guide = make(darker, every)
    counts = torch.bincount(torch.tensor([v for step in range(60) for v in shown(guide, step)]))
    assert len(counts) == N
    assert counts.min() >= 16
    assert counts.max() <= 24


def test_the_editor_sees_first_and_present_looks_of_the_view_that_is_shown() -> None:
    calls: list[tuple[Tensor, Tensor, float]] = []

    def edit(before: Tensor, now: Tensor, level: float, generator: Generator) -> Tensor:
        calls.append((before, now, level))
        return torch.full_like(now, 1.5)

    guide = make(edit)
    image = torch.rand(4, 4, 4, 3, generator=chance(1), requires_grad=True)
    for step in (0, 1, 2, 3):
        guide(image, guide.cameras(step, orbit(4, 4)), step, chance(step))
    assert len(calls) == 2
    view = shown(guide, 3)[1]
    before, now, level = calls[1]
    assert torch.equal(before[0].movedim(0, -1), guide.album.pictures[view])
    assert torch.equal(now[0].movedim(0, -1), image[1])
    assert not now.requires_grad
    assert 0.2 <= level <= 0.6
    assert calls[0][2] != level
    assert bool((guide.pictures[view] == 1).all()), "what is brighter than white is white"


def test_the_loss_is_the_difference_to_the_pictures_of_the_cameras() -> None:
    guide = make(darker)
    views = shown(guide, 1)
    image = torch.rand(4, 4, 4, 3, requires_grad=True)
    loss = guide(image, guide.cameras(1, orbit(4, 4)), 1, chance())["edit"]
    with torch.no_grad():
        assert torch.allclose(loss, (image - guide.pictures[views]).abs().mean())
    loss.backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    assert bool((image.grad != 0).all())


def test_a_scene_ends_where_its_edits_agree() -> None:
    """Pictures that follow their targets at a rate, as a scene does, with an editor that halves."""
    guide = make(darker, every=1)
    scene = guide.album.pictures.clone()
    for step in range(4 * N):
        where = shown(guide, step)
        guide(scene[where], guide.cameras(step, orbit(4, 4)), step, chance(step))
        scene[where] += 0.5 * (guide.pictures[where] - scene[where])
    assert torch.allclose(scene, guide.album.pictures / 2, atol=0.02)


def test_it_goes_on_from_its_state_exactly() -> None:
    one, other = make(darker), make(darker)
    image = torch.rand(4, 4, 4, 3)
    one(image, one.cameras(0, orbit(4, 4)), 0, chance())
    state = one.state_dict()
    other.load_state_dict(state)
    assert torch.equal(one.pictures, other.pictures)
    other(image, other.cameras(3, orbit(4, 4)), 3, chance())
    assert not torch.equal(one.pictures, other.pictures), "two guides share no picture"


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match="have 4 pixels a side, and step 2 has 8"):
        make(darker).cameras(2, orbit(4, 8))
