"""What refining brings: python benchmarks/refined.py EVALUATED EVALUATED...

Each is a folder of `threed evaluate`, such as one by the default preset and one by toybox-magic3d.
Of the prompts that all of them have: how sharp the asset is, beside real toys of the same words,
both in pictures of SIZE pixels; and of those with a pattern, in how many of eight views the judge
reads it, which it does on 64 pixels.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median

from benchmarks.common import head, row
from exporters import load
from renderers.raster import render_mesh
from threed.apps.cli.evaluate import folder_of, prompts
from threed.apps.cli.show import say
from threed.core.cameras import orbit
from threed.toybox.family.nets import WEIGHTS
from threed.toybox.judge.looks import looks, real_looks
from threed.toybox.judge.net import load_judge

SIZE, VIEWS = 128, 8


def asset(place: Path, prompt: str) -> Path:
    """Where the asset of a prompt is."""
    return folder_of(place, prompt) / "asset.glb"


def seen(path: Path, kind: str, color: str, finish: str) -> tuple[float, float]:
    """How sharp an asset is beside real toys, and the share of its views that show the finish."""
    pictures = render_mesh(load(path), orbit(VIEWS, SIZE), look="albedo", antialias_factor=3)
    rgb, opacity = (x.permute(0, 3, 1, 2) for x in (pictures.rgb, pictures.opacity))
    real = real_looks(kind, color, finish, VIEWS, SIZE)
    read = load_judge(WEIGHTS / "judge").read(rgb).names("finish")
    return looks(rgb, opacity).beside(real)["sharpness"], read.count(finish) / VIEWS


def main() -> None:
    """Print a row for each prompt that all folders have, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    folders = parser.parse_args().folders
    asked = [one for one in prompts() if all(asset(place, one[0]).is_file() for place in folders)]
    if not asked:
        sys.exit("there is no prompt of which all of these folders have an asset")
    say(head("prompt", *(f"{folder.name}: sharpness, pattern" for folder in folders)))
    found = [[seen(asset(place, one[0]), *one[1:]) for place in folders] for one in asked]
    for (words, *_, finish), line in zip(asked, found):
        patterned = finish != "plain"
        cells = (f"{sharp:.2f}" + (f", {read:.0%}" if patterned else "") for sharp, read in line)
        say(row(words, *cells))
    for number, folder in enumerate(folders):
        sharp = median(line[number][0] for line in found)
        reads = [line[number][1] for one, line in zip(asked, found) if one[3] != "plain"]
        share = f", patterns read on {sum(reads) / len(reads):.0%} of views" if reads else ""
        say(f"{folder.name}: sharpness {sharp:.2f} of real toys' (median){share}")


if __name__ == "__main__":
    main()
