"""Numbers that change with the step."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """A number that changes with the step: linear between (step, value) points, flat outside.

    In YAML `1.0`, or `{0: 10, 5000: 1000}`.
    """

    points: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        """Refuse schedules that name no value, or whose steps do not increase."""
        steps = [step for step, _ in self.points]
        if not steps or steps != sorted(set(steps)):
            raise ValueError(f"a schedule needs increasing steps, got {steps}")
        if not all(math.isfinite(value) for _, value in self.points):
            raise ValueError(f"a schedule needs finite values, got {dict(self.points)}")

    def __call__(self, step: int) -> float:
        """The value at a step."""
        (s0, v0), *rest = self.points
        if step <= s0:
            return v0
        for s1, v1 in rest:
            if step <= s1:
                return v0 + (v1 - v0) * (step - s0) / (s1 - s0)
            s0, v0 = s1, v1
        return v0
