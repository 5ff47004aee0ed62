"""Noise levels as settings say them: fractions of the 1000."""

from __future__ import annotations

from threed.core.errors import InputError
from threed.core.schedule import Schedule


def level(fraction: float) -> int:
    """Return the noise level, 0 to 999, at a fraction of the 1000."""
    return min(999, max(0, round(1000 * fraction)))


def check_falling(t_min: Schedule, t_max: Schedule, levels: int, steps: int) -> None:
    """InputError unless noise can fall from t_max to t_min in so many levels and steps (DreamFlow).

    The bounds must not change with the step, and no two levels may coincide.
    """
    if len(t_min.points) + len(t_max.points) > 2:
        raise InputError("dreamflow has a schedule of its own, from t_max down to t_min: each "
                         "must be one number")  # fmt: skip
    span = level(t_max(0)) - level(t_min(0))
    if levels > min(span, steps):
        raise InputError(f"noise_levels must be at most the {steps} steps and the {span} "
                         f"levels between t_min and t_max, got {levels}")  # fmt: skip
