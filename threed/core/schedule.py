"""Numbers that change with the step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic_core import core_schema


@dataclass(frozen=True)
class Schedule:
    """A number that changes with the step: linear between (step, value) points, flat outside.

    In YAML and JSON `1.0`, or `{0: 10, 5000: 1000}`. A type for the fields of pydantic models.
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

    @classmethod
    def read(cls, data: Any) -> Self:
        """Make one of a number, or of numbers by step; ValueError for anything else."""
        if isinstance(data, Schedule):
            return cls(data.points)
        points = data if isinstance(data, Mapping) else {0: data}
        if any(isinstance(x, bool) for pair in points.items() for x in pair):
            raise ValueError("true and false are no numbers")
        try:
            found = sorted((int(str(step)), float(value)) for step, value in points.items())
        except TypeError as error:
            raise ValueError(str(error)) from error
        if any(step < 0 for step, _ in found):
            raise ValueError("steps count from 0")
        return cls(tuple(found))

    def plain(self) -> float | dict[int, float]:
        """The data that `read` turns into this schedule again."""
        points = dict(self.points)
        return points[0] if tuple(points) == (0,) else points

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        """Tell pydantic how to read and write one."""
        write = core_schema.plain_serializer_function_ser_schema(cls.plain)
        return core_schema.no_info_plain_validator_function(cls.read, serialization=write)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: Any, _handler: Any) -> dict[str, Any]:
        """Tell pydantic the JSON schema of one."""
        return json_schema({})


class Counts(Schedule):
    """Whole numbers that change with the step: each holds until the next point.

    In YAML and JSON `4`, or `{0: 8, 5000: 4}`.
    """

    def __post_init__(self) -> None:
        """Refuse fractions, too."""
        super().__post_init__()
        if any(value % 1 for _, value in self.points):
            raise ValueError(f"counts are whole numbers, got {dict(self.points)}")

    def __call__(self, step: int) -> int:
        """The value at a step."""
        found = [value for start, value in self.points if start <= step]
        return int(found[-1] if found else self.points[0][1])

    def plain(self) -> int | dict[int, float]:
        """The data that `read` turns into these counts again."""
        points = {step: int(value) for step, value in self.points}
        return points[0] if tuple(points) == (0,) else dict(points)

    @classmethod
    def __get_pydantic_json_schema__(cls, _source: Any, _handler: Any) -> dict[str, Any]:
        """Tell pydantic the JSON schema of them."""
        return json_schema({}, "integer")


def constant(value: float) -> Schedule:
    """Make a schedule that never changes."""
    return Schedule(((0, float(value)),))


def json_schema(limits: Mapping[str, float], kind: str = "number") -> dict[str, Any]:
    """The JSON schema of a Schedule; `limits` such as {"minimum": 0} hold for all its values."""
    number = {"type": kind, **limits}
    by_step = {"type": "object", "patternProperties": {r"^\d+$": number}}
    return {"anyOf": [number, {**by_step, "additionalProperties": False, "minProperties": 1}]}
