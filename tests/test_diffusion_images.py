"""Pictures: seeds, sizes, grids, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from threed.core.errors import InputError
from threed.core.pictures import read_size
from threed.diffusion.backbone import Backbone
from threed.diffusion.guide import Guide
from threed.diffusion.images import (
    PictureWarning,
    grid,
    load_image,
    make_images,
    save_image,
)
from threed.diffusion.paint import Ready, paint
from threed.learning.recipe import Recipe
from threed.settings.run import Run


def test_a_seed_decides_everything(backbone: Backbone) -> None:
    images = make_images(backbone, "a hat", n=2, steps=3, seed=1)
    assert images.shape == (2, 3, 32, 32)
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    torch.manual_seed(123)
    assert torch.equal(images, make_images(backbone, "a hat", n=2, steps=3, seed=1))
    assert not torch.equal(images, make_images(backbone, "a hat", n=2, steps=3, seed=2))
    assert not torch.equal(images[0], images[1])


def test_without_guidance_the_negative_prompt_is_not_read(backbone: Backbone) -> None:
    plain = make_images(backbone, "a hat", steps=2, guide=Guide(1.0))
    assert torch.equal(plain, make_images(backbone, "a hat", steps=2, guide=Guide(1.0, "blue")))
    guided = make_images(backbone, "a hat", steps=2, guide=Guide(1.000001, "blue"))
    torch.testing.assert_close(plain, guided, atol=1e-4, rtol=0)


def test_other_sizes_and_impossible_ones(backbone: Backbone) -> None:
    assert make_images(backbone, "a hat", steps=1, size=64).shape == (1, 3, 64, 64)
    for size in (0, -32, 33):
        with pytest.raises(InputError, match=f"multiple of 32 pixels.*got {size}"):
            make_images(backbone, "a hat", steps=1, size=size)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps(backbone: Backbone, steps: int) -> None:
    with pytest.raises(InputError, match=f"from 1 to 1000, got {steps}"):
        make_images(backbone, "a hat", steps=steps)


def test_a_grid_reads_like_text() -> None:
    images = torch.arange(5.0)[:, None, None, None].expand(5, 3, 2, 4) / 10
    sheet = grid(images, columns=3)
    assert sheet.shape == (3, 4, 12)
    assert torch.equal(sheet[0, ::2, ::4], torch.tensor([[0.0, 0.1, 0.2], [0.3, 0.4, 1.0]]))


def test_a_saved_picture_reads_back(tmp_path: Path) -> None:
    image = torch.rand(3, 5, 7)
    path = tmp_path / "new" / "picture.png"
    save_image(image, path)
    read = np.asarray(Image.open(path))
    np.testing.assert_array_equal(read, (image * 255).round().byte().permute(1, 2, 0).numpy())
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]
    with pytest.raises(InputError, match=r"must end in one of \.png"):
        save_image(image, tmp_path / "picture.gif")


def test_a_picture_is_loaded_over_white_and_fitted(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2, :, 0] = pixels[:2, :, 3] = (
        255  # the upper half is red, the lower can be seen through
    )
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    with pytest.warns(PictureWarning, match=r"picture.png is transparent in parts, which lie"):
        loaded = load_image(path, 4)
    assert loaded.shape == (1, 3, 4, 4)
    assert loaded[0, :, 0, 0].tolist() == [1, 0, 0]
    assert loaded[0, :, 3, 3].tolist() == [1, 1, 1]
    save_image(torch.rand(3, 6, 10), path)
    with pytest.warns(PictureWarning, match="10×6: its middle, 6×6, is resized to 8×8"):
        assert load_image(path, 8).shape == (1, 3, 8, 8)


def test_a_picture_that_is_no_square_is_cut_to_another_one(tmp_path: Path) -> None:
    path, image = tmp_path / "wide.png", torch.rand(3, 6, 10)
    save_image(image, path)
    (loaded,) = load_image(path, (10, 6))
    assert float((loaded - image).abs().max()) < 1 / 255
    with pytest.warns(PictureWarning, match="10×6: its middle, 3×6, is resized to 4×8"):
        assert load_image(path, (4, 8)).shape == (1, 3, 8, 4)


def test_sizes_are_read() -> None:
    assert [read_size(text) for text in ("512", "64x64", "768x512", "32X64", "32×64")] == [
        512, 64, (768, 512), (32, 64), (32, 64)]  # fmt: skip
    for text in ("", "x", "512x", "1x2x3", "-64", "6.4", "wide"):
        with pytest.raises(InputError, match="size must be pixels a side, such as 512, or WIDTHxH"):
            read_size(text)


def test_pictures_may_be_wide(backbone: Backbone) -> None:
    square = make_images(backbone, "a red mug", steps=2)
    side = square.shape[-1]
    assert torch.equal(make_images(backbone, "a red mug", steps=2, size=(side, side)), square)
    wide = make_images(backbone, "a red mug", steps=2, size=(2 * side, side))
    assert wide.shape == (1, 3, side, 2 * side)
    with pytest.raises(InputError, match=rf"size must be a multiple of .*, got {side + 1}"):
        make_images(backbone, "a red mug", steps=2, size=(side, side + 1))


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no picture .*none\.png"):
        load_image(tmp_path / "none.png", 8)
    path = tmp_path / "fake.png"
    path.write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"fake\.png is no picture of a known kind: PNG"):
        load_image(path, 8)


@pytest.mark.parametrize("seed", [-1, 2**31, 2**32 + 3, int("7" * 23)])
def test_one_rule_for_seeds(backbone: Backbone, seed: int) -> None:
    for use in (
        lambda: make_images(backbone, "a hat", steps=1, seed=seed),
        lambda: paint(backbone, Ready(lambda x, t: x), steps=1, seed=seed),
        lambda: Recipe(steps=1, batch=1, lr=0.1, seed=seed),
        lambda: Run(seed=seed),
    ):
        with pytest.raises(InputError, match=r"seed must be in 0\.\.2,147,483,647, got "):
            use()
