"""What guidance wants of a toy's colour, by what is behind it: python benchmarks/grounds.py.

Real toys of one colour, drawn without a lamp from four sides, are noised to a level, and the
multi-view model says what it takes them for. The table has how much brighter (above 0) that is than
the toy, of 1, on its own pixels: by the ground, the noise level and the guidance scale.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from statistics import mean

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import head, row
from guidance.distill import draw_noise, encode_render
from guidance.prompts import Prompts
from threed.core.cameras import Cameras, random_views
from threed.diffusion.catalog import load_backbone
from threed.diffusion.noise import diffuse
from threed.toybox.world.draw import Light
from threed.toybox.world.toys import COLORS, KINDS, draw_set, random_toy

TOYS = 4
GROUNDS = {"white": 1.0, "middle grey": 0.5}
LEVELS, SCALES = (300, 500, 700), (1.0, 2.5, 6.0)
INSIDE = 0.9  # share of a pixel that the toy covers


def pictures(seed: int, kind: str, color: str, ground: float) -> tuple[Cameras, Tensor, Tensor]:
    """Four views of a toy: cameras, pictures [4, H, W, 3] and the pixels [4, H, W, 1] it covers."""
    chance = torch.Generator().manual_seed(seed)
    views = random_views(4, 64, chance, elevation_deg=(0, 40), fov_y_deg=(40, 40), zoom=(1, 1),
                         distance_by="sin", views=4)  # fmt: skip
    toy = random_toy(np.random.default_rng(seed), kind, color, "plain")
    drawn = draw_set(toy, views, Light(ambient=1.0), np.full((2, 3), ground, np.float32)).pictures
    rgb, alpha = (np.stack([getattr(one, name) for one in drawn]) for name in ("rgb", "alpha"))
    return views, torch.from_numpy(rgb), torch.from_numpy(alpha)[..., None] > INSIDE


@torch.no_grad()
def table(kind: str, color: str) -> Iterator[str]:
    """Lines of Markdown."""
    backbone = load_backbone("toybox-multiview", device="cpu")
    prompts = Prompts(backbone, f"a {color} {kind}")
    yield head("ground", "t", *(f"scale {scale:g}" for scale in SCALES))
    for name, ground in GROUNDS.items():
        toys = [pictures(seed, kind, color, ground) for seed in range(TOYS)]
        for level in LEVELS:
            found = (mean(change(prompts, *toy, level, scale) for toy in toys) for scale in SCALES)
            yield row(name, level, *(f"{value:+.2f}" for value in found))


def change(
    prompts: Prompts, views: Cameras, rgb: Tensor, own: Tensor, level: int, scale: float
) -> float:
    """How much brighter a model takes a toy for, at a level and a guidance scale."""
    backbone = prompts.backbone
    clean, t = encode_render(backbone, rgb), torch.full((len(rgb),), level)
    noise = draw_noise(clean, torch.Generator().manual_seed(level))
    seen = diffuse(clean, t, noise, backbone.alphas_cumprod)
    guess = (seen.x - seen.sigma * prompts.score(views, scale)(seen.x, seen.t)) / seen.alpha
    before, after = (backbone.decode_latents(z).movedim(1, -1) for z in (clean, guess))
    return float((after - before)[own.expand_as(before)].mean())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=list(KINDS), default="mug")
    parser.add_argument("--color", choices=list(COLORS), default="white")
    asked = parser.parse_args()
    for line in table(asked.kind, asked.color):
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
