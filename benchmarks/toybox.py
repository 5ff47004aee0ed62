"""How fast toybox draws and trains: python benchmarks/toybox.py [--json]

Drawing is counted in processor time, so that a busy machine does not disturb it; the training step
of the UNet is a ratio of memory layouts, and of precisions, within one run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

import numpy as np
import torch

from threed.core.cameras import orbit
from threed.diffusion.models.half import norms_in_float32
from threed.diffusion.parts.attention import Views, install
from threed.toybox.family import nets as family
from threed.toybox.world.draw import Light
from threed.toybox.world.mix import random_scene
from threed.toybox.world.scenes import draw_scene
from threed.toybox.world.toys import draw_set, random_toy

BATCH = 64  # pictures of a training step


def drawn_a_second(sets: int) -> float:
    """Pictures of 64×64 with all their truth, a second of one core."""
    white = np.ones((2, 3), np.float32)
    cameras = orbit(4, family.SIZE)
    toys = [random_toy(np.random.default_rng(seed)) for seed in range(sets)]
    draw_set(toys[0], cameras, Light(), white)  # compiles
    began = time.process_time()
    for toy in toys:
        draw_set(toy, cameras, Light(), white)
    return 4 * sets / (time.process_time() - began)


def scenes_a_second(count: int) -> float:
    """Pairs, persons and the rest in their shares, with all their truth, a second of one core."""
    draw_scene(random_scene(np.random.default_rng(0)), family.SIZE)  # compiles
    began = time.process_time()
    for seed in range(count):
        view = draw_scene(random_scene(np.random.default_rng(seed)), family.SIZE)
        _ = view.masks, view.boxes, view.parse, view.keypoints
    return count / (time.process_time() - began)


def step_seconds(
    layout: torch.memory_format, steps: int, *, views: int = 4, half: bool = False
) -> float:
    """The least seconds of a forward and backward pass of the multi-view UNet."""
    torch.manual_seed(0)
    unet = family.new_unet(multiview=True)
    install(unet)
    norms_in_float32(unet)
    model = unet.train().to(memory_format=layout)
    x, t = torch.randn(BATCH, 4, 16, 16), torch.randint(1000, (BATCH,))
    tokens, labels = torch.randn(BATCH, family.LENGTH, family.WIDTH), torch.randn(BATCH, 16)
    edits = {"edits": (Views(views),)}
    best = float("inf")
    for _ in range(steps):
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = model(x, t, tokens, class_labels=labels, cross_attention_kwargs=edits)
        out.sample.float().square().mean().backward()
        best = min(best, time.perf_counter() - began)
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--steps", type=int, default=5)
    asked = parser.parse_args()
    first = step_seconds(torch.contiguous_format, asked.steps)
    last = step_seconds(torch.channels_last, asked.steps)
    gains = {}
    for views in (1, 4):
        whole, half = (
            step_seconds(torch.channels_last, asked.steps, views=views, half=low)
            for low in (False, True)
        )
        gains[views] = whole / half
    result = {
        "load": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "pictures_per_core_second": drawn_a_second(asked.sets),
        "scenes_per_core_second": scenes_a_second(asked.sets),
        "channels_first_over_last": first / last,
        "float32_over_bfloat16": gains,
    }
    if asked.json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
        return
    sys.stdout.write(
        f"load {result['load']:.1f}, {result['threads']} threads\n"
        f"drawing: {result['pictures_per_core_second']:.0f} pictures with truth a core's second\n"
        f"scenes: {result['scenes_per_core_second']:.0f}\n"
        f"a training step of the UNet, channels first: {result['channels_first_over_last']:.2f} x "
        f"channels last; in float32, of single pictures {gains[1]:.2f} x bfloat16, of sets of four "
        f"{gains[4]:.2f} x\n"
    )


if __name__ == "__main__":
    main()
