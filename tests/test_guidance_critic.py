"""The LoRA critic: neutral at first, a scene's score after a while, and itself after a resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from guidance.critic import LoraCritic
from guidance.distill import draw_t
from guidance.prompts import Prompts
from tests.tiny import Kind, tiny_folder
from threed.core.cameras import orbit
from threed.diffusion.catalog import load_backbone
from threed.diffusion.condition import Condition
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.noise import alpha_sigma
from threed.diffusion.parts.adapters import Lora, adapted

KINDS: tuple[Kind, ...] = ("sd15", "sd21", "sdxl", "multiview")
Load = Callable[[Kind], StableDiffusion]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    root, made = tmp_path_factory.mktemp("tiny"), dict[Kind, Path]()

    def loaded(kind: Kind) -> StableDiffusion:
        if kind not in made:
            made[kind] = tiny_folder(root / kind, kind)
        backbone = load_backbone(str(made[kind]), device="cpu")
        assert isinstance(backbone, StableDiffusion)
        return backbone

    return loaded


def make_critic(backbone: StableDiffusion, **changes: Any) -> LoraCritic:
    settings = {"rank": 2, "learning_rate": 1e-2, "warmup": 0, "dropout": 0.1, "seed": 0}
    prompts = Prompts(backbone, "a red mug")
    return LoraCritic(prompts, backbone, **{**settings, **changes})


def inputs(seed: int = 0) -> tuple[Tensor, Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 4, 8, 8, generator=generator), torch.full((4,), 300 + seed), generator


@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_as_the_frozen_model_and_never_changes_that(load: Load, kind: Kind) -> None:
    backbone, around = load(kind), orbit(4, 32)
    x, t, generator = inputs()
    prompts = Prompts(backbone, "a red mug", view_words=False)
    with torch.no_grad():
        frozen = backbone.predict_noise(x, t, prompts.bare(around))
        critic = make_critic(backbone)
        torch.testing.assert_close(critic.noise(x, t, around), frozen)
    before = {name: value.clone() for name, value in backbone.unet.state_dict().items()
              if "lora" not in name}  # fmt: skip
    for step in range(3):
        critic.learn(x, t, around, step, generator)
    assert float((critic.noise(x, t, around) - frozen).abs().max()) > 1e-3
    with torch.no_grad():
        assert torch.equal(backbone.predict_noise(x, t, prompts.bare(around)), frozen)
    after = backbone.unet.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("kind", KINDS)
def test_it_sees_where_the_camera_is(load: Load, kind: Kind) -> None:
    critic = make_critic(load(kind), dropout=0.0)
    x, t, generator = inputs()
    for step in range(3):
        critic.learn(x, t, orbit(4, 32), step, generator)
    same = x[:1].expand(4, -1, -1, -1)
    here, turned, far = (critic.noise(same, t, orbit(4, 32, start_deg=a, distance=d))
                         for a, d in ((0.0, 2.9), (45.0, 2.9), (0.0, 5.0)))  # fmt: skip
    assert float((here - turned).abs().max()) > 1e-5
    assert float((here - far).abs().max()) > 1e-5


@pytest.mark.parametrize("rank", [2, 8])
def test_it_starts_as_published_and_is_told_the_whole_camera(load: Load, rank: int) -> None:
    # diffusers' LoRALinearLayer: down is normal with a spread of 1 / rank, up is 0
    critic = make_critic(load("sd15"), rank=rank, dropout=0.0)
    weights = critic.lora.parameters
    down = torch.cat([p.detach().flatten() for key, p in weights.items() if "lora_A" in key])
    assert float(down.std()) == pytest.approx(1 / rank, rel=0.05)
    assert float(down.abs().max()) > 2.5 / rank, "normal, not uniform"
    assert not any(p.any() for key, p in weights.items() if "lora_B" in key)
    seen: list[Tensor] = []
    critic.camera.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    around, (x, t, generator) = orbit(4, 32, distance=3.5), inputs()
    critic.noise(x, t, around)
    critic.learn(x, t, around, 0, generator)
    for told in seen:
        assert torch.equal(told.view(4, 4, 4), around.c2w)


def test_without_cameras_it_is_told_none(load: Load) -> None:
    seen: list[Tensor] = []
    critic = make_critic(load("sd15"), dropout=0.5)
    critic.camera.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    x, t, generator = inputs()
    for step in range(20):
        critic.learn(x, t, orbit(4, 32), step, generator)
    dropped = (torch.stack(seen) == 0).all(-1)
    assert 0.3 < float(dropped.float().mean()) < 0.7
    together = make_critic(load("multiview"), dropout=0.5)
    seen.clear()
    together.camera.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    for step in range(8):
        together.learn(x, t, orbit(4, 32), step, generator)
    groups = (torch.stack(seen) == 0).all(-1).sum(-1)
    assert set(groups.tolist()) == {0, 4}, "views of a group are dropped together"


def test_it_converges_to_the_score_of_the_scene() -> None:
    # a scene that is one picture from everywhere: the exact noise in x is (x - alpha z) / sigma
    backbone, around = load_backbone("toybox", device="cpu"), orbit(4, 64)
    assert isinstance(backbone, StableDiffusion)
    critic = make_critic(backbone, rank=8, learning_rate=5e-3, warmup=5)
    picture = torch.zeros(1, 3, 64, 64)  # such as no toy looks
    picture[:, 0, :, ::8] = 1
    picture[:, 2, 16:48, 16:48] = 1
    with torch.no_grad():
        z = backbone.encode_image(picture).expand(4, -1, -1, -1)
    t, noise = torch.tensor([200, 400, 600, 800]), torch.randn(z.shape)
    alpha, sigma = alpha_sigma(backbone.alphas_cumprod, t)

    def error() -> float:
        estimate = critic.noise(alpha * z + sigma * noise, t, around)
        return float((estimate - noise).square().mean())

    at_first, generator = error(), torch.Generator().manual_seed(0)
    for step in range(24):
        critic.learn(z, draw_t(4, 0.0, 1.0, generator), around, step, generator)
    assert error() < 0.04 < 0.5 * at_first


def test_the_loss_of_a_v_model_is_the_error_of_v(load: Load) -> None:
    backbone, around = load("sd21"), orbit(4, 32)
    critic = make_critic(backbone, dropout=0.0)
    z, t, _ = inputs()
    loss = critic.learn(z, t, around, 0, torch.Generator().manual_seed(4))
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(4))
    alpha, sigma = alpha_sigma(backbone.alphas_cumprod, t)
    x = alpha * z + sigma * noise
    with torch.no_grad():
        out = backbone.unet(x, t, critic.prompts.bare(around).tokens).sample
    expected = (out - (alpha * noise - sigma * z)).square().sum() / 4
    torch.testing.assert_close(loss, expected)


def test_warming_up_is_linear(load: Load) -> None:
    critic = make_critic(load("sd15"), learning_rate=1e-3, warmup=4)
    z, t, generator = inputs()
    rates = []
    for step in (0, 1, 3, 4, 100):
        critic.learn(z, t, orbit(4, 32), step, generator)
        rates.append(critic.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([2e-4, 4e-4, 8e-4, 1e-3, 1e-3])


@pytest.mark.parametrize("kind", ["sd15", "multiview"])
def test_going_on_from_a_state_is_exact(load: Load, kind: Kind) -> None:
    def taught(critic: LoraCritic, first: int, last: int) -> Tensor:
        for step in range(first, last):
            z, t, generator = inputs(step)
            critic.learn(z, t, orbit(4, 32), step, generator)
        return critic.noise(*inputs(9)[:2], orbit(4, 32))

    whole = taught(make_critic(load(kind)), 0, 6)
    half = make_critic(load(kind))
    taught(half, 0, 3)
    state = half.state_dict()
    other = make_critic(load(kind), seed=5)
    other.load_state_dict(state)
    assert torch.equal(taught(other, 3, 6), whole)


def test_a_critic_takes_the_place_of_the_one_before(load: Load) -> None:
    backbone = load("sd15")
    x, t, generator = inputs()
    first = make_critic(backbone)
    for step in range(3):
        first.learn(x, t, orbit(4, 32), step, generator)
    fresh = make_critic(backbone, rank=3).noise(x, t, orbit(4, 32))
    torch.testing.assert_close(fresh, make_critic(load("sd15")).noise(x, t, orbit(4, 32)))
    names = {name for name, _ in backbone.unet.named_parameters() if "lora_A" in name}
    assert len(names) == sum(name.endswith("to_q.base_layer.weight")
                             for name, _ in backbone.unet.named_parameters()) * 4  # fmt: skip


def test_two_loras_do_not_meet(load: Load) -> None:
    backbone = load("sd15")
    one, two = (Lora(backbone.unet, name, rank=2, seed=i) for i, name in enumerate(("one", "two")))
    for lora, value in ((one, 0.5), (two, -0.3)):
        for key, parameter in lora.parameters.items():
            if "lora_B" in key:
                torch.nn.init.constant_(parameter, value)
    x, t, _ = inputs()

    def out(adapters: dict[str, float]) -> Tensor:
        condition = Condition(torch.ones(4, 32, 32), adapters=adapters)
        return backbone.predict_noise(x, t, condition).detach()

    plain, first, second = (out(adapters) for adapters in ({}, {"one": 1.0}, {"two": 1.0}))
    assert torch.equal(out({}), plain)
    assert len({float(v.sum()) for v in (plain, first, second)}) == 3
    assert {p.dtype for p in one.parameters.values()} == {torch.float32}
    with pytest.raises(RuntimeError, match="stop"), adapted(backbone.unet, {"one": 1.0}):
        raise RuntimeError("stop")
    assert torch.equal(out({}), plain), "switched off after an error, too"


@pytest.mark.parametrize("kind", ["sd15", "multiview"])
def test_a_model_of_half_precision_has_a_critic_of_full(tmp_path: Path, kind: Kind) -> None:
    folder = tiny_folder(tmp_path / kind, kind)
    backbone = load_backbone(str(folder), device="cpu", dtype=torch.bfloat16)
    assert isinstance(backbone, StableDiffusion)
    critic = make_critic(backbone)
    z, t, generator = inputs()
    losses = [float(critic.learn(z, t, orbit(4, 32), step, generator)) for step in range(2)]
    assert all(0 < loss < 1e4 for loss in losses)
    weights = list(critic.lora.parameters.values())
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert all(bool(weight.isfinite().all()) for weight in weights)
    changed = [key for key, weight in critic.lora.parameters.items()
               if "lora_B" in key and weight.any()]  # fmt: skip
    assert len(changed) == len(weights) // 2, "every layer has learned"
    assert critic.noise(z, t, orbit(4, 32)).dtype == torch.float32
