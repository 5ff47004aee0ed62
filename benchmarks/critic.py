"""How soon a critic knows a scene that stands still: `python benchmarks/critic.py`.

The scene is a real toy seen from 96 places, near and far. Critics of several ranks and rates learn
from four of them a step, as in a run of `toybox-vsd`, and are asked about the same 96 noised
pictures: the squared error of their noise, summed over a picture's latents. The frozen model's own
error is where all begin.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import head, row
from guidance.critic import LoraCritic
from guidance.distill import draw_noise, draw_t
from guidance.prompts import Prompts
from threed.core.cameras import Cameras, orbit
from threed.diffusion.catalog import load_backbone
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.noise import diffuse
from threed.toybox.judge.measure import pixels
from threed.toybox.world.draw import Light
from threed.toybox.world.toys import draw_set, random_toy

TRIED = ((4, 1e-3), (4, 4e-3), (16, 2e-3), (16, 6e-3))  # rank, learning rate
STOPS = (0, 50, 100, 200)
BATCH = 4


def scene(size: int) -> tuple[Tensor, Cameras]:
    """[96, 3, size, size] a dotted red chair from three heights and two distances; the cameras."""
    toy = random_toy(np.random.default_rng(0), "chair", "red", "dotted")
    rings = [orbit(16, size, elevation_deg=height, distance=distance, start_deg=start)
             for height in (0.0, 15.0, 30.0)
             for distance, start in ((2.5, 0.0), (3.4, 11.25))]  # fmt: skip
    white = np.ones((2, 3), np.float32)
    pictures = torch.cat([pixels(draw_set(toy, ring, Light(), white)) for ring in rings])
    c2w, fov = (torch.cat([getattr(ring, name) for ring in rings]) for name in ("c2w", "fov_y"))
    return pictures, replace(rings[0], c2w=c2w, fov_y=fov)


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    backbone = load_backbone("toybox")
    assert isinstance(backbone, StableDiffusion)
    pictures, cameras = scene(backbone.image_size)
    with torch.no_grad():
        z = torch.cat([backbone.encode_image(part) for part in pictures.split(16)])
    prompts, g = Prompts(backbone, "a dotted red chair"), torch.Generator().manual_seed(1)
    t = torch.linspace(20, 980, len(z)).long()[torch.randperm(len(z), generator=g)]
    seen = diffuse(z, t, draw_noise(z, g), backbone.alphas_cumprod)

    def error(noise: Callable[[Tensor, Tensor, Cameras], Tensor]) -> float:
        parts = [noise(seen.x[i], seen.t[i], cameras[i]) - seen.noise[i]
                 for i in torch.arange(len(z)).split(16)]  # fmt: skip
        return float(torch.cat(parts).square().sum((1, 2, 3)).mean())

    sys.stdout.write(head("rank", "rate", *(f"{stop} steps" for stop in STOPS)) + "\n")
    for rank, rate in TRIED:
        critic = LoraCritic(prompts, backbone, rank=rank, learning_rate=rate, warmup=10,
                            dropout=0.1, seed=0)  # fmt: skip
        g, errors = torch.Generator().manual_seed(0), []
        for step in range(STOPS[-1] + 1):
            if step in STOPS:
                errors.append(f"{error(critic.noise):.1f}")
            i = torch.randint(len(z), (BATCH,), generator=g)
            critic.learn(z[i], draw_t(BATCH, 0.0, 1.0, g), cameras[i], step, g)
        sys.stdout.write(row(rank, rate, *errors) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
