"""Drawing on all cores: a function over many tasks, in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(
    work: Callable[[Item], Result], tasks: Sequence[Item], processes: int | None = None
) -> Iterator[Result]:
    """Yield work(task) of every task, in their order, as they become ready.

    processes: as many as there are cores if not given. The first task is done here, which also
    leaves the compiled kernels on disk for the others. work and its tasks must pickle.
    """
    count = min(processes or os.cpu_count() or 1, len(tasks) - 1)
    yield from map(work, tasks[:1])
    if count < 2:
        yield from map(work, tasks[1:])
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    with ProcessPoolExecutor(count, mp_context=context, initializer=_alone) as pool:
        yield from pool.map(work, tasks[1:])


def every(seconds: float) -> Callable[[], bool]:
    """Make a function that is true once this much time has passed since it last was."""
    last = time.monotonic()

    def due() -> bool:
        nonlocal last
        if time.monotonic() - last < seconds:
            return False
        last = time.monotonic()
        return True

    return due


def _alone() -> None:
    """Let a process have one thread: the processes together fill the cores."""
    import torch

    torch.set_num_threads(1)
