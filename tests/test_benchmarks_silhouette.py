"""Outlines that are read from pictures, against the truth of drawn toys."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.silhouette import centroids, coloured, overlap, silhouettes
from threed.core.cameras import orbit
from threed.toybox.judge.measure import pixels
from threed.toybox.world.draw import Light
from threed.toybox.world.toys import COLORS, draw_set, random_toy


@pytest.mark.parametrize("ground", [(1.0, 1.0), (0.5, 0.5), (0.4, 0.75)])
def test_an_outline_is_the_truth(ground: tuple[float, float]) -> None:
    """On white, on grey, and on grey that changes from top to bottom."""
    for i, kind in enumerate(("mug", "chair", "snowman", "teapot")):
        toy = random_toy(np.random.default_rng(i), kind, "red", "plain")
        background = np.repeat(np.array(ground, np.float32)[:, None], 3, 1)
        drawn = draw_set(toy, orbit(2, 64, start_deg=30), Light(), background)
        truth = torch.from_numpy(np.stack([p.alpha > 0.5 for p in drawn.pictures]))
        assert float(overlap(silhouettes(pixels(drawn)), truth).min()) > 0.85


def test_only_the_largest_thing_counts_and_nothing_is_nothing() -> None:
    picture = torch.ones(2, 3, 32, 32)
    picture[0, :, 10:20, 10:20] = 0.2
    picture[0, :, 26:28, 26:28] = 0.2
    masks = silhouettes(picture)
    expected = torch.zeros(32, 32, dtype=torch.bool)
    expected[10:20, 10:20] = True
    assert torch.equal(masks[0], expected)
    assert not bool(masks[1].any())


def test_overlap_is_intersection_over_union() -> None:
    a, b = torch.zeros(3, 4, 4, dtype=torch.bool), torch.zeros(3, 4, 4, dtype=torch.bool)
    a[0, :2], b[0, 1:3] = True, True
    a[1, 0], b[1, 3] = True, True
    assert overlap(a, b).tolist() == [pytest.approx(1 / 3), 0.0, 1.0]


def test_centres_are_in_fractions_of_the_picture() -> None:
    masks = torch.zeros(2, 10, 20, dtype=torch.bool)
    masks[0, 2:4, 5:15] = True
    masks[1, 9, 0] = True
    torch.testing.assert_close(centroids(masks), torch.tensor([[0.5, 0.3], [0.025, 0.95]]))


def test_things_are_told_apart_by_their_colour_whatever_their_shade() -> None:
    picture = torch.ones(1, 3, 32, 32)
    red, blue = (torch.tensor(COLORS[name])[:, None, None] for name in ("red", "blue"))
    picture[0, :, 8:16, 4:12] = red
    picture[0, :, 8:12, 4:12] = 0.6 * red
    picture[0, :, 8:16, 18:28] = 0.8 * blue
    masks = coloured(picture, [COLORS["red"], COLORS["blue"]])
    assert masks.shape == (1, 2, 32, 32)
    assert masks[0].sum((1, 2)).tolist() == [64, 80]
    torch.testing.assert_close(centroids(masks[0]), torch.tensor([[0.25, 0.375], [23 / 32, 0.375]]))
