"""What the files of a queue say: tickets by their names, jobs and attempts by their content."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from threed import __version__
from threed.core.errors import InputError
from threed.core.files import slug
from threed.runs.job import Job
from threed.runs.jobs import read_job
from threed.settings.base import Settings, read

FORMAT = 1  # of the folder and of its files
LARGEST = 2**20  # bytes of a job's file
_STEM = re.compile(r"(\d{1,12})\.([a-z0-9-]{1,100})\.(\d{1,6})(?:\.([a-z0-9-]{1,100}))?")


class OtherVersionError(InputError):
    """A file of a queue is for another version of threed; it is no fault of the file's."""


@dataclass(frozen=True, order=True)
class Ticket:
    """A job's file in a queue: all that may change of it is its name and where it lies."""

    number: int  # its place in the order in which jobs were added
    key: str  # of the job and the version of threed
    attempts: int = 0  # begun
    worker: str = ""  # who has it; "" if nobody does

    @property
    def stem(self) -> str:
        """Its file's name without ".json"."""
        held = [self.worker] if self.worker else []
        return ".".join([f"{self.number:06d}", self.key, str(self.attempts), *held])

    @property
    def name(self) -> str:
        """Its file's name."""
        return f"{self.stem}.json"

    @staticmethod
    def parse(stem: str) -> Ticket | None:
        """The ticket that has this stem; None for another file's name."""
        match = _STEM.fullmatch(stem)
        return match and Ticket(int(match[1]), match[2], int(match[3]), match[4] or "")


class Asked(Settings):
    """The content of a job's file."""

    format: int = FORMAT
    threed: str = __version__
    job: dict[str, Any]
    source: str = Field("", description="where it was read, such as prompts.txt, line 3")


class Attempt(Settings):
    """How an attempt at a job goes or went."""

    worker: str = ""
    outcome: str = Field("running", description="running, done or failed")
    began: float = Field(0.0, description="seconds since 1970 by the worker's clock")
    seconds: float = Field(0.0, description="that it has taken")
    message: str = Field("", description="what is being done, as runs.progress says it")
    step: int = 0
    steps: int = 0
    losses: Mapping[str, float] = Field({}, description="of the newest step, by name")
    preview: str = Field("", description="the newest picture, in the folder of the attempt")
    reason: str = Field("", description="why it failed")
    notes: tuple[str, ...] = Field((), description="what the user was warned of")
    main: str = Field("", description="the file that was asked for first, in the result's folder")


def title_of(job: Job) -> str:
    """What a job is about, in its own words."""
    names = ("prompt", "instruction", "source", "system")
    said = (getattr(job, name, None) for name in names)
    return str(next((text for text in said if text), job.kind))


def key_of(job: Job) -> str:
    """The key of a job: it is the same for the same plain data and version of threed only."""
    data = json.dumps({"threed": __version__, **job.plain()}, sort_keys=True)
    return f"{slug(title_of(job))}-{hashlib.sha256(data.encode()).hexdigest()[:16]}"


def read_asked(path: Path, key: str) -> tuple[Job, Asked]:
    """Read a job's file. InputError where it is damaged, or not what was added under this key.

    OtherVersionError where another version of threed has added it; FileNotFoundError.
    """
    if path.stat().st_size > LARGEST:
        raise InputError(f"{path.name} has more than {LARGEST:,} bytes: it is no job's file")
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path.name} is damaged: it is no JSON") from error
    if not isinstance(data, dict):
        raise InputError(f"{path.name} is damaged: it holds no job")
    if data.get("format", FORMAT) != FORMAT or data.get("threed", __version__) != __version__:
        raise OtherVersionError(
            f"jobs that were added by threed {data.get('threed')} are left to workers of that "
            f"version; this is {__version__}. Add them again to have them done by this one"
        )
    asked = read(Asked, data, path.name)
    job = read_job(asked.job, path.name)
    if key_of(job) != key:
        raise InputError(f"{path.name} was changed after it was added: add the job anew")
    return job, asked


def name_worker() -> str:
    """A name that no other worker has: host, process, and four letters of chance."""
    return f"{slug(socket.gethostname())}-{os.getpid()}-{secrets.token_hex(2)}"
