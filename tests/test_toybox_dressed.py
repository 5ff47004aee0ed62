"""Toy persons for try-on: what they wear, how, and what else they could wear."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from threed.diffusion.bodies import NAMES, is_of
from threed.toybox.world.draw import Light
from threed.toybox.world.dressed import (
    KINDS,
    Dressed,
    Fitting,
    correspondence,
    dense,
    on_white,
    random_dressed,
    random_fitting,
    random_outfit,
    regions,
    said,
    to_paint,
)
from threed.toybox.world.figures import Identity
from threed.toybox.world.garments import (
    CLASS,
    HATS,
    HEMS,
    LARGE,
    SLEEVES,
    TUCKED,
    WHITE,
    Garment,
    Print,
    laid_flat,
)
from threed.toybox.world.poses import ACROSS, KEYPOINTS, POSES, Pose
from threed.toybox.world.scenes import Scene, View, draw_scene, random_camera

ANN = Identity("light", "short", "brown", "blue", False, "none", 1.0)
STILL = Pose("standing", (0.0, 0.0, 0.0, 0.0))
SHIRT = Garment("shirt", "red", "plain", mark=Print("star", "white", LARGE))
TROUSERS = Garment("trousers", "blue", "plain")
PERSON = Dressed(ANN, SHIRT, TROUSERS, STILL)


def seen(person: Dressed, azimuth: float = 0.0) -> View:
    """A view at eye level, in an even light."""
    camera = random_camera(np.random.default_rng(0), (azimuth, azimuth), (0, 0), (1.05, 1.05))
    return draw_scene(Scene(person, Light((0.86, 0.1, 0.5), 0.8), WHITE, camera))


@pytest.mark.parametrize("kind", [*SLEEVES, *HEMS])
def test_each_length_shows_and_the_first_is_what_a_garment_has(kind: str) -> None:
    for lengths, name in ((SLEEVES, "sleeve"), (HEMS, "hem")):
        spans = []
        for value in lengths.get(kind, ()):
            cut = replace(Garment(kind, "red", "plain"), **{name: value})
            low, high = (f(cut.rows(STILL)[:, 2:5], axis=0) for f in (np.min, np.max))
            spans.append(draw_scene(laid_flat(cut)).picture.alpha.sum())
            assert (low <= high).all()
        assert len(set(spans)) == len(spans)
        if spans:
            first = replace(Garment(kind, "red", "plain"), **{name: lengths[kind][0]})
            assert np.array_equal(first.rows(STILL), Garment(kind, "red", "plain").rows(STILL))


@pytest.mark.parametrize("kind", HATS)
def test_a_hat_covers_hair_and_no_eyes(kind: str) -> None:
    bare, worn = seen(PERSON), seen(replace(PERSON, hat=Garment(kind, "green", "plain")))
    on = worn.mask(0, ("hat",))
    assert on.sum() > 25
    assert not np.abs(bare.picture.rgb - worn.picture.rgb)[on == 0].any()
    assert bare.mask(0, ("eyes",)).sum() == pytest.approx(worn.mask(0, ("eyes",)).sum())


def test_an_emblem_lies_on_the_chest_worn_and_flat() -> None:
    plain = replace(SHIRT, mark=None)
    pairs = [(seen(PERSON), seen(PERSON.wearing(plain)))]
    pairs += [(draw_scene(laid_flat(SHIRT)), draw_scene(laid_flat(plain)))]
    for view, other in pairs:
        changed = np.abs(view.picture.rgb - other.picture.rgb).max(-1) > 0.3
        assert 10 < changed.sum() < 0.5 * other.mask(0, ("top",)).sum()
        assert not changed[other.mask(0, ("top",)) == 0].any()
        assert abs(np.nonzero(changed)[1].mean() - 31.5) < 1.5


def test_regions_are_where_they_should_be() -> None:
    found = regions(seen(PERSON))
    for part in ("hair", "face", "upper", "lower", "arms", "hands", "shoes"):
        assert is_of(found, part).any(), part
    heights = [np.nonzero(found == NAMES.index(part))[0].mean()
               for part in ("hair", "face", "upper", "lower", "shoes")]  # fmt: skip
    assert heights == sorted(heights)
    points = dict(zip(KEYPOINTS, seen(PERSON).keypoints[0]))
    column, row = points["right elbow"][:2].astype(int)
    assert NAMES[found[row, column]] in ("arms", "upper")


@pytest.mark.parametrize("pose", ACROSS)
def test_an_arm_lies_before_the_body(pose: str) -> None:
    view = seen(replace(PERSON, pose=replace(STILL, name=pose)))
    found = regions(view)
    assert is_of(found, "hands").any()
    chest = is_of(found, "upper")
    middle = chest[:, 28:36].any(1)
    assert is_of(found, "arms", "hands")[middle, 28:36].any()


def test_a_dense_map_shows_the_body_and_not_what_is_worn() -> None:
    one = dense(seen(PERSON))
    other = dense(seen(PERSON.wearing(Garment("sweater", "green", "dotted"))))
    assert np.array_equal(one, other)
    points = dict(zip(KEYPOINTS, seen(PERSON).keypoints[0]))
    names = ("right elbow", "left elbow", "right knee", "left knee", "nose")
    colours = [one[int(points[n][1]), int(points[n][0])] for n in names]
    for i, colour in enumerate(colours):
        assert colour.max() > 0.2
        assert all(np.abs(colour - rest).max() > 0.05 for rest in colours[:i])


def test_worn_pixels_have_the_colours_of_their_places_in_the_flat_picture() -> None:
    flat, view = draw_scene(laid_flat(SHIRT)), seen(PERSON)
    places = correspondence(view, SHIRT, flat)
    there = np.isfinite(places[..., 0])
    worn = view.mask(0, ("top",))
    assert not there[worn == 0].any()
    assert there[worn == 1].mean() > 0.85
    column, row = places[there].astype(int).T
    apart = np.abs(flat.picture.rgb[row, column] - view.picture.rgb[there]).max(-1)
    assert np.median(apart) < 0.06
    assert (apart < 0.35).mean() > 0.85  # all but the emblem's edge
    # a sleeve goes along with its arm: left of the person is left in the flat picture
    left = np.argwhere(there & (np.arange(64) > 38))
    assert (places[left[:, 0], left[:, 1], 0] > 36).mean() > 0.9


@pytest.mark.parametrize(("category", "most"), [("upper", 0.01), ("lower", 0.04), ("dress", 0.03)])
def test_another_garment_changes_nothing_outside_the_mask(category: str, most: float) -> None:
    for seed in range(4):
        made = random_fitting(np.random.default_rng([seed, len(category)]), category)
        before, after = draw_scene(made.scene), draw_scene(made.changed())
        mask = to_paint(before, made.garment)
        gap = np.abs(before.picture.rgb - after.picture.rgb).max(-1) > 0.1
        assert (gap & ~mask).sum() <= most * gap.sum()  # below: a waist's seam with the shirt
        assert (gap & mask).sum() > 20
        assert mask.mean() < 0.75


def test_a_seed_decides_a_fitting_and_all_sorts_come() -> None:
    angles = [abs(float(random_fitting(np.random.default_rng(i), turned=0.5).scene.camera
                        .azimuth_deg)) for i in range(40)]  # fmt: skip
    assert 10 < sum(angle > 18 for angle in angles) < 30
    assert max(angles) > 130
    one, two = (random_fitting(np.random.default_rng(4)) for _ in range(2))
    assert one.person == two.person
    assert one.other == two.other
    made = [random_fitting(np.random.default_rng([seed, 1])) for seed in range(300)]
    for fitting in made:
        assert isinstance(fitting, Fitting)
        assert fitting.garment.kind in KINDS[fitting.category]
        assert fitting.other.kind in KINDS[fitting.category]
        assert fitting.garment.color != fitting.other.color
        assert (fitting.person.lower is None) is (fitting.category == "dress")
    assert {fitting.person.pose.name for fitting in made} == {*POSES, *ACROSS}
    worn = [garment for fitting in made for garment in fitting.person.worn()]
    assert {garment.kind for garment in worn} == {*CLASS}
    assert {garment.waist for garment in worn if garment.kind == "skirt"} == {TUCKED}
    assert sum(garment.mark is not None for garment in worn) > 40
    words = " ".join(said(garment) for garment in worn)
    assert "a striped red shirt" in words or "a striped" in words
    assert "a blue trousers" not in words


def test_outfits_have_two_or_three_garments() -> None:
    counts = set()
    for seed in range(40):
        scene = random_outfit(np.random.default_rng(seed))
        assert isinstance(scene.subject, Dressed)
        counts.add(len(scene.subject.worn()))
        assert not scene.subject.near
    assert counts == {2, 3}


def test_from_near_the_chest_is_in_the_middle() -> None:
    far, near = (seen(replace(PERSON, near=flag)) for flag in (False, True))
    one, two = (view.mask(0, ("top",)) for view in (far, near))
    assert two.sum() > 1.8 * one.sum()
    shown, where = on_white(near, SHIRT)
    assert np.array_equal(where, two >= 0.5)
    assert (shown[~where] == 1).all()
    neck = dict(zip(KEYPOINTS, near.keypoints[0]))["neck"]
    assert neck[2] == 1
    assert 15 < neck[1] < 32
    assert random_dressed(np.random.default_rng(0), "dress").near is False
