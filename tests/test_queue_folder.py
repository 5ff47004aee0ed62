"""A queue's folder: every change of state, alone and in a race, and what is found damaged."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from threed.core import files
from threed.core.errors import InputError
from threed.queue import Entry, Queue, status, ticket
from threed.queue.folder import STATES, QueueWarning
from threed.queue.ticket import Attempt, Ticket, key_of
from threed.runs.job import Image

MUG, BALL = Image(prompt="a red mug"), Image(prompt="a blue ball")


def states(queue: Queue) -> dict[str, int]:
    """How many jobs each state has that has any."""
    counts = {state: len(queue.tickets(state)) for state in STATES}
    return {state: count for state, count in counts.items() if count}


def filled(path: Path, *jobs: Image) -> Queue:
    """A queue with these jobs waiting."""
    queue = Queue.create(path / "queue")
    queue.add(map(Entry, jobs))
    return queue


def deny(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Have whatever opens a file to write fail with an error."""

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files, "TemporaryFile", fail)
    monkeypatch.setattr(Path, "write_text", fail)
    monkeypatch.setattr(Path, "write_bytes", fail)


def test_a_job_is_added_claimed_and_done(tmp_path: Path) -> None:
    queue = filled(tmp_path, MUG, BALL)
    assert [one.number for one in queue.tickets("waiting")] == [1, 2]
    claim = queue.claim("anna")
    assert claim is not None
    assert (claim.job, claim.ticket) == (MUG, Ticket(1, key_of(MUG), 1, "anna"))
    assert states(queue) == {"waiting": 1, "running": 1}
    queue.prepare(claim)
    (claim.folder / "picture.png").write_bytes(b"made")
    assert not queue.result(key_of(MUG)).exists()
    assert queue.publish(claim, Attempt(worker="anna", outcome="done", seconds=3))
    assert (queue.result(key_of(MUG)) / "picture.png").read_bytes() == b"made"
    assert states(queue) == {"waiting": 1, "done": 1}
    assert not list((queue.path / "work").iterdir())
    assert Queue.open(queue.path) == queue


def test_a_key_is_added_once_and_a_finished_one_never_made_again(tmp_path: Path) -> None:
    queue = filled(tmp_path, MUG)
    added = queue.add(map(Entry, (MUG, BALL, BALL)))
    assert ([one.number for one in added.tickets], added.twice) == ([2], 1)
    assert added.known == {"waiting": 1}
    claim = queue.claim("anna")
    assert claim is not None
    queue.prepare(claim)
    queue.publish(claim, Attempt(outcome="done"))
    assert queue.add([Entry(MUG)]).known == {"done": 1}
    # even if its ticket were written again
    shutil.copy(next((queue.path / "done").iterdir()), queue.path / "waiting")
    other = queue.claim("anna")
    assert other is not None
    assert other.job == BALL
    assert {one.key for one in queue.tickets("done")} == {key_of(MUG)}


def test_a_key_stands_for_a_job_and_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert key_of(MUG) == key_of(Image(prompt="a red mug", steps=30))
    keys = {key_of(MUG), key_of(BALL), key_of(Image(prompt="a red mug", seed=1))}
    monkeypatch.setattr(ticket, "__version__", "9.9")
    assert len(keys | {key_of(MUG)}) == 4
    assert all(key.startswith(("a-red-mug-", "a-blue-ball-")) for key in keys)


def test_of_many_that_claim_at_once_one_wins(tmp_path: Path) -> None:
    jobs = [Image(prompt="a red mug", seed=seed) for seed in range(12)]
    queue, won = filled(tmp_path, *jobs), []
    together = threading.Barrier(6)

    def take(name: str) -> None:
        waiting = deque(queue.tickets("waiting"))
        together.wait()
        while waiting:
            claim = queue.claim(name, waiting)
            won.extend([] if claim is None else [claim.ticket.key])

    threads = [threading.Thread(target=take, args=(f"worker{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == sorted(map(key_of, jobs))
    assert states(queue) == {"running": 12}


def test_three_failures_set_a_job_aside_and_retry_begins_anew(tmp_path: Path) -> None:
    queue = filled(tmp_path, MUG)
    for attempt in (1, 2, 3):
        assert states(queue) == {"waiting": 1}
        claim = queue.claim(f"worker{attempt}")
        assert claim is not None
        queue.prepare(claim)
        (claim.folder / "checkpoint.pt").touch()
        queue.fail(claim.ticket, "its worker was killed", "a traceback")
    assert states(queue) == {"failed": 1}
    (failed,) = status(queue).failed
    assert (failed.attempts, failed.reason) == (3, "its worker was killed")
    assert Path(str(failed.trace)).read_text() == "a traceback"
    assert queue.retry() == [Ticket(1, key_of(MUG))]
    claim = queue.claim("anna")
    assert claim is not None
    queue.prepare(claim)
    assert not list(claim.folder.iterdir())


def test_an_attempt_goes_on_in_the_folder_of_the_one_before(tmp_path: Path) -> None:
    queue = filled(tmp_path, MUG)
    first = queue.claim("anna")
    assert first is not None
    queue.prepare(first)
    (first.folder / "checkpoint.pt").touch()
    queue.give_back(first.ticket)
    assert queue.tickets("waiting") == [Ticket(1, key_of(MUG), 0)]  # it does not count
    second = queue.claim("berta")
    assert second is not None
    queue.prepare(second)
    assert (second.folder / "checkpoint.pt").exists()
    # anna was only slow: she has lost the job, and what she writes now is no result
    first.folder.mkdir()
    assert not first.renew()
    assert not queue.publish(first, Attempt(outcome="done"))
    assert not first.folder.exists()
    assert states(queue) == {"running": 1}
    assert queue.publish(second, Attempt(outcome="done"))
    assert [path.name for path in queue.result(key_of(MUG)).iterdir()] == ["checkpoint.pt"]


def test_a_kill_between_publishing_and_closing_loses_and_repeats_nothing(tmp_path: Path) -> None:
    for number, end in enumerate(("fail", "give_back")):
        queue = filled(tmp_path / end, MUG)
        claim = queue.claim("anna")
        assert claim is not None
        queue.prepare(claim)
        os.rename(claim.folder, queue.result(key_of(MUG)))
        queue.fail(claim.ticket, "killed") if number == 0 else queue.give_back(claim.ticket)
        assert states(queue) == {"done": 1}


def test_cancelled_jobs_are_left_by_their_worker_and_can_come_back(tmp_path: Path) -> None:
    queue = filled(tmp_path, MUG, BALL)
    claim = queue.claim("anna")
    assert claim is not None
    queue.prepare(claim)
    assert len(queue.cancel()) == 2
    assert states(queue) == {"cancelled": 2}
    assert not queue.publish(claim, Attempt(outcome="done"))
    assert not list((queue.path / "work").iterdir())
    assert queue.retry() == []  # these did not fail
    assert len(queue.retry(["a-red"])) == 1
    assert states(queue) == {"waiting": 1, "cancelled": 1}


def test_what_was_made_before_a_job_was_cancelled_stays_and_goes_where_it_failed(
    tmp_path: Path,
) -> None:
    for final in (False, True):
        queue = filled(tmp_path / str(final), MUG)
        claim = queue.claim("anna")
        assert claim is not None
        queue.prepare(claim)
        (claim.folder / "checkpoint.pt").touch()
        queue.fail(claim.ticket, "no such thing", final=final)
        queue.cancel([claim.ticket.key])
        queue.retry([claim.ticket.key])
        claim = queue.claim("berta")
        assert claim is not None
        assert claim.ticket.attempts == 1
        queue.prepare(claim)
        assert bool(list(claim.folder.iterdir())) != final


def test_a_rename_whose_answer_the_network_has_lost_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, rename = filled(tmp_path, MUG, BALL), os.rename

    def lose(source: Path, target: Path) -> None:
        rename(source, target)
        rename(source, target)  # as it was asked for again, since no answer had come

    monkeypatch.setattr(os, "rename", lose)
    for job in (MUG, BALL):
        claim = queue.claim("anna")
        assert claim is not None
        assert claim.job == job
        queue.prepare(claim)
        assert queue.publish(claim, Attempt(outcome="done"))
    assert states(queue) == {"done": 2}


def test_keys_that_cannot_be_chosen_are_named(tmp_path: Path) -> None:
    queue = filled(tmp_path, MUG, Image(prompt="a red mug", seed=1), BALL)
    for words, said in (
        (["a-green"], "a-green: there is no such job"),
        (["a-red"], "a-red: 2 jobs begin with it"),
        (["a-blue"], r"a-blue-ball-\w+ is waiting; it must be failed or cancelled"),
    ):
        with pytest.raises(InputError, match=said):
            queue.retry(words)
    assert states(queue) == {"waiting": 3}


def rewrite(queue: Queue, **changes: Any) -> None:
    """Change the content of the first waiting job's file."""
    path = queue.file("waiting", queue.tickets("waiting")[0])
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("changes", [{"threed": "9.9"}, {"format": 2, "more": 1}])
def test_jobs_of_another_version_are_left_to_its_workers(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    queue = filled(tmp_path, MUG, BALL)
    rewrite(queue, **changes)
    with pytest.warns(QueueWarning, match=r"left to workers of that version; this is \d"):
        claim = queue.claim("anna")
    assert claim is not None
    assert claim.job == BALL
    assert states(queue) == {"waiting": 1, "running": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "holds no job"),
        ('{"job": {"job": "imagine"}}', "no job 'imagine'; did you mean 'image'"),
        ('{"job": {"job": "image", "prompt": "a green mug"}}', "changed after it was added"),
        (" " * (2**20 + 1), "more than 1,048,576 bytes"),
    ],
)
def test_a_damaged_job_is_set_aside_and_the_next_one_done(
    tmp_path: Path, content: str, said: str
) -> None:
    queue = filled(tmp_path, MUG, BALL)
    queue.file("waiting", queue.tickets("waiting")[0]).write_text(content)
    claim = queue.claim("anna")
    assert claim is not None
    assert claim.job == BALL
    assert said in status(queue).failed[0].reason


def test_folders_that_hold_no_queue_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thing").touch()
    with pytest.raises(InputError, match="is not empty and holds no queue"):
        Queue.create(tmp_path / "other")
    with pytest.raises(InputError, match=r"holds no queue: there is no queue\.json"):
        Queue.open(tmp_path / "none")
    queue = filled(tmp_path)
    for content, said in (
        ('{"format": 2, "lease": 9}', "later version"),
        ("{}", "is damaged"),
    ):
        (queue.path / "queue.json").write_text(content)
        with pytest.raises(InputError, match=said):
            Queue.open(queue.path)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_where_nothing_can_be_written_that_is_said_and_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    queue = filled(tmp_path, MUG)
    deny(monkeypatch, code)
    for act in (lambda: queue.add([Entry(BALL)]), queue.retry, queue.cancel):
        with pytest.raises(InputError, match=f"(?i)cannot write .*{os.strerror(code)}"):
            act()
    assert status(queue).counts["waiting"] == 1  # which can be read all the same
    assert states(queue) == {"waiting": 1}


def test_a_disk_that_fills_while_a_list_is_added_leaves_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, write, calls = filled(tmp_path), Path.write_text, list[Path]()

    def fill(path: Path, *words: Any, **named: Any) -> int:
        calls.append(path)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "full")
        return write(path, *words, **named)

    monkeypatch.setattr(Path, "write_text", fill)
    with pytest.raises(InputError, match="free some space"):
        queue.add(map(Entry, (MUG, BALL)))
    assert states(queue) == {}
    assert {path.name for path in queue.path.iterdir() if path.name.startswith(".add")} == {
        ".adding.lock"
    }


def test_status_reckons_what_is_left(tmp_path: Path) -> None:
    jobs = [Image(prompt="a red mug", seed=seed) for seed in range(8)]
    queue = filled(tmp_path, *jobs)
    assert (status(queue).left, status(queue).seconds) == (None, None)
    for seconds in (10.0, 30.0):
        claim = queue.claim("anna")
        assert claim is not None
        queue.prepare(claim)
        queue.publish(claim, Attempt(worker="anna", outcome="done", seconds=seconds))
    assert status(queue).left is None  # nobody works
    for name, seconds in (("anna", 5.0), ("berta", 50.0)):
        claim = queue.claim(name)
        assert claim is not None
        queue.record(claim.ticket, Attempt(worker=name, seconds=seconds, message="sampling"))
    found = status(queue)
    assert (found.workers, found.seconds) == (2, 20.0)
    assert found.left == (4 * 20 + 15 + 0) / 2
    assert found.line() == (
        "8 jobs: 4 waiting, 2 running, 2 done; 20 s a job, 2 at work, about 47.5 s left"
    )
    os.utime(claim.lease, (1, 1))  # nothing was heard of berta since 1970
    assert [one.alive for one in status(queue).running] == [True, False]
