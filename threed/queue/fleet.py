"""Workers as actors of a Ray cluster, one a GPU, and what becomes of their jobs when they die.

Ray places them and starts them anew; no job goes through it. Which jobs there are, who has them and
how often they were tried is in the queue's folder alone, which every machine must see. What Ray
holds is one call an actor, which lasts until nothing is left to do.
"""

from __future__ import annotations

import os
import secrets
import signal
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threed.core.errors import InputError
from threed.queue.crew import BARREN, LOOK, THREADS, Teller, terminable
from threed.queue.folder import Queue, QueueWarning
from threed.queue.overview import status
from threed.queue.ticket import Ticket, name_worker
from threed.queue.worker import Doer, work
from threed.runs.do import do

LOCAL = "local"  # the address of a cluster that is started here, and ends with this process
STORE = 80 * 2**20  # bytes of Ray's memory for objects, of which there are none; it takes no less


def deploy(
    queue: Queue,
    workers: int | None = None,
    *,
    address: str = LOCAL,
    stay: bool = False,
    tell: Callable[[str], None] = lambda line: None,
    stop: Callable[[], bool] = lambda: False,
    do: Doer = do,
) -> None:
    """Have actors of a Ray cluster do the jobs of a queue, until all are done.

    workers: how many; by default one a GPU of the cluster, or one a machine if it has none.
    address: "local", "auto" (the cluster of this machine), or HOST:PORT of the head. Everything
    else, and what becomes of jobs when an actor dies or this process is interrupted, is as in
    `threed.queue.crew.employ`; with this process all its actors end. InputError, also, where Ray
    is missing or does not answer, or its cluster has fewer GPUs, or cores, than workers.
    """
    queue.check_writable()
    ray = connect(address, workers)
    try:
        fleet = Fleet(ray, queue, do, stay)
        with terminable():
            try:
                fleet.run(*shares(ray, workers), tell, stop)
            except BaseException:
                fleet.end()
                raise
    finally:
        ray.shutdown()
    tell(status(queue).line())


def connect(address: str, workers: int | None) -> Any:
    """The module of Ray, connected to a cluster; InputError if there is none."""
    places = (os.environ.get("RAY_AUTH_TOKEN_PATH", ""), Path.home() / ".ray" / "auth_token")
    if os.environ.get("RAY_AUTH_TOKEN") or any(os.path.isfile(place) for place in places):
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # is read when ray is imported
    try:
        import ray
    except ImportError as error:
        raise InputError("Ray is not installed: pip install 'threed[cluster]'") from error
    options: dict[str, Any] = {}
    if address == LOCAL:
        options = {"num_cpus": max(os.cpu_count() or 1, workers or 1), "include_dashboard": False,
                   "object_store_memory": STORE}  # fmt: skip
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR", **options)
    except Exception as error:  # of all kinds, Exception itself among them
        raise InputError(f"Ray at {address!r} cannot be used: {error}") from error
    return ray


def shares(ray: Any, workers: int | None) -> tuple[int, dict[str, int], dict[str, str]]:
    """How many actors, what each takes of the cluster, and what its environment tells of threads.

    InputError if there is too little for so many.
    """
    have = ray.cluster_resources()
    cores, gpus = int(have.get("CPU", 0)), int(have.get("GPU", 0))
    count = workers or gpus or sum(node["Alive"] for node in ray.nodes())
    room, what = (gpus, "GPUs") if gpus else (cores, "cores")
    if count > room:
        raise InputError(f"{count} workers are more than the cluster has {what}, {room}")
    threads = str(max(1, cores // count))
    takes = {"num_cpus": min(1, cores // count), "num_gpus": 1 if gpus else 0}
    return count, takes, {name: os.environ.get(name, threads) for name in THREADS}


class Labourer:
    """What an actor does."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        os.environ.update(environment)  # in time: torch has not been imported

    def ready(self) -> tuple[str, list[str]]:
        """Say that it is there, and nothing else."""
        return "", []

    def labour(self, folder: str, mark: str, stay: bool, do: Doer) -> tuple[str, list[str]]:
        """Work on a queue until all is done, or it is told to end; what the user has to be told.

        That is an error after which no worker can go on, or "", and notes.
        """
        import ray

        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])  # Ray blocks it
        context, error = ray.get_runtime_context(), ""
        with warnings.catch_warnings(record=True) as noted, suppress(KeyboardInterrupt):
            warnings.simplefilter("default")
            try:
                name = f"{name_worker()}-{mark}"
                work(Queue.open(folder), worker=name, stay=stay, do=do, stop=context.is_canceled)
            except InputError as wrong:
                error = str(wrong)
        said = [str(note.message) for note in noted if issubclass(note.category, QueueWarning)]
        return error, list(dict.fromkeys(said))


@dataclass
class Fleet:
    """The actors, by the calls that they are at."""

    ray: Any
    queue: Queue
    do: Doer
    stay: bool
    calls: dict[Any, tuple[Any, str]] = field(default_factory=dict)  # actor, mark of its names
    barren: int = 0

    def run(
        self,
        count: int,
        takes: Mapping[str, int],
        environment: Mapping[str, str],
        tell: Callable[[str], None],
        stop: Callable[[], bool],
    ) -> None:
        """Start the actors and look after them until all have ended in peace, or are told to."""
        kind = self.ray.remote(Labourer).options(
            max_restarts=-1, max_task_retries=0, scheduling_strategy="SPREAD", **takes
        )
        for _ in range(count):
            self.begin(kind.remote(environment))
        teller = Teller(self.queue, tell)
        while self.calls:
            over, _ = self.ray.wait(list(self.calls), timeout=LOOK)
            if stop():
                return self.end()
            for call in over:
                self.hear(call, tell)
            teller.look()

    def begin(self, actor: Any) -> None:
        """Have an actor say that it is there; Ray asks again until it is, however often it dies."""
        self.calls[actor.ready.options(max_task_retries=-1).remote()] = actor, ""

    def labour(self, actor: Any) -> None:
        """Have an actor work, under a name that no other has, nor itself before it died."""
        mark = secrets.token_hex(4)
        call = actor.labour.remote(str(self.queue.path), mark, self.stay, self.do)
        self.calls[call] = actor, mark

    def hear(self, call: Any, tell: Callable[[str], None]) -> None:
        """Do what is to be done after a call has ended: of a dead actor free its job, and go on."""
        actor, mark = self.calls.pop(call)
        try:
            wrong, notes = self.ray.get(call)
        except self.ray.exceptions.RayError as error:
            self.bury(mark, error)
            return self.begin(actor)
        if not mark:
            return self.labour(actor)
        for note in notes:
            tell(f"warning: {note}")
        if wrong:
            raise InputError(f"{wrong} (the other workers are stopped, too)")

    def bury(self, mark: str, error: Exception) -> None:
        """Free the job of an actor that has died."""
        held = self.held(mark)
        for ticket in held:
            self.queue.fail(ticket, f"its worker was lost: {cause(error)}", str(error))
        self.barren = 0 if held else self.barren + 1
        if self.barren >= BARREN:
            raise InputError(f"workers end before they have begun: {cause(error)}") from error

    def held(self, mark: str) -> list[Ticket]:
        """What the actor of a mark has claimed."""
        return [one for one in self.queue.tickets("running") if one.worker.endswith(f"-{mark}")]

    def end(self) -> None:
        """End all actors, in peace; at a second interrupt by force. Free what they held."""
        left = list(self.calls)
        for call in left:
            self.ray.cancel(call)
        with suppress(KeyboardInterrupt):
            while left:
                _, left = self.ray.wait(left, timeout=LOOK)
        for actor, mark in self.calls.values():
            self.ray.kill(actor)
            for ticket in self.held(mark):
                self.queue.give_back(ticket)


def cause(error: Exception) -> str:
    """Say in a line what Ray says at length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
