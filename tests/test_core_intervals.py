"""Intervals against published numbers and the laws that they follow."""

from __future__ import annotations

from random import Random
from statistics import fmean as mean
from statistics import median

import pytest

from threed.core.intervals import bootstrap, wilson


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_the_published_interval(hits: int, count: int, low: float, high: float) -> None:
    assert wilson(hits, count) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson(count - hits, count)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx(wilson(hits, count))


def test_wilson_ends_where_the_share_is_as_likely_as_said() -> None:
    for end in wilson(7, 30, 2.0):  # its definition: |p - end| = z * sqrt(end (1 - end) / n)
        assert abs(7 / 30 - end) == pytest.approx(2 * (end * (1 - end) / 30) ** 0.5)
    assert wilson(0, 0) == (0, 1)
    with pytest.raises(ValueError, match=r"hits must be in 0\.\.3, got 4"):
        wilson(4, 3)


def test_the_bootstrap_of_a_mean_is_as_wide_as_its_law() -> None:
    values = [Random(1).gauss(5, 2) for _ in range(200)]
    low, high = bootstrap([[value] for value in values], mean)
    spread = 1.96 * (sum((v - mean(values)) ** 2 for v in values) / 200 / 200) ** 0.5
    assert (low, high) == pytest.approx((mean(values) - spread, mean(values) + spread), abs=0.06)
    assert bootstrap([[value] for value in values], mean) == (low, high)


def test_what_belongs_together_is_drawn_together() -> None:
    alike = [[float(i % 10)] * 3 for i in range(30)]
    apart = [[value] for group in alike for value in group]
    wide, narrow = bootstrap(alike, mean), bootstrap(apart, mean)
    assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])
    assert bootstrap([[3.0]], median) == (3, 3)
    with pytest.raises(ValueError, match="there must be groups"):
        bootstrap([[1.0], []], mean)
