"""Room for results: the oldest go, none that is read, and their jobs can be done anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.serving import client_of, desk_in
from tests.test_queue_folder import states
from threed.apps.serve import run
from threed.apps.serve.room import Room
from threed.queue import Queue, work
from threed.queue.folder import Entry
from threed.queue.ticket import key_of
from threed.runs.do import Result
from threed.runs.job import Export, Image, Job
from threed.runs.progress import Listener

SIZE = 1000  # bytes of a result


def heavy(job: Job, folder: Path, listen: Listener) -> Result:
    """Write so many bytes."""
    (folder / "asset.glb").write_bytes(bytes(SIZE))
    return Result(folder, folder / "asset.glb", ())


def made(queue: Queue, count: int) -> list[str]:
    """Have jobs done; their keys, the oldest first."""
    jobs = [Image(prompt="a red mug", seed=seed) for seed in reversed(range(count))]
    queue.add(map(Entry, jobs))
    work(queue, do=heavy)
    for age, ticket in enumerate(queue.tickets("done")):
        os.utime(queue.file("done", ticket), (age, age))
    return list(map(key_of, jobs))


def test_the_oldest_results_are_removed_and_done_anew_if_asked(tmp_path: Path) -> None:
    desk = desk_in(tmp_path)
    keys, room = made(desk.queue, 4), Room(desk.queue, 2.5 * SIZE)
    own = desk.id_of(keys[0])
    assert room.make() == keys[:2]
    assert room.make() == []
    assert states(desk.queue) == {"done": 2, "cancelled": 2}
    assert sorted(os.listdir(desk.queue.path / "results")) == sorted(keys[2:])
    assert not list((desk.queue.path / "work").iterdir())
    shown = desk.show(own)
    assert (shown.state, shown.files) == ("cancelled", ())
    assert shown.reason == "its result was removed to make room"
    assert client_of(desk).get(f"/v1/jobs/{own}/files/asset.glb").status_code == 404
    desk.retry(own)
    work(desk.queue, do=heavy)
    assert desk.show(own).files == ("asset.glb",)


def test_what_an_open_job_reads_stays(tmp_path: Path) -> None:
    desk = desk_in(tmp_path)
    keys = made(desk.queue, 3)
    source = desk.queue.result(keys[0]) / "asset.glb"
    desk.queue.add([Entry(Export(source=source, file="asset.obj"))])
    assert Room(desk.queue, 0.5).make() == keys[1:]
    assert source.exists()


def test_what_a_cancelled_job_left_goes_before_any_result(tmp_path: Path) -> None:
    desk = desk_in(tmp_path)
    keys = made(desk.queue, 2)
    desk.queue.add([Entry(Image(prompt="a blue mug")), Entry(Image(prompt="a green mug"))])
    for worker in ("one", "other"):
        claim = desk.queue.claim(worker)
        assert claim is not None
        desk.queue.prepare(claim)
        (claim.folder / "checkpoint.pt").write_bytes(bytes(SIZE))
    stopped, running = desk.queue.tickets("running")
    desk.queue.cancel([stopped.key])
    work = desk.queue.path / "work"
    assert Room(desk.queue, 3.5 * SIZE).make() == []
    assert len(list(work.iterdir())) == 2
    assert Room(desk.queue, 2.5 * SIZE).make() == []
    assert [path.name for path in work.iterdir()] == [running.stem]
    assert sorted(os.listdir(desk.queue.path / "results")) == sorted(keys)


def test_a_server_removes_nothing_unless_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "TIDY", 0.01)
    for options, left in (({}, 2), ({"keep": 1.5e-6}, 1)):
        desk, told = desk_in(tmp_path / str(left), **options), list[str]()
        keys = made(desk.queue, 2)
        with run.working(desk, 0, told.append):
            while left < 2 and not told:
                desk.closing.wait(0.01)
        assert len(desk.queue.tickets("done")) == left
        assert told == [f"removed the result of {keys[0]}, to make room"] * (2 - left)
