"""What becomes of assets that are edited: `python benchmarks/edit3d.py [--weights DIR]`.

Toys of toybox, in perfect meshes, are each asked for another colour by `threed edit3d`; the judge
reads the colour from eight views, and volumes are compared by points in space.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch

import exporters
from benchmarks.common import show
from exporters import load
from renderers.raster import render_mesh
from tests.toys import toy
from threed.core.cameras import orbit
from threed.core.mesh import Mesh
from threed.runs.generate import edit3d
from threed.scenes.distance import signed_distance
from threed.settings.presets import load_run
from threed.settings.run import SystemSettings
from threed.toybox.family.nets import WEIGHTS
from threed.toybox.judge.net import load_judge

ASKED = (
    ("mug", "red", "blue"), ("chair", "green", "red"), ("duck", "yellow", "green"),
    ("house", "blue", "orange"), ("car", "purple", "yellow"), ("teapot", "orange", "purple"),
)  # fmt: skip
GRID = 64  # cells a side in which volumes are compared


def solid(mesh: Mesh) -> torch.Tensor:
    """Which points of a grid over [-1, 1]³ are inside."""
    return signed_distance(mesh, GRID) < 0


def edited(kind: str, old: str, new: str, weights: Path | None, shape: bool, out: Path) -> Mesh:
    """A toy after its edit; `out` gets the run's folder and the toy as it was."""
    exporters.save(toy(kind, old), out / f"{kind}.glb")
    words = ["turntable_frames=2", "turntable_size=16", "device=auto"]
    run = load_run("toybox-edit", words)
    if weights is not None:
        from threed.settings.base import replace

        settings = SystemSettings(name="instruct_pix2pix", inputs={"weights": (str(weights),)})
        run = replace(run, system=settings)
    asset = edit3d(
        out / f"{kind}.glb", f"make it {new}", run, shape=shape, out=out / f"{kind}-{new}"
    )
    return load(asset.glb)


def main() -> None:
    """Print a line a toy, and the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--weights", type=Path, help="of InstructPix2Pix; the backbone's own if none"
    )
    parser.add_argument("--shape", action="store_true", help="edit the shape too")
    parser.add_argument("--limit", type=int, default=len(ASKED))
    parser.add_argument("--sheet", type=Path, help="a file for pictures: before, after")
    arguments = parser.parse_args()
    judge, pictures, rows = load_judge(WEIGHTS / "judge"), [], []
    with tempfile.TemporaryDirectory() as folder:
        for kind, old, new in ASKED[: arguments.limit]:
            after = edited(kind, old, new, arguments.weights, arguments.shape, Path(folder))
            before = load(Path(folder) / f"{kind}.glb")
            there, here = solid(before), solid(after)
            seen = render_mesh(after, orbit(8, 64), look="albedo", antialias_factor=3).rgb
            verdict = judge.read(seen.movedim(-1, 1))
            rows.append({
                "toy": kind, "asked": new, "colour": verdict.together("color"),
                "kind": verdict.together("kind") == kind,
                "iou": round(float((there & here).sum() / (there | here).sum()), 4),
            })  # fmt: skip
            sys.stdout.write(json.dumps(rows[-1]) + "\n")
            first = render_mesh(before, orbit(8, 64), look="albedo", antialias_factor=3).rgb
            pictures += [first[::2].movedim(-1, 1), seen[::2].movedim(-1, 1)]
    right = sum(row["colour"] == row["asked"] for row in rows)
    least = min(row["iou"] for row in rows)
    sys.stdout.write(f"new colour read on {right} of {len(rows)}; IoU at least {least:.3f}\n")
    show(torch.cat(pictures), arguments.sheet, columns=8)


if __name__ == "__main__":
    main()
