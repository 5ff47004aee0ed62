"""`threed evaluate`: assets of many prompts, judged from the mesh alone, as one table.

Every kind once, its colour and finish drawn by a seed. Each prompt is a run of its own in a folder
of its own, so the command can be cut and continued, and the parts can be made on several machines.
With --protocol the prompts are a list's, and CLIP judges what a benchmark looks at (`compare`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from pydantic import Field

from threed.apps.cli.command import Command
from threed.apps.cli.compare import (
    Comparison,
    about_files,
    ask_outside,
    check_same,
    make_asset,
    share_of,
)
from threed.apps.cli.show import complain, say
from threed.core import files
from threed.core.errors import InputError
from threed.core.intervals import bootstrap, wilson
from threed.runs.job import FIRST
from threed.settings.base import Seed, Settings

VIEWS = 8  # of the turntable that is judged
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
    saturation: float  # of the turntable, as a share of real toys'; so are these two
    contrast: float
    sharpness: float


def prompts(seed: int = 0) -> list[tuple[str, str, str, str]]:
    """(prompt, kind, color, finish), every kind once."""
    import numpy as np

    from threed.toybox.world.toys import COLORS, FINISHES, KINDS

    rng = np.random.default_rng(seed)
    chosen = []
    for kind in KINDS:
        color = str(rng.choice(list(COLORS)))
        finish = str(rng.choice(FINISHES, p=(0.55, 0.15, 0.15, 0.15)))
        words = [color, kind] if finish == "plain" else [finish, color, kind]
        article = "an" if words[0][0] in "aeiou" else "a"
        chosen.append((" ".join([article, *words]), kind, color, finish))
    return chosen


def judge_mesh(path: Path, kind: str, color: str, finish: str) -> dict[str, Any]:
    """The judge's reading of a mesh file: see Row."""
    import torch

    from exporters import load
    from renderers.raster import render_mesh
    from threed.core.cameras import orbit
    from threed.toybox.family.nets import WEIGHTS
    from threed.toybox.judge.looks import looks, real_looks
    from threed.toybox.judge.net import FRONT_VIEWS, fronts, load_judge
    from threed.toybox.world.kinds import FRONTED

    judge, mesh = load_judge(WEIGHTS / "judge"), load(path)

    def pictures(look: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        seen = render_mesh(mesh, orbit(count, 64), look=look, antialias_factor=3)  # type: ignore[arg-type]
        return seen.rgb.permute(0, 3, 1, 2), seen.opacity.permute(0, 3, 1, 2)

    rgb, opacity = pictures("albedo", VIEWS)
    coloured = judge.read(rgb)
    shape = judge.read(pictures("textureless", VIEWS)[0])
    around = judge.read(pictures("albedo", FRONT_VIEWS)[0])
    return {
        "kind": coloured.together("kind") == kind,
        "color": coloured.together("color") == color,
        "geometry": shape.together("kind") == kind,
        "fronts": fronts(around) if kind in FRONTED else None,
        **looks(rgb, opacity).beside(real_looks(kind, color, finish)),
    }


def evaluate_one(
    folder: Path, asked: tuple[str, str, str, str], preset: str, words: Sequence[str]
) -> Row:
    """Run a prompt in its folder, or go on with it, or read what was judged there before.

    InputError as of `check_same`.
    """
    prompt, *truth = asked
    verdict = folder / VERDICT
    check_same(folder, preset, words)
    if verdict.exists():
        return Row(**json.loads(verdict.read_text()))
    make_asset(folder, prompt, preset, words)
    report = json.loads((folder / "report.json").read_text())
    row = Row(
        prompt,
        **judge_mesh(folder / "asset.glb", *truth),
        seconds=run_seconds(folder),
        psnr_db=round(float(report["psnr"]), 2),
        iou=round(float(report["iou"]), 4),
    )
    files.write(verdict, json.dumps(asdict(row)).encode())
    return row


def folder_of(out: Path, prompt: str) -> Path:
    """The folder of a prompt's run."""
    return out / prompt.replace(" ", "-")


def run_seconds(folder: Path) -> float:
    """From the run's first file to its last, in seconds; wrong if it was interrupted."""
    begin = (folder / "config.yaml").stat().st_mtime
    return round((folder / "report.json").stat().st_mtime - begin, 1)


def table(rows: Sequence[Row]) -> str:
    """The rows and their shares as Markdown."""
    lines = ["| prompt | kind | colour | geometry | fronts | s | PSNR dB | IoU "
             "| saturation | contrast | sharpness |", "|---" * 11 + "|"]  # fmt: skip
    mark = {True: "yes", False: "no"}
    for row in rows:
        lines.append(
            f"| {row.prompt} | {mark[row.kind]} | {mark[row.color]} | {mark[row.geometry]} | "
            f"{'' if row.fronts is None else row.fronts} | {row.seconds:.0f} | {row.psnr_db:.1f} | "
            f"{row.iou:.3f} | {row.saturation:.2f} | {row.contrast:.2f} | {row.sharpness:.2f} |"
        )
    return "\n".join([*lines, "", summary(rows)])


def summary(rows: Sequence[Row]) -> str:
    """The shares and medians over all rows, in a line."""
    fronted = [row.fronts == 1 for row in rows if row.fronts is not None]
    return (
        f"{len(rows)} prompts: kind {_share([r.kind for r in rows])}, "
        f"colour {_share([r.color for r in rows])}, "
        f"geometry alone {_share([r.geometry for r in rows])}, "
        f"one front {_share(fronted)}; medians: {median([r.seconds for r in rows]):.0f} s, "
        f"PSNR {median([r.psnr_db for r in rows]):.1f} dB, "
        f"IoU {median([r.iou for r in rows]):.3f}; of real toys' "
        f"saturation {median([r.saturation for r in rows]):.2f}, "
        f"contrast {median([r.contrast for r in rows]):.2f}, "
        f"sharpness {median([r.sharpness for r in rows]):.2f}"
    )


def _share(hits: Sequence[bool]) -> str:
    return f"{sum(hits)}/{len(hits)} ({100 * sum(hits) / max(len(hits), 1):.0f} %)"


def intervals(groups: Sequence[Sequence[Row]]) -> str:
    """The summary's figures with 95 % intervals, in a line; a group holds the rows of one kind.

    Shares have Wilson's, which take all assets for independent; medians are drawn again, kinds as
    a whole.
    """
    rows = [row for group in groups for row in group]
    shares = {
        "kind": [row.kind for row in rows],
        "colour": [row.color for row in rows],
        "geometry alone": [row.geometry for row in rows],
        "one front": [row.fronts == 1 for row in rows if row.fronts is not None],
    }
    said = []
    for name, hits in shares.items():
        low, high = wilson(sum(hits), len(hits))
        said.append(f"{name} {_share(hits)[:-1]}, {100 * low:.0f}–{100 * high:.0f} %)")
    for name, figure, digits in (("PSNR", "psnr_db", 1), ("IoU", "iou", 3)):
        values = [[float(getattr(row, figure)) for row in group] for group in groups]
        low, high = bootstrap(values, median)
        middle = median([value for group in values for value in group])
        said.append(f"median {name} {middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})")
    return f"95 % intervals over {len(rows)} assets of {len(groups)} kinds: {', '.join(said)}"


def side_by_side(rows: Sequence[Row], other: Path) -> str:
    """Two summaries over the prompts that both this evaluation and the one in `other` judged.

    InputError if there is none.
    """
    theirs = {}
    for path in sorted(other.glob(f"*/{VERDICT}")):
        row = Row(**json.loads(path.read_text()))
        theirs[row.prompt] = row
    shared = [row for row in rows if row.prompt in theirs]
    if not shared:
        raise InputError(f"--against {other}: no prompt was judged there and here")
    lines = [("here", shared), (str(other), [theirs[row.prompt] for row in shared])]
    return "\n".join(f"- {name}: {summary(part)}" for name, part in lines)


def contact_sheet(assets: Sequence[Path], path: Path, *, size: int = 128, columns: int = 8) -> None:
    """Write one picture of mesh files: two views of each, so many views a row."""
    import torch

    from exporters import load
    from exporters.pictures import fit_ball
    from renderers.raster import render_mesh
    from threed.core.cameras import orbit
    from threed.diffusion.images import grid, save_image

    views = []
    for asset in assets:
        seen = render_mesh(fit_ball(load(asset)), orbit(8, size)[:2], look="shaded")
        views.append(seen.rgb.permute(0, 3, 1, 2))
    save_image(grid(torch.cat(views), columns=columns), path)


def part_of(text: str) -> tuple[int, int]:
    """ "K/N" as (K, N), 1 <= K <= N; InputError for anything else."""
    match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"--part takes K/N with 1 <= K <= N, such as 1/2, got {text!r}")
    return int(match[1]), int(match[2])


class Evaluate(Settings):
    """Generate one prompt of every kind and judge the meshes; can be cut and continued.

    Writes a table (table.md) and a picture of all the assets (sheet.png).
    """

    settings: tuple[str, ...] = Field(
        (), description="NAME=VALUE, as in generate", json_schema_extra=FIRST
    )
    preset: str = Field(
        "toybox-mvdream", description="a name of `threed list presets`, or a YAML file"
    )
    out: Path = Field(
        Path("outputs/evaluate"), description="a folder for all the runs; go on with the same"
    )
    seed: Seed = Field(0, description="decides colours and finishes")
    seeds: int = Field(
        1, ge=1, le=100, description="several: of colours and runs, each in a folder of its own"
    )
    limit: int | None = Field(None, ge=1, description="only the first so many")
    fronted: bool = Field(False, description="only kinds that have a front")
    part: str = Field("1/1", description="K/N: every N-th prompt from the K-th, to share the work")
    against: Path | None = Field(
        None, description="another evaluation, to compare with side by side"
    )
    protocol: Literal["t3bench", "mate3d", "gpteval3d", "sdi43"] | None = Field(
        None, description="judge a list of prompts by this benchmark's pictures and by CLIP"
    )
    prompts: Path | None = Field(
        None, description="with --protocol: the list, .txt, .json or .csv (docs/evaluation.md)"
    )
    assets: Path | None = Field(
        None, description="with --protocol: a folder of assets; generated if not given"
    )
    clip: Path | None = Field(
        None, description="with --protocol: a folder of a transformers CLIP; toybox's if not given"
    )
    as_json: bool = Field(False, description="answer as JSON")

    def fits(self) -> None:
        """InputError for options that do not go together."""
        if self.protocol is None:
            for name in ("prompts", "assets", "clip"):
                if getattr(self, name) is not None:
                    raise InputError(f"--{name} is for --protocol; without it the prompts are "
                                     "those of toybox's kinds")  # fmt: skip
        elif self.prompts is None:
            raise InputError("--protocol needs --prompts: a list, .txt, .json or .csv")
        elif self.fronted or self.against is not None or self.seeds > 1:
            raise InputError("--fronted, --against and --seeds are about toybox's kinds: leave "
                             "them out with --protocol")  # fmt: skip


def evaluate(job: Evaluate) -> None:
    """Generate and judge."""
    job.fits()
    files.check_out(job.out, folder=True)
    k, n = part_of(job.part)
    if job.protocol is not None and job.prompts is not None:
        asked = Comparison(
            job.protocol, job.prompts, job.clip, job.assets, job.preset, job.settings
        )
        asked.run(job.out, job.limit, (k, n), as_json=job.as_json)
        return
    judge_kinds(job, k, n)


def judge_kinds(job: Evaluate, k: int, n: int) -> None:
    """Generate assets of toybox's kinds, those of the k-th of n parts, and judge them."""
    from threed.toybox.family.nets import WEIGHTS, need

    need(WEIGHTS, "judge", "judging assets")
    rows, places, kinds = list[Row](), list[Path](), dict[str, list[Row]]()
    for home, words, asked in share_of(planned(job), (k, n)):
        row = evaluate_one(folder_of(home, asked[0]), asked, job.preset, words)
        rows.append(row)
        kinds.setdefault(asked[1], []).append(row)
        places.append(folder_of(home, row.prompt) / "asset.glb")
        complain(f"{len(rows)}: {summary([row])}", row.prompt)
    lines = [table(rows), intervals(list(kinds.values())), *about_files(ask_outside(places))]
    if job.against is not None:
        lines.append(side_by_side(rows, job.against))
    text = "\n\n".join(lines)
    if n == 1:
        (job.out / "table.md").write_text(text + "\n")
        contact_sheet(places, job.out / "sheet.png")
    say(json.dumps([asdict(row) for row in rows], indent=2) if job.as_json else text)


Planned = tuple[Path, tuple[str, ...], tuple[str, str, str, str]]


def planned(job: Evaluate) -> list[Planned]:
    """All that is to be judged: where, by which settings, and which prompt, kind, colour, finish.

    Several seeds have a folder each, and decide the runs too.
    """
    from threed.toybox.world.kinds import FRONTED

    found: list[Planned] = []
    for seed in range(job.seed, job.seed + job.seeds):
        every = [asked for asked in prompts(seed) if asked[1] in FRONTED or not job.fronted]
        home, words = job.out, job.settings
        if job.seeds > 1:
            home, words = job.out / f"seed-{seed}", (*job.settings, f"seed={seed}")
        found += [(home, words, asked) for asked in every[: job.limit]]
    return found


EVALUATE = Command("evaluate", Evaluate, evaluate)
