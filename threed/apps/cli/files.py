"""Commands on assets that are there: export, repair, turntable, report, blender."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from threed.apps.cli.show import complain, say

Source = Annotated[Path, typer.Argument(help="A mesh (.glb, .obj, .ply, .stl), or a run's folder.")]
Limits = Annotated[
    str | None,
    typer.Option("--budget", help="At most so much, such as faces=5000,texture=512."),
]
Lods = Annotated[
    int | None,
    typer.Option("--lods", min=0, max=8, help="Coarser copies: NAME_lod1 and on."),
]


def export(
    source: Source,
    to: Annotated[Path, typer.Option(help="The file to write; its ending says the format.")],
    budget: Limits = None,
    lods: Lods = None,
) -> None:
    """Write an asset in another format: .glb, .obj, .ply, .stl or .usdz."""
    from threed.core.budget import Budget
    from threed.runs.asset import export_file

    limits = None if budget is None else Budget.parse(budget)
    for path in export_file(source, to, budget=limits, lods=lods or 0):
        say(str(path))


def within(settings: list[str] | None, budget: str | None, lods: int | None) -> list[str]:
    """The settings of a run, and those that a budget and a number of coarser copies stand for."""
    words = list(settings or ())
    if budget is not None:
        from threed.core.budget import Budget

        words += [f"asset.{name}={value}" for name, value in Budget.parse(budget).given().items()]
    return words if lods is None else [*words, f"asset.lods={lods}"]


def repair(
    source: Source,
    out: Annotated[Path, typer.Option(help="The file to write; its ending says the format.")],
    remesh: Annotated[
        str | None,
        typer.Option(help="Make triangles even: the length of their edges, such as 0.05 or 1%."),
    ] = None,
    solid: Annotated[
        Literal["auto", "never", "poisson", "wrap"],
        typer.Option(help="How it becomes a solid: as gently as it can be, not at all, or anew."),
    ] = "auto",
    depth: Annotated[
        int | None, typer.Option(min=5, max=10, help="Of Poisson's tree: 2^depth cells a side.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that the repair may take.")] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Make a broken mesh a solid by MeshLab: crossings, holes, fins, soups; even triangles."""
    from exporters.remesh import Mending
    from threed.runs.asset import repair_file

    done = repair_file(source, out, Mending(solid, remesh, depth, timeout))
    if solid != "never" and not done.after.whole:
        complain(f"not all could be repaired: {done.after.problems}", "warning")
    if as_json:
        say(done.to_json().rstrip())
        return
    for line in [*done.lines(), str(out)]:
        say(line)


def turntable(
    source: Source,
    to: Annotated[Path | None, typer.Option(help="The file, by default beside the mesh.")] = None,
    frames: Annotated[int, typer.Option(min=2, max=3600, help="One turn, 30 a second.")] = 120,
    size: Annotated[int, typer.Option(min=16, max=4096, help="Pixels a side.")] = 512,
    textureless: Annotated[bool, typer.Option(help="Show the shape alone.")] = False,
) -> None:
    """Film an asset going round once: H.264 in .mp4."""
    from threed.runs.asset import turntable_file

    beside = source / "turntable.mp4" if source.is_dir() else source.with_suffix(".mp4")
    target = to or beside
    turntable_file(source, target, frames=frames, size=size, textureless=textureless)
    say(str(target))


def report(
    source: Source,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Measure an asset: faces, holes, whether it is watertight, UVs, texture, size."""
    from threed.runs.asset import report_file

    figures = report_file(source)
    if as_json:
        say(figures.to_json().rstrip())
        return
    from rich.console import Console

    Console().print(figures.table(str(source)))


def blender(
    source: Source,
    render: Annotated[Path | None, typer.Option(help="A picture for Cycles to draw: .png.")] = None,
    size: Annotated[int, typer.Option(min=8, max=8192, help="Pixels a side.")] = 512,
    samples: Annotated[int, typer.Option(min=1, max=65536, help="Of Cycles, a pixel.")] = 32,
    azimuth: Annotated[float, typer.Option(help="Degrees from the front, to the left.")] = 30.0,
    elevation: Annotated[float, typer.Option(min=-90, max=90, help="Degrees up.")] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Open an asset in real Blender: what becomes of it there, and a picture if asked."""
    from exporters.blender import Picture, look

    path = source / "asset.glb" if source.is_dir() else source
    picture = None if render is None else Picture(render, size, samples, azimuth, elevation)
    seen = look(path, picture)
    if as_json:
        say(json.dumps(asdict(seen), indent=2))
        return
    for line in seen.lines():
        say(line)
    if render is not None:
        say(str(render))
