"""The nets of toybox that dress persons: the garment is painted better than by words alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.try_on_cases import Case, fitting_case, measured
from benchmarks.try_on_ways import Told, idm, ladi, masked_words, stable, through
from threed.diffusion.catalog import load_backbone

NUMBERS = 0, 1, 2, 3
WAYS: dict[str, Callable[[Told, Sequence[Case]], Tensor]] = {
    "ladi_vton": ladi, "stable_viton": stable, "idm_vton": idm,
}  # fmt: skip


@cache
def base() -> Any:
    return load_backbone("toybox")


@cache
def found(name: str) -> dict[str, float]:
    """What four persons, whom nothing was trained on, look like in garments, on average."""
    told, eye = Told(base(), base().folder / name, Path()), partial(through, base())
    cases = [fitting_case(number, eye) for number in NUMBERS]
    with torch.no_grad():
        made = WAYS.get(name, masked_words)(told, cases)
    each = [measured(*one) for one in zip(cases, made)]
    return {key: sum(one[key] for one in each) / len(each) for key in ("psnr", "colour", "outside")}


@pytest.mark.parametrize("name", WAYS)
def test_a_garment_is_nearer_to_the_truth_than_by_its_words(name: str) -> None:
    ours, words = found(name), found("words")
    assert ours["psnr"] > words["psnr"] + 2
    assert ours["colour"] >= 0.75
    assert ours["outside"] == 0
