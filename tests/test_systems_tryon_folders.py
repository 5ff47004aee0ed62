"""Folders that try-on learns from: toybox's, VITON-HD's and DressCode's, made small."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from threed.core.errors import InputError
from threed.diffusion.bodies import GREY, NAMES, REGIONS
from threed.learning.data import Examples
from threed.systems.system import Request
from threed.systems.tryon.outfits import ROLES, read_fittings
from threed.systems.tryon.wear import INPUTS, worn
from threed.toybox.family.examples import draw_examples, draw_fitting
from threed.toybox.world.dressed import said

SIZE = (48, 64)
NO_CLIP: Any = SimpleNamespace(folder=Path("nowhere"))
WHOLE = ("image", "garment", "garment_mask", "agnostic", "mask", "pose", "parse", "warped")


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels.astype(np.uint8))
    if mode:
        picture.putpalette(list(range(256)) * 3)
    picture.save(path)


def person(upper: int, lower: int, arm: int, face: int) -> np.ndarray:
    """[64, 48] labels of somebody who stands with one arm out."""
    labels = np.zeros((64, 48))
    labels[4:14, 18:30], labels[14:34, 16:32], labels[34:56, 18:30] = face, upper, lower
    labels[16:20, 32:46] = arm
    return labels


def shown(labels: np.ndarray) -> np.ndarray:
    return np.stack([labels * 9, 200 - labels * 5, labels * 3 + 40], -1)


def viton_hd(folder: Path) -> Path:
    """VITON-HD as published, of two persons at 48×64; the list's garments are the other's."""
    labels = person(5, 9, 14, 13)
    joints = np.zeros((25, 3))
    joints[[2, 3, 4, 5]] = [[256, 256, 1], [480, 288, 1], [560, 288, 1], [300, 256, 1]]  # of 768
    for name in ("00_00", "01_00"):
        save(folder / f"train/image/{name}.png", shown(labels))
        save(folder / f"train/cloth/{name}.png", np.full((64, 48, 3), 255) - shown(labels) // 4)
        save(folder / f"train/image-parse-v3/{name}.png", labels, "P")
        points = folder / f"train/openpose_json/{name}_keypoints.json"
        points.parent.mkdir(parents=True, exist_ok=True)
        points.write_text(json.dumps({"people": [{"pose_keypoints_2d": joints.ravel().tolist()}]}))
    (folder / "train_pairs.txt").write_text("00_00.png 01_00.png\n01_00.png 00_00.png\n")
    return folder


def dress_code(folder: Path) -> Path:
    """DressCode as published, of one person in each of two of its folders."""
    labels = person(4, 6, 15, 11)
    joints = np.zeros((18, 4))
    joints[[2, 3, 4, 5]] = [[128, 120, 1, 1], [280, 144, 1, 1], [320, 144, 1, 1], [150, 120, 1, 1]]
    for name in ("upper_body", "lower_body"):
        place = folder / name
        save(place / "images/7_0.png", shown(labels))
        save(place / "images/7_1.png", np.full((64, 48, 3), 250))
        save(place / "masks/7_1.png", np.where(labels > 0, 255, 0))
        save(place / "label_maps/7_4.png", labels)
        save(place / "dense/7_5.png", labels)
        (place / "keypoints").mkdir()
        (place / "keypoints/7_2.json").write_text(json.dumps({"keypoints": joints.tolist()}))
        for tail in ("train_pairs", "test_pairs_unpaired"):
            (place / f"{tail}.txt").write_text("7_0.png\t7_1.png\n")
    return folder


def region(examples: Examples, role: str, index: int, row: int, column: int) -> str:
    """The region that a parse map shows at a pixel."""
    colour = (examples.pictures(role, [index])[0, :, row, column] * 255).round().int().tolist()
    return next(name for name in NAMES if list(REGIONS[name]) == colour)


def test_toyboxs_folder_has_all_roles_and_they_are_what_was_drawn(tmp_path: Path) -> None:
    folder = draw_examples("tryon", tmp_path, 2, seed=1, processes=1)
    examples = read_fittings(folder, 64, ROLES)
    assert len(examples) == 2
    pictures = {role: examples.pictures(role, [0, 1]) for role in ROLES}
    assert set(pictures["mask"].unique().tolist()) == {0.0, 1.0}
    assert set(examples.texts("category", [0, 1])) <= {"upper", "lower", "dress"}
    rows = [{name: file for name, file in row.items() if name not in ("agnostic", "garment_mask")}
            for row in examples.rows]  # fmt: skip
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = read_fittings(folder, 64, ROLES)
    assert np.array_equal(made.pictures("agnostic", [0, 1]), pictures["agnostic"])
    assert float((made.pictures("garment_mask", [0]) != pictures["garment_mask"][:1]).float().mean()
                 ) < 0.05  # fmt: skip
    cut = read_fittings(folder, SIZE, ("image", "mask"))
    assert np.array_equal(cut.pictures("image", [0]), pictures["image"][:1, ..., 8:56])


@pytest.mark.parametrize("category", ["upper", "lower", "dress"])
def test_toybox_draws_somebody_to_dress(category: str, tmp_path: Path) -> None:
    made = draw_fitting(tmp_path, 3, category)
    assert made.category == category
    assert (tmp_path / "garment.txt").read_text() == said(made.other) + "\n"
    inputs = {item.name: item.read([str(tmp_path / f"{item.name}.png")])
              for item in INPUTS if item.name not in ("category", "garment_text")}  # fmt: skip
    known = worn(Request("a person", inputs=inputs | {"category": (category,)}), NO_CLIP)
    truth = torch.from_numpy(np.array(Image.open(tmp_path / "truth.png"))).permute(2, 0, 1) / 255
    changed = ((truth - known.person[0]).abs() > 0.02).any(0)
    assert float(changed.float().mean()) > 0.01  # another garment is seen
    assert float((changed & (known.mask[0, 0] == 0)).sum() / changed.sum()) < 0.05


def test_viton_hd_is_read_as_published(tmp_path: Path) -> None:
    examples = read_fittings(viton_hd(tmp_path), SIZE, WHOLE)
    assert [Path(row["garment"]).name for row in examples.rows] == ["00_00.png", "01_00.png"]
    assert examples.texts("garment_text", [0]) == ["an upper body garment"]
    assert examples.texts("text", [0]) == ["a person wearing an upper body garment"]
    seen = [region(examples, "parse", 0, row, column)
            for row, column in ((6, 20), (20, 20), (40, 20), (18, 36), (18, 45))]  # fmt: skip
    assert seen == ["face", "upper", "lower", "arms", "hands"]
    mask, agnostic, image = (examples.pictures(role, [0])[0] for role in WHOLE[4:2:-1] + WHOLE[:1])
    assert mask[0, [20, 20, 18], [20, 15, 36]].tolist() == [1, 1, 1]
    assert mask[0, [40, 6, 18], [20, 20, 45]].tolist() == [0, 0, 0]
    assert np.allclose(agnostic[:, 20, 20], GREY)
    assert np.array_equal(agnostic[:, 40, 20], image[:, 40, 20])
    warped = examples.pictures("warped", [0])[0]
    assert np.array_equal(warped[:, 20, 20], image[:, 20, 20])
    assert float(warped[:, 40, 20].min()) == 1
    assert float(examples.pictures("pose", [0])[0, :, 18, 33].max()) > 0.3  # on the forearm
    other = read_fittings(tmp_path, SIZE, ("image",), paired=False)
    assert [Path(row["garment"]).name for row in other.rows] == ["01_00.png", "00_00.png"]
    tags = [{"tag_name": "item", "tag_category": "shirt"},
            {"tag_name": "neckLine", "tag_category": None},
            {"tag_name": "sleeveLength", "tag_category": "long sleeve"}]  # fmt: skip
    told = {"data": [{"file_name": "01_00.png", "tag_info": tags}]}
    (tmp_path / "train/vitonhd_train_tagged.json").write_text(json.dumps(told))
    named = read_fittings(tmp_path, SIZE, ("image",))
    assert named.texts("garment_text", [0, 1]) == ["an upper body garment", "a long sleeve shirt"]


def test_a_published_mask_is_taken_before_one_is_made(tmp_path: Path) -> None:
    folder = viton_hd(tmp_path)
    mask = np.zeros((64, 48))
    mask[10:20, 10:20] = 255
    for name in ("00_00", "01_00"):
        save(folder / f"train/agnostic-mask/{name}_mask.png", mask)
    found = read_fittings(folder, SIZE, ("mask",)).pictures("mask", [0])[0, 0]
    assert np.array_equal(found, mask / 255)


def test_dress_code_is_read_as_published(tmp_path: Path) -> None:
    examples = read_fittings(dress_code(tmp_path), SIZE, (*WHOLE, "dense"))
    assert examples.texts("category", [0, 1]) == ["upper", "lower"]
    upper, lower = examples.pictures("mask", [0, 1])[:, 0]
    assert bool(upper[20, 20])
    assert not bool(upper[45, 20])
    assert bool(lower[45, 20])
    assert not bool(lower[20, 20])
    assert float(examples.pictures("dense", [0])[0, :, 0, 0].max()) == 0
    flat = examples.pictures("garment", [0])[0]  # on 250 of 255 in the file
    assert (float(flat[0, 0, 0]), float(flat[0, 20, 20])) == (1, pytest.approx(250 / 255))
    assert region(examples, "parse", 0, 13, 20) == "neck"  # just above the shoulders
    assert region(examples, "parse", 0, 6, 20) == "face"
    assert len(read_fittings(tmp_path, SIZE, ("image",), "test", paired=False)) == 2


BAD: list[tuple[Callable[[Path], object], tuple[str, ...], str]] = [
    (lambda f: (f / "train_pairs.txt").write_text("00_00.png 01_00.png\n\n00_00.png\n"), ("mask",),
     r"train_pairs.txt, line 3, must name a person's picture and a garment's, got '00_00.png'"),
    (lambda f: (f / "train_pairs.txt").write_text("../x.png 00_00.png\n"), (),
     r"line 1, must name a person's picture"),
    (lambda f: (f / "train_pairs.txt").write_text("00_00.png 00_00.png\n9.png 00_00.png"), (),
     r"line 2, has no picture 'image': there is no train/image/9.png"),
    (lambda f: (f / "train_pairs.txt").write_bytes(b"\xff\xfe\x00"), (), "is damaged, or no text"),
    (lambda f: None, ("dense",),
     r"line 1, has no picture 'dense': there is no train/image-densepose/00_00.png"),
    (lambda f: (f / "train/image-parse-v3/01_00.png").unlink(), ("mask",),
     r"line 2, has no picture 'mask': there is no train/agnostic-mask/01_00_mask.png or "
     r"train/image-parse-v3/01_00.png"),
    (lambda f: (f / "train/vitonhd_train_tagged.json").write_text('{"a": [3]}'), (),
     "tagged.json is damaged: it must hold lists of garments"),
    (lambda f: (f / "train_pairs.txt").unlink(), (), "holds neither metadata.jsonl, nor train_pa"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "roles", "said"), BAD)
def test_damaged_lists_and_missing_files_are_told(
    tmp_path: Path, spoil: Callable[[Path], object], roles: tuple[str, ...], said: str
) -> None:
    folder = viton_hd(tmp_path)
    spoil(folder)
    with pytest.raises(InputError, match=said):
        read_fittings(folder, SIZE, roles)


def test_labels_and_keypoints_that_are_none_are_told(tmp_path: Path) -> None:
    folder = viton_hd(tmp_path)
    examples = read_fittings(folder, SIZE, ("parse", "pose"))
    points = folder / "train/openpose_json/00_00_keypoints.json"
    for wrong in ('{"people": []}', "[" * 9000, '{"people": [{"pose_keypoints_2d": [1, 2]}]}'):
        points.write_text(wrong)
        with pytest.raises(InputError, match=r"00_00_keypoints.json holds no keypoints of a pers"):
            examples.pictures("pose", [0])
    points.unlink()
    save(folder / "train/image-parse-v3/00_00.png", np.zeros((64, 48, 3)))
    with pytest.raises(InputError, match=r"00_00.png is no map of labels, which has one number"):
        examples.pictures("parse", [0])


def test_our_own_folder_must_say_a_category_and_what_is_needed(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.full((64, 48, 3), 9))
    row = {"image": "a.png", "garment": "a.png", "text": "a", "garment_text": "b"}
    for change, told in (
        ({"category": "hat"}, "the category of a.png is 'hat', and must be one of upper, lower"),
        ({"category": "upper"}, "metadata.jsonl: a.png, has no picture 'mask': it is not said"),
        ({}, "line 1, says no category"),
    ):
        (tmp_path / "metadata.jsonl").write_text(json.dumps(row | change))
        with pytest.raises(InputError, match=told):
            read_fittings(tmp_path, SIZE, ("mask",))
