"""What the commands say: results on standard output, everything else on standard error."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threed.runs.progress import Progress


def say(text: str) -> None:
    """A result, for people and for pipes."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def complain(text: str, kind: str = "error") -> None:
    """One line about what went otherwise than hoped."""
    sys.stderr.write(f"{kind}: {' '.join(text.split())}\n")
    sys.stderr.flush()


class Display:
    """A progress bar with time left, loss, memory and the newest picture; only on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._stage: int | None = None
        self._task = self._bar.add_task("starting", total=None, numbers="")

    def __enter__(self) -> Display:
        """Begin to draw."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Show how far a run is."""
        if progress.steps == 0:
            self._bar.update(self._task, description=progress.message, numbers="")
            return
        if self._stage != progress.stage:
            self._bar.reset(self._task, total=progress.steps)
            self._stage = progress.stage
        numbers = ""
        if progress.losses:
            numbers = f"loss {progress.losses.get('loss', 0):.3g}  {progress.memory_mb:.0f} MB"
        if progress.preview is not None:
            numbers += f"  {progress.preview}"
        self._bar.update(
            self._task, description=progress.message, completed=progress.step, numbers=numbers
        )
