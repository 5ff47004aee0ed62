"""Toybox as training folders: exact, the same for a seed, and continued where it was cut."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from threed.core.errors import InputError
from threed.diffusion.detect import edges
from threed.learning.data import read_examples
from threed.toybox.family.examples import draw_examples, edit_triples
from threed.toybox.world.conditions import CONDITIONS
from threed.toybox.world.edits import EDITS, random_edit
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
