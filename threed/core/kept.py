"""One large thing that stays in memory between the jobs of a process, so that it is made once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass
class _Kept:
    """What was made last, while it is held."""

    key: Hashable = None
    thing: Any = None
    state: Hashable = None  # as it was made


_NOW: ContextVar[_Kept | None] = ContextVar("kept", default=None)


@contextmanager
def keeping() -> Iterator[None]:
    """Within, what `kept` has made last is held for the next who asks for the same."""
    token = _NOW.set(_Kept())
    try:
        yield
    finally:
        _NOW.reset(token)


def kept(key: Hashable, make: Callable[[], T], state: Callable[[T], Hashable]) -> T:
    """What is held, if it is of this key and in the state in which it was made; else it is made.

    Outside of `keeping` it is made each time.
    """
    now = _NOW.get()
    if now is None:
        return make()
    if now.thing is None or (now.key, now.state) != (key, state(now.thing)):
        now.thing = None  # first, since there may be no room for two
        now.thing = make()
        now.key, now.state = key, state(now.thing)
    thing: T = now.thing
    return thing


def let_go(needed: Collection[object]) -> None:
    """Hold what was made no longer, unless it is one of those."""
    now = _NOW.get()
    if now is not None and all(now.thing is not one for one in needed):
        now.thing = None
