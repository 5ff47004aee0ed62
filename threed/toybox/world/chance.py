"""Choices that a random generator makes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

Rng = np.random.Generator


def choose(rng: Rng, names: Iterable[str], chances: Sequence[float] | None = None) -> str:
    """Choose one of these names, all alike unless their chances are given."""
    return str(rng.choice(list(names), p=chances))


def choose_other(rng: Rng, names: Iterable[str], than: str) -> str:
    """Choose one of these names that is not `than`."""
    return choose(rng, [name for name in names if name != than])
