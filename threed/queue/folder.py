"""A queue: a folder of jobs that many workers share, on one machine or on many.

    queue.json                          what the folder is; how long a lease holds
    waiting/NUMBER.KEY.ATTEMPTS.json    jobs that nobody does
    running/NUMBER.KEY.ATTEMPTS.WORKER.json    a claim: its time of change is the lease
    done/ failed/ cancelled/            the same files in the end
    attempts/KEY.N.json, KEY.N.txt      how the N-th attempt went; its traceback
    work/NUMBER.KEY.ATTEMPTS.WORKER/    what a worker has made so far
    results/KEY/                        what was made: it appears whole, by one rename
    results.csv, sheet-1.png            all results, and pictures of them

A job's state is where its file lies, and only renames change it, so that of two that try one
succeeds. docs/queue.md says what the file system has to guarantee.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock

from threed.core.errors import InputError
from threed.core.files import check_out, make_folder, read_text, refuse, write
from threed.core.words import suggest
from threed.queue.ticket import (
    FORMAT,
    Asked,
    Attempt,
    OtherVersionError,
    Ticket,
    key_of,
    read_asked,
)
from threed.runs.job import Job
from threed.settings.base import read
from threed.settings.base import replace as changed

STATES = ("waiting", "running", "done", "failed", "cancelled")
LEASE = 120.0  # seconds that a claim holds after it was renewed
TRIES = 3  # attempts at a job
MARK = "queue.json"


class QueueWarning(UserWarning):
    """Something about a queue that its user should know, although work goes on."""


@dataclass(frozen=True)
class Entry:
    """A job to be added, and where it was read."""

    job: Job
    source: str = ""


@dataclass(frozen=True)
class Added:
    """What became of entries."""

    tickets: tuple[Ticket, ...]  # the new ones
    twice: int  # that were the same as one before
    known: Mapping[str, int]  # how many were in the queue already, by their state


@dataclass(frozen=True)
class Claim:
    """A job that a worker does."""

    ticket: Ticket
    job: Job
    lease: Path  # the file that is renewed
    folder: Path  # where it writes

    def renew(self) -> bool:
        """Set the lease's time to the file system's own. False if the job was taken away."""
        try:
            os.utime(self.lease)
        except FileNotFoundError:
            return False
        except OSError:  # the network: the next time will do
            pass
        return True


@dataclass(frozen=True)
class Queue:
    """A folder of jobs. Make one by `Queue.create` or `Queue.open`."""

    path: Path
    lease: float = LEASE

    @staticmethod
    def open(path: Path | str) -> Queue:
        """A queue that is there. InputError if none is, or a later version has made it."""
        path = Path(path).absolute()
        if not os.path.isfile(path / MARK):
            raise InputError(f"{path} holds no queue: there is no {MARK} in it")
        try:
            data = json.loads(read_text(path / MARK))
            form, lease = int(data["format"]), float(data["lease"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path / MARK} is damaged: it must be format and lease") from error
        if form > FORMAT:
            raise InputError(f"{path} was made by a later version of threed: use that one")
        return Queue(path, lease)

    @staticmethod
    def create(path: Path | str, lease: float = LEASE) -> Queue:
        """The queue of a folder, which is made one if it is new or empty; InputError if it cannot.

        lease: seconds without a sign of life after which a worker is taken for dead.
        """
        path = Path(path).absolute()
        check_out(path, folder=True)
        if not (path / MARK).exists():
            if path.exists() and any(path.iterdir()):
                raise InputError(f"{path} is not empty and holds no queue; choose another folder")
            write(path / MARK, json.dumps({"format": FORMAT, "lease": lease}).encode())
        for name in (*STATES, "attempts", "work", "results"):
            make_folder(path / name)
        return Queue.open(path)

    def check_writable(self) -> None:
        """InputError if nothing can be written here."""
        check_out(self.path / MARK)

    def tickets(self, state: str) -> list[Ticket]:
        """The jobs of a state, in the order in which they were added."""
        try:
            names = os.listdir(self.path / state)
        except FileNotFoundError:
            return []
        found = (Ticket.parse(name[:-5]) for name in names if name.endswith(".json"))
        return sorted(ticket for ticket in found if ticket is not None)

    def file(self, state: str, ticket: Ticket) -> Path:
        """Where a job's file lies in a state."""
        return self.path / state / ticket.name

    def result(self, key: str) -> Path:
        """The folder of a job's result, which is there once it is done."""
        return self.path / "results" / key

    def known(self) -> dict[str, tuple[str, Ticket]]:
        """Every key's state and ticket.

        Jobs move on while this looks, so where they may come back to is looked at twice.
        """
        found: dict[str, tuple[str, Ticket]] = {}
        for state in ("waiting", "running", "done", "failed", "cancelled", "waiting", "running"):
            found.update({ticket.key: (state, ticket) for ticket in self.tickets(state)})
        return found

    def add(self, entries: Iterable[Entry]) -> Added:
        """Add jobs that have been checked; each key once, and none that was added before.

        InputError where they cannot be written; then none of them is added.
        """
        self.check_writable()
        jobs = [(key_of(entry.job), entry) for entry in entries]
        with FileLock(self.path / ".adding.lock"):  # two at once would add a job twice
            known = self.known()
            fresh = {key: entry for key, entry in reversed(jobs) if key not in known}
            last = max((ticket.number for _, ticket in known.values()), default=0)
            order = dict.fromkeys(key for key, _ in jobs if key in fresh)
            tickets = tuple(Ticket(number, key) for number, key in enumerate(order, last + 1))
            self._write_tickets(tickets, fresh)
        before = Counter(known[key][0] for key in {key for key, _ in jobs} & known.keys())
        return Added(tickets, len(jobs) - len(fresh) - before.total(), before)

    def _write_tickets(self, tickets: Sequence[Ticket], entries: Mapping[str, Entry]) -> None:
        """Write all files aside, then rename them into their place."""
        with refuse(self.path), tempfile.TemporaryDirectory(prefix=".add", dir=self.path) as aside:
            for ticket in tickets:
                entry = entries[ticket.key]
                asked = Asked(job=entry.job.plain(), source=entry.source)
                Path(aside, ticket.name).write_text(asked.model_dump_json(), encoding="utf-8")
            os.sync()
            for ticket in tickets:
                os.rename(Path(aside, ticket.name), self.file("waiting", ticket))

    def claim(self, worker: str, waiting: deque[Ticket] | None = None) -> Claim | None:
        """Take the first waiting job that can be had, for a worker; None if there is none.

        waiting: the tickets to try instead of all; those that were tried are taken out of it. A job
        of another version of threed is left, with a QueueWarning; a damaged one is set aside.
        """
        waiting = deque(self.tickets("waiting")) if waiting is None else waiting
        while waiting:
            ticket = waiting.popleft()
            held = replace(ticket, attempts=ticket.attempts + 1, worker=worker)
            try:
                job, _ = read_asked(self.file("waiting", ticket), ticket.key)
            except FileNotFoundError:
                continue
            except OtherVersionError as error:
                warnings.warn(str(error), QueueWarning, stacklevel=2)
                continue
            except InputError as error:
                if self._move("waiting", ticket, "running", held):
                    self.fail(held, str(error), final=True)
                continue
            if self._move("waiting", ticket, "running", held):
                claim = Claim(held, job, self.file("running", held), self.work_of(held))
                if claim.renew() and not self._close_done(held):
                    return claim
        return None

    def work_of(self, ticket: Ticket) -> Path:
        """The folder of what a running job has made so far."""
        return self.path / "work" / ticket.stem

    def _move(self, state: str, ticket: Ticket, to: str, then: Ticket) -> bool:
        """Rename a job's file; False if somebody else did first."""
        try:
            os.rename(self.file(state, ticket), self.file(to, then))
        except FileNotFoundError:
            # a network file system may do a rename, lose the answer, and ask again
            return bool(then.worker) and self.file(to, then).exists()
        return True

    def _close_done(self, ticket: Ticket) -> bool:
        """Close a running job whose result is there: a worker died between the last two renames."""
        if not self.result(ticket.key).exists():
            return False
        self._move("running", ticket, "done", replace(ticket, worker=""))
        self.discard(ticket.key)
        return True

    def prepare(self, claim: Claim) -> None:
        """Make the folder of a claim: the one of the last attempt, if there is one."""
        for _, path in sorted(self._works(claim.ticket.key), reverse=True):
            if path == claim.folder:
                continue
            if claim.folder.exists():
                self.throw_away(path)
            else:
                with suppress(FileNotFoundError):
                    os.rename(path, claim.folder)
        claim.folder.mkdir(exist_ok=True)

    def _works(self, key: str) -> Iterator[tuple[int, Path]]:
        """The folders of attempts at a job that are no result, with the attempt's number."""
        for name in os.listdir(self.path / "work"):
            ticket = Ticket.parse(name)
            if ticket is not None and ticket.key == key:
                yield ticket.attempts, self.work_of(ticket)

    def leftovers(self) -> list[Path]:
        """The folders of attempts at jobs that failed or were cancelled, in the jobs' order."""
        closed = {ticket.key for state in ("failed", "cancelled") for ticket in self.tickets(state)}
        works = map(Ticket.parse, sorted(os.listdir(self.path / "work")))
        return [self.work_of(ticket) for ticket in works if ticket and ticket.key in closed]

    def discard(self, key: str) -> None:
        """Remove what attempts at a job have left."""
        for _, path in self._works(key):
            self.throw_away(path)

    def throw_away(self, path: Path) -> None:
        """Remove a folder; renamed first, so that nobody can have begun to use it."""
        gone = self.path / "work" / f"gone-{secrets.token_hex(8)}"
        with suppress(FileNotFoundError):
            os.rename(path, gone)
            shutil.rmtree(gone, ignore_errors=True)

    def publish(self, claim: Claim, attempt: Attempt) -> bool:
        """Make what a claim's folder holds the job's result; False if the job was taken away.

        There never is a part of a result: a rename of its folder makes it one.
        """
        if not claim.renew():
            self.throw_away(claim.folder)
            return False
        self.record(claim.ticket, attempt)
        try:
            os.rename(claim.folder, self.result(claim.ticket.key))
        except OSError:
            if not self.result(claim.ticket.key).exists():
                if claim.folder.exists():
                    raise
                return False
        return self._close_done(claim.ticket)

    def give_back(self, ticket: Ticket) -> None:
        """Let another worker do a running job; the attempt does not count."""
        if not self._close_done(ticket):
            fresh = replace(ticket, attempts=ticket.attempts - 1, worker="")
            self._move("running", ticket, "waiting", fresh)

    def fail(self, ticket: Ticket, reason: str, trace: str = "", *, final: bool = False) -> None:
        """Have a running job tried again, or set aside if it was the last attempt, or final."""
        if self._close_done(ticket):
            return
        known = self.attempt(ticket)
        self.record(ticket, changed(known, worker=ticket.worker, outcome="failed", reason=reason))
        if trace:
            with suppress(InputError):
                write(self.trace(ticket), trace.encode(errors="replace"))
        over = final or ticket.attempts >= TRIES
        self._move("running", ticket, "failed" if over else "waiting", replace(ticket, worker=""))

    def trace(self, ticket: Ticket) -> Path:
        """The traceback of an attempt, if it had one."""
        return self.path / "attempts" / f"{ticket.key}.{ticket.attempts}.txt"

    def record(self, ticket: Ticket, attempt: Attempt) -> None:
        """Write how an attempt goes; a full disk is no reason to stop for that."""
        with suppress(InputError):
            write(self.trace(ticket).with_suffix(".json"), attempt.model_dump_json().encode())

    def attempt(self, ticket: Ticket) -> Attempt:
        """How the newest attempt at a job goes or went, so far as it is known."""
        with suppress(InputError, ValueError):
            data = json.loads(read_text(self.trace(ticket).with_suffix(".json")))
            return read(Attempt, data)
        return Attempt(worker=ticket.worker)

    def retry(self, keys: Sequence[str] = ()) -> list[Ticket]:
        """Have jobs done anew that failed or were cancelled; all that failed if none is named.

        One that was cancelled goes on from its checkpoint, if it has any. A key may be named by its
        beginning. InputError for one that is not there or not set aside.
        """
        again = []
        for state, ticket in self._chosen(keys, ("failed", "cancelled"), ("failed",)):
            if state == "failed":
                self.discard(ticket.key)  # while nobody can claim it
            fresh = replace(ticket, attempts=0)
            if self._move(state, ticket, "waiting", fresh):
                again.append(fresh)
        return again

    def cancel(self, keys: Sequence[str] = ()) -> list[Ticket]:
        """Have jobs not done: all that wait or run if none is named. Results stay.

        A worker leaves its job soon after. What was made so far stays, to go on from; of a job that
        failed it goes. InputError for a key that is not there, or done.
        """
        open_ = ("waiting", "running", "failed")
        gone = []
        for state, ticket in self._chosen(keys, open_, ("waiting", "running")):
            if self._move(state, ticket, "cancelled", replace(ticket, worker="")):
                gone.append(ticket)
                if state == "failed":
                    self.discard(ticket.key)
        return gone

    def drop(self, ticket: Ticket) -> bool:
        """Remove the result of a job that is done; it is cancelled then. False if it was not."""
        known = self.attempt(ticket)
        if not self._move("done", ticket, "cancelled", ticket):
            return False
        self.record(ticket, changed(known, reason="its result was removed to make room"))
        self.throw_away(self.result(ticket.key))
        return True

    def _chosen(
        self, keys: Sequence[str], allowed: Sequence[str], unnamed: Sequence[str]
    ) -> list[tuple[str, Ticket]]:
        """The jobs of the keys, or all of some states; InputError for what cannot be chosen."""
        self.check_writable()
        known = self.known()
        if not keys:
            return sorted(pair for pair in known.values() if pair[0] in unnamed)
        found = []
        for word in keys:
            near = [word] if word in known else [key for key in known if key.startswith(word)]
            if len(near) != 1:
                several = f"{len(near)} jobs begin with it" if near else "there is no such job"
                raise InputError(f"{word}: {several}{suggest(word, near or known)}")
            state, ticket = known[near[0]]
            if state not in allowed:
                raise InputError(f"{near[0]} is {state}; it must be {' or '.join(allowed)}")
            found.append((state, ticket))
        return found


@contextmanager
def held_by(queue: Queue, worker: str) -> Iterator[None]:
    """Within, a worker may claim jobs; those that it holds in the end are given back."""
    try:
        yield
    finally:
        for ticket in queue.tickets("running"):
            if ticket.worker == worker:
                queue.give_back(ticket)
