"""How good BootComp's filter is on toybox: python benchmarks/garment_filter.py --weights DIR

Garments of held-out persons are laid flat by DIR's decomposition. A product is right where the
judge reads from it what it reads from the garment that truly lies flat: its kind, its colour and,
of an upper one, its finish. Printed are the shares of right ones among all products and among those
that the filter keeps, and how often a right one is more like what is worn than a wrong one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import lines, share, show
from threed.diffusion.catalog import load_backbone
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.paint import Ready, paint
from threed.learning.data import Row
from threed.systems.reference.ip_adapter import find_encoder
from threed.systems.tryon import composition as formulas
from threed.systems.tryon.outfit_school import pieces
from threed.toybox.family.examples import outfit
from threed.toybox.family.nets import WEIGHTS
from threed.toybox.judge.net import Judge, load_judge

SEED = 3  # of the world: nothing was trained on it
SIZE, BATCH, STEPS = 64, 16, 20
KEPT = (0.75, 0.5, 0.25)
UPPER, LOWER = ("upper", "upper_color", "upper_finish"), ("lower", "lower_color")
READ = {"upper": UPPER, "dress": UPPER, "lower": LOWER}  # heads of the judge, by category


def held_out(count: int) -> list[tuple[str, Tensor, Tensor]]:
    """Draw so many garments: the category, [3, H, W] as it is worn, and as it lies flat."""
    rng, found = np.random.default_rng(SEED), list[tuple[str, Tensor, Tensor]]()
    while len(found) < count:
        texts, pictures = outfit(rng)
        row: Row = {**texts, **dict.fromkeys(pictures, "")}
        found += [(texts[f"category_{n}"], sized(pictures[f"worn_{n}"]), pictures[f"flat_{n}"])
                  for n in pieces(row) if texts[f"category_{n}"] in READ]  # fmt: skip
    return found[:count]


def sized(picture: Tensor) -> Tensor:
    """[3, SIZE, SIZE] a square picture, as trainings read it."""
    small = F.interpolate(picture[None], SIZE, mode="bicubic", antialias=True)
    return small[0].clamp(0, 1)


def laid_flat(base: StableDiffusion, unet: Any, names: Sequence[str], worn: Tensor) -> Tensor:
    """[N, 3, H, W] products of what is worn."""
    made = []
    for first in range(0, len(worn), BATCH):
        part = worn[first : first + BATCH]
        score = formulas.laid_flat(base, part, names[first : first + BATCH], unet)
        made.append(
            paint(base, Ready(score, rows=len(part), own_noise=True), steps=STEPS, seed=first)
        )
    return torch.cat(made)


def is_right(judge: Judge, names: Sequence[str], made: Tensor, flat: Tensor) -> list[bool]:
    """Whether each product [N, 3, H, W] is read as the garment that lies flat is."""
    verdicts = [judge.read(pictures) for pictures in (made, flat)]
    read = [{head: verdict.names(head) for head in (*UPPER, *LOWER)} for verdict in verdicts]
    return [all(read[0][head][i] == read[1][head][i] for head in READ[name])
            for i, name in enumerate(names)]  # fmt: skip


def scores(right: Sequence[bool], alike: Tensor) -> dict[str, float]:
    """Precision with and without the filter, and the share of pairs that it orders rightly."""
    order = alike.argsort(descending=True).tolist()
    found = {"right, of all that is made": share(right)}
    for kept in KEPT:
        best = order[: max(round(kept * len(order)), 1)]
        found[f"right, of {kept:.0%} that are kept"] = share([right[i] for i in best])
    good, bad = alike[torch.tensor(right)], alike[~torch.tensor(right)]
    found["right before wrong"] = float((good[:, None] > bad).float().mean())
    return found


@torch.no_grad()
def main() -> None:
    """Print the scores of one decomposition."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--count", type=int, default=200, help="garments to lay flat")
    parser.add_argument("--sheet", type=Path, help="a file for the pictures")
    said = parser.parse_args()
    base: Any = load_backbone("toybox")
    unet = formulas.load_unet(base, said.weights / formulas.DECOMPOSITION)
    names, worn, flat = zip(*held_out(said.count))
    pictures = [torch.stack([*part]) for part in (worn, flat)]
    made = laid_flat(base, unet, names, pictures[0])
    encoder = find_encoder(base, None, None, formulas.NAME)
    alike = formulas.likeness(encoder, pictures[0], made)
    right = is_right(load_judge(WEIGHTS / "judge"), names, made, pictures[1])
    few = [part[:12] for part in (pictures[0], made, pictures[1])]
    show(torch.cat(few), said.sheet, columns=len(few[0]))
    sys.stdout.write(lines(scores(right, alike)))


if __name__ == "__main__":
    main()
