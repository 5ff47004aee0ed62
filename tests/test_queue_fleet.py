"""Workers as actors of a Ray cluster: a stand-in for Ray, and Ray itself where it is installed."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.test_queue_folder import filled, states
from tests.test_queue_worker import assert_made, mugs, short
from threed.core.errors import InputError
from threed.queue import Queue, status
from threed.queue.crew import THREADS
from threed.queue.fleet import Labourer, deploy
from threed.runs.do import Result
from threed.runs.job import Image, Job
from threed.runs.progress import Listener


class LostError(Exception):
    """What Ray raises of an actor that has died."""


class Ray:
    """Does calls one after the other in this process, or lets their actors die as told.

    ends: of the first calls, whether the actor dies with a job, without one, or "" for neither.
    """

    exceptions = SimpleNamespace(RayError=LostError)

    def __init__(self, queue: Queue, *ends: str, **resources: int) -> None:
        self.queue, self.ends, self.resources = queue, deque(ends), resources
        self.interrupted: Callable[[], None] = lambda: None
        self.did: list[str] = []
        self.options: dict[str, Any] = {}

    def init(self, address: str, **options: Any) -> None:
        """Connect."""
        self.did.append(address)

    def shutdown(self) -> None:
        """Disconnect."""
        self.did.append("shutdown")

    def cluster_resources(self) -> dict[str, int]:
        """What the cluster has."""
        return self.resources

    def nodes(self) -> list[dict[str, bool]]:
        """Its machines."""
        return [{"Alive": True}, {"Alive": False}]

    def get_runtime_context(self) -> Any:
        """What a call may ask of itself."""
        return SimpleNamespace(is_canceled=lambda: False)

    def remote(self, kind: type[Labourer]) -> Any:
        """A kind of actors; their calls are done when they are asked for."""

        def options(**chosen: Any) -> Any:
            self.options = chosen
            return SimpleNamespace(remote=begin)

        def begin(environment: dict[str, str]) -> Any:
            actor = kind(environment)
            ready = SimpleNamespace(remote=lambda: (actor, ()))
            return SimpleNamespace(
                ready=SimpleNamespace(options=lambda max_task_retries: ready),
                labour=SimpleNamespace(remote=lambda *told: (actor, told)),
            )

        return SimpleNamespace(options=options)

    def wait(self, calls: Sequence[Any], timeout: float) -> tuple[Sequence[Any], list[Any]]:
        """The calls that are over."""
        self.interrupted()
        return calls, []

    def get(self, call: Any) -> Any:
        """Do a call."""
        actor, told = call
        if not told:
            return actor.ready()
        end = self.ends.popleft() if self.ends else ""
        if end:
            assert end != "job" or self.queue.claim(f"host-1-{told[1]}")
            raise LostError(f"\n  The actor died: {end}.\nmuch more")
        return actor.labour(*told)

    def cancel(self, call: Any) -> None:
        """Tell a call to end."""
        self.did.append("cancel")

    def kill(self, actor: Any) -> None:
        """End an actor."""
        self.did.append("kill")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ray]:
    """Ray, of a queue, as it is to end."""
    for name in (*THREADS, "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "1")

    def make(queue: Queue, *ends: str, **resources: int) -> Ray:
        ray = Ray(queue, *ends, **(resources or {"CPU": 2}))
        monkeypatch.setitem(sys.modules, "ray", ray)
        return ray

    return make


def test_the_job_of_a_lost_actor_is_tried_again(
    tmp_path: Path, stand_in: Callable[..., Ray]
) -> None:
    jobs, told = mugs(3), list[str]()
    queue = filled(tmp_path, *jobs)
    ray = stand_in(queue, "job", "idle", "job", CPU=4, GPU=2)
    deploy(queue, address="there:6379", tell=told.append, do=short)
    assert_made(queue, jobs, tmp_path)
    assert [ticket.attempts for ticket in queue.tickets("done")] == [3, 1, 1]
    assert ray.did == ["there:6379", "shutdown"]
    assert ray.options["num_gpus"] == 1
    assert ray.options["max_task_retries"] == 0
    assert told[-1].startswith("3 jobs: 3 done;")


def test_a_job_that_kills_actors_is_set_aside(tmp_path: Path, stand_in: Callable[..., Ray]) -> None:
    queue = filled(tmp_path, *mugs(2))
    stand_in(queue, "job", "job", "job")
    deploy(queue, 1, do=short)
    (failed,) = status(queue).failed
    assert failed.reason == "its worker was lost: LostError: The actor died: job."
    assert states(queue) == {"done": 1, "failed": 1}


def test_actors_that_cannot_work_are_an_error(tmp_path: Path, stand_in: Callable[..., Ray]) -> None:
    queue = filled(tmp_path, *mugs(1))
    stand_in(queue, "idle", "idle", "idle")
    with pytest.raises(InputError, match="end before they have begun: LostError: The actor died"):
        deploy(queue, do=short)
    stand_in(queue, CPU=9, GPU=2)
    with pytest.raises(InputError, match="3 workers are more than the cluster has GPUs, 2"):
        deploy(queue, 3, do=short)
    elsewhere = Queue.create(tmp_path / "elsewhere")
    ray = stand_in(elsewhere)
    gone = elsewhere.path / "queue.json"  # not seen where the actor is
    ray.interrupted = partial(gone.unlink, missing_ok=True)
    with pytest.raises(InputError, match=r"elsewhere holds no queue.* are stopped, too"):
        deploy(elsewhere, do=short)
    assert states(queue) == {"waiting": 1}


def test_an_interrupted_fleet_gives_all_jobs_back(
    tmp_path: Path, stand_in: Callable[..., Ray]
) -> None:
    queue = filled(tmp_path, *mugs(2))
    ray = stand_in(queue)

    def interrupt() -> None:
        ray.interrupted = lambda: None
        raise KeyboardInterrupt

    ray.interrupted = interrupt
    with pytest.raises(KeyboardInterrupt):
        deploy(queue, 2, do=short)
    assert ray.did == ["local", "cancel", "cancel", "kill", "kill", "shutdown"]
    deploy(queue, stop=lambda: True, do=short)
    assert states(queue) == {"waiting": 2}


def test_without_ray_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'threed\[cluster\]'"):
        deploy(filled(tmp_path, *mugs(1)))


def deadly(job: Job, folder: Path, listen: Listener) -> Result:
    """Do a job, or die of it."""
    assert isinstance(job, Image)
    if job.seed == 1:
        os.kill(os.getpid(), 9)
    return short(job, folder, listen)


def test_a_real_cluster_does_all_but_what_kills_its_actors(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    queue = filled(tmp_path, *mugs(6))
    deploy(queue, 2, address=os.environ.get("RAY_ADDRESS", "local"), do=deadly)
    assert states(queue) == {"done": 5, "failed": 1}
    assert "its worker was lost" in status(queue).failed[0].reason
