"""Conditions, and the arithmetic of Scores, against formulas and a model that is a formula."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor

from threed.core.cameras import Cameras, orbit
from threed.core.errors import InputError
from threed.diffusion.condition import Condition, stack, stackable
from threed.diffusion.noise import alpha_sigma
from threed.diffusion.parts.attention import Views
from threed.diffusion.sampler import make_scheduler, sample
from threed.diffusion.score import (
    cfg,
    dual_cfg,
    perp_neg,
    plain,
    rescaled,
    score,
    switch,
    with_gradient,
)

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
ALPHAS = (1 - BETAS).cumprod(0)
CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
}


@dataclass
class Linear:
    """A backbone whose noise is the condition's first token times x; counts its calls."""

    batches: list[int] = field(default_factory=list)

    def predict_noise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.batches.append(len(x))
        assert len(x) == len(t) == len(condition)
        return x * condition.tokens[:, 0, 0, None, None, None]


def condition(value: float, n: int = 2, length: int = 3) -> Condition:
    return Condition(torch.full((n, length, 5), value))


def test_conditions_of_one_shape_share_one_call() -> None:
    backbone = Linear()
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([1, 900])
    guided = score(backbone, [condition(3.0), condition(1.0)], cfg(5.0))
    torch.testing.assert_close(guided(x, t), x * (1 + 5 * (3 - 1)))
    assert backbone.batches == [4]


def test_conditions_serve_any_multiple_of_their_batch_in_their_order() -> None:
    pair = Condition(torch.tensor([2.0, 3.0])[:, None, None].expand(2, 3, 5))
    backbone = Linear()
    x, t = torch.randn(6, 4, 8, 8), torch.arange(6)
    guided = score(backbone, [pair, condition(1.0)], cfg(5.0))
    factors = torch.tensor([6.0, 11.0] * 3)[:, None, None, None]
    torch.testing.assert_close(guided(x, t), x * factors)
    assert backbone.batches == [12]


def test_what_cannot_be_stacked_gets_a_call_of_its_own() -> None:
    backbone = Linear()
    edited = replace(condition(2.0), attention=(Views(2),))
    adapted = replace(condition(16.0), adapters={"toy": 1.0})
    conditions = [condition(1.0), edited, condition(4.0), condition(8.0, length=9), adapted]
    x = torch.randn(2, 4, 8, 8)
    guided = score(backbone, conditions, lambda noises, x, t: sum(noises, torch.zeros_like(x)))
    torch.testing.assert_close(guided(x, torch.tensor([5, 5])), x * 31)
    assert backbone.batches == [6, 2, 2]


def test_stacking_keeps_every_field_in_order() -> None:
    def full(seed: int, cameras: Cameras) -> Condition:
        g = torch.Generator().manual_seed(seed)
        draw = [torch.randn(2, n, 4, generator=g) for n in (3, 1, 4)]
        return Condition(draw[0], draw[1][:, 0], draw[2][..., None], cameras=cameras)

    a, b = full(1, orbit(2, 8)), full(2, orbit(2, 8, start_deg=30))
    both = stack([a, b])
    for part, first in ((a, 0), (b, 2)):
        picked = both.select(torch.arange(first, first + 2))
        for name in ("tokens", "pooled", "channels"):
            assert torch.equal(getattr(picked, name), getattr(part, name))
        assert picked.cameras is not None
        assert part.cameras is not None
        assert torch.equal(picked.cameras.c2w, part.cameras.c2w)
        assert torch.equal(picked.cameras.fov_y, part.cameras.fov_y)
    assert torch.equal(a.repeat(2).tokens, torch.cat([a.tokens, a.tokens]))
    assert not stackable(a, replace(a, cameras=None))
    assert not stackable(a, replace(a, pooled=None))
    with pytest.raises(ValueError, match="cannot share a UNet call"):
        stack([a, replace(a, cameras=None)])


def test_levels_are_those_of_the_table_and_eulers_in_between() -> None:
    alpha, sigma = alpha_sigma(ALPHAS, torch.tensor([0, 500, 999]))
    torch.testing.assert_close(alpha.flatten() ** 2, ALPHAS[[0, 500, 999]])
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))
    scheduler = EulerDiscreteScheduler.from_config(CONFIG, timestep_spacing="linspace")
    scheduler.set_timesteps(7)  # 999, 832.5, 666, ...
    alpha, sigma = alpha_sigma(ALPHAS, scheduler.timesteps)
    torch.testing.assert_close((sigma / alpha).flatten(), scheduler.sigmas[:-1], rtol=1e-4, atol=0)


def test_guidance_scale_one_is_the_text_and_zero_the_unconditional() -> None:
    text, uncond, x = torch.randn(3, 2, 4, 8, 8)
    t = torch.tensor([5, 6])
    for scale, expected in ((1.0, text), (0.0, uncond), (7.5, uncond + 7.5 * (text - uncond))):
        torch.testing.assert_close(cfg(scale)([text, uncond], x, t), expected)
    assert torch.equal(plain()([text], x, t), text)


@pytest.mark.parametrize("views", [1, 2])
def test_rescaling_gives_x0_the_contrast_of_the_text(views: int) -> None:
    text, uncond, x = torch.randn(3, 4, 4, 8, 8)
    t = torch.full((4,), 700)
    alpha, sigma = ALPHAS[700].sqrt(), (1 - ALPHAS[700]).sqrt()

    def x0(noise: Tensor) -> Tensor:
        return (x - sigma * noise) / alpha

    def contrast(noise: Tensor) -> Tensor:
        return x0(noise).reshape(4 // views, -1).std(1)

    unscaled = cfg(9.0)([text, uncond], x, t)
    full = rescaled(cfg(9.0), 1.0, ALPHAS, views)([text, uncond], x, t)
    torch.testing.assert_close(contrast(full), contrast(text), rtol=1e-4, atol=1e-4)
    none = rescaled(cfg(9.0), 0.0, ALPHAS, views)([text, uncond], x, t)
    torch.testing.assert_close(none, unscaled, rtol=1e-4, atol=1e-4)
    half = rescaled(cfg(9.0), 0.5, ALPHAS, views)([text, uncond], x, t)
    torch.testing.assert_close(x0(half), (x0(full) + x0(none)) / 2, rtol=1e-4, atol=1e-3)


def test_two_scales_of_one_are_the_full_condition() -> None:
    both, image, neither, x = torch.randn(4, 2, 4, 8, 8)
    t = torch.tensor([5, 6])
    torch.testing.assert_close(dual_cfg(1.0, 1.0)([both, image, neither], x, t), both)
    torch.testing.assert_close(dual_cfg(0.0, 1.0)([both, image, neither], x, t), image)
    torch.testing.assert_close(dual_cfg(0.0, 0.0)([both, image, neither], x, t), neither)
    torch.testing.assert_close(
        dual_cfg(3.0, 2.0)([both, image, neither], x, t),
        neither + 2 * (image - neither) + 3 * (both - image),
    )


def test_a_perpendicular_negative_never_works_against_the_text() -> None:
    text, uncond, negative, x = torch.randn(4, 2, 4, 8, 8)
    t = torch.tensor([5, 6])
    main = text - uncond
    with_negative = perp_neg(7.0, [torch.tensor([-1.5, -0.5])])([text, uncond, negative], x, t)
    change = with_negative - cfg(7.0)([text, uncond], x, t)
    along = (change * main).sum((1, 2, 3)) / main.square().sum((1, 2, 3))
    assert float(along.abs().max()) < 1e-4
    away = (change * (negative - uncond)).sum((1, 2, 3))
    assert bool((away < 0).all())
    parallel = perp_neg(7.0, [torch.tensor([-1.5, -0.5])])([text, uncond, uncond + 2 * main], x, t)
    torch.testing.assert_close(parallel, cfg(7.0)([text, uncond], x, t), atol=1e-4, rtol=1e-4)


def test_switching_is_by_item() -> None:
    x = torch.randn(3, 4, 8, 8)
    both = switch(lambda x, t: x * 2, lambda x, t: x * 3, until=0.5)
    assert torch.equal(
        both(x, torch.tensor([900, 500, 499])), x * torch.tensor([2.0, 2, 3]).view(3, 1, 1, 1)
    )
    early_only = switch(lambda x, t: x * 2, lambda x, t: pytest.fail("not needed"), until=0.5)
    assert torch.equal(early_only(x, torch.tensor([900, 600, 500])), x * 2)


def test_an_energy_adds_its_gradient_times_sigma() -> None:
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([100, 800])
    guided = with_gradient(lambda x, t: x * 0, lambda x, t: x.square().sum((1, 2, 3)) / 2, ALPHAS)
    with torch.no_grad():  # as inside the sampler
        out = guided(x, t)
    sigma = (1 - ALPHAS[t]).sqrt()[:, None, None, None]
    torch.testing.assert_close(out, sigma * x)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpm++"])
def test_the_exact_score_of_a_gaussian_samples_it(sampler: str) -> None:
    # data ~ N(mean, deviation²): the noise in x_t is known in closed form, and following it
    # transports the quantiles: the result is mean + deviation * noise
    mean, deviation = 0.7, 0.3

    def exact(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = alpha_sigma(ALPHAS, t)
        return sigma * (x - alpha * mean) / (alpha**2 * deviation**2 + sigma**2)

    noise = torch.randn(4, 4, 8, 8)
    out = sample(exact, make_scheduler(sampler, CONFIG), noise, steps=200)
    # the first noise level still holds alpha = 0.07 of signal, which bounds the accuracy
    torch.testing.assert_close(out, mean + deviation * noise, atol=0.06, rtol=0)


def test_ancestral_sampling_is_decided_by_the_generator() -> None:
    noise = torch.randn(1, 4, 8, 8)

    def run(seed: int) -> Tensor:
        scheduler = make_scheduler("euler-ancestral", CONFIG)
        generator = torch.Generator().manual_seed(seed)
        return sample(lambda x, t: x, scheduler, noise, steps=4, generator=generator)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_an_unknown_sampler_is_named_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"no sampler 'ddmi'.*ddim.*dpm\+\+"):
        make_scheduler("ddmi", CONFIG)


def test_latents_are_never_clipped() -> None:
    config = {key: value for key, value in CONFIG.items() if key != "clip_sample"}
    scheduler = make_scheduler("ddim", config)
    out = sample(lambda x, t: x * 0, scheduler, torch.randn(1, 4, 8, 8), steps=2)
    assert float(out.abs().max()) > 5
