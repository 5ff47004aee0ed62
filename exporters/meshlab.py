"""MeshLab's filters, run by another process: pymeshlab is GPL-3, and a crash there is not ours."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from threed.core.errors import InputError
from threed.core.mesh import Mesh

SCRIPT = Path(__file__).with_name("meshlab_script.py")
REFUSED, NOT_LOADED = 4, 3  # the script's exit statuses besides 0
INSTALL = "pip install 'threed[repair]'"

Step = tuple[str, dict[str, Any]]  # the name of a filter in `meshlab_script`, and its arguments


class RefusedError(Exception):
    """A filter does not take such a mesh."""


@dataclass(frozen=True)
class Worked:
    """What came of some steps."""

    mesh: Mesh | None  # bare; None where no face is left
    crossing: int  # faces that cut through others


@dataclass(frozen=True)
class Clock:
    """How long all the work on a mesh may take together."""

    limit: float  # seconds
    end: float  # of time.monotonic()

    @staticmethod
    def of(limit: float) -> Clock:
        """One that begins now."""
        return Clock(limit, time.monotonic() + limit)

    @property
    def left(self) -> float:
        """Seconds."""
        return max(self.end - time.monotonic(), 0.001)


def installed() -> bool:
    """Whether pymeshlab is there; it is not loaded."""
    return importlib.util.find_spec("pymeshlab") is not None


def work(
    mesh: Mesh,
    steps: Sequence[Step],
    clock: Clock,
    arrays: Mapping[str, Any] | None = None,
) -> Worked:
    """Put a mesh through MeshLab's filters, one after the other; no step only looks at it.

    `arrays` are the points and normals [N, 3] that the step `poisson` takes. RefusedError where a
    filter does not take the mesh; InputError where pymeshlab is not installed, cannot be loaded,
    crashes or takes too long.
    """
    if not installed():
        raise InputError(f"this takes pymeshlab, which is not installed: {INSTALL}")
    with tempfile.TemporaryDirectory(prefix="threed-") as name:
        folder = Path(name)
        given: dict[str, Any] = {"vertices": mesh.vertices.numpy(), "faces": mesh.faces.numpy()}
        np.savez(folder / "mesh.npz", **given, **(arrays or {}))
        (folder / "steps.json").write_text(json.dumps(steps), "utf-8")
        _run(folder, [step for step, _ in steps], clock)
        with np.load(folder / "done.npz") as done:
            found = torch.from_numpy(done["vertices"]), torch.from_numpy(done["faces"]).long()
            whole = Mesh(*found) if len(found[1]) else None
            return Worked(whole, int(done["crossing"]))


def _run(folder: Path, names: list[str], clock: Clock) -> None:
    """Run the script, and say what went wrong."""
    task = " and ".join(names) or "count"
    try:
        done = subprocess.run(
            [sys.executable, str(SCRIPT), str(folder)],
            capture_output=True, text=True, check=False, timeout=clock.left, cwd=folder,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise InputError(f"MeshLab was stopped: the repair took longer than {clock.limit:g} s "
                         f"(at: {task}); allow more by --timeout, or give it a mesh of fewer "
                         "faces, such as by threed export --budget") from error  # fmt: skip
    if done.returncode == 0 and (folder / "done.npz").is_file():
        return
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    reason = lines[-1] if lines else f"it ended with status {done.returncode}"
    if done.returncode == REFUSED:
        raise RefusedError(reason)
    if done.returncode == NOT_LOADED:
        raise InputError(f"pymeshlab is installed and cannot be loaded: {reason}; where a library "
                         "such as libGL.so.1 is missing, the system's packages have it (Debian and "
                         "Ubuntu: apt install libgl1 libopengl0)")  # fmt: skip
    if done.returncode < 0:
        number = -done.returncode
        reason = f"signal {number}, {signal.strsignal(number) or 'unknown'}"
        if number == signal.SIGKILL:
            reason += "; perhaps the memory ran out"
    raise InputError(f"MeshLab crashed on this mesh (at: {task}): {reason}")
