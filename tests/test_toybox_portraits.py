"""Portraits: a face is told from another, and is the same in another pose, mood and clothes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from threed.toybox.world.draw import Array, Light
from threed.toybox.world.faces import EXPRESSIONS, FACEPOINTS, NUMBERS, Face, random_face
from threed.toybox.world.figures import BEARDS, HAIRS, Identity
from threed.toybox.world.garments import WHITE, Garment
from threed.toybox.world.portraits import HATS, Portrait, portrait_scene, random_portrait
from threed.toybox.world.scenes import Scene, View, draw_scene, random_camera

ANN = Identity("light", "short", "brown", "blue", False, "none", 1.0)
FACE = Face(ANN, (0.0,) * len(NUMBERS))


def seen(portrait: Portrait) -> View:
    """A view straight from the front, in one light."""
    camera = random_camera(np.random.default_rng(0), (0, 0), (0, 0), (1, 1))
    return draw_scene(Scene(portrait, Light(), WHITE, camera))


def apart(one: Portrait, two: Portrait) -> Array:
    """[H, W] how far two portraits are apart."""
    gap: Array = np.abs(seen(one).picture.rgb - seen(two).picture.rgb).sum(-1)
    return gap


def test_a_face_is_about_forty_pixels_high() -> None:
    rows, columns = np.nonzero(seen(Portrait(FACE)).mask(0, ("skin", "eyes")) > 0.5)
    middle = rows[np.abs(columns - 32) < 3]
    assert 34 <= middle.max() - middle.min() <= 46


@pytest.mark.parametrize("expression", EXPRESSIONS[1:])
def test_an_expression_moves_the_face_and_nothing_else(expression: str) -> None:
    calm, other = Portrait(FACE), Portrait(FACE, expression)
    rows, columns = np.nonzero(apart(calm, other) > 0.15)
    assert len(rows) >= 6
    assert rows.min() > 8
    assert rows.max() < 44
    assert columns.min() > 12
    assert columns.max() < 52


@pytest.mark.parametrize("name", NUMBERS)
def test_each_number_shows(name: str) -> None:
    index = NUMBERS.index(name)
    low, high = (
        Face(ANN, tuple(value if i == index else 0.3 for i in range(len(NUMBERS))))
        for value in (-1.0, 1.0)
    )
    assert int((apart(Portrait(low), Portrait(high)) > 0.1).sum()) >= 6
    np.testing.assert_array_equal(np.nonzero(low.vector() != high.vector())[0], [24 + index])


@pytest.mark.parametrize("change", [
    *({"hair": hair} for hair in HAIRS if hair != "short"),
    *({"beard": beard} for beard in BEARDS[1:]),
    {"glasses": True}, {"skin": "dark"}, {"hair_color": "red"}, {"eyes": "brown"},
])  # fmt: skip
def test_what_words_say_shows(change: dict[str, object]) -> None:
    other = replace(FACE, identity=replace(ANN, **change))  # type: ignore[arg-type]
    assert int((apart(Portrait(FACE), Portrait(other)) > 0.2).sum()) >= 6


def test_points_lie_where_they_are_seen() -> None:
    view = seen(Portrait(FACE))
    points = dict(zip(FACEPOINTS, view.keypoints[0]))
    assert all(point[2] == 1 for point in points.values())
    eyes = np.argwhere(view.mask(0, ("eyes",)) > 0.3)[:, ::-1] + 0.5
    for side in ("right", "left"):
        spot = points[f"{side} eye"][:2]
        assert np.linalg.norm(eyes - spot, axis=1).min() < 1.5
    assert points["right eye"][0] < points["nose"][0] < points["left eye"][0]  # as we see them
    assert points["right eye"][1] < points["nose"][1] < points["left mouth corner"][1]


def test_a_turned_head_takes_its_points_along_and_leaves_the_shoulders() -> None:
    straight, turned = Portrait(FACE), Portrait(FACE, turn_deg=30)
    gap = apart(straight, turned)
    assert float(gap[56:].max()) == 0
    moved = seen(turned).keypoints[0][:, 0] - seen(straight).keypoints[0][:, 0]
    assert (moved > 4).all()


@pytest.mark.parametrize("hat", HATS[1:])
def test_a_hat_covers_hair_and_no_eyes(hat: str) -> None:
    bare, worn = Portrait(FACE), Portrait(FACE, hat=hat, hat_color="red")
    assert seen(worn).mask(0, ("hat",)).sum() > 60
    points = seen(bare).keypoints[0]
    for x, y, _ in points[:2]:
        assert apart(bare, worn)[int(y) - 1 : int(y) + 3, int(x) - 2 : int(x) + 3].max() < 0.3


def test_the_person_is_the_same_in_another_picture() -> None:
    rng = np.random.default_rng(3)
    face = random_face(rng)
    one, two = random_portrait(rng, face), random_portrait(rng, face)
    assert one.face == two.face
    assert one != two
    assert 0 < seen(one).mask(0, ("skin",)).mean() < 0.5


def test_words_say_only_what_is_there() -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        portrait = random_portrait(rng)
        text = portrait.words(rng)
        assert text.startswith("a portrait of a")
        assert ("glasses" in text) <= portrait.face.identity.glasses
        assert all((word in text) <= (portrait.expression == word) for word in EXPRESSIONS)
        assert all((f" {hat}" in text) <= (portrait.hat == hat) for hat in HATS[1:])
        assert (portrait.upper.kind in text) <= True


def test_a_scene_is_drawn_again_alike() -> None:
    one, two = (
        draw_scene(portrait_scene(rng, random_portrait(rng)))
        for rng in (np.random.default_rng(5), np.random.default_rng(5))
    )
    np.testing.assert_array_equal(one.picture.rgb, two.picture.rgb)
    assert Portrait(FACE, upper=Garment("sweater", "red", "plain")) != Portrait(FACE)
