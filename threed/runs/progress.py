"""How far a run is, for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """How far a run is, for whoever shows it."""

    message: str  # what is being done, such as "optimising" or "baking the texture"
    stage: int = 0
    step: int = 0  # done in this stage
    steps: int = 0  # of this stage; 0 outside optimisations
    losses: Mapping[str, float] = field(default_factory=dict)
    memory_mb: float = 0.0  # of the process, or of the CUDA device
    preview: Path | None = None  # the newest picture


Listener = Callable[[Progress], None]
"""Is told how far a run is, again and again."""


def sayer(listener: Listener | None) -> Callable[[str], None]:
    """Return what tells a listener a message alone; without one it tells nobody."""

    def say(message: str) -> None:
        if listener is not None:
            listener(Progress(message))

    return say
