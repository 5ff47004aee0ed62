"""The judged table: which prompts, what is counted, and what is compared."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from exporters import save
from tests.shapes import cube
from threed.apps.cli.compare import share_of
from threed.apps.cli.evaluate import (
    VERDICT,
    Evaluate,
    Row,
    contact_sheet,
    evaluate_one,
    intervals,
    part_of,
    planned,
    prompts,
    side_by_side,
    table,
)
from threed.core.errors import InputError
from threed.runs.folder import RunFolder
from threed.settings.presets import load_run
from threed.toybox.judge.looks import Looks, looks, real_looks
from threed.toybox.judge.net import Verdict, fronts
from threed.toybox.world.toys import FINISHES, KINDS


def around(text: str) -> Verdict:
    """A circle of views: F surely the front, f half sure, s a side."""
    front = torch.tensor([{"F": 0.98, "f": 0.45, "s": 0.01}[letter] for letter in text])
    rest = (1 - front) / 3
    return Verdict({"view": torch.stack([front, rest, rest, rest], 1).log()})


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("FFFssssssssssssssssssFFF", 1),
        ("FFFsssssssssFssssssssFFF", 1),  # one view misread does not make a front
        ("FsFssssssssssssssssssFFF", 1),  # nor does it split one
        ("FFFssssssFFFFFFsssssssFF", 2),
        ("ssssssssffffffffssssssss", 0),
        ("FFFFFFFFFFFFFFFFFFFFFFFF", 2),
    ],
)
def test_fronts_are_groups_around_the_circle(text: str, count: int) -> None:
    assert fronts(around(text)) == count


def test_evaluation_asks_for_every_kind_once() -> None:
    chosen = prompts(0)
    assert [kind for _, kind, _, _ in chosen] == list(KINDS)
    assert chosen == prompts(0)
    assert chosen != prompts(1)
    assert {finish for *_, finish in chosen} <= set(FINISHES)


def test_the_table_counts_shares() -> None:
    rows = [
        Row("a red mug", True, True, False, None, 100.0, 25.0, 0.96, 1.2, 1.0, 0.5),
        Row("a blue car", True, False, True, 2, 120.0, 27.0, 0.98, 1.4, 1.1, 0.7),
    ]
    text = table(rows)
    assert "| a blue car | yes | no | yes | 2 | 120 | 27.0 | 0.980 | 1.40 | 1.10 | 0.70 |" in text
    assert "kind 2/2 (100 %), colour 1/2 (50 %), geometry alone 1/2 (50 %), one front 0/1" in text
    assert "110 s, PSNR 26.0 dB, IoU 0.970" in text
    assert "saturation 1.30, contrast 1.05, sharpness 0.60" in text


def row(prompt: str, *, kind: bool) -> Row:
    return Row(prompt, kind, True, True, 1, 100.0, 25.0, 0.96, 1.0, 1.0, 1.0)


def test_runs_of_other_settings_are_not_counted(tmp_path: Path) -> None:
    asked, words = ("a red mug", "mug", "red", "plain"), ("steps=4", "seed=2")
    folder = RunFolder.create(tmp_path / "a", asked[0], load_run("toybox-sds", words)).path
    judged = row("a red mug", kind=True)
    (folder / VERDICT).write_text(json.dumps(asdict(judged)))
    for more in ("device=cpu", "best_of=3"):  # as the best of three seeds a run has one of them
        assert evaluate_one(folder, asked, "toybox-sds", (*words, more)) == judged
    for preset, other in (("toybox-sds", ("steps=4",)), ("toybox-vsd", words)):
        with pytest.raises(InputError, match=r"holds a run with other settings \((seed|stages)"):
            evaluate_one(folder, asked, preset, other)


def test_two_evaluations_are_compared_over_the_prompts_of_both(tmp_path: Path) -> None:
    for prompt, kind in (("a red mug", False), ("a blue car", True)):
        folder = tmp_path / prompt.replace(" ", "-")
        folder.mkdir()
        (folder / "verdict.json").write_text(json.dumps(asdict(row(prompt, kind=kind))))
    here = [row("a red mug", kind=True), row("a pink duck", kind=True)]
    mine, theirs = side_by_side(here, tmp_path).splitlines()
    assert "1 prompts: kind 1/1" in mine
    assert "1 prompts: kind 0/1" in theirs
    with pytest.raises(InputError, match="no prompt was judged there and here"):
        side_by_side(here[1:], tmp_path)


def test_intervals_are_wider_where_fewer_are_judged() -> None:
    rows = [row("a red mug", kind=True), replace(row("a blue car", kind=False), psnr_db=30.0)]
    text = intervals([rows[:1] * 10, rows[1:] * 10])
    assert text.startswith("95 % intervals over 20 assets of 2 kinds: kind 10/20 (50 %, 30–70 %)")
    assert "one front 20/20 (100 %, 84–100 %), median PSNR 27.5 (25.0–30.0)" in text
    assert "kind 1/2 (50 %, 9–91 %)" in intervals([rows[:1], rows[1:]])


def test_several_seeds_are_runs_of_their_own() -> None:
    one, some = (planned(Evaluate(out=Path("o"), seeds=n, seed=4, limit=3)) for n in (1, 2))
    assert [(home, words) for home, words, _ in one] == [(Path("o"), ())] * 3
    assert [(home, words) for home, words, _ in some] == [
        (Path("o/seed-4"), ("seed=4",))] * 3 + [(Path("o/seed-5"), ("seed=5",))] * 3  # fmt: skip
    assert [asked for *_, asked in some[3:]] == prompts(5)[:3]
    assert [asked for *_, asked in one] == [asked for *_, asked in some[:3]]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_a_part_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="K/N"):
        part_of(text)


def test_parts_share_all_the_work() -> None:
    chosen = prompts(0)
    shares = [share_of(chosen, part_of(part)) for part in ("1/2", "2/2")]
    assert sorted([*shares[0], *shares[1]]) == sorted(chosen)
    with pytest.raises(InputError, match="--part 3/3 is empty: there are only 2 prompts"):
        share_of(chosen[:2], (3, 3))


def test_looks_are_those_of_the_pixels_inside() -> None:
    rgb = torch.zeros(1, 3, 16, 16)
    rgb[:, 0, :, 8:] = 1.0  # black and pure red halves
    opacity = torch.ones(1, 1, 16, 16)
    seen = looks(rgb, opacity)
    assert seen.saturation == pytest.approx(0.5)
    assert seen.contrast == pytest.approx(0.1498, abs=1e-3)  # 0.299 / 2, of a sample
    assert seen.sharpness == pytest.approx(2 * 0.299 / 2 / 16)
    left = opacity.clone()
    left[..., 7:] = 0
    assert looks(rgb, left).saturation == 0
    with pytest.raises(ValueError, match="no picture"):
        looks(rgb, torch.zeros(1, 1, 16, 16))


def test_a_real_toy_looks_like_itself_and_white_toys_have_no_colour() -> None:
    red, white = real_looks("mug", "red", "plain"), real_looks("mug", "white", "plain")
    assert red.beside(red) == {"saturation": 1, "contrast": 1, "sharpness": 1}
    assert red.saturation > 0.6 > 0.2 > white.saturation
    dotted = real_looks("mug", "red", "dotted")
    assert dotted.sharpness > 1.5 * red.sharpness
    assert isinstance(dotted, Looks)


def test_a_sheet_shows_two_views_of_each_asset(tmp_path: Path) -> None:
    files = []
    for i, color in enumerate(([1.0, 0, 0], [0, 0, 1.0])):
        files.append(tmp_path / f"{i}.glb")
        save(replace(cube(), colors=torch.tensor(color).expand(8, 3)), files[-1])
    contact_sheet(files, tmp_path / "sheet.png", size=32)
    picture = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    assert picture.shape == (32, 4 * 32, 3)
    red, blue = picture[16, 16], picture[16, 80]
    assert red[0] > 100 > red[2]
    assert blue[2] > 100 > blue[0]
