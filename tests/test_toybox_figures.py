"""Toy persons: identity, garments, poses and their truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from threed.core.cameras import at
from threed.toybox.world.edits import random_edit
from threed.toybox.world.figures import (
    BEARDS,
    HAIRS,
    Figure,
    Identity,
    figure_scene,
    random_figure,
    random_figure_scene,
    random_identity,
)
from threed.toybox.world.garments import CLASS, GARMENTS, Garment, laid_flat
from threed.toybox.world.poses import BONES, KEYPOINTS, POSES, Pose, random_pose
from threed.toybox.world.scenes import BODY, CLASSES, Scene, draw_scene

STILL = Pose("standing", (0.0, 0.0, 0.0, 0.0))
ONE = Identity("tan", "short", "black", "blue", True, "beard", 1.0)


def figure(**changes: object) -> Figure:
    shirt, trousers = Garment("shirt", "red", "plain"), Garment("trousers", "blue", "striped")
    return replace(Figure(ONE, shirt, trousers, STILL), **changes)  # type: ignore[arg-type]


def scene_of(subject: Figure, azimuth: float = 0.0) -> Scene:
    one = torch.ones(1)
    camera = at(one * azimuth, one * 5, one * 2.9, one * 40, 64)
    return replace(figure_scene(np.random.default_rng(0), subject), camera=camera)


def test_the_parse_map_has_each_class_in_its_place() -> None:
    view = draw_scene(scene_of(figure()))
    rows = {
        label: float(np.nonzero(view.parse == CLASSES.index(label))[0].mean())
        for label in ("hair", "glasses", "beard", "top", "trousers", "shoes")
    }
    assert sorted(rows, key=rows.__getitem__) == list(rows)
    assert np.allclose(view.mask(labels=BODY), view.picture.alpha, atol=1e-5)
    assert view.mask(0, ("dress",)).sum() == 0


def test_garment_masks_have_the_garments_colours() -> None:
    view = draw_scene(scene_of(figure()))
    shirt, trousers = (view.picture.rgb[view.mask(0, (name,)) == 1] for name in ("top", "trousers"))
    assert (shirt[:, 0] > shirt[:, 2] + 0.15).all()
    assert (trousers[:, 2] >= trousers[:, 0] - 0.05).all()
    plain = draw_scene(scene_of(figure(lower=Garment("trousers", "blue", "plain"))))
    assert np.array_equal(plain.picture.alpha, view.picture.alpha)


@pytest.mark.parametrize("pose", POSES)
def test_keypoints_lie_on_the_body_in_every_pose(pose: str) -> None:
    view = draw_scene(scene_of(figure(pose=Pose(pose, (5.0, -5.0, 5.0, -5.0)))))
    points = view.keypoints[0]
    assert len(points) == len(KEYPOINTS)
    column, row = points[points[:, 2] > 0, :2].astype(int).T
    assert (view.picture.alpha[row, column] > 0).all()
    by_name = dict(zip(KEYPOINTS, points))
    seen = [name for name in KEYPOINTS if by_name[name][2]]
    assert {"nose", "neck", "left eye", "right eye", "left hip", "right knee"} <= set(seen)
    # its right hand is on the picture's left, whatever it does
    assert by_name["right shoulder"][0] < by_name["left shoulder"][0]
    assert by_name["nose"][1] < by_name["neck"][1] < by_name["left hip"][1]
    assert by_name["left hip"][1] < by_name["left knee"][1] < by_name["left ankle"][1]


def test_the_face_is_hidden_from_behind_and_the_limbs_are_not() -> None:
    points = dict(zip(KEYPOINTS, draw_scene(scene_of(figure(), 180.0)).keypoints[0]))
    assert not points["nose"][2]
    assert not points["left eye"][2]
    assert points["left knee"][2]
    assert points["right elbow"][2]


def test_raised_hands_are_above_the_head() -> None:
    for name, raised in (("cheering", True), ("standing", False)):
        joints = Pose(name, (0.0, 0.0, 0.0, 0.0)).joints()
        assert (joints["left wrist"][2] > joints["neck"][2]) is raised
    one, other = (Pose("waving", (0.0, 0.0, 0.0, 0.0), flag).joints() for flag in (False, True))
    assert one["right wrist"][2] == pytest.approx(other["left wrist"][2])
    assert one["right wrist"][1] == pytest.approx(-other["left wrist"][1])


def test_bones_join_keypoints_that_keep_their_distance() -> None:
    rng = np.random.default_rng(1)
    lengths = []
    for _ in range(20):
        joints = random_pose(rng).joints()
        places = np.array([joints[name] for name in KEYPOINTS])
        lengths.append([np.linalg.norm(places[a] - places[b]) for a, b in BONES])
    arms = [BONES.index(bone) for bone in ((2, 3), (3, 4), (5, 6), (6, 7), (8, 9), (9, 10))]
    assert np.array(lengths)[:, arms].std(0).max() < 1e-6


def test_an_identity_vector_tells_people_apart_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    people = [random_identity(rng) for _ in range(40)]
    vectors = np.stack([person.vector() for person in people])
    assert vectors.shape == (40, 24)
    assert len({tuple(vector) for vector in vectors}) == 40
    assert (vectors[:, :22].sum(1) == 5).all()
    assert np.array_equal(ONE.vector(), figure(pose=Pose("waving", (0, 0, 0, 0))).identity.vector())
    assert not np.array_equal(ONE.vector(), replace(ONE, glasses=False).vector())


@pytest.mark.parametrize("hair", HAIRS)
def test_hair_glasses_and_beards_are_where_the_identity_says(hair: str) -> None:
    for beard in BEARDS:
        one = replace(ONE, hair=hair, beard=beard, glasses=beard == "none")
        view = draw_scene(scene_of(figure(identity=one)), 128)
        assert (view.mask(labels=("hair",)).sum() > 20) == (hair != "bald")
        assert (view.mask(labels=("beard",)).sum() > 5) == (beard != "none")
        assert (view.mask(labels=("glasses",)).sum() > 20) == one.glasses
        assert view.mask(labels=("eyes",)).sum() > 20


@pytest.mark.parametrize("kind", GARMENTS)
def test_a_garment_laid_flat_lies_alone_in_the_middle(kind: str) -> None:
    view = draw_scene(laid_flat(Garment(kind, "green", "dotted")))
    assert {label for _, label in view.groups} == {CLASS[kind]}
    left, top, right, bottom = view.boxes[0]
    assert 0 < left
    assert right < 1
    assert 0.4 < left + right - 0.5 < 0.6
    assert abs(top + bottom - 1) < 0.12
    assert max(right - left, bottom - top) > 0.5
    inside = view.picture.rgb[view.picture.alpha == 1]
    green = (inside[:, 1] > inside[:, 0] + 0.1) & (inside[:, 1] > inside[:, 2] + 0.1)
    assert 0.3 < green.mean() < 0.95  # the rest are dots
    assert np.allclose(view.picture.rgb[view.picture.alpha == 0], 1)


def test_captions_say_what_is_worn_and_seen() -> None:
    for seed in range(80):
        rng = np.random.default_rng(seed)
        scene = random_figure_scene(rng)
        one = scene.subject
        assert isinstance(one, Figure)
        text = one.words(rng)
        assert "glasses" not in text or one.identity.glasses
        assert "beard" not in text or one.identity.beard == "beard"
        assert "hair" not in text or one.identity.hair in text
        assert ("bald" in text) is (one.identity.hair == "bald")
        worn = [kind for kind in GARMENTS if kind in text.replace(",", "").split()]
        kinds = [garment.kind for garment in (one.upper, one.lower) if garment]
        assert set(worn) <= set(kinds)
        for name in POSES:
            assert name not in text or name == one.pose.name
    assert random_figure(np.random.default_rng(3), ONE).identity == ONE


def test_a_seed_decides_a_figure() -> None:
    one, two, other = (
        draw_scene(random_figure_scene(np.random.default_rng(seed)), 32) for seed in (6, 6, 7)
    )
    assert np.array_equal(one.picture.rgb, two.picture.rgb)
    assert not np.array_equal(one.picture.rgb, other.picture.rgb)


def test_instructions_for_people_say_what_changes() -> None:
    for seed in range(40):
        worn = random_edit(np.random.default_rng(seed), "garment")
        after = worn.after.subject
        assert isinstance(after, Figure)
        pieces = [piece for piece in (after.upper, after.lower) if piece]
        assert any(piece.kind in worn.instruction for piece in pieces)
        made = random_edit(np.random.default_rng(seed), "face")
        old, new = made.before.subject, made.after.subject
        assert isinstance(old, Figure)
        assert isinstance(new, Figure)
        assert old.identity != new.identity
        assert ("glasses" in made.instruction) is (old.identity.glasses != new.identity.glasses)
        assert ("hair" in made.instruction) is (old.identity.hair_color != new.identity.hair_color)
