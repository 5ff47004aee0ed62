"""Bounding what results take of the disk, where the server's owner says how much that may be."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from threed.queue.folder import Queue
from threed.queue.ticket import Ticket


@dataclass
class Room:
    """The room that results have, and what was made before jobs failed or were cancelled."""

    queue: Queue
    most: float  # bytes
    _sizes: dict[str, int] = field(default_factory=dict)  # of results, which never change

    def make(self) -> list[str]:
        """Remove the oldest results until the others fit, but none that an open job reads.

        What jobs left that failed or were cancelled goes before: they begin anew if asked to go on.
        Returns the keys of jobs without their results now. Each is cancelled then, and can be done
        anew.
        """
        done = sorted(self.queue.tickets("done"), key=self._finished)
        self._sizes = {ticket.key: self._size(ticket.key) for ticket in done}
        left = {path: _bytes(path) for path in self.queue.leftovers()}
        over = sum(self._sizes.values()) + sum(left.values()) - self.most
        for path, size in left.items():
            if over > 0:
                self.queue.throw_away(path)
                over -= size
        open_, gone = "", list[str]()
        for ticket in done:
            if over <= 0:
                break
            open_ = open_ or self._open_jobs()
            if f"results/{ticket.key}/" not in open_ and self.queue.drop(ticket):
                over -= self._sizes[ticket.key]
                gone.append(ticket.key)
        return gone

    def _finished(self, ticket: Ticket) -> float:
        with suppress(OSError):
            return self.queue.file("done", ticket).stat().st_mtime
        return 0.0

    def _size(self, key: str) -> int:
        if key not in self._sizes:
            self._sizes[key] = _bytes(self.queue.result(key))
        return self._sizes[key]

    def _open_jobs(self) -> str:
        """What all jobs say that wait or run."""
        texts = []
        for state in ("waiting", "running", "waiting"):  # one may be given back meanwhile
            for ticket in self.queue.tickets(state):
                with suppress(OSError):
                    texts.append(Path(self.queue.file(state, ticket)).read_text("utf-8", "replace"))
        return "\n".join(texts) or "none"


def _bytes(folder: Path) -> int:
    """What the files of a folder take; some may go meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total
