"""Lengths as people write them."""

from __future__ import annotations

import pytest

from threed.core.errors import InputError
from threed.core.length import read_length


@pytest.mark.parametrize(
    ("text", "metres"),
    [("0.12m", 0.12), ("12cm", 0.12), (" 120 MM ", 0.12), ("5in", 0.127), ("6 ft", 1.8288),
     ("2", 2.0), (".5", 0.5), ("0.1mm", 1e-4)],
)  # fmt: skip
def test_numbers_with_and_without_units(text: str, metres: float) -> None:
    assert read_length(text) == pytest.approx(metres, rel=1e-12)


@pytest.mark.parametrize("text", ["", "m", "12 inches", "-1m", "1e3", "nan", "1.2.3", "1 2cm"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="a height is a number with one of m, cm, mm, in, ft"):
        read_length(text)


@pytest.mark.parametrize("text", ["0", "0.01mm", "20000m"])
def test_so_is_what_nothing_measures(text: str) -> None:
    with pytest.raises(InputError, match=r"from 0\.1mm to 10000m"):
        read_length(text)
