"""InstructPix2Pix: diffusers' pipeline, the official file's names, and what training does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor

from tests import ldm
from tests.systems import asked, prepared, telling
from tests.test_diffusion_mvdream import SHAPE, base_folder
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.images import PictureWarning
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.paint import Ready, paint
from threed.diffusion.parts.channels import with_unet
from threed.diffusion.score import cfg, score
from threed.learning.data import read_examples, write_examples
from threed.learning.loop import train
from threed.learning.losses import dropped
from threed.learning.recipe import Recipe
from threed.systems.editing import instruct_pix2pix as ip2p
from threed.systems.editing.instruct_pix2pix import SYSTEM
from threed.systems.system import Lesson

CPU = torch.device("cpu")
WORDS = "make it blue"


def wide_unet(backbone: StableDiffusion) -> UNet2DConditionModel:
    """Random weights for all 8 channels."""
    unet = UNet2DConditionModel.from_config({**backbone.unet.config, "in_channels": 8})
    return unet.eval().requires_grad_(False)


def test_a_sample_is_diffusers_sample(backbone: StableDiffusion) -> None:
    image, noise = torch.rand(1, 3, 32, 32), torch.randn(1, 4, 8, 8)
    unet = wide_unet(backbone)
    pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained(
        backbone.folder, unet=UNet2DConditionModel.from_config(unet.config),
        image_encoder=None, feature_extractor=None,
    )  # fmt: skip
    pipe.unet.load_state_dict(unet.state_dict())
    pipe.scheduler = DDIMScheduler.from_config(backbone.scheduler_config)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        WORDS, image=image, latents=noise, num_inference_steps=5, guidance_scale=6.0,
        image_guidance_scale=1.7, negative_prompt="grey", output_type="pt",
    ).images  # fmt: skip
    guided = ip2p.build(
        backbone, WORDS, image, unet, guide=Guide(6.0, "grey"), knobs=ip2p.Knobs(image_scale=1.7)
    )
    start = Ready(guided, start=noise)
    ours = paint(backbone, start, steps=5, size=32)
    assert expected.std() > 0.01
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_before_training_it_is_the_plain_model(backbone: StableDiffusion) -> None:
    image = torch.rand(2, 3, 32, 32)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([5, 800])
    guided = ip2p.build(
        backbone, [WORDS, "a hat"], image, guide=Guide(4.0), knobs=ip2p.Knobs(image_scale=3.0)
    )
    texts = [backbone.encode_text(words) for words in ([WORDS, "a hat"], ["", ""])]
    torch.testing.assert_close(guided(x, t), score(backbone, texts, cfg(4.0))(x, t),
                               atol=1e-5, rtol=1e-5)  # fmt: skip
    assert backbone.unet.config.in_channels == 4  # the backbone is as it was


def test_the_two_scales_weigh_what_they_say(backbone: StableDiffusion) -> None:
    image, x, t = torch.rand(1, 3, 32, 32), torch.randn(1, 4, 8, 8), torch.tensor([400])
    unet = wide_unet(backbone)

    def at(text: float, image_scale: float, words: str = WORDS) -> Tensor:
        guided = ip2p.build(
            backbone,
            words,
            image,
            unet,
            guide=Guide(text),
            knobs=ip2p.Knobs(image_scale=image_scale),
        )
        return guided(x, t)

    neither, only, both = at(0, 0), at(0, 1), at(1, 1)
    assert float((only - neither).abs().max()) > 1e-3
    torch.testing.assert_close(at(3, 2), neither + 2 * (only - neither) + 3 * (both - only),
                               atol=1e-5, rtol=1e-4)  # fmt: skip
    # without the picture there is nothing of it left: another picture, the same noise
    other = ip2p.build(
        backbone, WORDS, 1 - image, unet, guide=Guide(0), knobs=ip2p.Knobs(image_scale=0)
    )
    torch.testing.assert_close(other(x, t), neither)


def test_the_official_file_gives_latent_diffusions_equations(tmp_path: Path) -> None:
    """As tests.ldm writes them out; docs/control.md has the official code on random weights."""
    base = base_folder(tmp_path / "base", replace(SHAPE, linear=False))
    backbone = load_backbone(str(base), device="cpu")
    weights = ldm.random_weights(replace(SHAPE, linear=False))
    weights["input_blocks.0.0.weight"] = torch.randn(SHAPE.channels, 8, 3, 3) / 8
    camera = {name: weights.pop(name) for name in list(weights) if name.startswith("camera")}
    last = {f"model.diffusion_model.{name}": torch.randn_like(value)
            for name, value in weights.items()}  # fmt: skip
    # LitEma's names: those of the parameters below `model.`, without dots
    ema = {f"model_ema.diffusion_model{name.replace('.', '')}": value
           for name, value in weights.items()}  # fmt: skip
    counts = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    torch.save({"state_dict": {**last, **ema, **counts}, "global_step": 7}, tmp_path / "ip2p.ckpt")
    unet = ip2p.load_unet(backbone, tmp_path / "ip2p.ckpt")
    silent = {name: torch.zeros_like(value) for name, value in camera.items()}
    x, t = torch.randn(2, 8, 8, 8), torch.tensor([3, 700])
    tokens = backbone.encode_text([WORDS, ""]).tokens
    theirs = ldm.unet({**weights, **silent}, replace(SHAPE, linear=False), x, t, tokens,
                      torch.zeros(2, 16), views=1)  # fmt: skip
    ours = unet(x, t, tokens).sample
    assert float(theirs.std()) > 0.1
    assert float((ours - theirs).abs().max()) <= 1e-5
    assert not unet.training
    # without averages the weights themselves; of what was not trained there are none
    state = {f"model.diffusion_model.{name}": value for name, value in weights.items()}
    fixed = {"model.diffusion_model.out.2.bias": weights["out.2.bias"]}
    some = {name: value for name, value in ema.items() if not name.endswith("out2bias")}
    for found in (state, {**last, **some, **fixed}):
        torch.save({"state_dict": found}, tmp_path / "other.ckpt")
        again = ip2p.load_unet(backbone, tmp_path / "other.ckpt")
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), unet.parameters()))
    cut = {name: value for name, value in state.items() if "input_blocks.0.0.weight" not in name}
    torch.save({"state_dict": cut}, tmp_path / "cut.ckpt")
    with pytest.raises(InputError, match=r"does not fit: conv_in.weight is None"):
        ip2p.load_unet(backbone, tmp_path / "cut.ckpt")


def test_the_papers_recipe_is_the_published_one() -> None:
    """configs/train.yaml: 32 a GPU, 4 batches a step, and 8 GPUs of the readme's command."""
    recipe = ip2p.TRAINING.paper
    assert recipe.batch * recipe.accumulate == 32 * 4 * 8
    assert recipe.lr == 1e-4


def lessons(folder: Path, n: int = 6) -> Path:
    """Grey pictures that are to become dark or bright."""
    folder.mkdir()
    rows = []
    for i in range(n):
        for name, level in (("before", 128), ("after", 30 if i % 2 else 220)):
            array = np.full((32, 32, 3), level, np.uint8)
            array[8:24, 8 + i : 20 + i, i % 3] = 90
            Image.fromarray(array).save(folder / f"{i}-{name}.png")
        rows.append({"image": f"{i}-before.png", "edited": f"{i}-after.png",
                     "instruction": "make it dark" if i % 2 else "make it bright"})  # fmt: skip
    write_examples(folder, rows)
    return folder


def test_of_twenty_examples_one_loses_each_and_one_both() -> None:
    n = 40_000
    text, image = dropped(n, ip2p.DROP, torch.Generator().manual_seed(0))
    shares = [float(part.float().mean()) for part in (text & ~image, text & image, image & ~text)]
    assert shares == pytest.approx([0.05] * 3, abs=0.004)


def test_training_lowers_the_loss_and_resumes_to_the_bit(
    backbone: StableDiffusion, tmp_path: Path
) -> None:
    examples = read_examples(lessons(tmp_path / "data"), 32, pictures=ip2p.ROLES, texts=ip2p.TEXTS)
    recipe = Recipe(steps=4, batch=4, lr=1e-3, warmup=1, ema=0.5)

    def run(out: str, steps: int, resume: bool = False) -> UNet2DConditionModel:
        task = replace(ip2p.learn(backbone, Lesson(examples, {"system": "ip2p"}, None)), sheet=None)
        train(task, replace(recipe, steps=steps), tmp_path / out, device=CPU, resume=resume)
        return ip2p.load_unet(backbone, tmp_path / out)

    whole, _ = run("whole", 4), run("parts", 2)
    parts = run("parts", 4, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    assert whole.config.in_channels == 8
    # the new channels began at zero and have learned; the backbone has not changed
    assert float(whole.conv_in.weight[:, 4:].abs().max()) > 0
    assert not torch.equal(whole.conv_in.weight[:, :4], backbone.unet.conv_in.weight)

    def loss(unet: UNet2DConditionModel) -> float:
        task = ip2p.learn(with_unet(backbone, backbone.unet), Lesson(examples, {}, None))
        task.net.load_state_dict(unet.state_dict())
        with torch.no_grad():
            return float(task.loss(task.net, 32, torch.Generator().manual_seed(9)))

    fresh = ip2p.learn(backbone, Lesson(examples, {}, None)).net
    assert loss(whole) < loss(fresh)


def test_it_is_built_from_what_a_user_says(backbone: StableDiffusion, tmp_path: Path) -> None:
    ip2p.save(wide_unet(backbone), tmp_path / "trained")
    assert str(tmp_path) not in (tmp_path / "trained/unet/config.json").read_text()
    assert str(backbone.folder) not in (tmp_path / "trained/unet/config.json").read_text()
    Image.new("RGB", (64, 32), "red").save(tmp_path / "red.png")
    said = asked(WORDS, 32, Guide(3.0, "grey"), ip2p.Knobs(image_scale=2.0),
                 image=tmp_path / "red.png", weights=tmp_path / "trained")  # fmt: skip
    with pytest.warns(PictureWarning, match="64×32: its middle, 32×32, is resized to 32×32"):
        ready = prepared(SYSTEM, backbone, said)
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([400])
    unet = ip2p.load_unet(backbone, tmp_path / "trained")
    red = torch.zeros(1, 3, 32, 32)
    red[:, 0] = 1
    expected = ip2p.build(
        backbone, WORDS, red, unet, guide=Guide(3.0, "grey"), knobs=ip2p.Knobs(image_scale=2.0)
    )
    assert torch.equal(ready.score(x, t), expected(x, t))
    wide = prepared(SYSTEM, backbone, replace(said, size=(64, 32)))
    assert paint(backbone, wide, steps=2, size=(64, 32)).shape == (1, 3, 32, 64)
    with pytest.raises(InputError, match=r"needs --weights: its backbone comes without. Train"):
        prepared(SYSTEM, backbone, telling(said, weights=None))
    with pytest.raises(InputError, match=r"there are no weights at .*/nowhere"):
        prepared(SYSTEM, backbone, telling(said, weights=tmp_path / "nowhere"))
