"""Toybox's face encoder: where faces are said to be, and what it is taught."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from threed.core.errors import InputError
from threed.diffusion.faces import face_in
from threed.diffusion.images import save_image
from threed.diffusion.parts.face_net import (
    CELLS,
    CROP,
    FOLDER,
    NUMBERS,
    SIZE,
    FaceNet,
    SmallFaces,
    boxes_of,
    centers,
    crops,
)
from threed.systems.reference.faces import examples_faces, finder
from threed.toybox.family.faces import Faces, composed, faces_task, finding, nudged
from threed.toybox.judge.alike import VIEWS
from threed.toybox.world.faces import random_face
from threed.toybox.world.portraits import Portrait, portrait_scene
from threed.toybox.world.scenes import draw_scene

FACE = torch.tensor([[24.0, 30], [40, 30], [32, 38], [27, 44], [37, 44]])
BOX = [14.5, 12.08, 49.5, 54.08]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("base") / FOLDER
    torch.manual_seed(0)
    FaceNet(8, NUMBERS).save_pretrained(place)
    return place


def encoder(folder: Path, faces: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> SmallFaces:
    """One that finds given faces [5, 2], by their points in SIZE pixels."""
    scores, points = torch.full((CELLS, CELLS), -5.0), torch.zeros(CELLS, CELLS, 5, 2)
    for face in faces:
        box = boxes_of(face)
        x, y = ((box[:2] + box[2:]) / 2 / (SIZE / CELLS)).clamp(0, CELLS - 1).long().tolist()
        scores[y, x], points[y, x] = 5.0, face
    made = SmallFaces(folder)
    monkeypatch.setattr(made.net, "find", lambda images: (scores[None], points[None]))
    monkeypatch.setattr(made.net, "know", lambda images, boxes: (
        torch.stack([min(faces, key=lambda face: float((boxes_of(face) - box).abs().sum()))
                     for box in boxes]), torch.full((len(boxes), NUMBERS), 2.0)))  # fmt: skip
    return made


def test_a_box_is_around_the_head() -> None:
    assert boxes_of(FACE).tolist() == pytest.approx(BOX)
    rng = np.random.default_rng(0)
    for _ in range(3):
        view = draw_scene(portrait_scene(rng, Portrait(random_face(rng))))
        points = view.keypoints[0][:, :2]
        left, top, right, bottom = boxes_of(torch.from_numpy(points)).tolist()
        rows, columns = np.nonzero(view.mask(0, ("skin", "eyes")) > 0.5)
        across = columns[rows < points[:, 1].max() + 2]  # over the neck
        assert abs(across.min() + across.max() - left - right) < 10
        assert 0.6 < (across.max() - across.min()) / (right - left) < 1.4
        assert top < points[:, 1].min() - 8
        assert points[:, 1].max() + 4 < bottom < 56


def test_a_crop_holds_what_is_in_its_square() -> None:
    images = torch.zeros(1, 3, SIZE, SIZE)
    images[..., 33, 32] = 1
    seen = crops(images, torch.tensor([[22.0, 24, 42, 44]]))  # 26 pixels around (32, 34)
    row, column = divmod(int(seen[0, 0].argmax()), CROP)
    assert abs((column + 0.5) / CROP * 26 + 19 - 32.5) < 0.6
    assert abs((row + 0.5) / CROP * 26 + 21 - 33.5) < 0.6


def test_places_are_those_of_the_picture(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = encoder(folder, [FACE], monkeypatch)
    for size, scale, corner in (((64, 64), 1, (0, 0)), ((256, 256), 4, (0, 0)),
                                ((64, 128), 2, (0, 16)), ((128, 64), 2, (16, 0))):  # fmt: skip
        (face,) = found.faces(np.zeros((*size, 3), np.uint8))
        assert face.size == (size[1], size[0])
        np.testing.assert_allclose(face.points, scale * (FACE.numpy() - np.array(corner)))
        np.testing.assert_allclose(
            face.box, scale * (np.array(BOX) - np.array([*corner, *corner])), rtol=1e-5
        )
        assert face.embedding.shape == (NUMBERS,)


@pytest.mark.parametrize(
    ("faces", "message"),
    [
        ([], "a.png shows no face: one, seen from the front, is needed"),
        ([FACE * 0.5, FACE * 0.5 + torch.tensor([32.0, 16])], "a.png shows 2 faces: cut it to the"),
        ([FACE - torch.tensor([20.0, 0])], "a.png: the face is cut by the picture's border"),
        ([FACE, FACE + 8], None),  # twice the same
    ],
)
def test_pictures_of_no_person_or_of_several(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faces: list[Tensor],
    message: str | None,
) -> None:  # fmt: skip
    found = encoder(folder, faces, monkeypatch)
    save_image(torch.rand(3, 64, 64), tmp_path / "a.png")
    if message is None:
        assert face_in(tmp_path / "a.png", found).size == (64, 64)
    else:
        with pytest.raises(InputError, match=message):
            face_in(tmp_path / "a.png", found)


def test_it_is_the_backbones_own_where_no_other_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base: Any = type("Base", (), {"folder": folder.parent})()
    assert isinstance(finder(base, None), SmallFaces)
    base.folder = tmp_path
    with pytest.raises(InputError, match=r"need --face, a .npy file .* or --recogniser"):
        finder(base, None)
    (folder.parent / "other").mkdir()
    (folder.parent / "other" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"model\.safetensors"):
        SmallFaces(folder.parent / "other")


def test_examples_without_one_face_are_left_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from threed.learning.data import Examples, ExamplesWarning

    rows = [{"image": f"{i}.png", "text": ""} for i in range(3)]
    for row in rows:
        save_image(torch.rand(3, 64, 64), tmp_path / row["image"])
    np.save(tmp_path / "said.npy", np.arange(1.0, NUMBERS + 1))
    rows[2]["face"] = "said.npy"
    base: Any = type("Base", (), {"folder": folder.parent})()
    made, seen = encoder(folder, [FACE], monkeypatch), []

    def faces(picture: Any) -> Any:
        seen.append(picture)
        return SmallFaces.faces(made, picture) if len(seen) > 1 else []

    monkeypatch.setattr("threed.systems.reference.faces.finder", lambda *_: made)
    monkeypatch.setattr(made, "faces", faces)
    with pytest.warns(ExamplesWarning, match="1 of 3 pictures do not show one face"):
        examples, numbers = examples_faces(base, Examples(tmp_path, rows, 64), None)
    assert [row["image"] for row in examples.rows] == ["1.png", "2.png"]
    assert numbers[0].unique().tolist() == [2.0]
    assert numbers[1].tolist() == list(range(1, NUMBERS + 1))


def test_points_move_with_the_faces_that_are_put_together() -> None:
    n = 64
    portraits = torch.zeros(n, 3, SIZE, SIZE)
    portraits[:, :, 37:39, 31:33] = 1  # the nose
    others = torch.full((n, 3, SIZE, SIZE), 0.5)
    images, told = composed(portraits, FACE.expand(n, -1, -1), others,
                            torch.Generator().manual_seed(0))  # fmt: skip
    counts = told.isfinite().all(-1).all(-1).sum(1)
    assert counts.unique().tolist() == [0, 1, 2]
    for image, faces, count in zip(images, told, counts.tolist()):
        assert bool((image == 0.5).all()) == (count == 0)
        for x, y in faces[:count, 2].tolist():
            if 2 < x < SIZE - 2 and 2 < y < SIZE - 2 and abs(x - SIZE / 2) > 3:
                near = image[0, int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3]
                assert float(near.max()) > 0.02
    boxes = boxes_of(told[counts > 0, 0])
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert bool(((middles > 0) & (middles < SIZE)).all())


def test_what_finds_is_taught_where_faces_are() -> None:
    told = torch.full((2, 2, 5, 2), torch.nan)
    told[0, 0] = FACE
    middle = torch.tensor([math.fsum(BOX[::2]) / 2, math.fsum(BOX[1::2]) / 2])
    there = (centers() - middle).norm(dim=-1) < 5.7
    scores = torch.where(there, 20.0, -20.0).repeat(2, 1, 1)
    scores[1] = -20.0
    points = FACE.expand(2, CELLS, CELLS, 5, 2).clone()
    assert float(finding(scores, points, told)) < 1e-6
    assert float(finding(scores, points + 4, told)) == pytest.approx(4 * 4 / 16, rel=1e-4)
    assert float(finding(-scores, points, told)) > 100
    finding(scores, points.requires_grad_(), told).backward()
    assert points.grad is not None
    assert bool(points.grad.isfinite().all())
    assert float((nudged(boxes_of(FACE[None]), torch.Generator().manual_seed(0)) -
                  torch.tensor(BOX)).abs().max()) < 10  # fmt: skip


def test_a_step_teaches_all_of_it() -> None:
    rng = np.random.default_rng(0)
    count = 8  # two families
    faces = Faces(rng.integers(0, 255, (count, VIEWS + 1, SIZE, SIZE, 3), np.uint8),
                  np.tile(FACE.numpy(), (count, VIEWS, 1, 1)),
                  rng.normal(size=(count, 40)).astype(np.float32))  # fmt: skip
    task = faces_task(faces)
    chance = torch.Generator().manual_seed(0)
    assert task.batch is not None
    loss = task.loss(task.net, task.batch(8, chance), chance)
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in task.net.parameters())
