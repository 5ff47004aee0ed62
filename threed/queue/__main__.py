"""One worker's process: python -m threed.queue FOLDER NAME PARENT [--stay].

It ends when the process PARENT does, which looks after it (`threed.queue.crew`).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from types import FrameType
from typing import Any

from threed.core.errors import InputError
from threed.queue.folder import Queue
from threed.queue.worker import work

TOLD = threading.Event()  # to end


def _say(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Say a warning of ours in a line."""
    if category.__module__.startswith("threed"):
        sys.stderr.write(f"warning: {message}\n")


def _end(number: int, frame: FrameType | None) -> None:
    """End in peace, as by Ctrl-C, once: a scheduler tells all processes, and so does the crew."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    TOLD.set()  # a run that ends just then, or that was cancelled, does not say that it heard
    signal.raise_signal(signal.SIGINT)


def main(folder: str, name: str, parent: str, *options: str) -> int:
    """Work; the exit status is one of `threed.queue.crew.PEACEFUL`."""
    warnings.showwarning = _say
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's "&" has it ignored
    signal.signal(signal.SIGTERM, _end)
    try:
        work(
            Queue.open(folder),
            worker=name,
            stay="--stay" in options,
            stop=lambda: os.getppid() != int(parent),
            enough=TOLD.is_set,
        )
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
