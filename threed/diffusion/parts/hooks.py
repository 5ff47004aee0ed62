"""Torch's hooks for as long as one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from torch.utils.hooks import RemovableHandle

Place = TypeVar("Place")
Work = TypeVar("Work")


def edited(edits: Sequence[Callable[[Place, Work], Work]], place: Place, work: Work) -> Work:
    """What is done at a place with all edits around it, the first outermost."""
    for edit in reversed(edits):
        work = edit(place, work)
    return work


@contextmanager
def hooked(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    """Remove the hooks when the block ends."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
