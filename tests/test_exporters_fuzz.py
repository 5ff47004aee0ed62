"""Damaged files: a mesh, or one sentence; `python benchmarks/fuzz.py` tries many more."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from exporters import load
from tests import fuzz
from tests.shapes import FORMATS
from threed.core.errors import InputError


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, suffix: str) -> None:
    read = 0
    for seed in range(40):
        path = fuzz.write(fuzz.damaged(suffix[1:], seed), tmp_path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read += len(load(path).faces) > 0
        except InputError as error:
            assert path.name in str(error)  # noqa: PT017 - either outcome is right
    assert 0 < read < 40
