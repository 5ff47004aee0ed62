"""Doing a job: the one way for the command line, the web page, a queue and Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threed.core.profile import limits, stature
from threed.runs.job import Edit3d, Export, Generate, Image, Job, Resume, Texture, Train

if TYPE_CHECKING:
    from threed.runs.asset import Asset
    from threed.runs.progress import Listener


@dataclass(frozen=True)
class Result:
    """What a job has made."""

    folder: Path
    main: Path  # the file that was asked for first: the asset's GLB, the picture
    files: tuple[Path, ...]  # all that it wrote, that one included


def do(job: Job, folder: Path | str, report: Listener | None = None) -> Result:
    """Do a job; all that it writes is in `folder`.

    report is told how far it is (runs.progress.Progress). InputError for what the user can change,
    before anything heavy is loaded wherever that can be known. A run that is interrupted leaves a
    checkpoint and raises KeyboardInterrupt; the job Resume goes on with it.
    """
    job.check()
    return DOERS[job.kind](job, Path(folder), report)


def _generate(job: Generate, folder: Path, report: Listener | None) -> Result:
    from threed.runs.generate import generate

    return _made(generate(job.prompt, job.run(), init=job.init, up=job.up, front=job.front,
                          preview=job.preview, out=folder, progress=report))  # fmt: skip


def _texture(job: Texture, folder: Path, report: Listener | None) -> Result:
    from threed.runs.generate import texture

    return _made(texture(job.mesh, job.prompt, job.run(), keep_uv=job.keep_uv, up=job.up,
                         front=job.front, out=folder, progress=report))  # fmt: skip


def _edit3d(job: Edit3d, folder: Path, report: Listener | None) -> Result:
    from threed.runs.generate import edit3d

    return _made(edit3d(job.asset, job.instruction, job.run(), shape=job.shape, up=job.up,
                        out=folder, progress=report))  # fmt: skip


def _resume(job: Resume, folder: Path, report: Listener | None) -> Result:
    from threed.runs.generate import resume

    return _made(resume(folder, progress=report))


def _image(job: Image, folder: Path, report: Listener | None) -> Result:
    from threed.runs.image import make_pictures

    files = make_pictures(job, folder, report)
    return Result(folder, files[0], files)


def _train(job: Train, folder: Path, report: Listener | None) -> Result:
    from threed.runs.train import train_job

    train_job(job, folder, report)
    return Result(folder, folder, _files(folder))


def _export(job: Export, folder: Path, report: Listener | None) -> Result:
    from threed.runs.asset import export_file
    from threed.runs.progress import sayer

    budget, lods = limits(job.profile, job.budget, job.lods)
    height = stature(job.profile, job.height)
    written = export_file(job.source, folder / job.file, budget=budget, lods=lods, height=height,
                          profile=job.profile, quads=job.quads, say=sayer(report))  # fmt: skip
    files = tuple(written)
    return Result(folder, files[0], files)


def _made(asset: Asset) -> Result:
    return Result(asset.folder, asset.glb, _files(asset.folder))


def _files(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.iterdir() if path.is_file()))


DOERS: dict[str, Callable[[Any, Path, Listener | None], Result]] = {
    "generate": _generate, "texture": _texture, "edit3d": _edit3d, "resume": _resume,
    "image": _image, "train": _train, "export": _export,
}  # fmt: skip
