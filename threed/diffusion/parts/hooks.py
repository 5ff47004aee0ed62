"""Torch's hooks for as long as one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch.utils.hooks import RemovableHandle


@contextmanager
def hooked(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    """Remove the hooks when the block ends."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
