"""Muon beside AdamW: python benchmarks/optimizers.py [--steps N --lr RATE ...]; or --products

Toybox's UNet goes on from the weights in the package by either, at the same rate and on the same
batches; what is printed is the loss of pictures that were not learned from. Each optimizer takes
about two seconds a step of one core; pictures are drawn first where they are missing.

--products only times what a step of Muon consists of, in bfloat16 and in float32 on this CPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from timeit import Timer
from unittest import mock

import numpy as np
import torch

from benchmarks.common import head, row
from threed.apps.cli.toybox import WORK
from threed.learning.loop import Task, train
from threed.learning.optimisers import orthogonal
from threed.learning.recipe import Recipe
from threed.toybox.family.nets import WEIGHTS
from threed.toybox.family.shelf import fill_scenes, fill_shelf
from threed.toybox.family.train import SEEDS
from threed.toybox.family.unet import unet_task

CPU = torch.device("cpu")
HELD_OUT, BATCH = 24, 64  # batches, and pictures of each


def held_out(task: Task) -> tuple[float, float]:
    """The loss on single pictures, and on sets of four views, of its net as it is."""
    found: dict[bool, list[float]] = {True: [], False: []}
    assert task.batch is not None
    with torch.no_grad():
        for step in range(HELD_OUT):
            chance = torch.Generator().manual_seed(step)
            batch = task.batch(BATCH, chance)
            found[batch["together"] > 1].append(float(task.loss(task.net, batch, chance)))
    return float(np.mean(found[False])), float(np.mean(found[True]))


def products() -> float:
    """How many times as long 8 matrices of 256 x 256 take in bfloat16 as in float32."""
    taken = []
    with mock.patch("threed.learning.optimisers.bfloat16_pays") as pays:
        for pays.return_value in (True, False):
            timer = Timer("f(x)", globals={"f": orthogonal, "x": torch.randn(8, 256, 256)})
            timer.timeit(1)
            taken.append(min(timer.repeat(5, 1)))
    return taken[0] / taken[1]


def main() -> None:
    """Train by each, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--sets", type=int, default=12_000)
    parser.add_argument("--work", type=Path, default=WORK, help="where drawn pictures are kept")
    parser.add_argument("--products", action="store_true", help="time the products alone")
    asked = parser.parse_args()
    if asked.products:
        sys.stdout.write(f"bfloat16 takes {products():.1f} times as long as float32\n")
        return
    folder = asked.work.expanduser() / "pictures"
    shelves = [(fill_shelf(folder / name, count, SEEDS[name]),
                fill_scenes(folder / f"{name}-scenes", count, SEEDS[name]))
               for name, count in (("train", asked.sets), ("test", 1000))]  # fmt: skip
    learned, other = (unet_task(*pair, WEIGHTS, CPU) for pair in shelves)
    start = {name: value.clone() for name, value in learned.net.state_dict().items()}
    sys.stdout.write(head(f"after {asked.steps} steps", "single pictures", "sets of four") + "\n")
    for name in ("AdamW", "Muon"):
        learned.net.load_state_dict(start)
        recipe = Recipe(asked.steps, BATCH, asked.lr, ema=0.99, beta2=0.99, muon=name == "Muon")
        with tempfile.TemporaryDirectory() as there:
            net = train(replace(learned, sheet=None), recipe, Path(there), device=CPU)
        other.net.load_state_dict(net.state_dict())
        one, four = held_out(other)
        sys.stdout.write(row(name, f"{one:.5f}", f"{four:.5f}") + "\n")


if __name__ == "__main__":
    main()
