"""Commands on assets that are there: repair, turntable, render, report, blender."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pydantic import Field

from threed.apps.cli.command import Command
from threed.apps.cli.show import Display, complain, say
from threed.apps.packs.write import write_extension
from threed.core.errors import InputError
from threed.runs.job import FIRST
from threed.settings.base import Settings


class Source(Settings):
    """What is there already."""

    source: Path = Field(
        description="a mesh (.glb, .gltf, .obj, .ply, .stl), or a run's folder",
        json_schema_extra=FIRST,
    )


class Repair(Source):
    """Make a broken mesh a solid by MeshLab: crossings, holes, fins, soups; even triangles."""

    out: Path = Field(description="the file to write; its ending says the format")
    remesh: str | None = Field(
        None, description="make triangles even: the length of their edges, such as 0.05 or 1%"
    )
    solid: Literal["auto", "never", "poisson", "wrap"] = Field(
        "auto", description="how it becomes a solid: as gently as it can be, not at all, or anew"
    )
    depth: int | None = Field(
        None, ge=5, le=10, description="of Poisson's tree: 2^depth cells a side"
    )
    timeout: float = Field(600.0, gt=0, description="seconds that the repair may take")
    as_json: bool = Field(False, description="as JSON")


class Turntable(Source):
    """Film an asset going round once: H.264 in .mp4."""

    to: Path | None = Field(None, description="the file, by default beside the mesh")
    frames: int = Field(120, ge=2, le=3600, description="one turn, 30 a second")
    size: int = Field(512, ge=16, le=4096, description="pixels a side")
    textureless: bool = Field(False, description="show the shape alone")


class Render(Source):
    """Draw an asset as a published benchmark looks at it, with a manifest of what was drawn.

    Pictures that are there already, of the same asset by the same version, are kept.
    """

    protocol: Literal["t3bench", "mate3d", "gpteval3d", "sdi43"] = Field(
        description="whose cameras, background and light: see docs/evaluation.md"
    )
    out: Path | None = Field(None, description="a folder, by default beside the asset")


class Report(Source):
    """Measure an asset: faces, holes, whether it is watertight, UVs, texture, size."""

    as_json: bool = Field(False, description="as JSON")


class Blender(Settings):
    """Open an asset in real Blender: what becomes of it there, and a picture if asked.

    Or write the extension that has assets made inside Blender: see docs/blender.md.
    """

    source: Path | None = Field(
        None, description=str(Source.model_fields["source"].description), json_schema_extra=FIRST
    )
    extension: Path | None = Field(None, description="the extension to write: .zip")
    render: Path | None = Field(None, description="a picture for Cycles to draw: .png")
    size: int = Field(512, ge=8, le=8192, description="pixels a side")
    samples: int = Field(32, ge=1, le=65536, description="of Cycles, a pixel")
    azimuth: float = Field(30.0, description="degrees from the front, to the left")
    elevation: float = Field(20.0, ge=-90, le=90, description="degrees up")
    as_json: bool = Field(False, description="as JSON")


def mend(job: Repair) -> None:
    """Write a repaired mesh, and print what changed."""
    from exporters.remesh import Mending
    from threed.runs.asset import repair_file

    how = Mending(job.solid, job.remesh, job.depth, job.timeout)
    done = repair_file(job.source, job.out, how)
    if job.solid != "never" and not done.after.whole:
        complain(f"not all could be repaired: {done.after.problems}", "warning")
    if job.as_json:
        say(done.to_json().rstrip())
        return
    for line in [*done.lines(), str(job.out)]:
        say(line)


def film(job: Turntable) -> None:
    """Film an asset."""
    from threed.runs.asset import turntable_file

    source = job.source
    beside = source / "turntable.mp4" if os.path.isdir(source) else source.with_suffix(".mp4")
    target = job.to or beside
    turntable_file(source, target, frames=job.frames, size=job.size, textureless=job.textureless)
    say(str(target))


def draw(job: Render) -> None:
    """Draw an asset for a benchmark, and print the folder."""
    from threed.runs.pictures import Gallery

    source = job.source
    beside = source.with_name(f"{source.stem}-{job.protocol}")
    if os.path.isdir(source):
        beside = source / job.protocol
    gallery = Gallery(job.out or beside, job.protocol)
    with Display() as display:
        gallery.fill(source, display)
    say(str(gallery.folder))


def measure(job: Report) -> None:
    """Print the figures of an asset."""
    from threed.runs.asset import report_file

    figures = report_file(job.source)
    if job.as_json:
        say(figures.to_json().rstrip())
        return
    from rich.console import Console

    Console().print(figures.table(str(job.source)))


def open_in_blender(job: Blender) -> None:
    """Print what Blender makes of an asset, or write the extension."""
    if (job.source is None) == (job.extension is None):
        raise InputError("name an asset to be opened in Blender, or --extension FILE.zip to write")
    if job.extension is not None:
        write_extension(job.extension)
        say(str(job.extension))
        return
    assert job.source is not None
    from exporters.blender import Picture, look

    path = job.source / "asset.glb" if os.path.isdir(job.source) else job.source
    picture = None
    if job.render is not None:
        picture = Picture(job.render, job.size, job.samples, job.azimuth, job.elevation)
    seen = look(path, picture)
    if job.as_json:
        say(json.dumps(asdict(seen), indent=2))
        return
    for line in seen.lines():
        say(line)
    if job.render is not None:
        say(str(job.render))


REPAIR = Command("repair", Repair, mend)
TURNTABLE = Command("turntable", Turntable, film)
RENDER = Command("render", Render, draw)
REPORT = Command("report", Report, measure)
BLENDER = Command("blender", Blender, open_in_blender)
