"""A worker: it takes jobs of a queue, one after the other, until there are none.

The same loop runs as bare processes (`threed.queue.crew`), under a cluster's scheduler, or inside
another program.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import signal
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from threed.core.errors import InputError
from threed.core.kept import keeping
from threed.queue.board import Board
from threed.queue.folder import Claim, Queue, held_by
from threed.queue.ticket import Attempt, Ticket, name_worker
from threed.runs.do import Result, do
from threed.runs.folder import NEEDED, RunFolder
from threed.runs.job import Edit3d, Generate, Job, Resume, Texture, Train
from threed.runs.progress import Listener, Progress
from threed.settings.base import replace

BEATS = 8  # renewals within a lease, at least
TELL = 2.0  # seconds between them at most, so that it is soon seen how far a job is
PAUSE = 1.0  # seconds between looks for work where there is none
SILENT = "its worker gave no sign of life: killed, out of memory, or its machine went down"
Doer = Callable[[Job, Path, Listener], Result]


class LostError(Exception):
    """The job was cancelled, or taken for that of a dead worker."""


@dataclass
class Watch:
    """Finds leases that nobody renews any more.

    A lease has run out if its time has not changed while this process's own steady clock went on
    for as long as it holds. No two clocks are compared, so one that is wrong or jumps does no harm.
    """

    queue: Queue
    _seen: dict[Ticket, tuple[int, float]] = field(default_factory=dict)
    _due: float = 0.0

    def expired(self) -> list[Ticket]:
        """The running jobs whose leases have run out, looked for as often as leases are renewed."""
        now, seen = time.monotonic(), dict[Ticket, tuple[int, float]]()
        if now < self._due:
            return []
        self._due = now + self.queue.lease / BEATS
        for ticket in self.queue.tickets("running"):
            with suppress(FileNotFoundError):
                renewed = read_time(self.queue.file("running", ticket))
                before = self._seen.get(ticket)
                seen[ticket] = before if before and before[0] == renewed else (renewed, now)
        self._seen = seen
        return [ticket for ticket, (_, since) in seen.items() if now - since >= self.queue.lease]


def read_time(path: Path) -> int:
    """When a file changed, in nanoseconds; opened, since a network file system then asks anew."""
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_mtime_ns


def work(
    queue: Queue,
    *,
    worker: str | None = None,
    stop: Callable[[], bool] = lambda: False,
    enough: Callable[[], bool] = lambda: False,
    stay: bool = False,
    do: Doer = do,
) -> int:
    """Do jobs until none is waiting or running anywhere; return how many were done here.

    worker: a name that no other worker has. stop: is asked again and again; once it says True the
    job at hand is given back, with a checkpoint if it makes any. enough: is asked between jobs, and
    once it says True no other is begun. stay: wait for more jobs in the end. do: does a job, as
    `threed.runs.do.do`. InputError, with the job given back, where the disk is full or the queue
    cannot be written; after KeyboardInterrupt the job is given back, too.
    """
    queue.check_writable()
    worker = worker or name_worker()
    watch, board, waiting, done, empty = Watch(queue), Board(queue), deque[Ticket](), 0, 0
    with held_by(queue, worker), keeping():
        while empty < 2 and not stop() and not enough():
            for ticket in watch.expired():
                queue.fail(ticket, SILENT)
            waiting = waiting or deque(queue.tickets("waiting"))
            claim = queue.claim(worker, waiting)
            if claim is not None:
                empty = 0
                done += attempt(queue, claim, do, stop)
                board.refresh()
            elif stay or queue.tickets("running"):
                empty = 0
                time.sleep(min(PAUSE, queue.lease / BEATS))
            else:  # a job may have been given back between two looks
                empty += 1
    board.refresh(now=True)
    return done


def attempt(queue: Queue, claim: Claim, do: Doer, stop: Callable[[], bool]) -> bool:
    """Do a job that is claimed: publish its result, or say why there is none. True if published."""
    queue.prepare(claim)
    keeper = Keeper(queue, claim, stop)
    try:
        with keeper.renewing(), warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("default")
            result = carry_on(claim.job, claim.folder, do, keeper.listen)
    except Exception as error:
        if not claim.renew():  # cancelled, or lost: others may have gone on with it
            if not goes_on(claim.job, claim.folder):
                queue.throw_away(claim.folder)
            return False
        if is_full(error, queue.path):
            raise InputError(f"{queue.path}: the disk is full ({error}); the job was given back. "
                             "Free some space, then start the work again") from error  # fmt: skip
        queue.record(claim.ticket, keeper.state())
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error))
        queue.fail(claim.ticket, reason, trace, final=isinstance(error, InputError))
        return False
    notes = [str(note.message) for note in noted if note.category.__module__.startswith("threed")]
    main = os.path.relpath(result.main, claim.folder)
    last = replace(keeper.state(), outcome="done", notes=tuple(dict.fromkeys(notes)), main=main)
    return queue.publish(claim, last)


def goes_on(job: Job, folder: Path) -> bool:
    """Whether a folder holds what a job can go on from."""
    if isinstance(job, (Generate, Texture, Edit3d)):
        return (folder / "config.yaml").exists()
    return isinstance(job, Train) and any(folder.rglob("checkpoint.pt"))


def carry_on(job: Job, folder: Path, do: Doer, listen: Listener) -> Result:
    """Do a job in its folder, or go on from the checkpoint that an attempt before has left."""
    if not goes_on(job, folder):
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return do(job, folder, listen)
    if isinstance(job, Train):
        return do(replace(job, resume=True), folder, listen)
    (folder / ".lock").unlink(missing_ok=True)  # of a process that has lost the folder
    if RunFolder.open(folder).finished:
        return Result(folder, folder / "asset.glb", ())
    return do(Resume(), folder, listen)


def is_full(error: BaseException | None, folder: Path) -> bool:
    """Whether an error comes of a full disk."""
    full = (errno.ENOSPC, errno.EDQUOT)
    while error is not None:
        if isinstance(error, OSError) and error.errno in full:
            return True
        error = error.__cause__ or error.__context__
    return shutil.disk_usage(folder).free < NEEDED


@dataclass
class Keeper:
    """Keeps a claim while its job is done: renews the lease, and writes how far the job is."""

    queue: Queue
    claim: Claim
    stop: Callable[[], bool]
    newest: Progress = field(default_factory=lambda: Progress("beginning"))
    lost: bool = False
    asked: bool = False  # to stop
    began: float = field(default_factory=time.time)
    clock: float = field(default_factory=time.monotonic)

    def state(self) -> Attempt:
        """How the attempt goes."""
        seconds, at = time.monotonic() - self.clock, self.newest
        losses = {name: value for name, value in at.losses.items() if math.isfinite(value)}
        preview = "" if at.preview is None else os.path.relpath(at.preview, self.claim.folder)
        return Attempt(worker=self.claim.ticket.worker, began=self.began, seconds=seconds,
                       message=at.message, step=at.step, steps=at.steps, losses=losses,
                       preview=preview)  # fmt: skip

    def listen(self, progress: Progress) -> None:
        """Hear from the job how far it is, and end it if it was lost or is to stop."""
        self.newest = progress
        if self.lost:
            raise LostError
        if not self.asked and self.stop():
            self.asked = True
            ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as by a shell's "&"
            if ignored or threading.current_thread() is not threading.main_thread():
                raise KeyboardInterrupt
            signal.raise_signal(signal.SIGINT)  # a run then ends its step and leaves a checkpoint

    @contextmanager
    def renewing(self) -> Iterator[None]:
        """Within, a thread renews the lease."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(min(TELL, self.queue.lease / BEATS)):
                if not self.claim.renew():
                    self.lost = True
                    return
                self.queue.record(self.claim.ticket, self.state())

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
