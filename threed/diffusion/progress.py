"""How far a sampling is: what shares of it, such as "until 0.8", are in steps.

A Score knows x and t alone. A sampler says which levels it takes while it calls one, so that
shares count its own steps, whatever its schedule. Distillation takes no steps: t alone tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_LEVELS: ContextVar[Tensor | None] = ContextVar("levels", default=None)
SLACK = 1e-6  # k / N is not exact


@contextmanager
def counted(timesteps: Tensor) -> Iterator[None]:
    """Within, a sampling takes these timesteps [N], in their order."""
    token = _LEVELS.set(timesteps)
    try:
        yield
    finally:
        _LEVELS.reset(token)


def span(t: Tensor) -> tuple[Tensor, Tensor]:
    """The shares of the sampling at which the step from t begins and ends, [...] as t.

    Step i of N (0 is the first) is i/N..(i+1)/N. Without a sampler both are 1 - t / 1000.
    """
    levels = _LEVELS.get()
    if levels is None:
        done = 1 - t / 1000
        return done, done
    step = (t[..., None] - levels.to(t.device)).abs().argmin(-1)
    return step / len(levels), (step + 1) / len(levels)


def due(t: Tensor, start: Tensor | float, end: Tensor | float) -> Tensor:
    """Whether the step from t lies in start..end of the sampling, [...] as they broadcast.

    Only whole steps do: 0..0.5 are 15 of 30 steps, and 12 of 25.
    """
    begins, ends = span(t)
    return (begins >= start - SLACK) & (ends <= end + SLACK)
