"""The folder of a run: what was asked, what happened, and where to go on.

    config.yaml  prompt.txt  init.pt  inputs/*  log.jsonl  progress/*.png  checkpoint.pt
    checkpoint.previous.pt

Everything is written aside and renamed; a kill at any moment leaves a folder that can be resumed.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from threed.core.errors import InputError
from threed.core.files import check_out, make_folder, read_text, write, write_aside
from threed.core.saved import read_saved
from threed.settings.presets import parse_run
from threed.settings.run import Run

if TYPE_CHECKING:
    from torch import Tensor

NEEDED = 200 * 2**20  # bytes a run may write
INIT, INPUTS = "init.pt", "inputs"  # the mesh that it begins with, pictures for its system
FORMAT = 1  # of a checkpoint
CHECKPOINTS = ("checkpoint.pt", "checkpoint.previous.pt")


class RunWarning(UserWarning):
    """Something the user should know, although the run goes on."""


@dataclass(frozen=True)
class Checkpoint:
    """Where an optimisation stands after `step` steps of a stage."""

    stage: int
    step: int
    attempt: int  # how often the watchdog has changed the seed of this stage
    log_bytes: int  # length of log.jsonl
    scene: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    guide: Mapping[str, Any]  # what the guidance has learned


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds one run."""

    path: Path
    prompt: str
    run: Run

    @staticmethod
    def create(
        path: Path, prompt: str, run: Run, files: Mapping[str, bytes] | None = None
    ) -> RunFolder:
        """Make the folder and write what was asked; InputError if it cannot be or holds a run.

        files are what else the run needs, by their names in the folder: INIT, INPUTS/...
        """
        refuse_used(path)
        make_folder(path / "progress")
        free = shutil.disk_usage(path).free
        if free < NEEDED:
            raise InputError(f"{path}: {free // 2**20} MiB are free on this disk, a run may need "
                             f"{NEEDED // 2**20}; choose another --out")  # fmt: skip
        for name, data in (files or {}).items():
            (path / name).parent.mkdir(exist_ok=True)
            write(path / name, data)
        write(path / "prompt.txt", prompt.encode())
        write(path / "config.yaml", run.to_yaml().encode())
        return RunFolder(path, prompt, run)

    @staticmethod
    def open(path: Path) -> RunFolder:
        """A run that was begun before; InputError if there is none or it is damaged."""
        if not all(os.path.isfile(path / name) for name in ("config.yaml", "prompt.txt")):
            raise InputError(f"{path} holds no run: there is no config.yaml and prompt.txt in it")
        prompt, text = (read_text(path / name) for name in ("prompt.txt", "config.yaml"))
        return RunFolder(path, prompt, parse_run(text, str(path / "config.yaml")))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; InputError if another process does. A kill lets go of it."""
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"{self.path} is in use by another threed process") from None
        try:
            yield
        finally:
            lock.release()

    def adopt(self, other: RunFolder) -> RunFolder:
        """Go on as another run of the same prompt, whose folder, with those beside it, is removed.

        The configuration is written last: until then this one is as it was.
        """
        for path in (*other.path.glob("checkpoint*.pt"), other.log_path):
            shutil.copyfile(path, self.path / path.name)
        for path in (other.path / "progress").iterdir():
            shutil.copyfile(path, self.path / "progress" / path.name)
        write(self.path / "config.yaml", other.run.to_yaml().encode())
        shutil.rmtree(other.path.parent)
        return RunFolder(self.path, self.prompt, other.run)

    @property
    def init(self) -> Path | None:
        """The mesh that the run begins with, if it does with one."""
        path = self.path / INIT
        return path if path.exists() else None

    def files(self) -> dict[str, bytes]:
        """What the folder was created with besides the prompt and the configuration, by name."""
        paths = [self.path / INIT, *sorted((self.path / INPUTS).glob("*"))]
        there = filter(Path.exists, paths)
        return {path.relative_to(self.path).as_posix(): path.read_bytes() for path in there}

    @property
    def log_path(self) -> Path:
        """log.jsonl: a line a step, and one an event."""
        return self.path / "log.jsonl"

    def log(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add a line for each record."""
        with self.log_path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)

    def log_bytes(self) -> int:
        """The length of the log."""
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    def cut_log(self, length: int) -> None:
        """Forget the lines after a checkpoint, and the half line of a kill."""
        if self.log_bytes() > length:
            os.truncate(self.log_path, length)

    @property
    def finished(self) -> bool:
        """Whether all its files have been written."""
        if not self.log_path.exists():
            return False
        *_, last = [b"", *self.log_path.read_bytes().splitlines()]
        return b'"finished"' in last

    def save_preview(self, stage: int, step: int, views: Tensor) -> Path:
        """Write views [B, H, W, 3], sRGB in [0, 1], side by side; return where."""
        from threed.diffusion.images import grid, save_image

        path = self.path / "progress" / f"stage{stage}-{step:06d}.png"
        save_image(grid(views.permute(0, 3, 1, 2), columns=len(views)), path)
        return path

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write it in place of the last one, which becomes the previous one."""
        import torch

        data = io.BytesIO()
        fields = {name: getattr(checkpoint, name) for name in checkpoint.__dataclass_fields__}
        torch.save({"format": FORMAT, "config": self.run.digest(), **fields}, data)
        newest, previous = (self.path / name for name in CHECKPOINTS)
        with write_aside(newest) as part:
            part.write_bytes(data.getvalue())
            if newest.exists():
                os.replace(newest, previous)

    def latest_checkpoint(self) -> Checkpoint | None:
        """The newest one that can be read, or None if there has been none.

        A damaged one is warned about and the previous one taken; InputError if no one is whole.
        """
        problems = []
        for path in filter(Path.exists, (self.path / name for name in CHECKPOINTS)):
            try:
                checkpoint = read_checkpoint(path, self.run.digest())
            except InputError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                text = f"{problem}; going on from step {checkpoint.step}"
                warnings.warn(text, RunWarning, stacklevel=2)
            return checkpoint
        if problems:
            raise InputError(f"{'; '.join(problems)}. No checkpoint is whole: start anew with "
                             f"`threed generate` and another --out")  # fmt: skip
        return None


def read_checkpoint(path: Path, digest: str) -> Checkpoint:
    """Read a checkpoint of a run with this digest; InputError if it is not one."""
    data = read_saved(path)
    known = {"format", "config", *Checkpoint.__dataclass_fields__}
    if not isinstance(data, dict) or data.keys() != known or data.pop("format") != FORMAT:
        raise InputError(f"{path} is no checkpoint of this version of threed")
    if data.pop("config") != digest:
        raise InputError(f"{path} belongs to another configuration than config.yaml says")
    return Checkpoint(**data)


def refuse_used(path: Path) -> None:
    """InputError if no folder can be made at the path, or something is in it."""
    check_out(path, folder=True)
    if not path.exists():
        return
    if (path / "config.yaml").exists():
        raise InputError(f"{path} already holds a run: go on with it by `threed resume {path}`, "
                         f"or choose another --out")  # fmt: skip
    if any(path.iterdir()):
        raise InputError(f"{path} is not empty; choose another --out")
