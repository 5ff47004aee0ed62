"""Subjects: toys that no caption can say, the same from every side, with an emblem that is seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from threed.core.cameras import Cameras, at, orbit
from threed.toybox.world import draw
from threed.toybox.world.draw import Array, Light
from threed.toybox.world.emblems import BITMAPS, EMBLEMS
from threed.toybox.world.garments import WHITE
from threed.toybox.world.parts import ball, box, emblem, extents, pack, place
from threed.toybox.world.scenes import Scene, View, draw_scene
from threed.toybox.world.subjects import (
    APART,
    Keepsake,
    random_subject,
    random_subject_scene,
    stretched,
    unnamed_color,
)
from threed.toybox.world.toys import COLORS, KINDS

EVEN = Light((1.0, 0.0, 0.0), 1.0)
RED, BLUE = (0.9, 0.1, 0.1), (0.1, 0.1, 0.9)


def seen(rows: Array, azimuth: float, size: int = 48) -> Array:
    """[H, W, 3] packed parts on white, in even light."""
    camera = cameras(azimuth)
    white = np.ones((2, 3), np.float32)
    fov = float(camera.fov_y[0])
    return draw.draw(rows, camera.c2w[0].numpy(), fov, size, EVEN, white).rgb


def cameras(azimuth: float, elevation: float = 0.0) -> Cameras:
    one = torch.ones(1)
    return at(one * azimuth, one * elevation, one * 3.0, one * 40.0, 48)


def bluish(rgb: Array) -> float:
    """The share of pixels that are nearer to blue than to red and white."""
    return float((rgb[..., 2] > rgb[..., 0] + 0.3).mean())


def view_of(subject: Keepsake, azimuth: float = 0.0, elevation: float = 20.0) -> View:
    return draw_scene(Scene(subject, Light(), WHITE, cameras(azimuth, elevation)))


def test_bitmaps_differ_and_fill_their_square() -> None:
    for index, bits in enumerate(BITMAPS):
        assert 0.1 < bits.mean() < 0.75, EMBLEMS[index]
        rows, columns = np.nonzero(bits)
        assert min(np.ptp(rows), np.ptp(columns)) > 16, EMBLEMS[index]
    overlap = [(a & b).sum() / (a | b).sum() for i, a in enumerate(BITMAPS) for b in BITMAPS[:i]]
    assert max(overlap) < 0.75


@pytest.mark.parametrize("solid", [ball((0, 0, 0), 0.7, RED), box((0, 0, 0), (0.6,) * 3, RED)])
def test_an_emblem_is_seen_from_its_side_only(solid: object) -> None:
    rows = pack([solid, emblem("T", (0, 0, 0), 0.35, BLUE, turn_deg=(0, 0, 90))])  # type: ignore[list-item]
    shares = {azimuth: bluish(seen(rows, azimuth)) for azimuth in (0, 90, 180, -90)}
    assert shares[90] > 0.02
    assert max(shares[0], shares[180], shares[-90]) < 0.1 * shares[90]


def test_an_emblem_stands_upright_and_is_not_mirrored() -> None:
    front = seen(pack([box((0, 0, 0), (0.6,) * 3, RED), emblem("K", (0, 0, 0), 0.5, BLUE)]), 0)
    rows, columns = np.nonzero(front[..., 2] > front[..., 0] + 0.3)
    shown = (front[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1, 2] > 0.5) & (
        front[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1, 0] < 0.5
    )
    truth = BITMAPS[EMBLEMS.index("K")]
    at_rows = np.linspace(2, 29, shown.shape[0]).round().astype(int)
    at_columns = np.linspace(4, 28, shown.shape[1]).round().astype(int)
    as_is = (shown == truth[at_rows][:, at_columns]).mean()
    mirrored = (shown == truth[at_rows][:, at_columns[::-1]]).mean()
    assert as_is > 0.85
    assert as_is > mirrored + 0.1


def test_an_emblem_is_paint_and_not_a_solid() -> None:
    solid = ball((0, 0, 0.1), 0.6, RED)
    both = pack([solid, emblem("ring", (0, 0, 0.1), 5.0, BLUE)])
    np.testing.assert_array_equal(extents(both), extents(pack([solid])))
    white = np.ones((2, 3), np.float32)
    alone, worn = (
        draw.draw(rows, cameras(0).c2w[0].numpy(), 0.7, 32, EVEN, white)
        for rows in (pack([solid]), both)
    )
    np.testing.assert_array_equal(alone.depth, worn.depth)
    np.testing.assert_array_equal(alone.part, worn.part)


def test_an_emblem_moves_with_its_solid() -> None:
    rows = pack([ball((0, 0, 0), 0.8, RED), emblem("star", (0, 0, 0), 0.4, BLUE)])
    turned = place(rows, turn_deg=90)
    np.testing.assert_allclose(seen(rows, 0), seen(turned, 90), atol=0.35)
    assert abs(bluish(seen(rows, 0)) - bluish(seen(turned, 90))) < 0.005
    assert bluish(seen(turned, 0)) < 0.2 * bluish(seen(rows, 0))


def test_colors_lie_between_the_ten() -> None:
    rng = np.random.default_rng(0)
    named = np.array(list(COLORS.values()))
    for _ in range(50):
        color = np.array(unnamed_color(rng))
        assert np.linalg.norm(named - color, axis=1).min() > APART


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_subjects_that_fit_and_wear_their_emblem(kind: str) -> None:
    worn = []
    for seed in range(3):
        subject = random_subject(np.random.default_rng([seed, 5]), kind)
        plain = replace(subject, emblem=replace(subject.emblem, color=subject.colors[0]))
        loud = replace(subject, emblem=replace(subject.emblem, color=(1.0, 0.0, 1.0)))
        low, high = extents(subject.thing().rows)
        assert float(np.abs([low, high]).max()) < 1.0
        worn.append(max(
            np.abs(view_of(loud, azimuth, up).picture.rgb
                   - view_of(plain, azimuth, up).picture.rgb).max()
            for azimuth in (-40, 0, 40) for up in (10, 60)
        ))  # fmt: skip
    assert sorted(worn)[1] > 0.2  # a part in front may hide it now and then


def test_a_subject_is_the_same_toy_again_and_another_is_not() -> None:
    one, again, other = (random_subject(np.random.default_rng(s), "mug") for s in (1, 1, 2))
    assert one == again
    np.testing.assert_array_equal(view_of(one).picture.rgb, view_of(again).picture.rgb)
    apart = np.abs(view_of(one).picture.rgb - view_of(other).picture.rgb).mean()
    turned = np.abs(view_of(one).picture.rgb - view_of(one, 3.0).picture.rgb).mean()
    assert apart > 3 * turned


def test_the_same_colors_are_seen_from_all_sides() -> None:
    subject = random_subject(np.random.default_rng(3), "duck")
    around = orbit(6, 48, elevation_deg=20.0)
    means = []
    for index in range(6):
        camera = Cameras(around.c2w[index : index + 1], around.fov_y[:1], 48, 48)
        picture = draw_scene(Scene(subject, EVEN, WHITE, camera)).picture
        means.append(picture.rgb[picture.alpha > 0.99].mean(0))
    assert float(np.std(means, axis=0).max()) < 0.12


def test_a_scene_has_the_subjects_mask_and_kind() -> None:
    rng = np.random.default_rng(4)
    subject = random_subject(rng, "car")
    scene = random_subject_scene(rng, subject)
    view = draw_scene(scene)
    np.testing.assert_allclose(view.mask(0), view.picture.alpha, atol=1e-6)
    assert scene.subject.words(rng) == "a car"


def test_stretching_keeps_what_touches_together() -> None:
    one, two = box((0, 0, 0), (0.2, 0.3, 0.4), RED), box((0, 0, 0.6), (0.1, 0.1, 0.2), RED)
    by = (0.8, 1.2, 1.3)
    low, high = extents(pack([stretched(one, by)])), extents(pack([stretched(two, by)]))
    np.testing.assert_allclose(low[1, 2], high[0, 2], atol=1e-6)
    np.testing.assert_allclose(low[1], np.array((0.2, 0.3, 0.4)) * by, rtol=1e-5)
    lying = box((0, 0, 0), (0.2, 0.3, 0.4), RED, turn_deg=(90, 0, 0))
    np.testing.assert_allclose(extents(pack([stretched(lying, by)]))[1],
                               np.array((0.2, 0.4, 0.3)) * by, rtol=1e-5)  # fmt: skip
