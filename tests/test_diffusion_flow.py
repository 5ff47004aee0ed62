"""Flow-matching models and SDXL's refiner against diffusers, and a flow that pulls a field."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusion3Pipeline,
    StableDiffusionXLImg2ImgPipeline,
)
from torch import Tensor, nn

from guidance.distill import Pull, encode_render
from guidance.prompts import Prompts
from guidance.sds import SDS
from tests.test_guides import SMALL, make_run
from tests.tiny_flow import SHIFT, tiny_flow, tiny_refiner
from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.core.schedule import constant
from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import load_backbone
from threed.diffusion.condition import Condition
from threed.diffusion.guide import Guide
from threed.diffusion.images import make_images
from threed.diffusion.models.flow import FlowDiffusion, levels
from threed.diffusion.models.stable_diffusion import require_unet
from threed.diffusion.noise import alpha_sigma
from threed.diffusion.parts.attention import Views
from threed.diffusion.sampler import make_scheduler, sample
from threed.diffusion.score import cfg, score
from threed.runs.check import check_run
from threed.runs.plan import plan_run
from threed.scenes.field import Field
from threed.settings.base import replace
from threed.settings.presets import load_run
from threed.settings.run import SystemSettings

PROMPT, NEGATIVE = "a red mug, front view", "blurry"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_flow(tmp_path_factory.mktemp("flow") / "sd35")


@pytest.fixture
def flow(folder: Path) -> Backbone:
    return load_backbone(str(folder), device="cpu")


def times(backbone: Backbone, t: Tensor) -> Tensor:
    """The flow's own time s of levels t."""
    alpha, sigma = alpha_sigma(backbone.alphas_cumprod, t)
    return (sigma / (alpha + sigma)).flatten()


@pytest.mark.parametrize("t5", [True, False])
def test_our_sample_is_diffusers_sample(tmp_path: Path, t5: bool) -> None:
    folder = tiny_flow(tmp_path / "sd3", t5=t5)
    backbone = load_backbone(str(folder), device="cpu")
    ours = make_images(backbone, PROMPT, steps=5, seed=3, guide=Guide(4.0, NEGATIVE))
    # the same noise and levels: ours are of unit variance, the flow's are shorter by alpha + sigma
    scheduler = make_scheduler("ddim", backbone.scheduler_config)
    scheduler.set_timesteps(5)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    alpha, sigma = alpha_sigma(backbone.alphas_cumprod, scheduler.timesteps[:1])
    third = {} if t5 else {"text_encoder_3": None, "tokenizer_3": None}
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, **third)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    expected = pipe(
        PROMPT, negative_prompt=NEGATIVE, latents=noise / (alpha + sigma), guidance_scale=4.0,
        num_inference_steps=5, sigmas=times(backbone, scheduler.timesteps).tolist(),
        output_type="pt",
    ).images  # fmt: skip
    assert expected.std() > 0.01  # a picture, not a constant
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_the_levels_are_the_flows_own(flow: Backbone) -> None:
    t = torch.tensor([0, 99, 499, 899, 999])
    u = (t + 0.5) / 1000
    shifted = SHIFT * u / (1 + (SHIFT - 1) * u)
    torch.testing.assert_close(times(flow, t), shifted, rtol=2e-2, atol=1e-5)
    torch.testing.assert_close(times(flow, t[1:]), shifted[1:], rtol=1e-4, atol=1e-6)
    # diffusers' scheduler, asked for training levels, has the same in the middle of each share
    theirs = FlowMatchEulerDiscreteScheduler(shift=SHIFT).sigmas.flip(0)
    ours = times(flow, torch.arange(1000))
    assert bool((ours < theirs).all())
    assert bool((ours[1:] > theirs[:-1]).all())
    ddim = DDIMScheduler.from_config(dict(flow.scheduler_config)).alphas_cumprod
    ratio = (ddim / flow.alphas_cumprod)[50:]
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=0, rtol=1e-3)
    assert levels(1.0)[499] < levels(1.0)[498] < 1


def test_the_noise_is_that_of_the_flows_definition(flow: Backbone) -> None:
    assert isinstance(flow, FlowDiffusion)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([30, 900])
    condition = flow.encode_text([PROMPT, ""])
    noise = flow.predict_noise(x, t, condition)
    alpha, sigma = alpha_sigma(flow.alphas_cumprod, t)
    s, clean = times(flow, t)[:, None, None, None], (x - sigma * noise) / alpha
    seen = (1 - s) * clean + s * noise
    torch.testing.assert_close(seen, x / (alpha + sigma), atol=1e-5, rtol=1e-4)
    velocity = flow.transformer(
        seen, timestep=1000 * s.flatten(), encoder_hidden_states=condition.tokens,
        pooled_projections=condition.pooled, return_dict=False,
    )[0]  # fmt: skip
    torch.testing.assert_close(noise - clean, velocity, atol=2e-4, rtol=1e-3)


class Knows(nn.Module):
    """The exact velocity of a world with one picture z: x_s = (1 - s) z + s n, so v = (x - z)/s."""

    dtype = torch.float32

    def __init__(self, z: Tensor) -> None:
        super().__init__()
        self.z, self.config = z, SimpleNamespace(joint_attention_dim=72)

    def forward(self, x: Tensor, timestep: Tensor, **_: object) -> tuple[Tensor]:
        return ((x - self.z) / (timestep / 1000)[:, None, None, None],)


def test_a_flow_drives_score_distillation_of_a_field(flow: Backbone) -> None:
    assert isinstance(flow, FlowDiffusion)
    red = torch.tensor([0.8, 0.1, 0.1]).expand(1, 32, 32, 3)
    goal = encode_render(flow, red).detach()
    flow.transformer = Knows(goal)
    pull = Pull(guidance_scale=constant(1.0), weighting="sigma2", t_min=constant(0.2),
                t_max=constant(0.6), rescale=constant(0.0))  # fmt: skip
    guide = SDS(Prompts(flow, "a red mug"), pull)
    scene = Field(replace(SMALL, blob_radius=0.8), seed=0)
    optimizer = torch.optim.Adam(scene.param_groups(0.02), eps=1e-15)
    generator, cameras = torch.Generator().manual_seed(0), orbit(2, 16)

    def away() -> float:
        with torch.no_grad():
            z = encode_render(flow, scene.render(cameras, background=red[0, 0, 0]).rgb)
        return float((z - goal).square().mean())

    before = away()
    for step in range(40):
        image = scene.render(cameras, background=red[0, 0, 0]).rgb
        optimizer.zero_grad()
        guide(image, cameras, step, generator)["sds"].backward()
        optimizer.step()
    assert away() < 0.3 * before


def test_what_a_transformer_cannot_do_is_refused(flow: Backbone, folder: Path) -> None:
    run = make_run(str(folder), "vsd")
    message = "vsd trains a LoRA in a UNet, and .* has a transformer: use guidance=sds"
    with pytest.raises(InputError, match=message):
        check_run(run)
    system = SystemSettings(name="rpg", inputs={"split": ("1,1",)})
    message = "system 'rpg' needs a backbone with a UNet, and .* has a transformer: use --backbone"
    with pytest.raises(InputError, match=message):
        check_run(replace(make_run(str(folder), "sds"), system=system))
    with pytest.raises(InputError, match=r"^rpg needs a backbone with a UNet, .* a transformer$"):
        require_unet(flow, "rpg")
    condition = dataclasses.replace(flow.encode_text(["a mug"]), attention=(Views(1),))
    with pytest.raises(ValueError, match="takes no further channels, edits"):
        flow.predict_noise(torch.zeros(1, 4, 8, 8), torch.tensor([5]), condition)


def test_the_plan_counts_a_transformer(folder: Path) -> None:
    run = replace(load_run("toybox-sds"), memory=64.0, backbone=str(folder))
    small = plan_run(run).peak
    more = replace(run, stages=(replace(run.stages[0], batch=16),))
    assert plan_run(more).peak > small > 0


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("transformer/config.json", {"_class_name": "FluxTransformer2DModel"},
         "has a FluxTransformer2DModel; of transformers, Stable Diffusion 3 and 3.5 are known"),
        ("scheduler/scheduler_config.json", {"use_dynamic_shifting": True},
         "shifts its noise levels by the picture's size"),
        ("model_index.json", {"text_encoder_2": [None, None]}, "has no two CLIP text encoders"),
    ],
)  # fmt: skip
def test_other_flows_are_refused(
    tmp_path: Path, file: str, change: dict[str, object], message: str
) -> None:
    path = tiny_flow(tmp_path / "other", t5=False)
    (path / file).write_text(json.dumps(json.loads((path / file).read_text()) | change))
    with pytest.raises(InputError, match=message):
        load_backbone(str(path), device="cpu")


def test_the_refiner_is_diffusers_refiner(tmp_path: Path) -> None:
    folder = tiny_refiner(tmp_path / "refiner")
    backbone = load_backbone(str(folder), device="cpu")
    noise = torch.randn(1, 4, 8, 8)
    conditions: list[Condition] = [backbone.encode_text([text]) for text in (PROMPT, NEGATIVE)]
    scheduler = make_scheduler("ddim", backbone.scheduler_config)
    ours = backbone.decode_latents(
        sample(score(backbone, conditions, cfg(5.0)), scheduler, noise, steps=5)
    )
    pipe = StableDiffusionXLImg2ImgPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        PROMPT, negative_prompt=NEGATIVE, image=torch.rand(1, 3, 32, 32), latents=noise,
        strength=1.0, num_inference_steps=5, guidance_scale=5.0, output_type="pt",
        negative_aesthetic_score=6.0,
    ).images  # fmt: skip
    assert expected.std() > 0.01
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
