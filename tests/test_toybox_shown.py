"""IP-Adapter's weights that come with toybox: pictures are more like the one that is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.alike import Bench
from benchmarks.image_prompts import Shown
from benchmarks.personalization import ASKS, obeyed


@pytest.mark.parametrize("number", [2, 3])
def test_a_shown_subject_is_kept_better_than_by_its_kind_and_words_still_count(
    number: int, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, "toybox")
    one = Shown.of(bench, number)

    def found(system: str | None) -> tuple[float, float]:
        """How like the subject pictures are, and the share that obeys the prompt."""
        knobs, inputs = ({"scale": 0.7}, {"image": (one.image,)}) if system else (None, {})
        drawn = [bench.draw(system, ask.text.format(one.subject.kind), inputs, n=2, knobs=knobs)
                 for ask in ASKS[:2]]  # fmt: skip
        said = [obeyed(bench.judge, ask, some) for ask, some in zip(ASKS, drawn)]
        return float(bench.same.likeness(torch.cat(drawn), one.held).mean()), sum(said) / len(said)

    (likeness, kept), (plain, _) = found("ip_adapter"), found(None)
    assert likeness > plain + 0.1
    assert kept >= 0.75
