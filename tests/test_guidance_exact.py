"""Every guidance against mathematics: a model that is the exact score of Gaussian mixtures."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from guidance import Guidance
from guidance.distill import Pull, draw_noise
from guidance.dreamflow import DreamFlow
from guidance.mvdream import MultiView
from guidance.prompts import Prompts
from guidance.sds import SDS
from guidance.variants import Classifier, Interval, NoiseFree
from guidance.vsd import VSD
from tests.mixture import ALPHAS, Exact, Gaussians, Mixture, gaussian
from threed.core.cameras import Cameras, random_views
from threed.core.errors import InputError
from threed.core.schedule import Schedule
from threed.diffusion.noise import alpha_sigma

MEAN, DEVIATION = 0.4, 0.3
WORLDS = {"a hat": gaussian(MEAN, DEVIATION), "": gaussian(-0.2, 0.5)}


def constant(value: float) -> Schedule:
    return Schedule(((0, value),))


PULL = Pull(
    guidance_scale=constant(1.0),
    weighting="sigma2",
    t_min=constant(0.02),
    t_max=constant(0.98),
    rescale=constant(0.0),
)


def at(level: float, **changes: object) -> Pull:
    return replace(PULL, t_min=constant(level), t_max=constant(level), **changes)


def views(n: int, groups_of: int = 1) -> Cameras:
    return random_views(n, 2, torch.Generator().manual_seed(0), views=groups_of)


def gradient(guide: Guidance, z: Tensor, step: int = 0, seed: int = 0) -> Tensor:
    """What a guidance makes of latents [B, 3, h, w], as a gradient in them times B."""
    image = ((z + 1) / 2).permute(0, 2, 3, 1).requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    losses = guide(image, views(len(z), 4 if len(z) % 4 == 0 else 1), step, generator)
    name = next(name for name in losses if name != "critic")
    (out,) = torch.autograd.grad(losses[name], image)
    return out.permute(0, 3, 1, 2) * len(z) / 2


def latents(n: int) -> Tensor:
    return torch.randn(n, 3, 2, 2, dtype=torch.float64) * 0.5


# SDS


@pytest.mark.parametrize("level", [0.02, 0.3, 0.7, 0.98])
def test_sds_is_its_closed_form(level: float) -> None:
    guide, z = SDS(Prompts(Mixture(WORLDS), "a hat"), at(level)), latents(4)
    result = gradient(guide, z, seed=3)
    draws = torch.Generator().manual_seed(3)
    torch.randint(0, 1, (4,), generator=draws)  # t
    noise = draw_noise(z, draws)
    abar = ALPHAS[round(level * 1000)]
    alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
    # of N(m, s²): sigma (alpha (z - m) + sigma n) / (alpha² s² + sigma²) is the exact noise
    seen = sigma * (alpha * (z - MEAN) + sigma * noise) / (alpha**2 * DEVIATION**2 + sigma**2)
    torch.testing.assert_close(result, sigma**2 * (seen - noise))


def test_sds_vanishes_at_the_mode_in_expectation_and_leads_there() -> None:
    guide = SDS(Prompts(Mixture(WORLDS), "a hat"), PULL)
    n = 20_000
    mode = gradient(guide, torch.full((n, 3, 2, 2), MEAN, dtype=torch.float64))
    error = mode.std() / (mode.numel() ** 0.5)
    assert float(mode.mean().abs()) < 4 * float(error)
    for side in (-0.3, 0.3):
        off = gradient(guide, torch.full((n, 3, 2, 2), MEAN + side, dtype=torch.float64)).mean()
        assert float(off) * side > 0
        assert float(off.abs()) > 20 * float(error)


def test_mvdream_is_sds_at_the_weight_of_x0() -> None:
    model = Mixture(WORLDS, views=4)
    prompts, z = Prompts(model, "a hat"), latents(4)
    pull = at(0.6, weighting="x0", guidance_scale=constant(7.0))
    mvdream = gradient(MultiView(prompts, pull), z, seed=5)
    t, draws = torch.full((4,), 600), torch.Generator().manual_seed(5)
    torch.randint(0, 1, (1,), generator=draws)
    noise = draw_noise(z, draws)
    alpha, sigma = alpha_sigma(ALPHAS, t)
    x = alpha * z + sigma * noise
    estimate = WORLDS[""].noise(x, t).lerp(WORLDS["a hat"].noise(x, t), 7.0)
    # written as MVDream does: half the squared distance to x0, which is not differentiated
    torch.testing.assert_close(mvdream, z - (x - sigma * estimate) / alpha)
    torch.testing.assert_close(mvdream, sigma / alpha * (estimate - noise))


# VSD


SCENE = gaussian(-0.1, 0.2)


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_vsd_with_an_exact_critic_is_the_difference_of_the_scores(scale: float) -> None:
    prompts, z = Prompts(Mixture(WORLDS), "a hat"), latents(4)
    guide = VSD(prompts, at(0.4, guidance_scale=constant(scale)), Exact(SCENE), updates=1)
    result = gradient(guide, z, seed=7)
    draws = torch.Generator().manual_seed(7)
    torch.randint(0, 1, (4,), generator=draws)
    t = torch.full((4,), 400)
    alpha, sigma = alpha_sigma(ALPHAS, t)
    x = alpha * z + sigma * draw_noise(z, draws)
    guided = WORLDS[""].noise(x, t).lerp(WORLDS["a hat"].noise(x, t), scale)
    torch.testing.assert_close(result, sigma**2 * (guided - SCENE.noise(x, t)))


def test_vsd_does_not_move_a_scene_that_has_arrived() -> None:
    prompts = Prompts(Mixture(WORLDS), "a hat")
    guide = VSD(prompts, PULL, Exact(WORLDS["a hat"]), updates=1)
    assert float(gradient(guide, latents(8)).abs().max()) == 0
    # where SDS moves it all the same, by the noise that it takes for an error
    assert float(gradient(SDS(prompts, PULL), latents(8)).abs().max()) > 0.05


def test_the_critic_learns_as_often_as_asked_from_the_same_renders_at_any_level() -> None:
    critic, z = Exact(SCENE), latents(8)
    guide = VSD(Prompts(Mixture(WORLDS, views=4), "a hat"), at(0.4), critic, updates=40)
    gradient(guide, z)
    assert len(critic.lessons) == 40
    for seen, t in critic.lessons:
        torch.testing.assert_close(seen, z)
        assert len(set(t[:4].tolist())) == len(set(t[4:].tolist())) == 1  # a group shares t
    drawn = {int(t[i]) for _, t in critic.lessons for i in (0, 4)}
    assert min(drawn) < 100
    assert max(drawn) > 900


# DreamFlow


def dreamflow(levels: int, *, steps: int | None = None, **changes: object) -> DreamFlow:
    prompts = Prompts(Mixture({"a hat": TWO, "": TWO}), "a hat")
    pull = replace(PULL, t_max=constant(1.0), t_min=constant(0.1), **changes)
    return DreamFlow(prompts, pull, Exact(SCENE), 1, levels=levels, steps=steps or levels)


TWO = Gaussians(
    torch.tensor([0.3, 0.7]),
    torch.tensor([-0.5, 0.6], dtype=torch.float64)[:, None, None, None].expand(2, 3, 2, 2),
    torch.tensor([0.2, 0.3]),
)


def test_the_schedule_falls_and_the_views_of_a_level_share_it() -> None:
    guide = dreamflow(6, steps=25)
    model = guide.prompts.backbone
    assert isinstance(model, Mixture)
    times = []
    for step in range(25):
        model.times.clear()
        gradient(guide, latents(4), step, seed=step)
        (t,) = model.times
        assert len(set(t.tolist())) == 1
        times.append(int(t[0]))
    assert times == sorted(times, reverse=True)
    assert [times.count(t) for t in sorted(set(times), reverse=True)] == [5, 4, 4, 4, 4, 4]
    assert times[0] == 999
    assert sorted(set(times), reverse=True) == guide.schedule[:-1].tolist()
    assert int(guide.schedule[-1]) == 100
    # the critic is taught at the level that the scene was at
    critic = guide.critic
    assert isinstance(critic, Exact)
    assert [int(t[0]) for _, t in critic.lessons] == times


def test_a_level_weighs_what_it_removes_of_edms_sigma() -> None:
    guide, z = dreamflow(9), latents(4)
    ratio = ((1 - ALPHAS) / ALPHAS).sqrt()
    for step in (0, 4, 8):
        i, j = guide.schedule[step : step + 2].tolist()
        noise = draw_noise(z, torch.Generator().manual_seed(step))
        x, t = ALPHAS[i].sqrt() * z + (1 - ALPHAS[i]).sqrt() * noise, torch.full((4,), i)
        expected = (ratio[i] - ratio[j]) * (TWO.noise(x, t) - SCENE.noise(x, t))
        torch.testing.assert_close(gradient(guide, z, step, seed=step), expected)


def flow(levels: int, start: Tensor, noise_seed: int) -> tuple[Tensor, Tensor]:
    """DreamFlow's update with the exact critic of a scene that is one picture; and its noise."""
    guide, x = dreamflow(levels), start
    noise = draw_noise(x, torch.Generator().manual_seed(noise_seed))
    for step in range(levels):
        critic = Exact(Gaussians(torch.ones(4), x, torch.zeros(4)))
        # each picture is its own scene: its critic sees exactly the noise that was added
        critic.noise = lambda seen, t, cameras, n=noise: n  # type: ignore[method-assign]
        x = x - gradient(replace(guide, critic=critic), x, step, seed=noise_seed)
    return x, noise


def solved(start: Tensor, noise: Tensor) -> Tensor:
    """The probability flow ODE dy/dsigma = -sigma grad log p(y; sigma), by an adaptive solver."""
    ratio = ((1 - ALPHAS) / ALPHAS).sqrt()
    high, low = float(ratio[999]), float(ratio[100])

    def slope(sigma: float, y: np.ndarray) -> np.ndarray:
        one, level = (torch.full((4, 1, 1, 1), v, dtype=torch.float64) for v in (1.0, sigma))
        pull = TWO.pull(torch.from_numpy(y).reshape(4, 3, 2, 2), one, level)
        return (sigma * pull).flatten().numpy()

    first = (start + high * noise).flatten().numpy()
    out = solve_ivp(slope, (high, low), first, method="DOP853", rtol=1e-9, atol=1e-9)
    return torch.from_numpy(out.y[:, -1]).reshape(4, 3, 2, 2) - low * noise


def test_dreamflow_follows_the_probability_flow_at_first_order() -> None:
    start = latents(4) * 0.1
    exact = solved(start, draw_noise(start, torch.Generator().manual_seed(2)))
    # it has gone somewhere, to one of the two hats
    assert float((exact - start).abs().mean()) > 0.3
    errors = []
    for levels in (50, 100, 200):
        reached, _ = flow(levels, start, 2)
        errors.append(float((reached - exact).abs().max()))
    assert errors[0] < 0.015
    assert errors[2] < 0.004
    for coarse, fine in itertools.pairwise(errors):
        assert 1.7 < coarse / fine < 2.4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t_min": Schedule(((0, 0.5), (9, 0.1)))}, "each must be one number"),
        ({"t_min": constant(0.95)}, "the 49 levels between t_min and t_max, got 60"),
        ({"t_min": constant(0.98), "t_max": constant(0.5)}, "the -480 levels"),
    ],
)
def test_what_gives_no_falling_schedule_is_refused(
    changes: dict[str, Schedule], message: str
) -> None:
    guide = dreamflow(60)
    with pytest.raises(InputError, match=message):
        replace(guide, pull=replace(guide.pull, **changes))
    with pytest.raises(InputError, match="at most the 50 steps"):
        dreamflow(60, steps=50)


# later corrections of SDS


def noised(z: Tensor, level: int, seed: int) -> tuple[Tensor, Tensor]:
    """What a guidance sees at a fixed level with a generator of this seed; and the level [B]."""
    draws, t = torch.Generator().manual_seed(seed), torch.full((len(z),), level)
    torch.randint(0, 1, (len(z),), generator=draws)
    alpha, sigma = alpha_sigma(ALPHAS, t)
    return alpha * z + sigma * draw_noise(z, draws), t


BAD = {**WORLDS, "blurry": gaussian(0.0, 0.6)}


def test_csd_is_what_guidance_adds() -> None:
    prompts, z = Prompts(Mixture(BAD), "a hat", negative="blurry"), latents(4)
    result = gradient(Classifier(prompts, at(0.4, guidance_scale=constant(3.0))), z, seed=7)
    x, t = noised(z, 400, 7)
    added = 3 * (BAD["a hat"].noise(x, t) - BAD["blurry"].noise(x, t))
    torch.testing.assert_close(result, (1 - ALPHAS[400]) * added)


@pytest.mark.parametrize("level", [100, 199, 200, 700])
def test_nfsd_keeps_the_empty_estimate_only_where_it_denoises(level: int) -> None:
    prompts, z = Prompts(Mixture(BAD), "a hat", negative="blurry"), latents(4)
    result = gradient(NoiseFree(prompts, at(level / 1000, guidance_scale=constant(7.5))), z, seed=7)
    x, t = noised(z, level, 7)
    text, empty, bad = (BAD[name].noise(x, t) for name in ("a hat", "", "blurry"))
    domain = empty if level < 200 else empty - bad
    expected = domain + 7.5 * (text - empty)
    torch.testing.assert_close(result, (1 - ALPHAS[level]) * expected)


@pytest.mark.parametrize("level", [50, 170, 640])
def test_ism_compares_two_ends_of_an_inverted_interval(level: int) -> None:
    prompts, z = Prompts(Mixture(WORLDS), "a hat"), latents(4)
    guide = Interval(prompts, at(level / 1000, guidance_scale=constant(7.5), weighting="uniform"))
    result = gradient(guide, z, seed=1)
    torch.testing.assert_close(result, gradient(guide, z, seed=2))  # no chance in it
    ratio = ((1 - ALPHAS) / ALPHAS).sqrt()
    y, here = z / ALPHAS[0].sqrt(), 0  # in EDM's scale a DDIM step is y + (sigma' - sigma) noise
    for there in [*range(200, level - 50, 200), level - 50, level]:
        noise = WORLDS[""].noise(y * ALPHAS[here].sqrt(), torch.full((4,), here))
        y, here = y + (ratio[there] - ratio[here]) * noise, there
    x, t = y * ALPHAS[level].sqrt(), torch.full((4,), level)
    guided = WORLDS[""].noise(x, t).lerp(WORLDS["a hat"].noise(x, t), 7.5)
    torch.testing.assert_close(result, guided - noise)


# one convention


@pytest.mark.parametrize("kind", ["sds", "mvdream", "vsd", "dreamflow", "ism"])
def test_guidance_scales_mean_the_same_everywhere(kind: str) -> None:
    model = Mixture(WORLDS, views=4 if kind == "mvdream" else 1)
    prompts, z = Prompts(model, "a hat"), latents(4)

    def pulled(scale: float, prompts: Prompts = prompts) -> Tensor:
        pull = replace(PULL, guidance_scale=constant(scale))
        guides: dict[str, Guidance] = {
            "sds": SDS(prompts, pull),
            "vsd": VSD(prompts, pull, Exact(SCENE), 1),
            "ism": Interval(prompts, pull),
            "dreamflow": DreamFlow(prompts, pull, Exact(SCENE), 1, levels=10, steps=10),
        }
        return gradient(guides.get(kind) or MultiView(prompts, pull), z, step=5, seed=4)

    # uncond + s (text - uncond): linear in s, the text alone at 1, the other end alone at 0
    none, one = pulled(0.0), pulled(1.0)
    torch.testing.assert_close(pulled(7.5), none + 7.5 * (one - none))
    if kind == "ism":  # its path is the empty prompt's whatever the scale
        return
    other = dict(WORLDS) | {"": gaussian(0.9, 0.1)}
    model.worlds = other
    torch.testing.assert_close(pulled(1.0), one)
    assert float((pulled(0.0) - none).abs().max()) > 1e-3
    model.worlds = dict(other) | {"a hat": gaussian(0.9, 0.1)}
    torch.testing.assert_close(pulled(0.0), pulled(1.0))
