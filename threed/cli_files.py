"""Commands on assets that are there: export, turntable, report."""

from __future__ import annotations

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
    from threed.assets import export_file

    export_file(source, to)
    say(str(to))


def turntable(
    source: Source,
    to: Annotated[Path | None, typer.Option(help="The file, by default beside the mesh.")] = None,
    frames: Annotated[int, typer.Option(min=2, max=3600, help="One turn, 30 a second.")] = 120,
    size: Annotated[int, typer.Option(min=16, max=4096, help="Pixels a side.")] = 512,
    textureless: Annotated[bool, typer.Option(help="Show the shape alone.")] = False,
) -> None:
    """Film an asset going round once: H.264 in .mp4."""
    from threed.assets import turntable_file

    beside = source / "turntable.mp4" if source.is_dir() else source.with_suffix(".mp4")
    target = to or beside
    turntable_file(source, target, frames=frames, size=size, textureless=textureless)
    say(str(target))


def report(
    source: Source,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Measure an asset: faces, holes, whether it is watertight, UVs, texture, size."""
    from threed.assets import report_file

    figures = report_file(source)
    if as_json:
        say(figures.to_json().rstrip())
        return
    from rich.console import Console

    Console().print(figures.table(str(source)))
