"""From words, as a command line or a file of settings has them, to the request of a system."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from threed.core.errors import InputError
from threed.systems import find_system
from threed.systems.system import INPUTS, Request, System

Value = TypeVar("Value")
SINGLE = tuple(name for name in INPUTS if getattr(Request(""), name) is None)  # inputs of one text


def read_request(
    system: str | None, prompt: str, inputs: Mapping[str, Any], knobs: Sequence[str] | None
) -> tuple[System | None, Request]:
    """The system of that name, and what it is told: a text, or texts, for each input by name.

    InputError for inputs that the system does not take or misses, or that cannot be read. Without
    a system, none may be given.
    """
    readers: dict[str, Callable[[str, str], Any]] = {
        "control": _file, "weigh": _number, "hold": _span, "resize": _number, "move": _shift,
        "appearance": _file, "layout": _file,
    }  # fmt: skip
    given: dict[str, Any] = {}
    for name, value in inputs.items():
        if name in readers:
            given[name] = tuple(_pairs(f"--{name}", value or (), readers[name]))
        elif name in SINGLE:
            given[name] = _only(f"--{name}", value)
        else:
            given[name] = tuple(value or ())
    for name in given.keys() & {"image", "weights"}:
        given[name] = given[name] and Path(given[name])
    given = {name: value for name, value in given.items() if value not in (None, ())}
    if system is None:
        if given or knobs:
            first = f"--{next(iter(given))}" if given else (knobs or [""])[0]
            raise InputError(f"{first} is for a system: say which with --system "
                             "(threed list systems)")  # fmt: skip
        return None, Request(prompt)
    found = find_system(system)
    request = Request(prompt, knobs=found.read_knobs(knobs or ()), **given)
    found.check(request)
    return found, request


def _only(option: str, value: Any) -> Any:
    """The value of an option that is given once: a text, or a list of one."""
    if not isinstance(value, list | tuple):
        return value
    if len(value) > 1:
        raise InputError(f"{option} takes one value, got {', '.join(map(str, value))}")
    return value[0] if value else None


def _pairs(
    option: str, values: Sequence[str], reader: Callable[[str, str], Value]
) -> list[tuple[str, Value]]:
    """WORD:VALUE, each of an option's values."""
    pairs = []
    for value in values:
        word, colon, text = value.partition(":")
        if not word or not colon or not text:
            raise InputError(f"{option} {value}: a word, a colon and a value are needed")
        pairs.append((word, reader(option, text)))
    return pairs


def _file(option: str, text: str) -> Path:
    return Path(text)


def _number(option: str, text: str) -> float:
    (value,) = _numbers(option, text, 1)
    return value


def _shift(option: str, text: str) -> tuple[float, float]:
    dx, dy = _numbers(option, text, 2)
    return dx, dy


def _span(option: str, text: str) -> tuple[float, float]:
    values = _numbers(option, text, 2 if "," in text else 1)
    return (0.0, values[0]) if len(values) == 1 else (values[0], values[1])


def _numbers(option: str, text: str, count: int) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count or not all(map(math.isfinite, values)):
        what = "a number" if count == 1 else f"{count} numbers with commas between them"
        raise InputError(f"{option}: {what} must follow the colon, got {text!r}")
    return values
