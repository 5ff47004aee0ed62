"""Our samples against diffusers' own pipelines on the same folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor

from tests.tiny import tiny_folder
from threed.core.cameras import Cameras, orbit
from threed.diffusion.catalog import load_backbone
from threed.diffusion.condition import Condition
from threed.diffusion.guide import Guide
from threed.diffusion.images import make_images
from threed.diffusion.models.multiview import MultiViewDiffusion, camera_vector
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.sampler import make_scheduler, sample
from threed.diffusion.score import cfg, score

PROMPT, NEGATIVE = "a red mug, front view", "blurry"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tiny")
    return {kind: tiny_folder(root / kind, kind) for kind in ("sd15", "sd21", "sdxl", "multiview")}


def theirs(folder: Path, sampler: str, noise: Tensor, negative: str | None, kind: str) -> Tensor:
    pipeline_class = StableDiffusionXLPipeline if kind == "sdxl" else StableDiffusionPipeline
    pipe = pipeline_class.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    config = dict(pipe.scheduler.config)
    scheduler = make_scheduler(sampler, config)
    scheduler.register_to_config(prediction_type=config["prediction_type"])
    pipe.scheduler = scheduler
    return pipe(
        PROMPT,
        negative_prompt=negative,
        latents=noise,
        num_inference_steps=5,
        guidance_scale=5.0,
        output_type="pt",
    ).images


@pytest.mark.parametrize(
    ("kind", "sampler", "negative"),
    [
        ("sd15", "ddim", None),
        ("sd15", "euler", NEGATIVE),
        ("sd15", "dpm++", NEGATIVE),
        ("sd21", "ddim", NEGATIVE),
        ("sd21", "euler", None),
        ("sd21", "dpm++", None),
        ("sdxl", "ddim", None),
        ("sdxl", "euler", NEGATIVE),
    ],
)
def test_our_sample_is_diffusers_sample(
    folders: dict[str, Path], kind: str, sampler: str, negative: str | None
) -> None:
    backbone = load_backbone(str(folders[kind]), device="cpu")
    noise = torch.randn(1, 4, 8, 8)
    text, other = (backbone.encode_text([prompt]) for prompt in (PROMPT, negative or ""))
    scheduler = make_scheduler(sampler, backbone.scheduler_config)
    latents = sample(score(backbone, [text, other], cfg(5.0)), scheduler, noise, steps=5)
    ours = backbone.decode_latents(latents)
    expected = theirs(folders[kind], sampler, noise, negative, kind)
    assert expected.std() > 0.01  # a picture, not a constant
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_make_images_is_diffusers_with_the_same_noise(folders: dict[str, Path]) -> None:
    backbone = load_backbone(str(folders["sd15"]), device="cpu")
    ours = make_images(backbone, PROMPT, steps=5, seed=3, guide=Guide(5.0, NEGATIVE))
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    expected = theirs(folders["sd15"], "ddim", noise, NEGATIVE, "sd15")
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_a_v_prediction_becomes_the_noise_of_its_definition(folders: dict[str, Path]) -> None:
    # v = alpha * noise - sigma * x0 and x = alpha * x0 + sigma * noise, so that an epsilon net
    # with the same weights answers v where ours must answer alpha * v + sigma * x
    backbone = load_backbone(str(folders["sd21"]), device="cpu")
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 900])
    condition = backbone.encode_text([PROMPT, ""])
    unet = UNet2DConditionModel.from_pretrained(folders["sd21"] / "unet")
    with torch.no_grad():
        v = unet(x, t, condition.tokens).sample
    alpha, sigma = (
        level[t].sqrt()[:, None, None, None]
        for level in (backbone.alphas_cumprod, 1 - backbone.alphas_cumprod)
    )
    noise = backbone.predict_noise(x, t, condition)
    torch.testing.assert_close(noise, alpha * v + sigma * x, atol=1e-5, rtol=1e-5)
    x0 = (x - sigma * noise) / alpha
    torch.testing.assert_close(alpha * noise - sigma * x0, v, atol=1e-4, rtol=1e-4)


def test_encoding_inverts_the_scale_of_decoding_and_is_differentiable(
    folders: dict[str, Path],
) -> None:
    backbone = load_backbone(str(folders["sd15"]), device="cpu")
    pipe = StableDiffusionPipeline.from_pretrained(folders["sd15"])
    image = torch.rand(2, 3, 32, 32, requires_grad=True)
    latents = backbone.encode_image(image)
    expected = pipe.vae.encode(image * 2 - 1).latent_dist.mean * pipe.vae.config.scaling_factor
    torch.testing.assert_close(latents, expected)
    latents.sum().backward()
    assert image.grad is not None
    assert bool((image.grad.flatten(1).norm(dim=1) > 0).all())


# ---------------------------------------------------------------- multi-view


def multiview_with(
    folders: dict[str, Path], *, silent: bool
) -> tuple[StableDiffusion, MultiViewDiffusion]:
    """A multi-view backbone with the 2D UNet's weights; silent: its camera says nothing."""
    plain = load_backbone(str(folders["multiview"].parent), device="cpu")
    multi = load_backbone(str(folders["multiview"]), device="cpu")
    assert isinstance(plain, StableDiffusion)
    assert isinstance(multi, MultiViewDiffusion)
    missing = multi.unet.load_state_dict(plain.unet.state_dict(), strict=False)
    assert {key.split(".")[0] for key in missing.missing_keys} == {"class_embedding"}
    assert not missing.unexpected_keys
    if silent:
        torch.nn.init.zeros_(multi.unet.class_embedding.linear_2.weight)
    torch.nn.init.zeros_(multi.unet.class_embedding.linear_1.bias)
    torch.nn.init.zeros_(multi.unet.class_embedding.linear_2.bias)
    return plain, multi


def test_without_cameras_a_multiview_backbone_is_the_2d_one(folders: dict[str, Path]) -> None:
    plain, multi = multiview_with(folders, silent=False)
    condition = plain.encode_text([PROMPT] * 3)
    x, t = torch.randn(3, 4, 8, 8), torch.tensor([10, 400, 900])
    torch.testing.assert_close(
        multi.predict_noise(x, t, condition),
        plain.predict_noise(x, t, condition),
        atol=1e-6,
        rtol=1e-6,
    )


def with_cameras(condition: Condition, cameras: Cameras) -> Condition:
    return replace(condition, cameras=cameras)


def test_views_of_one_group_see_each_other_and_no_one_else(folders: dict[str, Path]) -> None:
    _, multi = multiview_with(folders, silent=False)
    cameras = orbit(8, 32)
    condition = with_cameras(multi.encode_text([PROMPT] * 8), cameras)
    x, t = torch.randn(8, 4, 8, 8), torch.full((8,), 500)
    before = multi.predict_noise(x, t, condition)
    x[1] += 1.0
    changed = (multi.predict_noise(x, t, condition) - before).flatten(1).abs().amax(1)
    assert bool((changed[:4] > 1e-4).all())
    assert float(changed[4:].max()) < 1e-6


def test_four_equal_views_are_each_the_2d_prediction(folders: dict[str, Path]) -> None:
    # softmax attention over four copies of the keys is attention over one of them
    plain, multi = multiview_with(folders, silent=True)
    condition = plain.encode_text([PROMPT] * 4)
    x, t = torch.randn(1, 4, 8, 8).repeat(4, 1, 1, 1), torch.full((4,), 300)
    torch.testing.assert_close(
        multi.predict_noise(x, t, with_cameras(condition, orbit(4, 32))),
        plain.predict_noise(x, t, condition),
        atol=1e-5,
        rtol=1e-5,
    )


def test_the_camera_reaches_the_prediction(folders: dict[str, Path]) -> None:
    _, multi = multiview_with(folders, silent=False)
    condition = multi.encode_text([PROMPT] * 4)
    x, t = torch.randn(4, 4, 8, 8), torch.full((4,), 300)
    one, other = (
        multi.predict_noise(x, t, with_cameras(condition, orbit(4, 32, start_deg=start)))
        for start in (0.0, 45.0)
    )
    assert float((one - other).abs().max()) > 1e-5


def test_camera_vectors_have_unit_distance_and_leave_the_cameras_alone() -> None:
    cameras = orbit(4, 32, distance=2.9)
    before = cameras.c2w.clone()
    vector = camera_vector(cameras)
    assert torch.equal(cameras.c2w, before)
    matrix = vector.reshape(4, 4, 4)
    torch.testing.assert_close(matrix[:, :3, 3], before[:, :3, 3] / 2.9)
    torch.testing.assert_close(matrix[:, :3, :3], before[:, :3, :3])
    assert torch.equal(matrix[:, 3], torch.tensor([0.0, 0, 0, 1]).expand(4, 4))


def test_batches_that_are_no_groups_are_refused(folders: dict[str, Path]) -> None:
    _, multi = multiview_with(folders, silent=True)
    condition = with_cameras(multi.encode_text([PROMPT] * 3), orbit(3, 32))
    with pytest.raises(ValueError, match="groups of 4"):
        multi.predict_noise(torch.randn(3, 4, 8, 8), torch.full((3,), 5), condition)


def test_four_views_are_sampled_together(folders: dict[str, Path]) -> None:
    multi = load_backbone(str(folders["multiview"]), device="cpu")
    options = {"n": 4, "steps": 3, "cameras": orbit(4, 32)}
    images = make_images(multi, PROMPT, seed=1, **options)
    assert images.shape == (4, 3, 32, 32)
    assert torch.equal(images, make_images(multi, PROMPT, seed=1, **options))
    assert not torch.equal(images, make_images(multi, PROMPT, seed=2, **options))
