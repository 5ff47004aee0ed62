"""Blender as a judge: what it makes of a file of ours, and a picture that it draws of it.

Blender brings a Python of its own (and pins numpy below 2), so it runs as another process: a
`blender` program, or a Python that has the `bpy` package.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporters import files
from threed.core.errors import InputError

VARIABLE = "THREED_BLENDER_PYTHON"
SCRIPT = Path(__file__).with_name("blender_script.py")
MARK = "threed-blender: "  # what the script's answer begins with
READS = (".glb", ".obj", ".ply", ".stl", ".usdz")
HOW = (
    f"Blender was not found. Put `blender` on the PATH, or make an environment with its package "
    f"(python -m venv bpy && bpy/bin/pip install bpy) and set {VARIABLE}=bpy/bin/python"
)


@dataclass(frozen=True)
class Picture:
    """A picture for Blender to draw."""

    path: Path  # of a PNG; its background is transparent
    size: int = 512  # pixels a side
    samples: int = 32  # of Cycles, a pixel
    azimuth_deg: float = 30.0  # 0 is Blender's front view; counter-clockwise seen from above
    elevation_deg: float = 20.0  # over the horizon

    def __post_init__(self) -> None:
        """InputError for a name that is no PNG, and for numbers out of their ranges."""
        if self.path.suffix.lower() != ".png":
            raise InputError(f"the picture's name must end in .png, got {self.path.name!r}")
        for name, low, high in (("size", 8, 8192), ("samples", 1, 65536),
                                ("elevation_deg", -90, 90)):  # fmt: skip
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name} must be in {low}..{high}, got {value}")


@dataclass(frozen=True)
class Seen:
    """What Blender made of a file: see `blender_script` for the keys of an object."""

    blender: str  # its version
    objects: tuple[dict[str, Any], ...]
    low: tuple[float, float, float]  # lower corner of the bounding box in Blender's world, z up
    high: tuple[float, float, float]

    def lines(self) -> list[str]:
        """The same for people."""
        size = " × ".join(f"{b - a:.3g}" for a, b in zip(self.low, self.high))
        lines = [f"Blender {self.blender}, {size} units (x, y, z)"]
        for thing in self.objects:
            lines.append(f"{thing['name']}: {thing['vertices']:,} vertices, "
                         f"{thing['faces']:,} faces, {thing['uv_maps']} UV maps")  # fmt: skip
            for material in thing["materials"]:
                lines += [f"  {material['name']}: {' and '.join(image['feeds'])} from "
                          f"{image['name']}, {image['size'][0]} × {image['size'][1]}, "
                          f"{image['color_space']}" for image in material["images"]]  # fmt: skip
        return lines


def find() -> list[str] | None:
    """The command that runs a script in Blender, or None.

    The Python that THREED_BLENDER_PYTHON names; else `blender` on the PATH; else this Python, if
    bpy is installed beside threed. InputError if the variable names no program.
    """
    named = os.environ.get(VARIABLE)
    if named:
        program = shutil.which(named)
        if program is None:
            raise InputError(f"{VARIABLE} is {named!r}, which is no program")
        return [program, str(SCRIPT)]
    program = shutil.which("blender")
    if program is not None:
        return [program, "--background", "--factory-startup", "--python-exit-code", "1",
                "--python", str(SCRIPT), "--"]  # fmt: skip
    if importlib.util.find_spec("bpy") is not None:
        return [sys.executable, str(SCRIPT)]
    return None


def look(source: Path, picture: Picture | None = None) -> Seen:
    """Import a file into an empty Blender, and let Cycles draw it on the CPU if a picture is given.

    The object fills the picture whatever its size. InputError where Blender is not found, fails on
    the file, or where the picture cannot be written.
    """
    command = find()
    if command is None:
        raise InputError(HOW)
    if source.suffix.lower() not in READS:
        raise InputError(f"Blender is shown {', '.join(READS)} here, not {source.name!r}")
    if not source.is_file():
        raise InputError(f"cannot read {source}: no such file")
    if picture is None:
        return _run(command, source, None, None)
    with files.aside(picture.path) as part, tempfile.TemporaryDirectory() as folder:
        # Blender adds .png to a name that ends otherwise
        drawn = Path(folder) / "picture.png"
        seen = _run(command, source, picture, drawn)
        part.write_bytes(drawn.read_bytes())
    return seen


def _run(command: list[str], source: Path, picture: Picture | None, drawn: Path | None) -> Seen:
    asked: dict[str, Any] = {"source": str(source.resolve()), "render": drawn and str(drawn)}
    if picture is not None:
        for name in ("size", "samples", "azimuth_deg", "elevation_deg"):
            asked[name] = getattr(picture, name)
    done = subprocess.run(
        [*command, json.dumps(asked)], capture_output=True, text=True, check=False
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not answers:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else f"it ended with status {done.returncode}"
        raise InputError(f"Blender cannot open {source}: {reason}")
    found = json.loads(answers[-1].removeprefix(MARK))
    low, high = (tuple(corner) for corner in found["bounds"])
    return Seen(found["blender"], tuple(found["objects"]), low, high)
