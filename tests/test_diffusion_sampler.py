"""Sampling from pictures instead of noise alone, with every scheduler."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests import mixture
from threed.diffusion.sampler import SCHEDULERS, make_scheduler, sample

CONFIG = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000, "steps_offset": 1, "set_alpha_to_one": False,
}  # fmt: skip
WORLD = mixture.gaussian(0.5, 0.5)
CLEAN = torch.full((64, 3, 2, 2), -0.5)


def resampled(name: str, strength: float, steps: int = 20) -> tuple[Tensor, list[float]]:
    """Latents from CLEAN, and the levels of the Score's calls."""
    levels: list[float] = []

    def score(x: Tensor, t: Tensor) -> Tensor:
        levels.append(float(t[0]))
        return WORLD.noise(x.double(), t.double()).to(x)

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(CLEAN.shape, generator=generator)
    scheduler = make_scheduler(name, CONFIG)
    made = sample(score, scheduler, noise, steps=steps, generator=generator, clean=CLEAN,
                  strength=strength)  # fmt: skip
    return made, levels


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_more_noise_the_more_of_the_picture_is_new(name: str) -> None:
    means = [float(resampled(name, strength)[0].mean()) for strength in (0.05, 0.3, 0.6, 1.0)]
    assert means == sorted(means)
    assert means[0] < -0.3, "hardly any noise, and the picture stays"
    assert means[-1] > 0.4, "all noise, and the model's own picture comes"


@pytest.mark.parametrize("name", SCHEDULERS)
def test_as_many_steps_are_taken_as_the_strength_says(name: str) -> None:
    levels = resampled(name, 0.3)[1]
    assert len(levels) == 6
    assert max(levels) < 350
    assert levels == sorted(levels, reverse=True)
    assert len(resampled(name, 0.0)[1]) == 1, "a step at least"
