"""Toybox as training folders: exact, the same for a seed, and continued where it was cut."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from threed.core.errors import InputError
from threed.diffusion.detect import edges
from threed.diffusion.parts.trigger import class_word, with_trigger
from threed.learning.data import read_examples
from threed.systems.reference.shown import placed
from threed.toybox.family.examples import draw_examples, edit_triples, subjects
from threed.toybox.family.prompts import SITTINGS, prompted
from threed.toybox.world.captions import a
from threed.toybox.world.conditions import CONDITIONS
from threed.toybox.world.edits import EDITS, random_edit
from threed.toybox.world.grounds import Ground
from threed.toybox.world.scenes import Scene, staged
from threed.toybox.world.toys import COLORS


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file()}  # fmt: skip


def test_drawing_that_was_cut_gives_the_same_folder(tmp_path: Path) -> None:
    whole = files(draw_examples("edits", tmp_path / "whole", 6, seed=3))
    draw_examples("edits", tmp_path / "parts", 2, seed=3)
    told: list[int] = []
    parts = files(draw_examples("edits", tmp_path / "parts", 6, seed=3, progress=told.append))
    assert parts == whole
    assert told == [6]
    assert len(whole) == 2 * 6 + 1
    fewer = files(draw_examples("edits", tmp_path / "parts", 4, seed=3))
    assert fewer == whole
    assert files(draw_examples("edits", tmp_path / "other", 6, seed=4)) != whole


def test_edits_are_the_worlds(tmp_path: Path) -> None:
    folder = draw_examples("edits", tmp_path, 4, seed=3)
    examples = read_examples(
        folder, 64, pictures=("image", "edited"), texts=("instruction", "kind")
    )
    assert set(examples.texts("kind", range(4))) <= set(EDITS)
    for i in range(4):
        edit = random_edit(np.random.default_rng([3, i, 5]))
        assert examples.texts("instruction", [i]) == [edit.instruction]
        drawn = edit.draw()
        for role, view in (("image", drawn.before), ("edited", drawn.after)):
            expected = torch.from_numpy(view.picture.rgb).permute(2, 0, 1)
            assert float((examples.pictures(role, [i])[0] - expected).abs().max()) < 0.6 / 255


def test_scenes_have_every_map(tmp_path: Path) -> None:
    folder = draw_examples("scenes", tmp_path, 3, seed=1)
    maps = [kind for kind in CONDITIONS if kind != "edges"]
    roles = ("image", "edges", *maps)
    examples = read_examples(folder, 64, pictures=roles, texts=("text",), found={"edges": edges})
    assert len(examples) == 3
    assert all(text.startswith(("a ", "an ", "two ", "the ")) or text for text in
               examples.texts("text", range(3)))  # fmt: skip
    pictures = {role: examples.pictures(role, range(3)) for role in roles}
    assert all(float(p.std()) > 0.02 for p in pictures.values())
    # where a map is not black there is a thing, seen by another map, too
    thing = pictures["depth"].amax(1) > 0
    assert bool((pictures["segmentation"].amax(1) > 0)[thing].float().mean() > 0.9)
    shown = (pictures["image"][0].permute(1, 2, 0) * 255).round().byte().numpy()
    assert np.array_equal(pictures["edges"][0].permute(1, 2, 0).numpy() * 255, edges(shown))
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert rows[0]["image"] == "000/000000-image.png"
    with pytest.raises(InputError, match="toybox draws no 'people'; it draws scenes, edits"):
        draw_examples("people", tmp_path, 1, seed=1)


def test_subjects_are_in_their_boxes_and_alone_in_pictures_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    white = Ground(("white",), "plain", (1, 1, 1), (1, 1, 1), (1, 1, 1))

    def on_white(*told: Any) -> Scene:
        return replace(staged(*told), ground=white)

    monkeypatch.setattr("threed.toybox.family.examples.staged", on_white)
    counts = set()
    for i in range(5):
        row, pictures = subjects(np.random.default_rng([1, i, len("subjects")]))
        there, text = placed(row["subjects"]), row["pointed"]
        counts.add(len(there))
        roles = [f"subject{number}" for number, _ in enumerate(there, 1)]
        assert list(pictures) == ["image", *roles]
        free = torch.ones(64, 64, dtype=torch.bool)
        for number, (kind, (left, top, right, bottom)) in enumerate(there, 1):
            text = text.replace(f"<{number}>", a(kind))
            assert float(pictures[f"subject{number}"].std()) > 0.02
            rows, columns = (slice(round(64 * low), round(64 * high))
                             for low, high in ((top, bottom), (left, right)))  # fmt: skip
            free[rows, columns] = False
            inside = pictures["image"][:, rows, columns]
            for edge in (inside[:, 0], inside[:, -1], inside[:, :, 0], inside[:, :, -1]):
                assert float(edge.min()) < 1  # it is no larger than what is in it
        assert text == row["text"]
        assert float(pictures["image"][:, free].min()) > 1 - 1e-6
        assert len(row["captions"].splitlines()) == 3  # of other things
        assert any(color in row["captions"] for color in COLORS)
    assert counts == {1, 2}


def test_a_prompt_picture_shows_what_the_image_does() -> None:
    said = []
    for i in range(12):
        row, pictures = prompted(np.random.default_rng([1, i, len("shown")]))
        assert list(pictures) == ["image", "shown"]
        assert float((pictures["image"] - pictures["shown"]).abs().max()) > 0.1
        said.append(row["text"])
    assert any(text.startswith("a toy") for text in said)
    assert any(" and " in text or " on " in text for text in said)


def test_portraits_in_a_row_are_of_one_person(tmp_path: Path) -> None:
    folder = draw_examples("persons", tmp_path, SITTINGS + 1, seed=1)
    examples = read_examples(folder, 64, pictures=("image", "mask", "points"),
                             texts=("text", "person"))  # fmt: skip
    names = examples.texts("person", range(len(examples)))
    assert [name == names[0] for name in names] == [True] * SITTINGS + [False]
    shown = examples.pictures("image", range(SITTINGS))
    assert float((shown[0] - shown[1]).abs().mean()) > 0.02  # in other moods, clothes and light
    for text in examples.texts("text", range(len(examples))):
        assert class_word(with_trigger(text, "person")) == "person"
    points, masks = (examples.pictures(role, range(SITTINGS)) for role in ("points", "mask"))
    drawn = points.amax(1) > 0.5
    assert bool((drawn.flatten(1).sum(1) > 20).all())
    assert float(masks[:, 0][drawn].mean()) > 0.9  # they are on the person


def test_triples_say_the_same_change_twice() -> None:
    triples = edit_triples(40, seed=0)
    assert triples == edit_triples(40, seed=0)
    for source, change, target in triples:
        assert source != target
        article, color, kind = source.split(" ", 2)
        assert article == ("an" if color[0] in "aeiou" else "a")
        assert color in COLORS
        new = change.split()[-1]
        if change.startswith("make it"):
            assert target.split(" ", 1)[1] == f"{new} {kind}"
        else:
            assert target.split(" ", 1)[1] == f"{color} {new}"
    assert {change.split()[0] for _, change, _ in triples} == {"make", "turn"}
