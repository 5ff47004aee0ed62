"""Commands on assets that are there: export, turntable, report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from threed.cli_show import say

Source = Annotated[Path, typer.Argument(help="A mesh (.glb, .obj, .ply, .stl), or a run's folder.")]


def export(
    source: Source,
    to: Annotated[Path, typer.Option(help="The file to write; its ending says the format.")],
) -> None:
    """Write an asset in another format: .glb, .obj, .ply or .stl."""
    import exporters

    exporters.save(exporters.load(asset_of(source)), to)
    say(str(to))


def turntable(
    source: Source,
    to: Annotated[Path | None, typer.Option(help="The .mp4; beside the mesh if not given.")] = None,
    frames: Annotated[int, typer.Option(min=2, max=3600, help="One turn, 30 a second.")] = 120,
    size: Annotated[int, typer.Option(min=16, max=4096, help="Pixels a side.")] = 512,
) -> None:
    """Film an asset going round once: H.264 in .mp4."""
    import exporters
    from exporters import video

    path = asset_of(source)
    target = to or path.with_suffix(".mp4")
    video.turntable(exporters.load(path), target, frames=frames, size=size)
    say(str(target))


def report(
    source: Source,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Measure an asset: faces, holes, whether it is watertight, UVs, texture, size."""
    from exporters.report import report as measure

    import exporters

    figures = dataclasses.asdict(measure(exporters.load(asset_of(source))))
    if as_json:
        say(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        say(f"{name.replace('_', ' ')}: {value}")


def asset_of(source: Path) -> Path:
    """The mesh file that a path means; InputError if there is none."""
    from threed.core import InputError

    path = source / "asset.glb" if source.is_dir() else source
    if path.is_file():
        return path
    if (source / "config.yaml").is_file():
        raise InputError(f"{source} has no asset yet: finish it by `threed resume {source}`")
    raise InputError(f"there is no {path}")
