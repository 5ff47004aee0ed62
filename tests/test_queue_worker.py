"""Workers: jobs done, resumed, lost, stopped and killed; the same results as of each job alone."""

from __future__ import annotations

import csv
import errno
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.test_pipeline import tiny_run
from tests.test_queue_folder import BALL, MUG, filled, states
from tests.tiny import tiny_folder
from threed.core.errors import InputError
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.queue import Queue, __main__, crew, employ, status, work, worker
from threed.queue.board import numbers_of
from threed.queue.folder import Entry
from threed.queue.ticket import key_of
from threed.queue.worker import Keeper, Watch
from threed.runs import loop
from threed.runs.do import Result, do
from threed.runs.folder import RunFolder, RunWarning
from threed.runs.job import Generate, Image, Job, Resume, Train
from threed.runs.progress import Listener, Progress
from threed.settings.base import replace
from threed.settings.presets import load_run

FORK = multiprocessing.get_context("fork")


def short(job: Job, folder: Path, listen: Listener) -> Result:
    """Write a file in a few steps."""
    assert isinstance(job, Image)
    assert not list(folder.iterdir())  # nothing of an attempt before
    for step in range(3):
        listen(Progress("writing", step=step, steps=3))
        (folder / f"{step}.txt").write_text(f"{job.prompt} {job.seed} {step}")
        time.sleep(0.004)
    return Result(folder, folder / "0.txt", ())


def mugs(count: int) -> list[Image]:
    """So many jobs."""
    return [Image(prompt="a red mug", seed=seed) for seed in range(count)]


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder by their names."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def table(queue: Queue) -> list[dict[str, str]]:
    """The rows of results.csv."""
    return list(csv.DictReader((queue.path / "results.csv").read_text().splitlines()))


def assert_made(queue: Queue, jobs: list[Image], tmp_path: Path) -> None:
    """Each job is done once, as it is alone; nothing of a claim is left."""
    assert states(queue) == {"done": len(jobs)}
    assert sorted(one.key for one in queue.tickets("done")) == sorted(map(key_of, jobs))
    assert not list((queue.path / "work").iterdir())
    for job in jobs:
        alone = tmp_path / "alone" / key_of(job)
        alone.mkdir(parents=True)
        short(job, alone, lambda progress: None)
        assert contents(queue.result(key_of(job))) == contents(alone)


def test_one_worker_does_all_and_tells_of_it(tmp_path: Path) -> None:
    jobs = mugs(5)
    queue = filled(tmp_path, *jobs)
    assert work(queue, do=short) == 5
    assert_made(queue, jobs, tmp_path)
    rows = table(queue)
    assert [(row["number"], row["seed"], row["state"]) for row in rows] == [
        (str(number), str(number - 1), "done") for number in range(1, 6)
    ]
    assert (queue.path / rows[0]["file"]).read_text() == "a red mug 0 0"
    assert numbers_of(queue.path / "sheet-1.png") == "1,2,3,4,5"


def test_real_pictures_are_the_same_bytes_as_alone_by_one_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, load = list[int](), StableDiffusion.__init__
    monkeypatch.setattr(
        StableDiffusion, "__init__", lambda *a, **k: (loads.append(1), load(*a, **k))[1]
    )
    model = str(tiny_folder(tmp_path / "model"))
    jobs = [Image(prompt="a red mug", backbone=model, steps=2, seed=seed) for seed in (0, 1)]
    queue = filled(tmp_path, *jobs)
    assert work(queue) == 2
    assert len(loads) == 1
    for job in jobs:
        do(job, tmp_path / "alone")
        assert contents(queue.result(key_of(job))) == contents(tmp_path / "alone")
    drawn = worker.read_time(queue.path / "sheet-1.png")
    assert work(queue) == 0
    assert worker.read_time(queue.path / "sheet-1.png") == drawn  # nothing is new


def test_a_run_that_was_stopped_goes_on_elsewhere_and_ends_as_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(scene: Any, folder: Path, *_: Any) -> SimpleNamespace:
        (folder / "report.json").write_text("{}")
        return SimpleNamespace(folder=folder, glb=folder / "asset.glb")

    def watched(job: Job, folder: Path, listen: Listener) -> Result:
        def look(progress: Progress) -> None:
            reached.append(progress.step)
            listen(progress)

        return do(job, folder, look)

    def scene(folder: Path) -> tuple[int, dict[str, Any]]:
        found = RunFolder.open(folder).latest_checkpoint()
        assert found is not None
        return found.step, {name: value.tolist() for name, value in found.scene.items()}

    monkeypatch.setattr(loop, "build_asset", build)  # slow, and of the scene alone
    model = str(tiny_folder(tmp_path / "model", "multiview"))
    preset = tmp_path / "run.yaml"
    run = replace(tiny_run(model, steps=3), preview_every=2, check_fronts=False)
    preset.write_text(run.to_yaml())
    job, reached = Generate(prompt="a red mug", preset=str(preset)), list[int]()
    queue = Queue.create(tmp_path / "queue")
    queue.add([Entry(job)])
    with pytest.raises(KeyboardInterrupt):
        work(queue, do=watched, stop=lambda: 2 in reached)
    (left,) = (queue.path / "work").iterdir()
    assert scene(left)[0] == 2
    assert work(queue) == 1
    assert scene(queue.result(key_of(job))) == scene(do(job, tmp_path / "alone").folder)
    assert [one.attempts for one in queue.tickets("done")] == [1]


def test_what_a_user_can_change_is_set_aside_at_once_and_bugs_at_the_third_time(
    tmp_path: Path,
) -> None:
    def fail(job: Job, folder: Path, listen: Listener) -> Result:
        if job == MUG:
            raise InputError("there is no backbone 'x'")
        if job == BALL:
            raise ZeroDivisionError("a bug")
        warnings.warn("unknown words", RunWarning, stacklevel=2)
        warnings.warn("of a library", DeprecationWarning, stacklevel=2)
        return Result(folder, folder, ())

    green = Image(prompt="a green mug")
    queue = filled(tmp_path, MUG, BALL, green)
    assert work(queue, do=fail) == 1
    mug, ball = status(queue).failed
    assert (mug.attempts, mug.reason) == (1, "there is no backbone 'x'")
    assert (ball.attempts, ball.reason) == (3, "ZeroDivisionError: a bug")
    assert 'raise ZeroDivisionError("a bug")' in Path(str(ball.trace)).read_text()
    rows = {row["number"]: row for row in table(queue)}
    assert rows["2"]["reason"] == ball.reason
    assert rows["3"]["notes"] == "unknown words"


def test_a_full_disk_gives_the_job_back_and_ends_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(job: Job, folder: Path, listen: Listener) -> Result:
        try:
            raise OSError(errno.ENOSPC, "no space left")
        except OSError as error:
            raise InputError("cannot write a checkpoint") from error

    queue = filled(tmp_path, MUG)
    with pytest.raises(
        InputError, match=r"the disk is full \(cannot write a checkpoint\); the job"
    ):
        work(queue, do=fill)
    assert [one.attempts for one in queue.tickets("waiting")] == [0]

    def refuse(job: Job, folder: Path, listen: Listener) -> Result:
        raise InputError("100 MiB are free, a run may need 200")

    monkeypatch.setattr(worker, "NEEDED", 2**80)
    with pytest.raises(InputError, match="the disk is full"):
        work(queue, do=refuse)
    assert [one.attempts for one in queue.tickets("waiting")] == [0]


def test_a_run_goes_on_from_its_checkpoint_and_a_finished_one_is_published(tmp_path: Path) -> None:
    job = Generate(prompt="a red mug")
    queue = Queue.create(tmp_path / "queue")
    queue.add([Entry(job)])
    asked = list[Job]()

    def run(job: Job, folder: Path, listen: Listener) -> Result:
        asked.append(job)
        if len(asked) == 1:
            RunFolder.create(folder, "a red mug", load_run())
            raise OSError("a hiccup of the network")
        RunFolder.open(folder).log([{"event": "finished"}])
        raise OSError("another, at the very end")

    assert work(queue, do=run) == 1
    assert asked == [job, Resume()]
    assert (queue.result(key_of(job)) / "config.yaml").exists()


def test_a_training_goes_on_and_other_jobs_begin_anew(tmp_path: Path) -> None:
    asked = list[tuple[Job, bool]]()

    def note(job: Job, folder: Path, listen: Listener) -> Result:
        asked.append((job, any(folder.iterdir())))
        return Result(folder, folder, ())

    train = Train(system="controlnet", data="toybox")
    for job in (train, MUG):
        (tmp_path / job.kind / "edges").mkdir(parents=True)
        (tmp_path / job.kind / "edges" / "checkpoint.pt").touch()
        worker.carry_on(job, tmp_path / job.kind, note, lambda progress: None)
    assert asked == [(replace(train, resume=True), True), (MUG, False)]


def test_only_a_lease_that_nobody_renews_runs_out_whatever_the_clocks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    queue = filled(tmp_path, MUG, BALL)
    alive, dead = queue.claim("anna"), queue.claim("berta")
    assert alive is not None
    assert dead is not None
    watch = Watch(queue)
    for jump in (0, 10**6, -(10**6), 0, 0, 0, 0, 0):  # of the file system's clock, in seconds
        assert watch.expired() == []
        now += queue.lease / 8
        os.utime(alive.lease, (time.time() + jump, time.time() + jump + now))
    assert watch.expired() == [dead.ticket]
    monkeypatch.setattr(time, "time", lambda: 0.0)  # nor does the worker's own clock matter
    assert Watch(queue).expired() == []


def test_the_job_of_a_silent_worker_is_done_by_another(tmp_path: Path) -> None:
    queue = Queue.create(tmp_path / "queue", lease=0.2)
    queue.add([Entry(MUG)])
    assert queue.claim("dead") is not None
    assert work(queue, do=short) == 1
    assert_made(queue, [MUG], tmp_path)
    assert [one.attempts for one in queue.tickets("done")] == [2]


def test_a_worker_renews_its_lease_and_leaves_a_job_that_was_cancelled(tmp_path: Path) -> None:
    queue = Queue.create(tmp_path / "queue", lease=0.2)
    queue.add([Entry(MUG)])

    def endless(job: Job, folder: Path, listen: Listener) -> Result:
        (ticket,) = queue.tickets("running")
        renewed = worker.read_time(queue.file("running", ticket))
        while worker.read_time(queue.file("running", ticket)) == renewed:
            time.sleep(0.01)
        queue.cancel()
        while True:
            listen(Progress("on and on"))
            time.sleep(0.01)

    assert work(queue, do=endless) == 0
    assert states(queue) == {"cancelled": 1}
    assert not list((queue.path / "work").iterdir())


def test_a_run_that_was_cancelled_goes_on_from_its_checkpoint_if_it_is_asked_to(
    tmp_path: Path,
) -> None:
    job, asked = Generate(prompt="a red mug"), list[Job]()
    queue = Queue.create(tmp_path / "queue", lease=0.2)
    queue.add([Entry(job)])

    def run(job: Job, folder: Path, listen: Listener) -> Result:
        asked.append(job)
        if len(asked) < 3:
            if len(asked) == 1:
                RunFolder.create(folder, "a red mug", load_run())
            queue.cancel()
            while True:
                listen(Progress("on and on"))
                time.sleep(0.01)
        return Result(folder, folder / "config.yaml", ())

    for done in (0, 0, 1):
        assert work(queue, do=run) == done
        queue.retry([ticket.key for ticket in queue.tickets("cancelled")])
    assert asked == [job, Resume(), Resume()]
    assert (queue.result(key_of(job)) / "config.yaml").exists()
    assert not list((queue.path / "work").iterdir())


@pytest.fixture
def restored() -> Iterator[None]:
    """Signals mean afterwards what they meant before."""
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before):
        signal.signal(number, handler)


@pytest.mark.parametrize("handler", [signal.default_int_handler, signal.SIG_IGN])
@pytest.mark.parametrize("threaded", [False, True])
def test_a_worker_that_is_told_to_stop_gives_its_job_back(
    tmp_path: Path, restored: None, threaded: bool, handler: Any
) -> None:
    signal.signal(signal.SIGINT, handler)  # a shell's "&" has it ignored
    queue, told, caught = filled(tmp_path, MUG, BALL), threading.Event(), list[BaseException]()

    def go_on(job: Job, folder: Path, listen: Listener) -> Result:
        (folder / "checkpoint").touch()
        told.set()
        listen(Progress("working"))
        raise AssertionError("it was not interrupted")

    def labour() -> None:
        try:
            work(queue, do=go_on, stop=told.is_set)
        except KeyboardInterrupt as error:
            caught.append(error)

    if threaded:
        thread = threading.Thread(target=labour)
        thread.start()
        thread.join()
    else:
        labour()
    assert len(caught) == 1
    assert states(queue) == {"waiting": 2}
    assert {one.attempts for one in queue.tickets("waiting")} == {0}
    assert len(list((queue.path / "work").iterdir())) == 1  # from which it goes on
    assert work(queue, stop=lambda: True) == 0


@pytest.fixture
def heard(restored: None) -> list[int]:
    """The interrupts that have come."""
    found: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: found.append(number))
    return found


def test_a_run_is_interrupted_by_the_signal_that_leaves_a_checkpoint(
    tmp_path: Path, heard: list[int]
) -> None:
    queue = filled(tmp_path, MUG)
    claim = queue.claim("anna")
    assert claim is not None
    keeper = Keeper(queue, claim, lambda: True)
    keeper.listen(Progress("one"))
    keeper.listen(Progress("two"))
    assert heard == [signal.SIGINT]


def test_a_job_that_keeps_an_interrupt_to_itself_is_the_last(tmp_path: Path) -> None:
    queue, told = filled(tmp_path, MUG, BALL), threading.Event()

    def deaf(job: Job, folder: Path, listen: Listener) -> Result:
        told.set()
        return short(job, folder, listen)

    assert work(queue, do=deaf, stay=True, enough=told.is_set) == 1
    assert states(queue) == {"waiting": 1, "done": 1}


def test_a_crew_that_is_told_to_stop_gives_all_jobs_back(tmp_path: Path) -> None:
    queue = filled(tmp_path, mugs(3)[2])
    employ(queue, stay=True, command=child(), stop=lambda: bool(queue.tickets("running")))
    assert states(queue) == {"waiting": 1}


def test_a_worker_that_a_scheduler_and_its_crew_end_hears_it_once(heard: list[int]) -> None:
    signal.signal(signal.SIGTERM, __main__._end)
    for _ in range(2):
        signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGINT]


def run_worker(queue: Queue, name: str) -> None:
    """What a forked worker does."""
    os._exit(0 if work(queue, worker=name, do=short) >= 0 else 1)


def test_twenty_kills_at_any_moment_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    jobs, chance, begun = mugs(40), random.Random(0), 0
    queue = filled(tmp_path, *jobs)
    alive: dict[str, Any] = {}
    ends, deadline = Counter[int](), time.monotonic() + 60
    while ends[-signal.SIGKILL] < 20 or alive:
        assert time.monotonic() < deadline
        while ends[-signal.SIGKILL] < 20 and len(alive) < 3:
            begun += 1
            name = f"worker{begun}"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of threads in a process that forks
                alive[name] = FORK.Process(target=run_worker, args=(queue, name))
                alive[name].start()
        time.sleep(chance.uniform(0.001, 0.02))
        if ends[-signal.SIGKILL] < 20:
            alive[chance.choice(sorted(alive))].kill()
        for name in list(alive):
            alive[name].join(0.001 if alive[name].exitcode is None else None)
            if alive[name].exitcode is not None:
                ends[alive.pop(name).exitcode] += 1
                for ticket in queue.tickets("running"):  # as the crew does
                    if ticket.worker == name:
                        queue.fail(ticket, "killed")
    failed = status(queue).failed
    assert all((one.attempts, one.reason) == (3, "killed") for one in failed)
    queue.retry()
    work(queue, do=short)
    assert_made(queue, jobs, tmp_path)


CHILD = """
import os, pathlib, sys, time
from threed.queue import Queue, work
from threed.runs.do import Result
def do(job, folder, listen):
    if job.seed == 1:
        os.kill(os.getpid(), 9)
    (folder / "made").write_text(str(job.seed))
    while job.seed == 2 and "--stay" in sys.argv:
        time.sleep(0.01)
        listen(__import__("threed.runs.progress").runs.progress.Progress("on"))
    return Result(folder, folder / "made", ())
folder, name, parent = sys.argv[1:4]
{begin}
work(Queue.open(folder), worker=name, do=do, stop=lambda: os.getppid() != int(parent))
"""


def child(begin: str = "") -> tuple[str, ...]:
    """The command of a worker that is killed by the job of seed 1."""
    return sys.executable, "-c", CHILD.replace("{begin}", begin)


def test_a_crew_replaces_the_killed_and_a_job_that_kills_does_not_circle(tmp_path: Path) -> None:
    queue, told = filled(tmp_path, mugs(3)[1], *mugs(3)[::2]), list[str]()
    for _ in range(2):  # it has killed two before
        claim = queue.claim("dead")
        assert claim is not None
        queue.fail(claim.ticket, "killed")
    employ(queue, tell=told.append, command=child())
    assert states(queue) == {"done": 2, "failed": 1}
    (failed,) = status(queue).failed
    assert (failed.attempts, failed.reason) == (
        3, "its worker ended by SIGKILL (is memory short?)"
    )  # fmt: skip
    assert told[-1].startswith("3 jobs: 2 done, 1 failed;")


def test_a_crew_whose_workers_cannot_begin_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "LOOK", 0.01)
    queue = filled(tmp_path, MUG)
    for code, said in (
        (7, "before they have begun, by exit status 7"),
        (2, "a worker has stopped"),
    ):
        with pytest.raises(InputError, match=said):
            employ(queue, command=("/bin/sh", "-c", f"exit {code}"))
    assert states(queue) == {"waiting": 1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_crew_gives_all_jobs_back(tmp_path: Path, number: signal.Signals) -> None:
    queue = filled(tmp_path, mugs(3)[2])

    def interrupt(line: str) -> None:
        if queue.tickets("running"):
            signal.raise_signal(number)

    crew.TELL, before = 0.0, crew.TELL
    try:
        with pytest.raises(KeyboardInterrupt):
            employ(queue, stay=True, tell=interrupt, command=child())
    finally:
        crew.TELL = before
    assert states(queue) == {"waiting": 1}


def test_workers_share_cores_and_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert crew.surroundings(0, 1) == {}
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [crew.surroundings(place, 3) for place in (1, 2)] == [
        {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": card}
        for card in ("6", "4")
    ]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    for card in ("0000:17:00.0", "0000:ca:00.0"):
        (tmp_path / card).mkdir()
    monkeypatch.setattr(crew, "CARDS", tmp_path)
    assert crew.surroundings(1, 1) == {"CUDA_VISIBLE_DEVICES": "1"}


def test_a_queue_is_looked_after_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys, threed.apps.cli.queues, threed.queue.__main__\n"
        "print([name for name in ('torch', 'numpy', 'PIL') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_the_script_for_slurm_runs(tmp_path: Path) -> None:
    page = (Path(crew.__file__).parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```sh\n(#!/bin/bash\n.*?)```", page, re.DOTALL)
    queue = filled(tmp_path, Image(prompt="a red mug", system="none-such"))
    for name, line in (
        ("srun", '"$@"'),
        ("threed", f'{sys.executable} -m threed.apps.cli.main "$@"'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\nexec {line}\n")
        (tmp_path / name).chmod(0o755)
    around = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "QUEUE": str(queue.path)}
    done = subprocess.run(["bash", "-c", script], env=around, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert "1 failed: threed queue status --queue" in done.stderr
    assert states(queue) == {"failed": 1}
