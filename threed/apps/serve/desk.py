"""What all faces of a server do: let jobs in, show how they go, and hand out what they made.

A job's id is made of its key and a secret of the folder, so it cannot be guessed, and every server
over the folder knows it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

from filelock import FileLock
from pydantic import Field

from threed.apps.serve.admit import Door
from threed.apps.serve.options import Serve
from threed.apps.serve.refusal import Refusal
from threed.apps.serve.uploads import Uploads
from threed.core.files import make_folder, write_aside
from threed.queue.folder import STATES, Entry, Queue
from threed.queue.overview import status
from threed.queue.ticket import LARGEST, Attempt, Ticket, key_of
from threed.settings.base import Settings

ID = r"[0-9a-f]{32}"
REMEMBERED = 10_000  # jobs whose data is kept in memory
SMALL = 8192  # bytes of such data; more is read anew
PICTURE, MESH, TEXT = "image/png", "model/mesh", "text/plain; charset=utf-8"
LIVE = "live.png"  # the newest picture of a job that runs
FILES = {  # what a job may hand out
    "asset.glb": "model/gltf-binary", "asset.obj": MESH, "asset.mtl": TEXT, "asset.png": PICTURE,
    "asset.ply": MESH, "asset.stl": MESH, "asset.usdz": "model/vnd.usdz+zip",
    "asset.3mf": "model/3mf", "asset_print.3mf": "model/3mf",
    "asset.fbx": "application/octet-stream", "asset.spz": "application/octet-stream",
    "asset_unity.glb": "model/gltf-binary", "asset_unreal.glb": "model/gltf-binary",
    "asset_godot.glb": "model/gltf-binary", "asset_web.glb": "model/gltf-binary",
    "asset_lod1.glb": "model/gltf-binary", "asset_lod2.glb": "model/gltf-binary",
    "asset_lod3.glb": "model/gltf-binary", "asset_lod4.glb": "model/gltf-binary",
    "turntable.mp4": "video/mp4", "preview.png": PICTURE, "views.png": PICTURE,
    "candidates.png": PICTURE,
    "picture.png": PICTURE, "picture.jpg": "image/jpeg", "picture.webp": "image/webp",
    "heat.png": PICTURE, "report.json": "application/json", "config.yaml": TEXT, "log.jsonl": TEXT,
}  # fmt: skip
State = Literal["waiting", "running", "done", "failed", "cancelled"]


class Shown(Settings):
    """A job as it is shown."""

    id: str
    number: int = Field(description="its place in the order in which jobs came")
    state: State
    title: str = Field(description="what it is about: its prompt, as a rule")
    job: dict[str, Any] = Field(description="what was asked for")
    ahead: int = Field(0, description="jobs that are done before it")
    attempts: int = Field(description="begun")
    seconds: float = Field(0.0, description="that the newest attempt has taken")
    message: str = Field("", description="what is being done")
    step: int = 0
    steps: int = 0
    losses: dict[str, float] = Field({}, description="of the newest step")
    reason: str = Field("", description="why it failed, or its result is gone")
    notes: tuple[str, ...] = Field((), description="what its owner should know")
    files: tuple[str, ...] = Field((), description="what can be had of it, by name")


class Counts(Settings):
    """How far the queue is."""

    jobs: dict[str, int] = Field(description="by state")
    workers: int = Field(description="that are at work")
    seconds: float | None = Field(description="that a job takes; null before one is done")
    left: float | None = Field(description="seconds until all is done; null if it is not known")
    trouble: str = Field("", description="why this server's workers do nothing, if they do not")


@dataclass
class Desk:
    """A queue's folder, as those who send requests see it."""

    queue: Queue
    limits: Serve = field(default_factory=Serve)
    fresh: float = 0.3  # seconds that a look at the folder holds
    trouble: str = ""
    closing: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _jobs: dict[str, tuple[str, Ticket]] = field(default_factory=dict)
    _due: float = 0.0
    _ids: dict[str, str] = field(default_factory=dict)
    _asked: dict[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def secret(self) -> bytes:
        """What ids are made with: of the folder, made once."""
        place = self.queue.path / ".secret"
        if not place.exists():
            with FileLock(self.queue.path / ".adding.lock"):  # of two that begin, one makes it
                if not place.exists():
                    with write_aside(place) as part:
                        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                        part.write_bytes(secrets.token_bytes(32))
        return place.read_bytes()

    @cached_property
    def uploads(self) -> Uploads:
        """What clients have sent."""
        folder = self.queue.path / "uploads"
        make_folder(folder)
        return Uploads(folder, self.limits, lambda text: self.id_of(f"upload {text}"))

    @property
    def door(self) -> Door:
        """What requests may name."""
        return Door(self.sent, self.limits.models, self.limits.steps)

    def id_of(self, key: str) -> str:
        """The id of a job's key."""
        if key not in self._ids:
            if len(self._ids) > REMEMBERED:
                self._ids.clear()
            self._ids[key] = hmac.new(self.secret, key.encode(), hashlib.sha256).hexdigest()[:32]
        return self._ids[key]

    def jobs(self, *, now: bool = False) -> dict[str, tuple[str, Ticket]]:
        """Every job's state and ticket by its id, as of a moment ago, or `now`."""
        if now or time.monotonic() >= self._due:
            self._jobs = {self.id_of(key): found for key, found in self.queue.known().items()}
            self._due = time.monotonic() + self.fresh
        return self._jobs

    def find(self, own: str) -> tuple[str, Ticket]:
        """The state and ticket of an id. Refusal 404 if there is no such job."""
        found = self.jobs().get(own) or self.jobs(now=True).get(own)
        if found is None:
            raise Refusal(404, "there is no such job")
        return found

    def submit(self, data: Mapping[str, Any], client: str) -> str:
        """Let a job in, and say its id: that of the same job, if it was asked for before.

        One that failed or was cancelled is done anew. InputError for what it may not be or name,
        Refusal 429 where too many wait.
        """
        job = self.door.admit(data)
        key = key_of(job)
        own = self.id_of(key)
        with self._lock:
            state = self.jobs(now=True).get(own, ("", None))[0]
            if state in ("", "failed", "cancelled"):
                self._check_room(client)
            if state in ("failed", "cancelled"):
                self.queue.retry([key])
            elif not state:
                self.queue.add([Entry(job, f"client {client}")])
            self._due = 0.0
        return own

    def _check_room(self, client: str) -> None:
        waiting = [ticket for state, ticket in self._jobs.values() if state == "waiting"]
        if len(waiting) >= self.limits.waiting:
            raise Refusal(429, f"{len(waiting)} jobs are waiting: try again when some are done")
        own = sum(self.asked("waiting", ticket).get("source") == f"client {client}"
                  for ticket in waiting)  # fmt: skip
        if own >= self.limits.each:
            raise Refusal(429, f"{own} of your jobs are waiting: try again when some are done")

    def cancel(self, own: str) -> None:
        """Have a job not done; Refusal 409 for one that is done, 404."""
        self._change(own, ("waiting", "running", "failed"), self.queue.cancel)

    def retry(self, own: str) -> None:
        """Have a job done anew that failed, or go on that was cancelled; Refusal 409, 404."""
        self._change(own, ("failed", "cancelled"), self.queue.retry)

    def _change(self, own: str, states: tuple[str, ...], act: Any) -> None:
        self._due = 0.0
        state, ticket = self.find(own)
        if state not in states and not (state == "cancelled" and act == self.queue.cancel):
            raise Refusal(409, f"the job is {state}; it must be {' or '.join(states)}")
        if state in states:
            act([ticket.key])
        self._due = 0.0

    def asked(self, state: str, ticket: Ticket) -> dict[str, Any]:
        """The content of a job's file, as it is; {} if it is gone or damaged."""
        if ticket.key not in self._asked:
            if len(self._asked) > REMEMBERED:
                self._asked.clear()
            with suppress(OSError, ValueError, RecursionError):
                path = self.queue.file(state, ticket)
                size = path.stat().st_size
                found = json.loads(path.read_bytes()) if size <= LARGEST else None
                if isinstance(found, dict) and isinstance(found.get("job"), dict):
                    if size > SMALL:
                        return found
                    self._asked[ticket.key] = found
        return self._asked.get(ticket.key, {})

    def show(self, own: str) -> Shown:
        """How a job goes; Refusal 404."""
        state, ticket = self.find(own)
        shown = self.shown(state, ticket)
        if state != "waiting":
            return shown
        before = sum(ticket.number > other.number for where, other in self.jobs().values()
                     if where in ("waiting", "running"))  # fmt: skip
        return shown.model_copy(update={"ahead": before})

    def shown(self, state: str, ticket: Ticket) -> Shown:
        """How a job of a state goes."""
        job = self.spoken(self.asked(state, ticket).get("job", {}))
        at = Attempt() if state == "waiting" else self.queue.attempt(ticket)
        own = self.id_of(ticket.key)
        return Shown(id=own, number=ticket.number, state=cast(State, state), job=job,
                     title=title_of(job), attempts=ticket.attempts, seconds=at.seconds,
                     message=at.message, step=at.step, steps=at.steps, losses=dict(at.losses),
                     reason=self.spoken(at.reason) if state in ("failed", "cancelled") else "",
                     notes=self.spoken(at.notes), files=self._files(state, ticket))  # fmt: skip

    def _files(self, state: str, ticket: Ticket) -> tuple[str, ...]:
        if state == "done":
            with suppress(OSError):
                have = set(os.listdir(self.queue.result(ticket.key)))
                return tuple(name for name in FILES if name in have)
        return (LIVE,) if state == "running" and self._live(ticket) else ()

    def _live(self, ticket: Ticket) -> Path | None:
        preview = self.queue.attempt(ticket).preview
        if not re.fullmatch(r"[\w-]+/[\w.-]+\.png", preview):
            return None
        path = self.queue.work_of(ticket) / preview
        return path if path.is_file() else None

    def file(self, own: str, name: str) -> Path:
        """A file of a job, by one of the names of FILES or LIVE; Refusal 404."""
        state, ticket = self.find(own)
        path = None
        if name == LIVE and state == "running":
            path = self._live(ticket)
        elif name in FILES and state == "done":
            path = self.queue.result(ticket.key) / name
        if path is None or path.is_symlink() or not path.is_file():
            raise Refusal(404, f"the job has no such file; it is {state}")
        return path

    def sent(self, reference: str) -> Path:
        """The file of a reference: an upload's id, or JOB/NAME of what a job has made."""
        match = re.fullmatch(rf"({ID})(?:/([a-z0-9_.]+))?", reference)
        if match is None:
            raise Refusal(400, f"{reference[:60]!r} is no file here: name one by the id of what "
                               "was sent to /v1/files, or by JOB/asset.glb")  # fmt: skip
        if match[2]:
            return self.file(match[1], match[2])
        path = self.uploads.find(match[1])
        if path is None:
            raise Refusal(404, f"nothing was sent that has the id {match[1]}")
        return path

    def spoken(self, value: Any) -> Any:
        """A value of a job with references in the place of paths."""
        if isinstance(value, dict):
            return {name: self.spoken(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(map(self.spoken, value))
        if not isinstance(value, str):
            return value
        root = re.escape(str(self.queue.path))
        value = re.sub(rf"{root}/uploads/({ID})/sent\.\w+", r"\1", value)
        value = re.sub(rf"{root}/results/([a-z0-9-]+)", lambda m: self.id_of(m[1]), value)
        return re.sub(rf"{root}/?", "", value)

    def counts(self) -> Counts:
        """How far the queue is."""
        now = status(self.queue)
        return Counts(jobs=dict(now.counts), workers=now.workers, seconds=now.seconds,
                      left=now.left, trouble=self.trouble)  # fmt: skip

    def history(self, state: str, words: str, before: int, limit: int) -> list[Shown]:
        """The newest jobs whose number is below `before`, of a state and with words if any."""
        found = []
        states = [state] if state else STATES
        chosen = (pair for pair in self.jobs().values()
                  if pair[0] in states and pair[1].number < before)  # fmt: skip
        for where, ticket in sorted(chosen, key=lambda pair: -pair[1].number):
            title = title_of(self.asked(where, ticket).get("job", {}))
            if words.lower() in title.lower():
                found.append(self.shown(where, ticket))
                if len(found) == limit:
                    break
        return found


def title_of(job: Mapping[str, Any]) -> str:
    """What a job's data is about."""
    names = ("prompt", "instruction", "source", "system", "job")
    return next((str(job[name]) for name in names if job.get(name)), "a damaged job")
