"""What a system is to those who use it: a row of the table, a request, and a Score to sample."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from threed.core.errors import InputError
from threed.diffusion.backbone import Backbone
from threed.diffusion.images import Size
from threed.diffusion.paint import Ready
from threed.diffusion.score import Score

Knob = bool | int | float | str


@dataclass(frozen=True)
class Request:
    """What a user may tell a system. Each field besides the first five is an input of some system.

    Words are words of the prompt (of the source prompt where a system says so). Lengths are
    fractions of the picture, to the right and down.
    """

    prompt: str
    negative: str = ""
    scale: float = 5.0  # of classifier-free guidance towards the prompt
    steps: int = 30  # of the sampler
    size: Size = 64  # in pixels
    source: str | None = None  # a prompt
    image: Path | None = None
    weights: Path | None = None  # what a trained system learned: a folder or a file
    control: tuple[tuple[str, Path], ...] = ()  # (kind, picture)
    weigh: tuple[tuple[str, float], ...] = ()  # (word, factor)
    hold: tuple[tuple[str, tuple[float, float]], ...] = ()  # (word, (from, until)), of the sampling
    blend: tuple[str, ...] = ()  # words
    move: tuple[tuple[str, tuple[float, float]], ...] = ()  # (word, (dx, dy))
    resize: tuple[tuple[str, float], ...] = ()  # (word, factor)
    keep: tuple[str, ...] = ()  # words
    appearance: tuple[tuple[str, Path], ...] = ()  # (word, picture)
    layout: tuple[tuple[str, Path], ...] = ()  # (word, picture)
    planner: str | None = None  # what divides the picture: see planners.find_planner
    split: str | None = None  # regions in columns and rows: "1;2,1,1"
    region: tuple[str, ...] = ()  # their prompts
    knobs: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of build

    def given(self) -> tuple[str, ...]:
        """The names of the inputs that are there."""
        return tuple(name for name in INPUTS if getattr(self, name) not in (None, ()))

    def options(self) -> dict[str, Any]:
        """What every build takes: how it is guided, and its knobs."""
        return {"scale": self.scale, "negative": self.negative, **self.knobs}


ALWAYS = ("prompt", "negative", "scale", "steps", "size", "knobs")
INPUTS = tuple(f.name for f in fields(Request) if f.name not in ALWAYS)


@dataclass(frozen=True)
class Input:
    """One thing that a system is told besides the prompt: a field of Request."""

    name: str
    about: str
    required: bool = False


@dataclass(frozen=True)
class System:
    """One published system. Its file holds `build`, and the training of its own weights."""

    name: str  # as in `threed image --system NAME`
    paper: str  # its title
    arxiv: str  # "2208.01626"
    claim: str  # what it does, in one line
    inputs: tuple[Input, ...]
    trains: str  # what has to be trained: "nothing", or which nets
    seams: tuple[str, ...]  # where it touches a diffusion step; docs/architecture.md
    build: Callable[..., Score]  # (backbone, inputs..., *, knobs...) -> Score
    prepare: Callable[[Backbone, Request], Ready]  # builds it from what a user says

    def knobs(self) -> dict[str, Knob]:
        """The keyword arguments of build that are plain numbers or words, with their defaults.

        Those that every request has are not among them: they have options of their own.
        """
        parameters = inspect.signature(self.build).parameters.values()
        return {
            p.name: p.default
            for p in parameters
            if p.kind is p.KEYWORD_ONLY
            and p.name not in ALWAYS
            and isinstance(p.default, bool | int | float | str)
        }

    def check(self, request: Request) -> None:
        """InputError if an input is missing, or one is given that the system does not take."""
        known, given = {i.name: i for i in self.inputs}, request.given()
        takes = ", ".join(f"--{name}" for name in known) or "none"
        for name in given:
            if name not in known:
                raise InputError(f"system {self.name!r} takes no --{name}; its inputs: {takes}")
        for item in self.inputs:
            if item.required and item.name not in given:
                raise InputError(f"system {self.name!r} needs --{item.name}: {item.about}")

    def read_knobs(self, words: Sequence[str]) -> dict[str, Knob]:
        """NAME=VALUE of the command line as keyword arguments of build. InputError if not one."""
        known = self.knobs()
        values = {}
        for word in words:
            name, equals, text = word.partition("=")
            if not equals or name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]!r}?" if near else "."
                lines = ", ".join(f"{k}={v}" for k, v in known.items()) or "none"
                raise InputError(
                    f"{word}: no such knob of system {self.name!r}{hint} There are, with their "
                    f"defaults: {lines}"
                )
            values[name] = parsed(name, text, known[name])
        return values


def parsed(name: str, text: str, default: Knob) -> Knob:
    """The text as a value of the default's type."""
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise InputError(f"{name} must be true or false, got {text!r}")
        return text.lower() == "true"
    if isinstance(default, str):
        return text
    try:
        value = type(default)(text)
    except ValueError:
        kind = "whole number" if isinstance(default, int) else "number"
        raise InputError(f"{name} must be a {kind}, got {text!r}") from None
    if value != value or abs(value) == float("inf"):
        raise InputError(f"{name} must be a finite number, got {text!r}")
    return value


def describe(system: System) -> dict[str, Any]:
    """A line of `threed list systems`."""
    inputs = [f"--{i.name}{' (needed)' if i.required else ''}" for i in system.inputs]
    return {
        "system": system.name,
        "claim": system.claim,
        "inputs": inputs,
        "knobs": [f"{name}={value}" for name, value in system.knobs().items()],
        "trains": system.trains,
        "touches": list(system.seams),
        "paper": f"{system.paper} (arXiv:{system.arxiv})",
    }
