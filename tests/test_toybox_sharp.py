"""toybox-hd: what it takes from toybox, its training, its folder, its pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from threed.core.errors import InputError
from threed.diffusion.catalog import facts, load_backbone
from threed.learning.loop import train as learn
from threed.toybox.family import nets, sharp, tasks
from threed.toybox.family.shelf import SceneShelf, Shelf, fill_scenes, fill_shelf
from threed.toybox.family.train import finish, new_task, train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shelf, SceneShelf]:
    folder = tmp_path_factory.mktemp("pictures")
    toys = fill_shelf(folder / "toys", 3, seed=1, size=sharp.SIZE)
    return toys, fill_scenes(folder / "scenes", 3, seed=1, size=sharp.SIZE)


def test_larger_pictures_show_the_same_world(
    tmp_path: Path, pictures: tuple[Shelf, SceneShelf]
) -> None:
    small = fill_shelf(tmp_path / "toys", 3, seed=1), fill_scenes(tmp_path / "scenes", 3, seed=1)
    for large, little, numbers in zip(pictures, small, (np.arange(12), np.arange(3))):
        halved = F.avg_pool2d(large.images(numbers), 2)
        assert (halved - little.images(numbers)).abs().mean() < 0.01
        assert np.array_equal(large.labels, little.labels)
    assert (pictures[0].size, small[0].size) == (128, 64)
    cameras = pictures[0].cameras(np.arange(2))
    assert (cameras.height, cameras.width) == (128, 128)
    with pytest.raises(ValueError, match="of seed 1 and size 64, not of 1 and 128"):
        fill_shelf(tmp_path / "toys", 3, seed=1, size=128)


@torch.no_grad()
def test_its_unet_begins_as_toyboxs_with_nothing_to_say_of_the_further_channels() -> None:
    small, large = sharp._toybox().unet, sharp.new_unet()
    z, text, t = torch.randn(4, 8, 16, 16), torch.randn(4, 32, 128), torch.tensor([9, 99, 500, 980])
    cameras = torch.randn(4, 16)
    expected = small(z[:, :4], t, text, class_labels=cameras).sample
    assert not large(z, t, text, class_labels=cameras).sample[:, 4:].any()
    z[:, 4:] = 0
    made = large(z, t, text, class_labels=cameras).sample
    assert torch.allclose(made[:, :4], expected, atol=1e-5)


@torch.no_grad()
def test_its_unet_hears_the_further_channels_so_that_it_can_learn_them() -> None:
    unet, z, text = sharp.new_unet(), torch.randn(2, 8, 16, 16), torch.randn(2, 32, 128)
    t, cameras = torch.full((2,), 900), torch.zeros(2, 16)
    silent = torch.cat([z[:, :4], torch.zeros_like(z[:, 4:])], 1)
    made, without = (unet(x, t, text, class_labels=cameras).sample for x in (z, silent))
    assert (made - without)[:, :4].abs().mean() > 0.01


@torch.no_grad()
def test_its_vae_begins_as_toyboxs_inside_a_further_level() -> None:
    small, large = sharp._toybox().vae, sharp.new_vae()
    x = torch.randn(2, 16, 64, 64)
    for number in range(3):
        one, other = (
            net.encoder.down_blocks[i] for net, i in ((small, number), (large, number + 1))
        )
        x = one(x)
        assert one.resnets[0].conv1.weight.equal(other.resnets[0].conv1.weight)
    few, many = (net.quant_conv(net.encoder.conv_out(x)) for net in (small, large))
    assert torch.allclose(many[:, [*range(4), *range(8, 12)]], few, atol=1e-5)
    z = torch.randn(2, 8, 16, 16)
    z[:, 4:] = 0
    expected = small.decoder.conv_in(small.post_quant_conv(z[:, :4]))
    assert torch.allclose(large.decoder.conv_in(large.post_quant_conv(z)), expected, atol=1e-5)
    mean = large.encode(torch.randn(1, 3, 128, 128)).latent_dist.mean
    assert mean.shape == (1, 8, 16, 16)
    assert large.decode(mean).sample.shape == (1, 3, 128, 128)


def test_both_parts_train_in_order_and_the_folder_is_diffusers_own(
    tmp_path: Path, pictures: tuple[Shelf, SceneShelf]
) -> None:
    weights = tmp_path / "weights"
    sharp.begin(weights)
    for part in sharp.PARTS:
        task = replace(new_task(part, *pictures, weights, CPU), sheet=None)
        recipe = replace(tasks.RECIPES["cpu"][f"hd {part}"], steps=1, batch=4)
        net = learn(task, recipe, tmp_path / part, device=CPU)
        finish(part, net, weights, pictures[0])
    known = facts(str(weights / "unet_multiview"))
    assert (known.image_size, known.latent_channels, known.factor, known.views) == (128, 8, 8, 4)

    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(weights, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a red mug", num_inference_steps=1, output_type="np").images
    assert image.shape == (1, 128, 128, 3)


def test_its_first_latents_are_to_be_those_of_toybox(pictures: tuple[Shelf, SceneShelf]) -> None:
    task = sharp.vae_task(*pictures, CPU)
    assert task.batch is not None
    batch = task.batch(4, torch.Generator().manual_seed(0))
    small = sharp._toybox()
    with torch.no_grad():
        wanted = small.encode_image(F.avg_pool2d(batch["images"], 2) / 2 + 0.5)

        def loss() -> float:
            torch.manual_seed(1)
            return float(task.loss(task.net, batch, torch.Generator()))

        mean = task.net.encode(batch["images"]).latent_dist.mean[:, :4]
        before, bias = loss(), task.net.quant_conv.bias
        bias[:4] += 3.0
        task.net.post_quant_conv.bias -= task.net.post_quant_conv.weight[:, :, 0, 0] @ torch.tensor(
            [3.0] * 4 + [0.0] * 4
        )  # pictures stay
        moved = (mean + 3.0 - wanted).square().mean() - (mean - wanted).square().mean()
        spread = 5e-5 * ((mean + 3).square() - mean.square()).mean() / 2
        assert loss() - before == pytest.approx(float(tasks.LIKE * moved + spread), rel=1e-2)


def test_it_has_a_vae_and_a_unet_of_its_own_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="toybox-hd has no judge of its own, it has vae and unet"):
        train("hd judge", tmp_path, tmp_path)
    with pytest.raises(InputError, match="run `threed toybox train vae --hd` first"):
        train("hd unet", tmp_path, tmp_path / "new")


def test_the_one_in_the_package_draws_what_is_asked_for() -> None:
    from threed.diffusion.guide import Guide
    from threed.diffusion.images import make_images
    from threed.toybox.judge.net import load_judge

    backbone, judge = load_backbone("toybox-hd", device="cpu"), load_judge(nets.WEIGHTS / "judge")
    assert backbone.image_size == 128
    for number, (color, kind) in enumerate((("red", "mug"), ("blue", "chair"), ("green", "car"))):
        prompt = f"a {color} {kind}"
        made = make_images(backbone, prompt, n=1, steps=15, seed=number, guide=Guide(5))
        assert made.shape[-2:] == (128, 128)
        seen = judge.read(made)
        assert (seen.names("color"), seen.names("kind")) == ([color], [kind])
    assert load_backbone("toybox-hd-multiview", device="cpu").views == 4


def test_the_one_in_the_package_keeps_more_of_a_picture_than_toybox() -> None:
    from threed.toybox.judge.measure import beside_toybox, vae_scores
    from threed.toybox.world.toys import random_set

    drawn = [random_set(np.random.default_rng([3, seed]), sharp.SIZE) for seed in range(4)]
    beside, own = beside_toybox(nets.HD, drawn), vae_scores(nets.HD, drawn)
    assert own["vae_psnr_db"] > beside["enlarged_psnr_db"] + 2
    assert beside["first_latents_apart"] < 0.01
