"""Styles: each changes the whole picture, keeps what is drawn, and differs from the others."""

from __future__ import annotations

import numpy as np
import pytest

from threed.toybox.world.mix import random_scene
from threed.toybox.world.scenes import View, draw_scene
from threed.toybox.world.styles import STYLES, WORDS, contours, luma, random_style


def views(count: int = 3) -> list[View]:
    return [draw_scene(random_scene(np.random.default_rng([2, i]), "toy"), 64)
            for i in range(count)]  # fmt: skip


@pytest.mark.parametrize("name", STYLES)
def test_a_style_changes_any_scene_and_can_be_read(name: str) -> None:
    style = random_style(np.random.default_rng(1), name)
    for view in views():
        painted = style.paint(view)
        assert painted.shape == (64, 64, 3)
        assert painted.dtype == np.float32
        assert 0 <= painted.min()
        assert painted.max() <= 1
        assert np.abs(painted - view.picture.rgb).mean() > 0.02
        inside, outside = view.picture.alpha > 0.9, view.picture.alpha < 0.1
        assert np.abs(painted[inside].mean(0) - painted[outside].mean(0)).max() > 0.03
        np.testing.assert_array_equal(painted, style.paint(view))


@pytest.mark.parametrize("name", ["palette", "hatched", "dotted", "outlined", "clay"])
def test_numbers_make_one_instance_another(name: str) -> None:
    view = views(1)[0]
    one, two = (random_style(np.random.default_rng(seed), name).paint(view) for seed in (1, 2))
    assert np.abs(one - two).mean() > 0.02


def test_colors_of_a_style_go_from_dark_to_bright() -> None:
    for seed in range(30):
        colors = np.array(random_style(np.random.default_rng(seed)).colors, np.float32)
        bright = luma(colors)
        assert (np.diff(bright) > 0.1).all()


def test_a_palette_has_four_colors_and_pixels_are_squares() -> None:
    view = views(1)[0]
    rng = np.random.default_rng(0)
    palette = random_style(rng, "palette").paint(view)
    assert len(np.unique(palette.reshape(-1, 3), axis=0)) <= 4
    pixel = random_style(rng, "pixel")
    block = 3 + round(2 * pixel.amount)
    painted = pixel.paint(view)
    np.testing.assert_array_equal(painted[:block, :block], np.broadcast_to(
        painted[0, 0], (block, block, 3)))  # fmt: skip


def test_contours_lie_where_things_end() -> None:
    view = views(1)[0]
    edge = contours(view) > 0
    covered = view.picture.part >= 0
    near = covered.copy()
    for axis in (0, 1):
        for step in (1, -1):
            near |= np.roll(covered, step, axis)
    assert edge.any()
    assert not edge[~near].any()


def test_words_are_of_styles() -> None:
    assert set(WORDS) <= set(STYLES)
    assert len(WORDS) < len(STYLES)
    assert {random_style(np.random.default_rng(seed)).name for seed in range(60)} == set(STYLES)
