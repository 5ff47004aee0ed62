"""The commands under `threed queue`: many jobs in one folder, and workers that share them."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Literal

import click
from pydantic import Field

from threed.apps.cli.command import Command
from threed.apps.cli.lists import print_table
from threed.apps.cli.show import complain, say
from threed.core.errors import InputError
from threed.core.files import check_out
from threed.queue.crew import employ
from threed.queue.entries import read_entries
from threed.queue.folder import Queue
from threed.queue.overview import span, status
from threed.runs.job import BACKBONE, FIRST, LAST, Words
from threed.settings.base import Seed, Settings

QUEUE = Path("outputs/queue")


class Place(Settings):
    """Where the queue is."""

    queue: Path = Field(QUEUE, description="the queue's folder")


class Add(Place):
    """Add a list of jobs: a prompt a line, a table (CSV), or JSON lines. Makes the queue if needed.

    Every job is checked before any is added. What is in the queue already, done or not, is left.
    """

    entries: Path = Field(description="the list: .txt, .csv or .jsonl", json_schema_extra=FIRST)
    settings: Words = Field(
        (), description="NAME=VALUE settings of every job", json_schema_extra=LAST
    )
    job: Literal["generate", "texture", "edit3d", "image", "train", "export"] = Field(
        "generate", description="what they are, where they do not say"
    )
    preset: str | None = Field(None, description="a name of `threed list presets`, or a YAML file")
    backbone: str | None = Field(None, description=BACKBONE)
    system: str | None = Field(None, description="what guides them: see `threed list systems`")
    seed: Seed | None = Field(None, description="decides every random number")
    best_of: int | None = Field(
        None, ge=1, le=64, description="begin so many seeds of each; the best of them goes on"
    )


class Show(Place):
    """Say how far a queue is, when it will be done, what is at work, and what failed and why."""

    as_json: bool = Field(False, description="answer as JSON")


class Work(Place):
    """Do the jobs of a queue. Ctrl-C gives those at hand back, to go on from a checkpoint later.

    As many may work on one queue as like, on any machine that sees its folder.
    """

    workers: int | None = Field(
        None, ge=1, le=256, description="how many, if not 1; with --ray, if not one a GPU"
    )
    ray: str | None = Field(
        None,
        description="have a Ray cluster do them: local, auto, or HOST:PORT; see docs/cluster.md",
    )
    stay: bool = Field(False, description="wait for more jobs when all are done")


class Keys(Place):
    """Jobs by their keys."""

    keys: Words = Field((), description="of jobs, or what they begin with", json_schema_extra=LAST)


class Retry(Keys):
    """Have jobs done anew that failed or were cancelled: by their KEYs, or all that failed."""


class Cancel(Keys):
    """Have jobs not done: by their KEYs, or all that wait or run. Results stay."""


def add(job: Add) -> None:
    """Check a list, and add it."""
    check_out(job.queue, folder=True)
    named = ("preset", "backbone", "system", "seed", "best_of")
    given = {name: getattr(job, name) for name in named if getattr(job, name) is not None}
    entries = read_entries(job.entries, job.job, given, job.settings)
    added = Queue.create(job.queue).add(entries)
    if added.twice:
        complain(f"{added.twice} are there twice, and done once", "note")
    for state, count in added.known.items():
        cure = {"failed": ": threed queue retry", "cancelled": ": threed queue retry KEY"}
        complain(f"{count} were added before and are {state}{cure.get(state, '')}", "note")
    say(f"{len(added.tickets)} added to {job.queue}")


def show(job: Show) -> None:
    """Print how far a queue is."""
    found = status(Queue.open(job.queue))
    if job.as_json:
        say(json.dumps(asdict(found), indent=2))
        return
    say(found.line())
    running = [
        {"job": f"{one.number} {one.key}", "for": span(one.seconds),
         "doing": f"{one.message} {one.step}/{one.steps}" if one.steps else one.message,
         "worker": one.worker if one.alive else f"{one.worker} (silent)"}
        for one in found.running
    ]  # fmt: skip
    failed = [{"failed": f"{one.number} {one.key}", "tries": one.attempts, "why": one.reason,
               "trace": one.trace or ""} for one in found.failed]  # fmt: skip
    if running:
        print_table(running)
    if failed:
        print_table(failed)


def labour(job: Work) -> None:
    """Do the jobs of a queue, and say how far it is."""
    queue = Queue.open(job.queue)
    begin = partial(employ, workers=job.workers or 1)
    if job.ray is not None:
        from threed.queue.fleet import deploy

        begin = partial(deploy, workers=job.workers, address=job.ray)
    try:
        begin(queue, stay=job.stay, tell=lambda line: complain(line, "queue"))
    except KeyboardInterrupt:
        complain(f"go on with: threed queue work --queue {job.queue}", "interrupted")
        raise SystemExit(130) from None
    failed = len(queue.tickets("failed"))
    if failed:
        raise InputError(f"{failed} failed: threed queue status --queue {job.queue} says why")
    say(str(job.queue / "results.csv"))


def retry(job: Retry) -> None:
    """Put jobs back."""
    say(f"{len(Queue.open(job.queue).retry(job.keys))} to be done anew")


def cancel(job: Cancel) -> None:
    """Take jobs out."""
    say(f"{len(Queue.open(job.queue).cancel(job.keys))} cancelled")


QUEUE_GROUP = click.Group(
    "queue",
    help="Many jobs in one folder: add lists, work on them, see how far they are.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    commands=[
        Command("add", Add, add),
        Command("status", Show, show),
        Command("work", Work, labour),
        Command("retry", Retry, retry),
        Command("cancel", Cancel, cancel),
    ],
)
