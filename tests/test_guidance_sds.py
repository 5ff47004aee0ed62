"""Distillation against closed forms, with a denoiser that is a formula, then with a real UNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from guidance import Guidance
from guidance.critic import LoraCritic
from guidance.distill import (
    WEIGHTS,
    Pull,
    draw_t,
    encode_render,
    inject,
)
from guidance.mvdream import MultiView
from guidance.prompts import Prompts
from guidance.sds import SDS
from guidance.vsd import VSD
from tests.tiny import tiny_folder
from threed.core.cameras import Cameras, random_views
from threed.core.errors import InputError
from threed.core.schedule import Schedule, constant
from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import load_backbone
from threed.diffusion.condition import Condition
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.noise import alpha_sigma, diffuse

ALPHAS = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).cumprod(0)
SETTINGS = Pull(
    guidance_scale=constant(7.0),
    weighting="sigma2",
    t_min=Schedule(((0, 0.02),)),
    t_max=Schedule(((0, 0.98),)),
    rescale=constant(0.0),
)
VIEWS = Pull(
    guidance_scale=constant(7.0),
    weighting="x0",
    t_min=Schedule(((0, 0.98), (100, 0.02))),
    t_max=Schedule(((0, 0.98), (100, 0.50))),
    rescale=constant(0.0),
)


@dataclass
class Analytic:
    """Latents are the pictures' own pixels; the noise is exact for data at one point a prompt.

    The point is the same number everywhere: the prompt's length in tenths.
    """

    name: str = "analytic"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    alphas_cumprod: Tensor = field(default_factory=lambda: ALPHAS)
    image_size: int = 8
    factor: int = 1
    latent_channels: int = 3
    views: int = 1
    scheduler_config: Mapping[str, Any] = field(default_factory=dict)
    times: list[Tensor] = field(default_factory=list)
    seen: list[Tensor] = field(default_factory=list)

    def encode_text(self, prompts: Sequence[str]) -> Condition:
        return Condition(torch.tensor([len(p) / 10 for p in prompts])[:, None, None])

    def encode_image(self, image: Tensor) -> Tensor:
        return image * 2 - 1

    def predict_noise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.times.append(t)
        self.seen.append(x)
        assert not torch.is_grad_enabled()
        alpha, sigma = alpha_sigma(ALPHAS, t)
        return (x - alpha * condition.tokens[:, :, :, None]) / sigma

    def token_count(self, prompt: str) -> tuple[int, int]:
        raise NotImplementedError

    def reads(self, prompt: str) -> str:
        raise NotImplementedError

    def decode_latents(self, latents: Tensor) -> Tensor:
        raise NotImplementedError


def views(n: int = 4, groups_of: int = 1, seed: int = 0) -> Cameras:
    return random_views(n, 8, torch.Generator().manual_seed(seed), views=groups_of)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_what_is_injected_is_the_gradient_and_the_loss_its_size() -> None:
    z = torch.randn(3, 4, 8, 8, requires_grad=True)
    wanted = torch.randn(3, 4, 8, 8)
    loss = inject(z, wanted)
    (gradient,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(gradient, wanted / 3)
    torch.testing.assert_close(loss.detach(), 0.5 * wanted.square().sum() / 3)


def test_noise_is_added_as_in_training() -> None:
    z, noise = torch.randn(2, 3, 4, 8, 8)
    t = torch.tensor([20, 500, 980])
    seen = diffuse(z.requires_grad_(), t, noise, ALPHAS)
    abar = ALPHAS[t][:, None, None, None]
    torch.testing.assert_close(seen.x, (abar.sqrt() * z + (1 - abar).sqrt() * noise).detach())
    torch.testing.assert_close(seen.alpha**2, abar)
    assert not seen.x.requires_grad


def test_the_weights_are_all_there() -> None:
    assert set(WEIGHTS) == {"sigma2", "uniform", "x0"}


def test_the_x0_form_is_the_distance_to_the_models_x0() -> None:
    # grad = z - x0: so the exact denoiser of a point pulls there, however large t is
    prompts = Prompts(Analytic(), "a hat", view_words=False)
    for level in (0.03, 0.5, 0.97):
        at = Schedule(((0, level),))
        pull = replace(SETTINGS, weighting="x0", guidance_scale=constant(1.0), t_min=at, t_max=at)
        image = torch.rand(4, 8, 8, 3, requires_grad=True)
        loss = SDS(prompts, pull)(image, views(), 0, generator())["sds"]
        (gradient,) = torch.autograd.grad(loss, image)
        # "a hat" is at 0.5; latents are twice the picture, and the loss is a mean over 4
        expected = 2 * (image.detach() * 2 - 1 - 0.5) / 4
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-3)


def test_guidance_follows_the_one_convention() -> None:
    # "a hat" without view words is at 0.5, "" at 0: guidance scale s goes to 0.5 s
    backbone = Analytic()
    prompts = Prompts(backbone, "a hat", view_words=False)
    image = torch.rand(4, 8, 8, 3, requires_grad=True)
    settings = replace(SETTINGS, weighting="x0")
    loss = SDS(prompts, settings)(image, views(), 0, generator())["sds"]
    (gradient,) = torch.autograd.grad(loss, image)
    z = image.detach() * 2 - 1
    torch.testing.assert_close(gradient, 2 * (z - 7.0 * 0.5) / 4, rtol=1e-3, atol=1e-3)


def test_clipping_bounds_the_gradient_of_the_latents_by_step() -> None:
    backbone = Analytic()
    prompts = Prompts(backbone, "a hat")
    settings = replace(SETTINGS, grad_clip=Schedule(((0, 0.5), (100, 0.1))))
    for step, bound in ((0, 0.5), (50, 0.3), (100, 0.1)):
        image = torch.rand(4, 8, 8, 3, requires_grad=True)
        loss = SDS(prompts, settings)(image, views(), step, generator())["sds"]
        (gradient,) = torch.autograd.grad(loss, image)
        # latents are twice the picture, and the loss is a mean over 4
        assert float(gradient.abs().max()) == pytest.approx(2 * bound / 4, rel=1e-4)


def test_levels_are_drawn_per_item_in_the_range_of_the_step() -> None:
    backbone = Analytic()
    prompts = Prompts(backbone, "a hat")
    low, high = Schedule(((0, 0.9), (100, 0.1))), Schedule(((0, 0.98), (100, 0.2)))
    guidance = SDS(prompts, replace(SETTINGS, t_min=low, t_max=high))
    for step, first, last in ((0, 900, 980), (50, 500, 590), (100, 100, 200)):
        backbone.times.clear()
        guidance(torch.rand(32, 8, 8, 3), views(32), step, generator(step))
        (t,) = backbone.times
        assert t.shape == (64,)  # both branches of the guidance in one call
        assert torch.equal(t[:32], t[32:])
        assert first <= int(t.min()) < int(t.max()) <= last
    drawn = draw_t(20_000, 0.25, 0.252, generator())
    assert set(drawn.tolist()) == {250, 251, 252}  # both ends
    assert set(draw_t(100, 0.9, 0.5, generator()).tolist()) == {900}  # crossed schedules
    assert int(draw_t(1000, 0.0, 1.0, generator()).max()) <= 999


@pytest.mark.parametrize("size", [4, 8, 16])
def test_renders_of_any_size_are_seen_at_the_backbones(size: int) -> None:
    ramp = torch.linspace(0, 1, size)[None, None, :, None].expand(2, size, size, 3)
    z = encode_render(Analytic(), ramp)
    assert z.shape == (2, 3, 8, 8)
    assert bool((z.diff(dim=-1) > 0).all())  # still left to right
    assert float(z.diff(dim=-2).abs().max()) < 1e-6
    torch.testing.assert_close(z.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)


def test_shrinking_does_not_alias() -> None:
    stripes = (torch.arange(32) % 2).float()[None, None, :, None].expand(1, 32, 32, 3)
    z = encode_render(Analytic(), stripes)
    assert float(z.abs().max()) < 0.2  # grey, where picking pixels would give black or white


# ---------------------------------------------------------------- multi-view


def test_views_share_their_level_and_are_pulled_to_x0() -> None:
    backbone = Analytic(views=4)
    prompts = Prompts(backbone, "a hat", view_words=False)
    image = torch.rand(8, 8, 8, 3, requires_grad=True)
    guidance = MultiView(prompts, VIEWS)
    loss = guidance(image, views(8, groups_of=4), 50, generator())["mvdream"]
    (t,) = backbone.times
    assert t.shape == (16,)
    assert len(set(t.tolist())) == 1
    assert 500 <= int(t[0]) <= 740
    (gradient,) = torch.autograd.grad(loss, image)
    z = image.detach() * 2 - 1
    torch.testing.assert_close(gradient, 2 * (z - 7.0 * 0.5) / 8, rtol=1e-3, atol=1e-3)
    noises = backbone.seen[0][:8].flatten(1)
    assert len({tuple(row.tolist()) for row in noises}) == 8  # each view has its own


def test_levels_of_multi_view_fall_with_the_step() -> None:
    backbone = Analytic(views=4)
    guidance = MultiView(Prompts(backbone, "a hat"), VIEWS)
    for step, first, last in ((0, 980, 980), (50, 500, 740), (100, 20, 500), (1000, 20, 500)):
        for seed in range(5):
            backbone.times.clear()
            guidance(torch.rand(4, 8, 8, 3), views(4, 4), step, generator(seed))
            assert first <= int(backbone.times[0][0]) <= last


def test_multi_view_needs_a_multi_view_backbone() -> None:
    backbone = Analytic()
    with pytest.raises(InputError, match="toybox-multiview, and 'analytic' sees one picture"):
        MultiView(Prompts(backbone, "a hat"), VIEWS)


# ---------------------------------------------------------------- a real, random UNet


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    unet = tiny_folder(tmp_path_factory.mktemp("tiny") / "multiview", "multiview")
    return load_backbone(str(unet), device="cpu")


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load_backbone(str(tiny_folder(tmp_path_factory.mktemp("tiny") / "sd15")), device="cpu")


@pytest.mark.parametrize("name", ["sds", "mvdream"])
def test_a_real_backbone_pulls_every_view_and_a_seed_decides_all(real: Backbone, name: str) -> None:
    prompts = Prompts(real, "a red mug")
    settings = replace(SETTINGS, rescale=constant(0.5)), replace(VIEWS, rescale=constant(0.5))
    guidance = SDS(prompts, settings[0]) if name == "sds" else MultiView(prompts, settings[1])
    assert guidance.state_dict() == {}

    def gradient(seed: int) -> Tensor:
        torch.manual_seed(int(torch.randint(1000, (1,))))  # the global state plays no part
        image = torch.full((4, 16, 16, 3), 0.5, requires_grad=True)
        losses = guidance(image, views(4, 4), 10, generator(seed))
        assert set(losses) == {name}
        assert losses[name].shape == ()
        (result,) = torch.autograd.grad(losses[name], image)
        return result

    first = gradient(1)
    assert bool((first.flatten(1).norm(dim=1) > 0).all())
    assert torch.equal(first, gradient(1))
    assert not torch.equal(first, gradient(2))


def noises_of(backbone: Backbone, x: Tensor, t: Tensor, cameras: Cameras) -> list[Tensor]:
    """The noise of the prompt and of the empty one, each by a call of its own."""
    told = cameras if backbone.views > 1 else None
    texts = [replace(backbone.encode_text([p] * len(x)), cameras=told) for p in ("a red mug", "")]
    with torch.no_grad():
        return [backbone.predict_noise(x, t, text) for text in texts]


def seen_by(backbone: Backbone, image: Tensor, draws: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, x_t and noise of a guidance at t = 600 with a generator of seed 3."""
    drawing = generator(3)
    torch.randint(0, 1, (draws,), generator=drawing)
    z = backbone.encode_image(image.permute(0, 3, 1, 2)).detach()
    noise, abar = torch.randn(z.shape, generator=drawing), backbone.alphas_cumprod[600]
    return z, abar.sqrt() * z + (1 - abar).sqrt() * noise, noise


def pulled(guidance: Guidance, image: Tensor, backbone: Backbone) -> Tensor:
    """The gradient in the latents, through an encoder that is the identity for the moment."""
    z = backbone.encode_image(image.permute(0, 3, 1, 2)).detach().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "encode_image", lambda _: z)
        losses = guidance(image, views(4, backbone.views), 0, generator(3))
    (out,) = torch.autograd.grad(losses[next(name for name in losses if name != "critic")], z)
    return out


AT_600 = Schedule(((0, 0.6),))


# formulas of public code, written out here from reading it: no line of theirs runs


def test_sds_is_threestudios_formula_at_a_scale_one_less(single: Backbone) -> None:
    # stable_diffusion_guidance.py: text + s (text - uncond), w = 1 - abar, nan_to_num, mean over
    # the batch
    image = torch.rand(4, 32, 32, 3)
    pull = replace(SETTINGS, guidance_scale=constant(101.0), t_min=AT_600, t_max=AT_600)
    ours = pulled(SDS(Prompts(single, "a red mug", view_words=False), pull), image, single)
    _, x, noise = seen_by(single, image, 4)
    text, uncond = noises_of(single, x, torch.full((4,), 600), views())
    weight = 1 - single.alphas_cumprod[600]
    theirs = torch.nan_to_num(weight * (text + 100 * (text - uncond) - noise)) / 4
    assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


def test_mvdream_is_mvdream_threestudios_formula_with_its_rescaling(real: Backbone) -> None:
    # multiview_diffusion_guidance.py: x0 by CFG 50, scaled to the text's deviation over all views,
    # half of that and half as it was, and half the squared distance to it with no weight
    image, t = torch.rand(4, 32, 32, 3), torch.full((4,), 600)
    half = replace(VIEWS, guidance_scale=constant(50.0), rescale=constant(0.5))
    pull = replace(half, t_min=AT_600, t_max=AT_600)
    ours = pulled(MultiView(Prompts(real, "a red mug", view_words=False), pull), image, real)
    z, x, _ = seen_by(real, image, 1)
    text, uncond = noises_of(real, x, t, views(4, 4))
    abar = real.alphas_cumprod[600]

    def x0(noise: Tensor) -> Tensor:
        return (x - (1 - abar).sqrt() * noise) / abar.sqrt()

    guided, plain = x0(uncond + 50 * (text - uncond)), x0(text)
    scaled = guided * plain.std() / guided.std()
    theirs = (z - (0.5 * scaled + 0.5 * guided)) / 4
    assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


def test_vsd_is_threestudios_formula(single: Backbone) -> None:
    # stable_diffusion_vsd_guidance.py: w = 1 - abar, the prompt's noise at uncond +
    # 7.5 (text - uncond), less the critic's, which is told the prompt without a view and the camera
    assert isinstance(single, StableDiffusion)
    image, t = torch.rand(4, 32, 32, 3), torch.full((4,), 600)
    prompts = Prompts(single, "a red mug", view_words=False)
    critic = LoraCritic(prompts, single, rank=2, learning_rate=1e-2, warmup=0, dropout=0.0, seed=0)
    for step in range(3):
        critic.learn(torch.randn(4, 4, 8, 8), t, views(), step, generator(step))
    pull = replace(SETTINGS, guidance_scale=constant(7.5), t_min=AT_600, t_max=AT_600)
    _, x, _ = seen_by(single, image, 4)
    text, uncond = noises_of(single, x, t, views())
    weight = 1 - single.alphas_cumprod[600]
    theirs = weight * (uncond + 7.5 * (text - uncond) - critic.noise(x, t, views())) / 4
    ours = pulled(VSD(prompts, pull, critic, 1), image, single)
    assert float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


def test_no_graph_is_kept_through_the_unet(real: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[bool] = []
    original = real.predict_noise

    def watched(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        out = original(x, t, condition)
        graphs.append(x.requires_grad or out.requires_grad or torch.is_grad_enabled())
        return out

    monkeypatch.setattr(real, "predict_noise", watched)
    image = torch.rand(4, 32, 32, 3, requires_grad=True)
    SDS(Prompts(real, "a hat"), SETTINGS)(image, views(), 0, generator())["sds"].backward()
    assert graphs == [False]
    assert image.grad is not None


def test_nan_is_not_hidden(real: Backbone) -> None:
    image = torch.rand(4, 32, 32, 3)
    image[0, 0, 0, 0] = float("nan")
    loss = SDS(Prompts(real, "a hat"), SETTINGS)(image, views(), 0, generator())["sds"]
    assert bool(loss.isnan())
