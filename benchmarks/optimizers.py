"""Muon beside AdamW: python benchmarks/optimizers.py [--steps N --lr RATE ...]

Toybox's UNet goes on from the weights in the package by either, at the same rate and on the same
batches; what is printed is the loss of pictures that were not learned from. Each optimizer takes
about two seconds a step of one core; pictures are drawn first where they are missing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import head, row
from threed.apps.cli.toybox import WORK
from threed.toybox.family import jobs, training, unet
from threed.toybox.family import nets as family
from threed.toybox.family.mix import fill_scenes
from threed.toybox.family.shelf import fill_shelf
from threed.toybox.family.train import SEEDS, start_from

CPU = torch.device("cpu")
HELD_OUT = 24  # batches


def held_out(job: training.Job, net: torch.nn.Module) -> tuple[float, float]:
    """The loss on single pictures, and on sets of four views, of an averaged net."""
    found: dict[bool, list[float]] = {True: [], False: []}
    with torch.no_grad():
        for step in range(HELD_OUT):
            batch = job.batch(step)
            found[batch["count"] > 1].append(float(job.loss(net, batch)))
    return float(np.mean(found[False])), float(np.mean(found[True]))


def main() -> None:
    """Train by each, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--sets", type=int, default=12_000)
    parser.add_argument("--work", type=Path, default=WORK, help="where drawn pictures are kept")
    asked = parser.parse_args()
    folder, weights = asked.work.expanduser() / "pictures", family.WEIGHTS
    shelves = [(fill_shelf(folder / name, count, SEEDS[name]),
                fill_scenes(folder / f"{name}-scenes", count, SEEDS[name]))
               for name, count in (("train", asked.sets), ("test", 1000))]  # fmt: skip
    budget = jobs.Budget(asked.steps, 64, asked.lr)
    learned, other = (unet.unet_job(*pair, budget, CPU, 0, weights) for pair in shelves)
    learned = replace(learned, sheet=None, cooldown=0.0, ema=0.99)
    start_from(learned.model, "unet", weights)
    start = {name: value.clone() for name, value in learned.model.state_dict().items()}
    sys.stdout.write(head(f"after {asked.steps} steps", "single pictures", "sets of four") + "\n")
    for name in ("AdamW", "Muon"):
        learned.model.load_state_dict(start)
        with tempfile.TemporaryDirectory() as there:
            net = training.fit(replace(learned, muon=name == "Muon"), Path(there), device=CPU)
        one, four = held_out(other, net)
        sys.stdout.write(row(name, f"{one:.5f}", f"{four:.5f}") + "\n")


if __name__ == "__main__":
    main()
