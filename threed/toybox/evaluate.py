"""`threed evaluate`: assets of many prompts, judged from the mesh alone, as one table.

Every kind once, its colour and finish drawn by a seed. Each prompt is a run of its own in a folder
of its own, so the command can be cut and continued, and the parts can be made on several machines.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from threed.cli_show import Display, complain, say

VIEWS = 8  # of the turntable that is judged
FRONT_VIEWS = 12  # around a mesh, in which its fronts are counted
VERDICT = "verdict.json"


@dataclass(frozen=True)
class Row:
    """What the judge says of one asset."""

    prompt: str
    kind: bool  # read from all views together
    color: bool
    geometry: bool  # the kind, read from a textureless render
    fronts: int | None  # separate groups of views that look like a front; None: it has none
    seconds: float  # of the run, all files written
    psnr_db: float  # mesh against field
    iou: float


def prompts(seed: int = 0) -> list[tuple[str, str, str, str]]:
    """(prompt, kind, color, finish), every kind once."""
    from threed.toybox.world import COLORS, FINISHES, KINDS

    rng = np.random.default_rng(seed)
    chosen = []
    for kind in KINDS:
        color = str(rng.choice(list(COLORS)))
        finish = str(rng.choice(FINISHES, p=(0.55, 0.15, 0.15, 0.15)))
        words = [color, kind] if finish == "plain" else [finish, color, kind]
        article = "an" if words[0][0] in "aeiou" else "a"
        chosen.append((" ".join([article, *words]), kind, color, finish))
    return chosen


def judge_mesh(path: Path, kind: str, color: str) -> dict[str, Any]:
    """The judge's reading of a mesh file: see Row."""
    import torch

    from exporters.load import load
    from renderers.raster import render_mesh
    from threed.cameras import orbit
    from threed.toybox.family import WEIGHTS
    from threed.toybox.judge import load_judge
    from threed.toybox.world import FRONTED

    judge, mesh = load_judge(WEIGHTS / "judge"), load(path)

    def pictures(look: str, count: int) -> torch.Tensor:
        seen = render_mesh(mesh, orbit(count, 64), look=look, antialias_factor=3)  # type: ignore[arg-type]
        return seen.rgb.permute(0, 3, 1, 2)

    coloured = judge.read(pictures("albedo", VIEWS))
    shape = judge.read(pictures("textureless", VIEWS))
    around = judge.read(pictures("albedo", FRONT_VIEWS)).names("view")
    return {
        "kind": coloured.together("kind") == kind,
        "color": coloured.together("color") == color,
        "geometry": shape.together("kind") == kind,
        "fronts": fronts(around) if kind in FRONTED else None,
    }


def fronts(names: Sequence[str]) -> int:
    """How many separate groups of neighbours around a circle are called "front"."""
    here = [name == "front" for name in names]
    if all(here):
        return 2  # a front wherever one looks: as wrong as two
    return sum(now and not before for now, before in zip(here, [here[-1], *here[:-1]]))


def evaluate_one(
    folder: Path, prompt: str, kind: str, color: str, preset: str, words: Sequence[str]
) -> Row:
    """Run a prompt in its folder, or go on with it, or read what was judged there before."""
    from threed.config import load_run
    from threed.pipeline import generate, resume
    from threed.run import RunFolder

    verdict = folder / VERDICT
    if verdict.exists():
        return Row(**json.loads(verdict.read_text()))
    begun = (folder / "config.yaml").exists()
    if not begun or not RunFolder.open(folder).finished:
        with Display() as display:
            if begun:
                resume(folder, progress=display)
            else:
                generate(prompt, load_run(preset, words), out=folder, progress=display)
    report = json.loads((folder / "report.json").read_text())
    row = Row(
        prompt,
        **judge_mesh(folder / "asset.glb", kind, color),
        seconds=run_seconds(folder),
        psnr_db=round(float(report["psnr"]), 2),
        iou=round(float(report["iou"]), 4),
    )
    aside = verdict.with_suffix(".part")
    aside.write_text(json.dumps(asdict(row)))
    aside.replace(verdict)
    return row


def run_seconds(folder: Path) -> float:
    """From the run's first file to its last, in seconds; wrong if it was interrupted."""
    begin = (folder / "config.yaml").stat().st_mtime
    return round((folder / "report.json").stat().st_mtime - begin, 1)


def table(rows: Sequence[Row]) -> str:
    """The rows and their shares as Markdown."""
    lines = ["| prompt | kind | colour | geometry | fronts | s | PSNR dB | IoU |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    mark = {True: "yes", False: "no"}
    for row in rows:
        lines.append(
            f"| {row.prompt} | {mark[row.kind]} | {mark[row.color]} | {mark[row.geometry]} | "
            f"{'' if row.fronts is None else row.fronts} | {row.seconds:.0f} | {row.psnr_db:.1f} | "
            f"{row.iou:.3f} |"
        )
    return "\n".join([*lines, "", summary(rows)])


def summary(rows: Sequence[Row]) -> str:
    """The shares and medians over all rows, in a line."""
    fronted = [row.fronts == 1 for row in rows if row.fronts is not None]
    return (
        f"{len(rows)} prompts: kind {_share([r.kind for r in rows])}, "
        f"colour {_share([r.color for r in rows])}, "
        f"geometry alone {_share([r.geometry for r in rows])}, "
        f"one front {_share(fronted)}; medians: {np.median([r.seconds for r in rows]):.0f} s, "
        f"PSNR {np.median([r.psnr_db for r in rows]):.1f} dB, "
        f"IoU {np.median([r.iou for r in rows]):.3f}"
    )


def _share(hits: Sequence[bool]) -> str:
    return f"{sum(hits)}/{len(hits)} ({100 * sum(hits) / max(len(hits), 1):.0f} %)"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def evaluate(
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="As in generate.")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="A name of `threed list presets`, or a YAML file.")
    ] = "toybox-mvdream",
    out: Annotated[
        Path, typer.Option(help="A folder for all the runs; go on with the same.")
    ] = Path("outputs/evaluate"),
    seed: Annotated[int, typer.Option(min=0, help="Decides colours and finishes.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Generate one prompt of every kind and judge the meshes; can be cut and continued."""
    from threed.toybox.family import WEIGHTS, need

    need(WEIGHTS, "judge", "judging assets")
    rows = []
    for prompt, kind, color, _ in prompts(seed)[:limit]:
        folder = out / prompt.replace(" ", "-")
        row = evaluate_one(folder, prompt, kind, color, preset, settings or ())
        rows.append(row)
        complain(f"{len(rows)}: {summary([row])}", prompt)
    text = table(rows)
    (out / "table.md").write_text(text + "\n")
    say(json.dumps([asdict(row) for row in rows], indent=2) if as_json else text)
