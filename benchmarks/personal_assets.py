"""Whether a personalised asset is the subject: the judge of sameness, from eight views.

    python benchmarks/personal_assets.py --out DIR [--system lora] [--knobs name=value] [name=value]

Each subject is learned from five pictures, as in benchmarks/personalization.py (whose DIR serves,
too), and an asset is made of it by its word; beside it the class's own asset, of the same prompt
with the kind's name. name=value: settings of the run. The sheet DIR/assets.png has a row for each
subject: two of its own pictures, three views of its asset, three of the class's.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import head, row
from benchmarks.personalization import AT, METHODS, WORD, Bench, learn, stacked
from exporters import load
from renderers.raster import render_mesh
from threed.apps.cli.show import say
from threed.core.cameras import orbit
from threed.diffusion.images import grid, save_image
from threed.runs.generate import generate
from threed.settings.base import replace
from threed.settings.presets import load_run
from threed.settings.run import Run, SystemSettings

VIEWS = 8


def seen(prompt: str, out: Path, run: Run) -> Tensor:
    """[VIEWS, 3, 64, 64] an asset of a prompt from all around; made if it is not there yet."""
    if not (out / "asset.glb").is_file():
        shutil.rmtree(out, ignore_errors=True)  # of a run that was cut
        generate(prompt, run, out=out)
    views = render_mesh(load(out / "asset.glb"), orbit(VIEWS, 64), look="albedo",
                        antialias_factor=3)  # fmt: skip
    return views.rgb.movedim(-1, 1)


def main() -> None:
    """Print a line for each subject, and how often the asset is nearer to it than the class's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--system", default="lora")
    parser.add_argument("--subjects", type=int, default=10)
    parser.add_argument("--knobs", nargs="*", default=[], metavar="name=value")
    parser.add_argument("words", nargs="*", metavar="name=value")
    options = parser.parse_args()
    bench, wins, rows = Bench(options.out), 0, list[Tensor]()
    run = load_run(overrides=options.words)
    method = METHODS[options.system.replace("_", " ")]
    say(head("subject", "sameness of its asset", "of the class's own"))
    for number in range(options.subjects):
        _, kind, folder, views = bench.subject(number)
        held, home = stacked([view.picture.rgb for view in views]), folder.parent
        place = learn(method, folder, home / options.system.replace("_", "-"), kind)
        told = SystemSettings(name=method.system, knobs=tuple(options.knobs),
                              inputs={"weights": (str(place / f"at{AT[-1]}"),)})  # fmt: skip
        made = (seen(f"a {WORD}", home / f"asset-{method.system}", replace(run, system=told)),
                seen(f"a {kind}", home / "asset-class", run))  # fmt: skip
        ours, theirs = (float(bench.same.likeness(some, held).mean()) for some in made)
        wins += ours > theirs
        say(row(f"{number}, {kind}", f"{ours:.3f}", f"{theirs:.3f}"))
        rows += [held[:2], *(some[: VIEWS // 2 - 1] for some in made)]
        save_image(grid(torch.cat(rows), VIEWS), bench.out / "assets.png")
    say(f"\nthe asset is nearer to its subject in {wins} of {options.subjects}")


if __name__ == "__main__":
    main()
