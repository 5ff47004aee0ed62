"""The benchmark of try-on: what is read of truths, what is painted, and results that stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import try_on
from benchmarks.try_on_cases import (
    Case,
    dyes,
    fitting_case,
    measured,
    outfit_case,
    said_of,
    ssim,
    variants,
    wear_of,
)
from benchmarks.try_on_ways import _beside, within
from threed.diffusion.images import save_image
from threed.toybox.world.garments import Garment, Print
from threed.toybox.world.toys import COLORS


@pytest.fixture(scope="module")
def case() -> Case:
    return fitting_case(0)


def test_the_truth_is_read_right_and_another_colour_is_not(case: Case) -> None:
    (garment,) = case.garments
    best = measured(case, case.truth)
    assert {best[name] for name in ("colour", "pattern", "both", *case.others)} == {1.0}
    assert (best["psnr"], best["outside"]) == (60, 0)
    assert best["ssim"] == pytest.approx(1, abs=1e-4)
    color = next(name for name in COLORS if name != garment.color)
    other = measured(case, case.dressed(replace(garment, color=color)))
    assert (other["colour"], other["pattern"], other["both"]) == (0, 1, 0)
    assert other["psnr"] < best["psnr"]
    assert other["ssim"] < best["ssim"]
    gone = measured(case, torch.zeros_like(case.truth))
    assert gone["kept"] < 20
    assert gone["outside"] == 0


def test_what_is_painted_is_read_as_the_eye_sees_drawings(case: Case) -> None:
    dark = fitting_case(0, lambda pictures: pictures / 4)
    found = dark.read(dark.truth / 4)
    assert set(found.values()) == {1.0}
    assert case.read(case.truth / 4)["colour"] < found["colour"]


def test_what_could_be_read_differs_in_one_thing() -> None:
    shirt = Garment("shirt", "red", "plain", sleeve=0.4, mark=Print("star", "white", 0.12))
    assert {what: len(each) for what, each in variants(shirt).items()} == {
        "emblem": 12, "length": 3
    }  # fmt: skip
    assert shirt not in [one for each in variants(shirt).values() for one in each]
    assert [one.hem for one in variants(Garment("skirt", "red", "plain"))["length"]] == [
        -0.45, -0.72
    ]  # fmt: skip
    assert len({(one.color, one.finish) for one in dyes(shirt)}) == len(dyes(shirt)) == 40
    assert variants(Garment("cap", "red", "plain")) == {}


def test_an_outfit_is_read_garment_by_garment() -> None:
    two = outfit_case(1, 2)
    upper, lower = two.garments
    assert said_of(two).count(" and ") == 1
    color = next(name for name in COLORS if name not in (lower.color, upper.color))
    half = two.read(two.dressed(upper, replace(lower, color=color)))
    assert (half["colour"], half["pattern"]) == (0.5, 1)
    assert outfit_case(1, 3).mask.sum() > two.mask.sum() > outfit_case(1, 1).mask.sum()


def test_what_is_told_is_the_person_and_not_the_truth(case: Case) -> None:
    wear = wear_of([case, case])
    assert torch.equal(wear.person[1], case.person)
    assert torch.equal(wear.garment[0], case.flat[0])
    assert not torch.equal(wear.person[0], case.truth)
    made = torch.rand(2, 3, 64, 64)
    assert wear.repainted(made) is made


def test_a_model_that_knows_no_masks_leaves_the_person_outside(case: Case) -> None:
    clean = torch.randn(1, 4, 16, 16)
    base = SimpleNamespace(alphas_cumprod=torch.linspace(0.99, 0.01, 1000), device="cpu",
                           encode_image=lambda pictures: clean)  # fmt: skip
    x, t = torch.randn(1, 4, 16, 16), torch.tensor([400])
    noise = within(base, lambda x, t: 2 * x, [case])(x, t)
    alpha, sigma = base.alphas_cumprod[400].sqrt(), (1 - base.alphas_cumprod[400]).sqrt()
    painted = (noise == 2 * x).all(1)[0]
    covered = torch.from_numpy(case.mask).unflatten(0, (16, 4)).unflatten(2, (16, 4))
    assert torch.equal(painted, covered.any(3).any(1))
    left = ((x - sigma * noise) / alpha - clean)[0, :, ~painted]
    assert float(left.abs().max()) < 1e-4


def test_places_are_compared_where_cells_show_the_garment() -> None:
    truth = torch.full((8, 8, 2), torch.nan)
    truth[:4, :4] = torch.tensor([10.0, 20.0])
    truth[4, 4] = 0.0  # too little of its cell
    seen = torch.zeros(2, 2, 2)
    seen[0, 0] = torch.tensor([13.0, 24.0])
    assert float(_beside(seen, truth, 4)) == 5
    assert bool(_beside(seen, truth[4:].repeat(2, 1, 1), 4).isnan())


def test_likeness_of_structure_is_one_for_the_same_only() -> None:
    one = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert float(ssim(one, one).min()) > 0.999
    assert float(ssim(one, one.flip(2)).mean()) < 0.3


class Cut(Exception):
    """The end of a run, too soon."""


def test_what_was_cut_goes_on_and_is_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(try_on, "load_backbone", lambda name: SimpleNamespace(folder=tmp_path))
    monkeypatch.setattr(try_on, "load_judge", lambda folder: None)
    monkeypatch.setattr(try_on, "AT_ONCE", 2)
    drawn: list[int] = []
    one: Any = SimpleNamespace

    def draw(told: Any, cases: Sequence[Any]) -> Tensor:
        if len(drawn) == 2:
            drawn.append(-1)
            raise Cut
        drawn.extend(case.number for case in cases)
        return torch.zeros(len(cases), 3, 2, 2)

    def run() -> None:
        bench = try_on.Bench(tmp_path, "toybox", None, [])
        bench.run("outfits", "free", try_on.Way(draw), lambda number: one(number=number), 5,
                  lambda case, made: {"psnr": float(case.number)})  # fmt: skip
        bench.run("outfits", "gone", try_on.Way(draw, "none"), lambda number: one(number=number),
                  5, lambda case, made: {})  # fmt: skip

    with pytest.raises(Cut):
        run()
    run()
    assert drawn == [0, 1, -1, 2, 3, 4]
    assert "gone is left out: there is no" in capsys.readouterr().err
    other = tmp_path / "other"
    save_image(torch.zeros(3, 64, 64), other / "pictures" / "0 truth.png")
    for _ in range(2):
        try_on.merge(other / "results.jsonl", [tmp_path])
    assert try_on.write(other) == "\n".join([
        "## outfits", "", "|  | psnr | cases |", "|---|---|---|", "| free | 2.00 dB | 5 |", "",
    ])  # fmt: skip
    assert not (other / "try_on.png").exists(), "no row of it is whole"
    names = ("person", "garment", "words", "idm_vton", "truth")
    for name in names:
        save_image(torch.rand(3, 64, 64), other / "pictures" / f"3 {name}.png")
    seen = try_on.sheet(other / "pictures")
    assert seen is not None
    assert seen.shape == (3, 64, 64 * len(names))
