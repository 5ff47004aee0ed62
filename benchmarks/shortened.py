"""What fewer steps cost: a preset's stages made shorter, all by the same share, and judged.

    python benchmarks/shortened.py --out outputs/shortened [--preset NAME] [--steps 100,150,...]

Schedules are squeezed with their stages, so that the noise falls as far in fewer steps. The assets
are those of `threed evaluate`, every third prompt, in a folder for each number of steps, so it can
be cut and continued. Writes table.md and curve.png: what is read right against the seconds of a
run.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from benchmarks.common import head, row
from benchmarks.plots import plot
from threed.apps.cli.evaluate import Row, evaluate_one, folder_of, prompts, summary
from threed.apps.cli.show import complain, say
from threed.core import files
from threed.settings.presets import load_run
from threed.settings.run import Run

EVERY = 3  # of the prompts


def total(run: Run) -> int:
    """The steps of all stages."""
    return sum(stage.steps for stage in run.stages)


def shortened(run: Run, steps: int) -> dict[str, Any]:
    """The run's settings with so many steps in all, every schedule's steps by the same share."""
    share = steps / total(run)

    def squeezed(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {max(1, round(key * share)) if isinstance(key, int) and key else key: squeezed(inner)
                for key, inner in value.items()}  # fmt: skip

    settings = yaml.safe_load(run.to_yaml())
    settings["field"]["level_every"] = max(1, round(run.field.level_every * share))
    settings["stages"] = [
        {**squeezed(stage), "steps": max(1, round(stage["steps"] * share))}
        for stage in settings["stages"]
    ]
    return settings


def right(rows: Sequence[Row]) -> float:
    """The share of what the judge was asked that it reads as it was asked for."""
    answers = [said for one in rows for said in (one.kind, one.color, one.geometry)]
    answers += [one.fronts == 1 for one in rows if one.fronts is not None]
    return sum(answers) / len(answers)


def line(steps: int, rows: Sequence[Row]) -> str:
    """A row of the table."""
    fronted = [one.fronts == 1 for one in rows if one.fronts is not None]
    shares = [[one.kind for one in rows], [one.color for one in rows],
              [one.geometry for one in rows], fronted]  # fmt: skip
    return row(
        steps,
        f"{median(one.seconds for one in rows):.0f}",
        *(f"{sum(hits)}/{len(hits)}" for hits in shares),
        f"{median(one.iou for one in rows):.3f}",
        f"{median(one.sharpness for one in rows):.2f}",
    )


def main() -> None:
    """Make what is missing, and write the table and the curve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/shortened"))
    parser.add_argument("--preset", default="toybox-mvdream")
    parser.add_argument("--steps", default="100,150,200,300,400")
    options = parser.parse_args()
    whole, made = load_run(options.preset), dict[int, list[Row]]()
    for steps in sorted({*map(int, options.steps.split(",")), total(whole)}):
        home, made[steps] = options.out / f"steps-{steps}", []
        files.write(home / "preset.yaml", yaml.safe_dump(shortened(whole, steps)).encode())
        for asked in prompts()[::EVERY]:
            folder = folder_of(home, asked[0])
            made[steps].append(evaluate_one(folder, asked, str(home / "preset.yaml"), ()))
            complain(summary(made[steps][-1:]), f"{steps} steps: {asked[0]}")
    text = "\n".join([head("steps", "s (median)", "kind", "colour", "geometry", "one front", "IoU",
                           "sharpness"), *(line(*one) for one in made.items())])  # fmt: skip
    files.write(options.out / "table.md", (text + "\n").encode())
    points = [(median(one.seconds for one in rows), right(rows), str(steps))
              for steps, rows in made.items()]  # fmt: skip
    plot(options.out / "curve.png", {"read right": points}, "seconds", "share")
    say(text)


if __name__ == "__main__":
    main()
