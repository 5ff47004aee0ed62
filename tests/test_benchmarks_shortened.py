"""benchmarks/shortened.py: a shorter run is the same run, squeezed."""

from __future__ import annotations

import pytest
import yaml

from benchmarks.shortened import right, shortened, total
from threed.apps.cli.evaluate import Row
from threed.settings.presets import load_run, parse_run

PRESETS = ("toybox-mvdream", "toybox-magic3d")


@pytest.mark.parametrize("preset", PRESETS)
def test_of_as_many_steps_it_is_the_run_itself(preset: str) -> None:
    run = load_run(preset)
    assert parse_run(yaml.safe_dump(shortened(run, total(run))), "") == run


@pytest.mark.parametrize("preset", PRESETS)
def test_of_half_the_steps_it_reaches_the_same_ends_in_half_the_time(preset: str) -> None:
    run = load_run(preset)
    half = parse_run(yaml.safe_dump(shortened(run, total(run) // 2)), "")
    assert total(half) == pytest.approx(total(run) / 2, abs=len(run.stages))
    for short, long in zip(half.stages, run.stages):
        assert short.t_max(short.steps) == pytest.approx(long.t_max(long.steps))
        assert short.t_max(short.steps // 2) == pytest.approx(long.t_max(long.steps // 2), abs=0.01)
        assert short.resolution(short.steps) == long.resolution(long.steps)
    assert half.field.level_every == pytest.approx(run.field.level_every / 2, abs=0.5)


def test_a_kind_without_a_front_is_not_asked_for_one() -> None:
    seen = Row("a red mug", True, True, False, None, 1, 30, 0.9, 1, 1, 1)
    assert right([seen]) == pytest.approx(2 / 3)
    assert right([seen, Row("a red car", True, True, True, 2, 1, 30, 0.9, 1, 1, 1)]) == 5 / 7
