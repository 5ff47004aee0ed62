"""Does the judge of toybox see the prompted toy in pictures that Blender draws of generated assets?

    python benchmarks/blender.py outputs/coarse [outputs/fine ...]

Folders of runs, or folders that hold some, as `threed evaluate --out` leaves them. Cycles draws
each asset.glb from four sides on the CPU; Blender is found as `threed blender` finds it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.common import head, row
from exporters.blender import Picture, look
from threed.apps.cli.show import complain, say
from threed.core.errors import InputError
from threed.toybox.family.nets import WEIGHTS
from threed.toybox.judge.net import load_judge
from threed.toybox.world.toys import COLORS, KINDS

SIDES = (30.0, 120.0, 210.0, 300.0)  # degrees from Blender's front view
SIZE, SAMPLES = 128, 16


def runs(folder: Path) -> Iterator[Path]:
    """The folders of finished runs in a folder, or itself."""
    for glb in sorted([*folder.glob("asset.glb"), *folder.glob("*/asset.glb")]):
        yield glb.parent


def drawn(glb: Path) -> Tensor:
    """[4, 3, SIZE, SIZE] what Cycles draws of a file, on white."""
    seen = []
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES:
            path = Path(folder) / "side.png"
            look(glb, Picture(path, size=SIZE, samples=SAMPLES, azimuth_deg=side))
            with Image.open(path) as picture:
                pixels = torch.from_numpy(np.asarray(picture, np.float32) / 255)
            rgb, alpha = pixels[..., :3], pixels[..., 3:]
            seen.append((rgb * alpha + 1 - alpha).permute(2, 0, 1))
    return torch.stack(seen)


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    asked = parser.parse_args()
    judge = load_judge(WEIGHTS / "judge")
    say(head("prompt", "kind", "colour"))
    hits = []
    for run in (run for folder in asked.folders for run in runs(folder)):
        prompt = (run / "prompt.txt").read_text().strip()
        words = prompt.split()
        verdict = judge.read(drawn(run / "asset.glb"))
        kind, color = verdict.together("kind"), verdict.together("color")
        hits.append((kind in words and kind in KINDS, color in words and color in COLORS))
        marks = [f"{name}{'' if hit else ' (wrong)'}" for name, hit in zip((kind, color), hits[-1])]
        say(row(prompt, *marks))
    if not hits:
        raise InputError("there is no asset.glb in these folders")
    kinds, colors = (sum(pair[k] for pair in hits) for k in range(2))
    complain(f"of {len(hits)}:", f"{kinds} kinds and {colors} colours read")


if __name__ == "__main__":
    main()
