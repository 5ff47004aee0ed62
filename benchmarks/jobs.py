"""How fast a queue is, and that kills lose nothing.

    python benchmarks/jobs.py [--entries 100 1000 10000] [--workers 1 2 8] [--jobs N]
        [--storm JOBS] [--kills N] [--toybox] [--folder DIR]

Jobs do nothing but write a file, so that what is measured is the queue: adding a list, reading
its status, and claims a second, each of which is a job read, claimed, done, recorded and published.
`cpu` is processor seconds of this process; a machine that is busy otherwise makes the wall longer.
The storm kills workers by SIGKILL at random, and then does every job alone and compares the bytes;
with `--toybox` its jobs are real pictures of two steps, which takes a quarter of an hour of two
quiet cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from threed.queue import Entry, Queue, status, work
from threed.runs.do import Result, do
from threed.runs.job import Image, Job
from threed.runs.progress import Listener

CREW = 4  # workers of the storm
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


def storm(root: Path, count: int, kills: int, act: Doer, pause: float) -> None:
    """Kill workers at random, within so many seconds each, until all is done; look at every job."""
    queue, jobs, chance = Queue.create(root / "storm"), entries(count), random.Random(0)
    queue.add(jobs)
    alive: dict[str, BaseProcess] = {}
    begun = killed = retried = 0
    while alive or killed < kills or status(queue).counts["done"] < count:
        while len(alive) < CREW and (killed < kills or not alive):
            begun += 1
            alive[f"worker{begun}"] = start(queue.path, f"worker{begun}", act)
        time.sleep(chance.uniform(0, pause))
        victim = alive[chance.choice(sorted(alive))]
        if killed < kills and victim.is_alive():
            victim.kill()
            victim.join()
            killed += 1
        for name in [name for name, one in alive.items() if not one.is_alive()]:
            del alive[name]
            for ticket in queue.tickets("running"):
                if ticket.worker == name:
                    queue.fail(ticket, "killed")
        retried += len(queue.retry())
    for entry, ticket in zip(jobs, queue.tickets("done"), strict=True):
        alone = root / "alone" / ticket.key
        alone.mkdir(parents=True)
        act(entry.job, alone, lambda progress: None)
        assert contents(alone) == contents(queue.result(ticket.key)) != {}
    assert not list((queue.path / "work").iterdir())
    said = f"storm: {count} jobs, {killed} kills, {retried} retried after three of them: each done"
    sys.stdout.write(f"{said} once, with the bytes that it has alone; no lease left\n")


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder by their names."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--entries", type=int, nargs="*", default=[100, 1000, 10_000])
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 8])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--storm", type=int, default=300)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--toybox", action="store_true", help="real pictures in the storm")
    parser.add_argument("--folder", type=Path, help="where; a temporary folder if not given")
    asked = parser.parse_args(arguments)
    root = Path(tempfile.mkdtemp(prefix="queue", dir=asked.folder))
    try:
        for count in asked.entries:
            measure_entries(root, count)
        for workers in asked.workers:
            measure_claims(root, workers, asked.jobs)
        if asked.storm:
            act, pause = (do, 20.0) if asked.toybox else (write_slowly, 0.3)
            storm(root, asked.storm, asked.kills, act, pause)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
