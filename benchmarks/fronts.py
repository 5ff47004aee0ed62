"""How well a backbone tells one front from two: real toys, and the same toys with two faces.

    python benchmarks/fronts.py [--backbone toybox]

A toy with two faces shows its front half again where its back should be. "waves" is the number of
fronts that fits best, the figures behind it its height in standard errors and in thousandths of
the noise's energy; from threed.diffusion.fronts.SURE and HIGH on a run warns of two.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import torch

from benchmarks.common import head, row
from threed.apps.cli.show import say
from threed.diffusion.catalog import load_backbone
from threed.diffusion.fronts import HIGH, SURE, VIEWS, Fronts, find_fronts
from threed.toybox.judge.measure import turntable
from threed.toybox.world.kinds import FRONTED
from threed.toybox.world.toys import KINDS, random_toy

LOOKS = ((1, "red", "plain"), (2, "blue", "striped"))  # seed, colour and finish of a kind's toys


def cell(found: Fronts) -> str:
    """Waves, their certainty and their height."""
    return f"{found.waves} ({found.certainty:.1f}, {1000 * found.height:.2f})"


def main() -> None:
    """The table, a line for each toy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="toybox")
    backbone = load_backbone(parser.parse_args().backbone)
    say(head("toy", "it has a front", "as it is", "with two faces"))
    right, alarms, caught = 0, 0, 0
    kinds = [*FRONTED, *(kind for kind in KINDS if kind not in FRONTED)]
    for kind, (seed, color, finish) in itertools.product(kinds, LOOKS):
        prompt = f"a {color} {kind}" if finish == "plain" else f"a {finish} {color} {kind}"
        pictures = turntable(random_toy(np.random.default_rng(seed), kind, color, finish), VIEWS)
        real = find_fronts(backbone, prompt, pictures)
        alarms += (real.count or 0) > 1
        cells = [prompt, "yes" if kind in FRONTED else "no", cell(real), ""]
        if kind in FRONTED:
            half = pictures.roll(VIEWS // 4, 0)[: VIEWS // 2]
            double = find_fronts(backbone, prompt, torch.cat([half, half]))
            right += real.waves == 1
            caught += (double.count or 0) > 1
            cells[-1] = cell(double)
        say(row(*cells))
    say(f"\nof {len(LOOKS) * len(FRONTED)} toys with a front: one wave in {right}; with two faces, "
        f"warned of {caught}. Warnings over real toys: {alarms} of {len(LOOKS) * len(KINDS)} (from "
        f"{SURE:g} and {1000 * HIGH:g} on)"
    )  # fmt: skip


if __name__ == "__main__":
    main()
