"""Pairs, hats, grounds, edits, conditions: their truth agrees with their pictures."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from threed.apps.cli.toybox import TOYBOX
from threed.core.cameras import at
from threed.core.errors import InputError
from threed.toybox.world.conditions import CONDITIONS, condition_map, palette
from threed.toybox.world.edits import EDITS, random_edit
from threed.toybox.world.grounds import ground_of, random_ground
from threed.toybox.world.pairs import (
    ABOVE,
    BESIDE,
    Pair,
    Single,
    in_hat,
    random_pair_scene,
    random_toy_scene,
)
from threed.toybox.world.parts import extents, place
from threed.toybox.world.scenes import CLASSES, Scene, View, draw_scene
from threed.toybox.world.sheets import SHEETS
from threed.toybox.world.toys import KINDS, random_toy

SEEDS = range(6)


def pair_views(size: int = 64) -> list[View]:
    return [draw_scene(random_pair_scene(np.random.default_rng(seed)), size) for seed in SEEDS]


def test_masks_share_out_what_is_covered_and_boxes_hold_them() -> None:
    for view in pair_views():
        assert np.allclose(view.masks.sum(0), view.picture.alpha, atol=1e-5)
        assert np.allclose(view.picture.cover.sum(-1), view.picture.alpha, atol=1e-5)
        assert view.masks.shape[0] == 2
        for mask, (left, top, right, bottom) in zip(view.masks, view.boxes * 64):
            rows, columns = np.nonzero(mask > 0)
            assert (rows.min(), rows.max() + 1) == (round(top), round(bottom))
            assert (columns.min(), columns.max() + 1) == (round(left), round(right))
        shown = view.instance >= 0
        assert (view.picture.alpha[shown] > 0).all()
        assert not view.picture.alpha[~shown].any()


def test_a_pair_fits_the_picture_and_stands_where_it_is_said_to() -> None:
    for view in pair_views():
        assert not view.picture.alpha[[0, -1]].any()
        assert not view.picture.alpha[:, [0, -1]].any()
        (left, top, right, bottom), (left_2, top_2, right_2, bottom_2) = view.boxes
        pair = view.scene.subject
        assert isinstance(pair, Pair)
        if pair.relation == BESIDE:
            assert left + right < left_2 + right_2
        else:
            assert top + bottom < top_2 + bottom_2
        assert (view.boxes[:, 2:] - view.boxes[:, :2] > 0.08).all()


def test_the_parse_map_names_what_is_there() -> None:
    view = draw_scene(random_pair_scene(np.random.default_rng(1)))
    pair = view.scene.subject
    assert isinstance(pair, Pair)
    for toy, index in ((pair.first, 0), (pair.second, 1)):
        inside = view.masks[index] == 1
        assert inside.sum() > 50
        assert (view.parse[inside] == CLASSES.index(toy.kind)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_visible_keypoints_lie_on_their_toy(kind: str) -> None:
    scene = random_toy_scene(np.random.default_rng(3))
    view = draw_scene(replace(scene, subject=Single(kind, "red", "plain", 5)))
    points = view.keypoints[0]
    assert len(points) == len(view.things[0].points) > 0
    visible = points[points[:, 2] > 0]
    assert len(visible) > 0
    column, row = visible[:, :2].astype(int).T
    assert (view.picture.alpha[row, column] > 0).all()


def test_the_door_of_a_house_is_seen_from_the_front_only() -> None:
    house = replace(
        random_toy_scene(np.random.default_rng(3)), subject=Single("house", "red", "plain", 5)
    )
    one = torch.ones(1)
    for azimuth, seen in ((10.0, 1), (170.0, 0)):
        scene = replace(house, camera=at(one * azimuth, one * 10, one * 2.9, one * 40, 64))
        view = draw_scene(scene)
        door = [point.name for point in view.things[0].points].index("part 2")
        assert view.keypoints[0][door, 2] == seen


def test_captions_name_both_toys_and_their_places() -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        pair = random_pair_scene(rng).subject
        assert isinstance(pair, Pair)
        plain = replace(
            pair,
            first=replace(pair.first, kind="robot", color="red"),
            second=replace(pair.second, kind="cube", color="blue"),
        )
        text = plain.words(rng)
        assert "robot" in text
        assert "cube" in text or "box" in text
        if pair.relation == ABOVE:
            assert " on " in text
            assert text.index("robot") < text.index(" on ")
        elif "right of" in text:
            assert text.index("robot") > text.index("right")
        else:
            assert text.index("robot") < max(text.find("cube"), text.find("box"))


def test_a_hat_stands_on_top_and_hides_nothing_else() -> None:
    toy = in_hat(Single("snowman", "blue", "plain", 1), "red")
    low, high = extents(toy.thing().rows)[:, 2]
    assert high - low < 1.76
    assert abs(high + low) < 1e-5
    scene = replace(random_toy_scene(np.random.default_rng(0)), subject=toy)
    with_hat, without = (
        draw_scene(scene),
        draw_scene(replace(scene, subject=replace(toy, hat=None))),
    )
    hat = with_hat.mask(0, ("hat",))
    assert hat.sum() > 20
    assert np.array_equal(with_hat.picture.rgb[hat == 0], without.picture.rgb[hat == 0])
    assert not without.mask(0, ("hat",)).any()
    assert "with a red hat" in toy.words(np.random.default_rng(0))


@pytest.mark.parametrize("kind", EDITS)
def test_an_edit_changes_only_what_it_says(kind: str) -> None:
    for seed in range(5):
        drawn = random_edit(np.random.default_rng(seed), kind).draw()
        changed = (drawn.before.picture.rgb != drawn.after.picture.rgb).any(-1)
        assert changed.sum() > 10
        assert not (changed & ~drawn.region).any()
        assert drawn.region.mean() < 0.98


def test_instructions_name_what_is_new() -> None:
    for seed in range(40):
        edit = random_edit(np.random.default_rng(seed), "recolour")
        subject, words = edit.after.subject, edit.instruction.split()
        toys = [subject.first, subject.second] if isinstance(subject, Pair) else [subject]
        toy = toys[edit.thing or 0]
        assert isinstance(toy, Single)
        assert toy.color in words
        assert ("it" in words) != (toy.kind in words)
        assert len(toys) == 1 or toy.kind in words
        swap = random_edit(np.random.default_rng(seed), "kind")
        assert isinstance(swap.after.subject, Single)
        assert swap.after.subject.kind in swap.instruction.split()
        ground = random_edit(np.random.default_rng(seed), "background")
        assert ground.after.ground.names[0] in ground.instruction.split()
        assert "it" not in edit.instruction.split() or not isinstance(subject, Pair)


def test_a_seed_decides_a_scene_and_an_edit() -> None:
    one, two, other = (random_edit(np.random.default_rng(seed)).draw(32) for seed in (4, 4, 5))
    assert one.edit.instruction == two.edit.instruction
    assert np.array_equal(one.after.picture.rgb, two.after.picture.rgb)
    assert not np.array_equal(one.after.picture.rgb, other.after.picture.rgb)


@pytest.mark.parametrize("kind", CONDITIONS)
def test_conditions_are_pictures_of_the_thing_alone(kind: str) -> None:
    view = draw_scene(random_pair_scene(np.random.default_rng(4)))
    shown = condition_map(kind, view)
    assert shown.shape == (3, 64, 64)
    assert shown.dtype == torch.float32
    assert 0 <= float(shown.min())
    assert 0.5 < float(shown.max()) <= 1
    # an edge may lie on the pixel left of or above the thing, a dot of a keypoint is round
    near = torch.from_numpy(view.picture.alpha > 0).float()
    near = torch.nn.functional.max_pool2d(near[None, None], 5, 1, 2)[0, 0] > 0
    assert not shown[:, ~near].any()


def test_conditions_agree_with_the_truth() -> None:
    view = draw_scene(random_pair_scene(np.random.default_rng(4)))
    depth, picture = condition_map("depth", view)[0].numpy(), view.picture
    order = np.argsort(picture.depth[picture.depth > 0])
    assert (np.diff(depth[picture.depth > 0][order]) <= 1e-6).all()
    normal = condition_map("normal", view).numpy().transpose(1, 2, 0) * 2 - 1
    inside = picture.alpha == 1
    assert np.allclose(np.linalg.norm(normal[inside], axis=-1), 1, atol=1e-4)
    assert (normal[inside][:, 2] > -0.35).all()  # what is seen faces the camera
    parse = condition_map("segmentation", view).numpy().transpose(1, 2, 0)
    for index in np.unique(view.parse[view.parse >= 0]):
        assert np.allclose(parse[view.parse == index], palette(len(CLASSES))[index])
    silhouette = picture.alpha >= 0.5
    edges = condition_map("edges", view)[0].numpy() > 0
    assert edges[:, :-1][silhouette[:, 1:] != silhouette[:, :-1]].all()
    assert edges.mean() < 0.25


def test_an_unknown_condition_is_named() -> None:
    view = draw_scene(random_pair_scene(np.random.default_rng(4)), 16)
    with pytest.raises(InputError, match="no condition 'pose'; it has edges, depth, normal"):
        condition_map("pose", view)


def test_grounds_are_as_they_are_called() -> None:
    rng = np.random.default_rng(0)
    grounds = [random_ground(rng) for _ in range(200)]
    assert {ground.pattern for ground in grounds} == {"plain", "striped", "dotted", "checkered"}
    assert {len(ground.names) for ground in grounds} == {1, 2}
    for ground in grounds[:40]:
        pixels = ground.pixels(24)
        assert pixels.shape == (24, 24, 3)
        assert 0 <= pixels.min()
        assert pixels.max() <= 1
        if ground.pattern != "plain":
            assert len(np.unique(pixels.round(4).reshape(-1, 3), axis=0)) == 2
            assert ground.pattern in ground.words()
        elif len(ground.names) == 2:
            assert np.allclose(pixels[0], ground.top, atol=0.05)
            assert np.allclose(pixels[-1], ground.bottom, atol=0.05)
            assert " to " in ground.words()
    assert ground_of("white", rng).words() == "a white background"
    assert (ground_of("orange", rng).pixels(8)[..., 0] > 0.9).all()


def test_a_scene_says_its_background_now_and_then() -> None:
    scene = random_toy_scene(np.random.default_rng(2))
    scene = replace(scene, ground=ground_of("purple", np.random.default_rng(0), "dotted"))
    said = [scene.caption(np.random.default_rng(seed)) for seed in range(60)]
    share = np.mean(["on a dotted purple background" in text for text in said])
    assert 0.15 < share < 0.55


def test_placing_moves_solids_and_their_finish() -> None:
    toy = random_toy(np.random.default_rng(0), "cube", "red", "striped")
    rows = toy.packed()
    moved = place(rows, 0.5, (0.1, 0.2, 0.3), 90.0)
    assert np.allclose(extents(moved) - (0.1, 0.2, 0.3), 0.5 * extents(rows), atol=1e-6)
    back = place(moved, 2.0, (-0.4, 0.2, -0.6), -90.0)
    assert np.allclose(back, rows, atol=1e-5)


def test_a_striped_toy_keeps_its_stripes_when_it_is_placed() -> None:
    scene = random_toy_scene(np.random.default_rng(0))
    scene = Scene(Single("ball", "red", "striped", 1), scene.light, scene.ground, scene.camera)
    large = draw_scene(scene, 64)
    near = replace(scene.camera, c2w=scene.camera.c2w.clone())
    near.c2w[:, :3, 3] *= 0.5
    small = replace(scene, subject=Single("ball", "red", "striped", 1, scale=0.5), camera=near)
    again = draw_scene(small, 64)
    assert np.abs(large.picture.rgb - again.picture.rgb).mean() < 0.01


@pytest.mark.parametrize(
    ("kind", "rows", "columns"), [("pair", 7, 6), ("figure", 8, 6), ("edit", 3, 7)]
)
def test_sheets_show_scenes_with_their_truth(kind: str, rows: int, columns: int) -> None:
    picture, said = SHEETS[kind](5, 16)
    assert picture.shape == (3, 16 * rows, 16 * columns)
    assert len(said) == columns
    again, _ = SHEETS[kind](5, 16)
    assert torch.equal(picture, again)
    assert not torch.equal(picture, SHEETS[kind](6, 16)[0])
    assert float(picture.min()) >= 0
    assert float(picture.max()) <= 1


def test_the_command_draws_scenes_and_names_what_it_has_not(tmp_path: Path) -> None:
    runner, out = CliRunner(), tmp_path / "sheet.png"
    result = runner.invoke(TOYBOX, ["world", "--scene", "edit", "--size", "16", "--out", str(out)])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) == 8
    with Image.open(out) as sheet:
        assert sheet.size == (7 * 16, 3 * 16)
    for words, message in (
        (["--scene", "cat"], "it has toy, pair, figure, edit, subject, portrait, style"),
        (["mug", "--scene", "pair"], "a kind .'mug'. is for one toy"),
    ):
        result = runner.invoke(TOYBOX, ["world", *words])
        assert isinstance(result.exception, InputError)
        assert re.search(message, str(result.exception))
