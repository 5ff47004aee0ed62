"""How far a queue is, and when it will be done."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from statistics import mean
from tempfile import TemporaryFile

from threed.queue.folder import STATES, Queue
from threed.queue.ticket import Attempt, Ticket

RECENT = 32  # jobs whose times say how long one takes


@dataclass(frozen=True)
class Running:
    """A job that a worker does."""

    number: int
    key: str
    worker: str
    alive: bool  # its lease has been renewed in time
    seconds: float  # since it was begun, at the last renewal
    message: str
    step: int
    steps: int


@dataclass(frozen=True)
class Failed:
    """A job that was set aside."""

    number: int
    key: str
    attempts: int
    reason: str
    trace: str | None  # the file of its traceback


@dataclass(frozen=True)
class Status:
    """How far a queue is."""

    counts: Mapping[str, int]  # jobs by state
    workers: int  # that are alive and at work
    seconds: float | None  # that a job takes; None before one is done
    left: float | None  # seconds until all is done; None if nobody works or nothing is done yet
    running: tuple[Running, ...]
    failed: tuple[Failed, ...]

    def line(self) -> str:
        """All of it in one line."""
        said = [f"{self.counts[state]} {state}" for state in STATES if self.counts[state]]
        text = f"{sum(self.counts.values())} jobs: {', '.join(said) or 'none'}"
        if self.seconds is not None:
            text += f"; {span(self.seconds)} a job"
        if self.counts["waiting"] + self.counts["running"]:
            text += f", {self.workers} at work"
        return f"{text}, about {span(self.left)} left" if self.left else text


def span(seconds: float) -> str:
    """Say a time: "12 s", "5 min", "3 h 20 min"."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def status(queue: Queue) -> Status:
    """Say how far a queue is. Nothing is changed, so it may be read-only."""
    tickets = {state: queue.tickets(state) for state in STATES}
    now = file_time(queue)
    running = tuple(_running(queue, ticket, now) for ticket in tickets["running"])
    times = [queue.attempt(ticket).seconds for ticket in tickets["done"][-RECENT:]]
    workers = len({one.worker for one in running if one.alive})
    seconds = mean(times) if times else None
    left = None
    if tickets["waiting"] or running:
        if seconds is not None and workers:
            begun = sum(max(0.0, seconds - one.seconds) for one in running)
            left = (begun + seconds * len(tickets["waiting"])) / workers
    elif seconds is not None:
        left = 0.0
    counts = {state: len(found) for state, found in tickets.items()}
    failed = tuple(_failed(queue, ticket) for ticket in tickets["failed"])
    return Status(counts, workers, seconds, left, running, failed)


def file_time(queue: Queue) -> float:
    """The time by the clock of the queue's file system, so far as it can be asked."""
    with suppress(OSError), TemporaryFile(dir=queue.path) as file:
        return os.fstat(file.fileno()).st_mtime
    return time.time()


def _running(queue: Queue, ticket: Ticket, now: float) -> Running:
    at, alive = Attempt(), False
    with suppress(FileNotFoundError):
        alive = now - queue.file("running", ticket).stat().st_mtime < queue.lease
        at = queue.attempt(ticket)
    return Running(ticket.number, ticket.key, ticket.worker, alive, at.seconds, at.message, at.step,
                   at.steps)  # fmt: skip


def _failed(queue: Queue, ticket: Ticket) -> Failed:
    trace = queue.trace(ticket)
    return Failed(ticket.number, ticket.key, ticket.attempts, queue.attempt(ticket).reason,
                  str(trace) if trace.exists() else None)  # fmt: skip
