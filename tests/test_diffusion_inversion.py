"""From pictures to noise and back, against closed forms and on toys."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from threed.core.cameras import orbit
from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import load_backbone
from threed.diffusion.inversion import invert, invert_picture, levels, null_text
from threed.diffusion.noise import alpha_sigma, ddim_step
from threed.diffusion.sampler import make_scheduler, sample
from threed.diffusion.score import cfg, plain, score
from threed.toybox.judge.measure import pixels
from threed.toybox.world.draw import Light
from threed.toybox.world.toys import draw_set, random_toy

STEPS = 6


@pytest.fixture(scope="module")
def toybox() -> Backbone:
    return load_backbone("toybox", device="cpu")


def drawn(kind: str, color: str) -> Tensor:
    """[1, 3, 64, 64] a toy that no diffusion model made."""
    toy = random_toy(np.random.default_rng(3), kind, color, "plain")
    white = np.ones((2, 3), np.float32)
    return pixels(draw_set(toy, orbit(1, 64, start_deg=40), Light(), white))


def test_a_step_is_the_samplers(backbone: Backbone) -> None:
    scheduler = make_scheduler("ddim", backbone.scheduler_config)
    scheduler.set_timesteps(STEPS)
    times = [*levels(backbone, STEPS).tolist(), 0]
    assert times[:-1] == scheduler.timesteps.tolist()
    x, noise = torch.randn(2, 1, 4, 8, 8)
    for here, there in pairwise(times):
        expected = scheduler.step(noise, here, x).prev_sample
        both = [alpha_sigma(backbone.alphas_cumprod, torch.tensor([t])) for t in (here, there)]
        step = ddim_step(x, noise, both[0], both[1])
        torch.testing.assert_close(step, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            ddim_step(step, noise, both[1], both[0]), x, atol=1e-4, rtol=1e-4
        )


def test_inversion_of_a_gaussian_is_its_quantile(backbone: Backbone) -> None:
    """Data N(mean, deviation²): the noise of z is (z - mean) / deviation, nearly."""
    mean, deviation, steps = 0.7, 0.3, 200
    table = backbone.alphas_cumprod

    def exact(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = alpha_sigma(table, t)
        return sigma * (x - alpha * mean) / (alpha**2 * deviation**2 + sigma**2)

    z = mean + deviation * torch.randn(1, 4, 8, 8)
    way = invert(exact, z, levels(backbone, steps), table)
    assert len(way) == steps + 1
    assert torch.equal(way[-1], z)
    torch.testing.assert_close(way[0], (z - mean) / deviation, atol=0.15, rtol=0.05)
    back = sample(exact, make_scheduler("ddim", backbone.scheduler_config), way[0], steps=steps)
    torch.testing.assert_close(back, z, atol=0.05, rtol=0)


def test_null_text_brings_guided_sampling_back_to_the_picture(toybox: Backbone) -> None:
    image = drawn("mug", "red")
    clean = toybox.encode_image(image)
    text, other = (toybox.encode_text([prompt]) for prompt in ("a red mug", ""))
    times = levels(toybox, STEPS)
    way = invert(score(toybox, [text], plain()), clean, times, toybox.alphas_cumprod)
    nulls = null_text(toybox, text, other, way, times, scale=5.0)
    assert nulls.tokens.shape == (STEPS, *other.tokens.shape[1:])

    def error(use_nulls: bool) -> float:
        def guided(x: Tensor, t: Tensor) -> Tensor:
            tokens = nulls.at(t) if use_nulls else other.tokens
            pair = [text, type(other)(tokens)]
            return score(toybox, pair, cfg(5.0))(x, t)

        scheduler = make_scheduler("ddim", toybox.scheduler_config)
        return float((sample(guided, scheduler, way[0], steps=STEPS) - clean).square().mean())

    assert error(use_nulls=True) < 0.75 * error(use_nulls=False)


def test_tokens_that_are_good_enough_are_left_alone(backbone: Backbone) -> None:
    """Guidance 1 does not read them: sampling is the inversion's way back, nearly."""
    image = torch.rand(1, 3, 32, 32)
    heard: list[tuple[int, int]] = []
    inverted = invert_picture(
        backbone, image, "a hat", steps=4, scale=1.0, inner_steps=0,
        say=lambda level, of, loss: heard.append((level, of)),
    )  # fmt: skip
    empty = backbone.encode_text([""]).tokens
    assert torch.equal(inverted.nulls.tokens, empty.repeat(4, 1, 1))
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]
    nearest = inverted.nulls.at(torch.tensor([999, 0]))
    assert nearest.shape == (2, *empty.shape[1:])
