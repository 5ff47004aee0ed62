"""Workers as bare processes of one machine, and what becomes of their jobs when they die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from threed.core.errors import InputError
from threed.queue.folder import Queue
from threed.queue.overview import status
from threed.queue.ticket import name_worker

LOOK = 0.2  # seconds between looks at the workers
TELL = 5.0  # seconds between two lines about the queue
BARREN = 3  # workers in a row that may die without a job
PEACEFUL = (0, 2, 130)  # exit statuses: nothing left, what the user can change, interrupted
CARDS = Path("/proc/driver/nvidia/gpus")
THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")  # in the environment: how many a worker may have


def employ(
    queue: Queue,
    workers: int = 1,
    *,
    stay: bool = False,
    tell: Callable[[str], None] = lambda line: None,
    stop: Callable[[], bool] = lambda: False,
    command: Sequence[str] = (sys.executable, "-m", "threed.queue"),
) -> None:
    """Have workers do the jobs of a queue, each in a process of its own, until all are done.

    One that is killed is replaced at once, and its job tried again, or set aside if it was the
    third time. Ctrl-C, or SIGTERM, ends them in peace: each leaves a checkpoint and gives its job
    back; then KeyboardInterrupt. A second one kills them. tell: hears how far the queue is. stop:
    is asked again and again, and once it says True they are ended in peace. stay: as in `work`.
    command: what starts a worker; the queue's folder, its name, and the process to end with follow.
    InputError where a worker ends with one, or none can begin.
    """
    queue.check_writable()
    crew = Crew(queue, workers, [*command, str(queue.path)], ["--stay"] if stay else [])
    with terminable():
        try:
            crew.run(tell, stop)
        except BaseException:
            crew.end()
            raise
    tell(status(queue).line())


@dataclass
class Teller:
    """Says how far a queue is, from time to time, when there is something new."""

    queue: Queue
    tell: Callable[[str], None]
    told: str = ""
    due: float = field(default_factory=time.monotonic)

    def look(self) -> None:
        """Say it, if it is time to."""
        if time.monotonic() < self.due:
            return
        line = status(self.queue).line()
        if line != self.told:
            self.tell(line)
        self.told, self.due = line, time.monotonic() + TELL


@dataclass
class Crew:
    """The processes of workers."""

    queue: Queue
    workers: int
    command: list[str]
    options: list[str]
    alive: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)  # of workers, which say what is theirs
    barren: int = 0

    def run(self, tell: Callable[[str], None], stop: Callable[[], bool]) -> None:
        """Start the workers and look after them until all have ended in peace, or are told to."""
        for place in range(self.workers):
            self.start(place)
        teller = Teller(self.queue, tell)
        while self.alive:
            time.sleep(LOOK)
            if stop():
                return self.end()
            for name in [name for name, one in self.alive.items() if one.poll() is not None]:
                self.bury(name)
            teller.look()

    def start(self, place: int) -> None:
        """Start a worker."""
        name = name_worker()
        words = [*self.command, name, str(os.getpid()), *self.options]
        # a session of its own: Ctrl-C reaches this process only, which passes it on once;
        # standard output is for what this process answers
        self.alive[name] = subprocess.Popen(
            words, env={**os.environ, **surroundings(place, self.workers)}, start_new_session=True,
            stdout=2,
        )  # fmt: skip
        self.places[name] = place

    def bury(self, name: str) -> None:
        """Do what is to be done after a worker has ended: free its job, and replace it."""
        code = self.alive.pop(name).returncode
        held = [ticket for ticket in self.queue.tickets("running") if ticket.worker == name]
        for ticket in held:
            if code in PEACEFUL:
                self.queue.give_back(ticket)
            else:
                self.queue.fail(ticket, f"its worker ended by {cause(code)}")
        if code == 2:
            raise InputError("a worker has stopped, as it says above; the others are stopped, too")
        if code not in PEACEFUL:
            self.barren = 0 if held else self.barren + 1
            if self.barren >= BARREN:
                raise InputError(f"workers end before they have begun, by {cause(code)}; see above")
            self.start(self.places[name])

    def end(self) -> None:
        """End all workers, in peace; at a second interrupt by force. Free what they held."""
        for process in self.alive.values():
            process.terminate()
        try:
            for process in self.alive.values():
                process.wait()
        except KeyboardInterrupt:
            for process in self.alive.values():
                process.kill()
                process.wait()
        for ticket in self.queue.tickets("running"):
            if ticket.worker in self.alive:
                self.queue.give_back(ticket)


def cause(code: int) -> str:
    """Say how a process ended, by its exit status."""
    if code >= 0:
        return f"exit status {code}"
    name = signal.Signals(-code).name
    return name + (" (is memory short?)" if name == "SIGKILL" else "")


def surroundings(place: int, workers: int) -> Mapping[str, str]:
    """What the environment tells one of several workers: its share of the cores, and its GPU."""
    found = {}
    if workers > 1:
        share = str(max(1, (os.cpu_count() or 1) // workers))
        for name in THREADS:
            found[name] = os.environ.get(name, share)
    cards = [card for card in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if card]
    if not cards and CARDS.is_dir():
        cards = [str(number) for number, _ in enumerate(CARDS.iterdir())]
    if len(cards) > 1:
        found["CUDA_VISIBLE_DEVICES"] = cards[place % len(cards)]
    return found


@contextmanager
def terminable() -> Iterator[None]:
    """Within, SIGTERM, by which schedulers say that time is up, is like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
