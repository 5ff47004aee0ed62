"""Seeds: one number that decides every random number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from threed.core.errors import InputError

if TYPE_CHECKING:
    from torch import Generator

SEEDS = 2**31 - 1  # the largest: torch takes larger ones, and draws the same for many of them


def check_seed(seed: int) -> int:
    """Return the seed; InputError for what is none."""
    if not 0 <= seed <= SEEDS:
        raise InputError(f"seed must be in 0..{SEEDS:,}, got {seed:,}")
    return seed


def chance(seed: int) -> Generator:
    """Make the generator of a seed, on the CPU, so that it means the same on every device."""
    from torch import Generator

    return Generator().manual_seed(check_seed(seed))
