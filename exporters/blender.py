"""Blender as a judge: what it makes of a file of ours, and a picture that it draws of it.

And as a writer of FBX.

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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from threed.core import files
from threed.core.errors import InputError

VARIABLE = "THREED_BLENDER_PYTHON"
SCRIPT = Path(__file__).with_name("blender_script.py")
MARK = "threed-blender: "  # what the script's answer begins with
READS = (".glb", ".obj", ".ply", ".stl", ".usdz", ".fbx")
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
        """InputError for a place where no PNG can be, and for numbers out of their ranges."""
        files.check_out(self.path, [".png"])
        ranges = {"size": (8, 8192), "samples": (1, 65536), "elevation_deg": (-90, 90)}
        for name, (low, high) in ranges.items():
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
        """Say the same for people."""
        size = " × ".join(f"{b - a:.3g}" for a, b in zip(self.low, self.high))
        lines = [f"Blender {self.blender}, {size} units (x, y, z)"]
        for thing in self.objects:
            counts = f"{thing['vertices']:,} vertices, {thing['faces']:,} faces"
            lines.append(f"{thing['name']}: {counts}, {thing['uv_maps']} UV maps")
            for material in thing["materials"]:
                for image in material["images"]:
                    width, height = image["size"]
                    feeds, about = " and ".join(image["feeds"]), f"{width} × {height}"
                    source = f"{image['name']}, {about}, {image['color_space']}"
                    lines.append(f"  {material['name']}: {feeds} from {source}")
        return lines


def find_blender() -> list[str] | None:
    """Find the command that runs a script in Blender; None if there is none.

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
        quiet = ["--background", "--factory-startup", "--python-exit-code", "1"]
        return [program, *quiet, "--python", str(SCRIPT), "--"]
    if importlib.util.find_spec("bpy") is not None:
        return [sys.executable, str(SCRIPT)]
    return None


def look(source: Path, picture: Picture | None = None) -> Seen:
    """Import a file into an empty Blender, and let Cycles draw it on the CPU if a picture is given.

    The object fills the picture whatever its size. InputError where Blender is not found, fails on
    the file, or where the picture cannot be written.
    """
    if source.suffix.lower() not in READS:
        raise InputError(f"Blender is shown {', '.join(READS)} here, not {source.name!r}")
    if not os.path.isfile(source):
        raise InputError(f"cannot read {source}: no such file")
    if picture is None:
        return _run(source, {})
    with files.write_aside(picture.path.resolve()) as part:
        return _run(source, {"picture": asdict(picture) | {"path": str(part)}})


def write_fbx(source: Path, target: Path, normal: Path | None) -> Seen:
    """Let Blender write what a file shows as an FBX, with a normal map if one is given.

    InputError where Blender is not found, or fails on the file.
    """
    lean = None if normal is None else str(normal)
    return _run(source, {"fbx": {"path": str(target), "normal": lean}})


def _run(source: Path, wishes: dict[str, Any]) -> Seen:
    """Run the script in Blender and read its answer; InputError where it fails on the file."""
    command = find_blender()
    if command is None:
        raise InputError(HOW)
    asked = json.dumps({"source": str(source.resolve()), **wishes})
    done = subprocess.run([*command, asked], capture_output=True, text=True, check=False)
    answers = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not answers:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else f"it ended with status {done.returncode}"
        raise InputError(f"Blender cannot open {source}: {reason}")
    found = json.loads(answers[-1].removeprefix(MARK))
    low, high = (tuple(corner) for corner in found["bounds"])
    return Seen(found["blender"], tuple(found["objects"]), low, high)
