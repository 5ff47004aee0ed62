"""Many jobs in one folder, and workers that share them: see `threed.queue.folder`."""

from threed.queue.crew import employ
from threed.queue.entries import read_entries
from threed.queue.folder import Entry, Queue
from threed.queue.overview import status
from threed.queue.worker import work

__all__ = ["Entry", "Queue", "employ", "read_entries", "status", "work"]
