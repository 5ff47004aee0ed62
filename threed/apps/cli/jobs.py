"""The commands that do jobs: each makes one of what is typed, and shows its progress."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from threed.apps.cli.command import Command, SystemCommand, TrainCommand
from threed.apps.cli.show import Display, complain, say
from threed.core.errors import InputError
from threed.runs.do import Result, do
from threed.runs.job import Edit3d, Export, Generate, Image, Resume, Texture, Train

if TYPE_CHECKING:
    from threed.runs.progress import Progress

JSON = click.Option(["--json", "as_json"], is_flag=True, help="Answer as JSON.")
OUT = click.Option(
    ["--out"], type=click.Path(path_type=Path),
    help="A new folder; outputs/<prompt>-<time> if not given.",
)  # fmt: skip
PLAN = click.Option(
    ["--plan", "planned"], is_flag=True, help="Say how much memory it needs; make nothing."
)


def make_asset(job: Any, out: Path | None, as_json: bool, planned: bool = False) -> None:
    """Do a job that makes an asset, in a new folder."""
    job.check()
    if planned:
        from threed.apps.cli.plan import print_plan
        from threed.runs.folder import refuse_used
        from threed.runs.generate import plan
        from threed.runs.given import read_given

        if out is not None:
            refuse_used(out)
        if job.init is not None:
            read_given(Path(job.init), job.up, job.front)
        print_plan(plan(job.run(), with_mesh=job.init is not None), as_json)
        return
    from threed.core.files import default_folder

    text = job.instruction if isinstance(job, Edit3d) else job.prompt
    folder = out or default_folder(text)
    announce(folder, lambda show: do(job, folder, show), as_json)


def go_on(job: Resume, folder: Path, as_json: bool) -> None:
    """Go on with a run, if there is something left to do."""
    from threed.runs.folder import RunFolder

    if RunFolder.open(folder).finished:
        complain(f"{folder} is finished already", "note")
        print_asset(Result(folder, folder / "asset.glb", ()), 0.0, as_json)
        return
    announce(folder, lambda show: do(job, folder, show), as_json)


def announce(folder: Path, make: Callable[[Display], Result], as_json: bool) -> None:
    """Show how far the making of an asset is, and at last where it is.

    Ctrl-C becomes exit status 130 and a line that says how to go on.
    """
    began = time.perf_counter()
    try:
        with Display() as display:
            result = make(display)
    except KeyboardInterrupt:
        begun = (folder / "config.yaml").exists()
        hint = f"go on with: threed resume {folder}" if begun else "nothing was begun"
        complain(hint, "interrupted")
        raise SystemExit(130) from None
    print_asset(result, time.perf_counter() - began, as_json)


def print_asset(result: Result, seconds: float, as_json: bool) -> None:
    """Say where the asset is."""
    if not as_json:
        say(str(result.main))
        return
    files = sorted(str(path) for path in result.folder.iterdir() if path.is_file())
    say(json.dumps({"asset": str(result.main), "folder": str(result.folder), "files": files,
                    "seconds": round(seconds, 1)}))  # fmt: skip


def make_image(job: Image, out: Path, heat: Path | None) -> None:
    """Do an image job: its picture is the file that was named."""
    if heat is not None and heat.parent != out.parent:
        raise InputError(f"--heat must be in the folder of --out, {out.parent}, got {heat}")
    named = Image(**dict(job) | {"file": out.name, "heat": heat and heat.name})
    with Display() as display:
        result = do(named, out.parent, display)
    for path in result.files:
        say(str(path))


def train(job: Train, out: Path) -> None:
    """Do a training job in a folder."""

    def show(progress: Progress) -> None:
        complain(progress.message, "training")

    try:
        do(job, out, show)
    except KeyboardInterrupt:
        complain("go on with the same command and --resume", "interrupted")
        raise SystemExit(130) from None
    say(str(out))


def export(job: Export, to: Path) -> None:
    """Do an export job: it writes the file that was named, and its coarser copies."""

    def note(progress: Progress) -> None:
        complain(progress.message, "note")

    for path in do(Export(**dict(job) | {"file": to.name}), to.parent, note).files:
        say(str(path))


def _file(name: str, about: str, *, required: bool = False) -> click.Option:
    return click.Option([f"--{name}"], type=click.Path(path_type=Path), required=required,
                        help=about)  # fmt: skip


GENERATE = SystemCommand("generate", Generate, make_asset, [OUT, PLAN, JSON], ["inputs"])
TEXTURE = Command("texture", Texture, make_asset, [OUT, JSON], ["inputs", "system"])
EDIT3D = SystemCommand("edit3d", Edit3d, make_asset, [OUT, JSON], ["inputs"])
RESUME = Command(
    "resume", Resume, go_on,
    [click.Argument(["folder"], type=click.Path(path_type=Path)), JSON],
)  # fmt: skip
IMAGE = SystemCommand(
    "image", Image, make_image,
    [_file("out", "The picture's file: .png, .jpg or .webp.", required=True),
     _file("heat", "A second picture, beside it: where the first looked at each word.")],
    ["inputs", "file", "heat"],
)  # fmt: skip
TRAIN = TrainCommand(
    "train", Train, train,
    [_file("out", "A new folder; the one of a run with --resume.", required=True)],
)  # fmt: skip
EXPORT = Command(
    "export", Export, export,
    [_file("to", "The file to write; its ending says the format.", required=True)], ["file"],
)  # fmt: skip


def show_schema(job: str | None) -> None:
    """Print the JSON schema of a job, with its run's settings, or of a system's inputs."""
    from threed.runs.jobs import schema

    say(json.dumps(schema(job), indent=2))


SCHEMA = click.Command(
    "schema", callback=show_schema, help=show_schema.__doc__,
    params=[click.Argument(["job"], required=False, metavar="JOB|SYSTEM")],
)  # fmt: skip
