"""How fast a queue is, and that kills lose nothing.

    python benchmarks/jobs.py [--entries 100 1000 10000] [--workers 1 2 8] [--jobs N]
        [--storm JOBS] [--kills N] [--way bare|ray] [--toybox] [--folder DIR]

Jobs do nothing but write a file, so that what is measured is the queue: adding a list, reading
its status, and claims a second, each of which is a job read, claimed, done, recorded and published.
`cpu` is processor seconds of this process; a machine that is busy otherwise makes the wall longer.
The storm kills processes by SIGKILL at random, and then does every job alone and compares the
bytes: workers, or with `--way ray` actors of a Ray cluster and the process that employs them. The
cluster is that of RAY_ADDRESS, on this machine, or one that is started for it. With `--toybox` the
jobs are real pictures of two steps, which takes a quarter of an hour of two quiet cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from benchmarks.common import in_folder
from threed.core.errors import InputError
from threed.queue import Entry, Queue, status, work
from threed.queue.folder import STATES
from threed.runs.do import Result, do
from threed.runs.job import Image, Job
from threed.runs.progress import Listener

ROOT = Path(__file__).resolve().parent.parent
CREW, ACTORS = 4, 2  # workers of the storm
LEASE = 10.0  # seconds, in the storm: who employs actors cannot free what those of a dead one held
Doer = Callable[[Job, Path, Listener], Result]
FORK = multiprocessing.get_context("fork")


def write(job: Job, folder: Path, listen: Listener) -> Result:
    """Do a job: write what it says."""
    file = folder / "job.txt"
    file.write_text(str(job.plain()))
    return Result(folder, file, (file,))


def write_slowly(job: Job, folder: Path, listen: Listener) -> Result:
    """Do a job that takes a while, and that finds nothing of an attempt before."""
    assert not list(folder.iterdir())
    time.sleep(0.02)
    return write(job, folder, listen)


def entries(count: int) -> list[Entry]:
    """So many jobs."""
    return [Entry(Image(prompt="a red mug", seed=seed, steps=2)) for seed in range(count)]


def timed(act: Callable[[], object]) -> str:
    """Do something; say the seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    return f"{time.process_time() - cpu:.3f} s cpu, {time.perf_counter() - wall:.3f} s wall"


def labour(folder: Path, name: str, act: Doer) -> None:
    """What a worker's process does."""
    work(Queue.open(folder), worker=name, do=act)


def start(folder: Path, name: str, act: Doer) -> BaseProcess:
    """Start a worker."""
    process = FORK.Process(target=labour, args=(folder, name, act))
    process.start()
    return process


def measure_entries(root: Path, count: int) -> None:
    """Add a list, add it again, and read the status."""
    queue, jobs = Queue.create(root / f"entries{count}"), entries(count)
    sys.stdout.write(f"{count} entries: added in {timed(lambda: queue.add(jobs))}\n")
    sys.stdout.write(f"{count} entries: found there in {timed(lambda: queue.add(jobs))}\n")
    sys.stdout.write(f"{count} entries: status in {timed(lambda: status(queue))}\n")


def measure_claims(root: Path, workers: int, count: int) -> None:
    """Have jobs done by several workers."""
    queue = Queue.create(root / f"claims{workers}")
    queue.add(entries(count))
    began = time.perf_counter()
    crew = [start(queue.path, f"worker{number}", write) for number in range(workers)]
    for process in crew:
        process.join()
    seconds = time.perf_counter() - began
    assert status(queue).counts["done"] == count
    sys.stdout.write(f"{workers} workers: {count / seconds:.0f} claims a second\n")


class Bare:
    """Workers as processes of this one."""

    def __init__(self, queue: Queue, act: Doer) -> None:
        self.queue, self.act, self.begun = queue, act, 0
        self.alive: dict[str, BaseProcess] = {}

    def tend(self, more: bool) -> None:
        """Bury the dead, and start others if there are to be more, or none is left."""
        for name in [name for name, one in self.alive.items() if not one.is_alive()]:
            del self.alive[name]
            for ticket in self.queue.tickets("running"):
                if ticket.worker == name:
                    self.queue.fail(ticket, "killed")
        while len(self.alive) < CREW and (more or not self.alive):
            self.begun += 1
            name = f"worker{self.begun}"
            self.alive[name] = start(self.queue.path, name, self.act)

    def who(self) -> list[int]:
        """The processes that may be killed."""
        return [process.pid for process in self.alive.values() if process.pid]

    def at_work(self) -> bool:
        """Whether there is a process left."""
        return any(process.is_alive() for process in self.alive.values())

    def end(self) -> None:
        """Nothing is left to end."""


class OnRay:
    """Actors of a cluster on this machine, and the process that employs them, which may die too.

    The cluster is that of RAY_ADDRESS (its tokens are in HOME), or one is started.
    """

    def __init__(self, queue: Queue, act: Doer) -> None:
        self.queue, self.act = queue, act
        self.around = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.cluster: subprocess.Popen[bytes] | None = None
        self.address = os.environ.get("RAY_ADDRESS", "")
        if not self.address:
            with socket.create_server(("127.0.0.1", 0)) as line:
                port = str(line.getsockname()[1])
            self.address = f"127.0.0.1:{port}"
            ray = str(Path(sys.executable).with_name("ray"))
            self.cluster = subprocess.Popen(
                [ray, "start", "--head", "--block", "--port", port, "--num-cpus", str(ACTORS),
                 "--node-ip-address", "127.0.0.1", "--include-dashboard", "false",
                 "--disable-usage-stats"], env=self.around)  # fmt: skip
        self.driver = self._drive()

    def _drive(self) -> subprocess.Popen[bytes]:
        command = "from benchmarks.jobs import drive; import sys; drive(*sys.argv[1:])"
        words = [str(self.queue.path), self.address, self.act.__name__]
        return subprocess.Popen([sys.executable, "-c", command, *words], env=self.around)

    def tend(self, more: bool) -> None:
        """Start the driver if it has died before all was done."""
        if not self.at_work():
            self.driver = self._drive()

    def who(self) -> list[int]:
        """The processes that may be killed."""
        named = ((one.pid, one.info["cmdline"]) for one in psutil.process_iter(["cmdline"]))
        return [self.driver.pid, *(pid for pid, words in named
                                   if words and words[0].startswith("ray::Labourer"))]  # fmt: skip

    def at_work(self) -> bool:
        """Whether there is a driver."""
        return self.driver.poll() is None

    def end(self) -> None:
        """End the cluster, if it was started here."""
        if self.cluster is not None:
            self.cluster.terminate()
            self.cluster.wait()


def drive(folder: str, address: str, act: str) -> None:
    """Have actors of a cluster do jobs."""
    from threed.queue.fleet import deploy

    while True:
        try:
            return deploy(Queue.open(folder), ACTORS, address=address, do=ACTS[act])
        except InputError as error:  # the cluster is not up yet, or its actors die too soon
            sys.stderr.write(f"{error}\n")


def storm(root: Path, way: str, count: int, kills: int, act: Doer) -> None:
    """Kill processes at random while jobs are done; look at every job."""
    queue, jobs, chance = Queue.create(root / "storm", LEASE), entries(count), random.Random(0)
    queue.add(jobs)
    workers = WAYS[way](queue, act)
    due, retried = sorted(chance.sample(range(count), kills)), 0  # jobs that are done before each
    while workers.at_work() or due or status(queue).counts["done"] < count:
        workers.tend(bool(due))
        time.sleep(0.05)
        if due and len(queue.tickets("done")) >= due[0]:
            with suppress(ProcessLookupError):  # it has died since
                os.kill(chance.choice(workers.who()), signal.SIGKILL)
                del due[0]
        retried += len(queue.retry())
    workers.end()
    for entry, ticket in zip(jobs, queue.tickets("done"), strict=True):
        alone = root / "alone" / ticket.key
        alone.mkdir(parents=True)
        act(entry.job, alone, lambda progress: None)
        assert contents(alone) == contents(queue.result(ticket.key)) != {}
    assert not list((queue.path / "work").iterdir())
    assert not [state for state in STATES if state != "done" and queue.tickets(state)]
    said = f"storm, {way}: {count} jobs, {kills} kills, {retried} retried after three of them"
    sys.stdout.write(f"{said}: each done once, with the bytes that it has alone; no lease left\n")


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder by their names."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


WAYS: Mapping[str, Callable[[Queue, Doer], Bare | OnRay]] = {"bare": Bare, "ray": OnRay}
ACTS: Mapping[str, Doer] = {"write_slowly": write_slowly, "do": do}


def measure(root: Path, asked: argparse.Namespace) -> None:
    """Measure what is asked for."""
    for count in asked.entries:
        measure_entries(root, count)
    for workers in asked.workers:
        measure_claims(root, workers, asked.jobs)
    if asked.storm:
        act = do if asked.toybox else write_slowly
        storm(root, asked.way, asked.storm, asked.kills, act)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the flags."""
    in_folder(
        measure, __doc__, arguments, entries=[100, 1000, 10_000], workers=[1, 2, 8], jobs=1000,
        storm=300, kills=20, toybox=False, way="bare",
    )  # fmt: skip


if __name__ == "__main__":
    main()
