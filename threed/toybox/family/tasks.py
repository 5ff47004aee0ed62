"""What each part of the family learns and for how long; the UNet stands in threed.toybox.unet."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from threed.core.cameras import VIEWS
from threed.diffusion.images import grid
from threed.learning.data import Batch
from threed.learning.loop import Task
from threed.learning.recipe import Recipe
from threed.toybox.family import nets
from threed.toybox.family.shelf import Index, SceneShelf, Shelf, Stock
from threed.toybox.judge.net import HEADS, TOY_HEADS, Judge
from threed.toybox.judge.truth import UNKNOWN
from threed.toybox.world.chance import Rng
from threed.toybox.world.kinds import FRONTED
from threed.toybox.world.toys import AROUND, KINDS, view_words

SCENE_SHARE = 0.5  # of the pictures of a batch, how many are scenes where the family learns them
FRONT_SHARE = 2.5  # times as often come kinds with a front where views are learned
WHOLE = 1 / 8  # share of the batches in which the VAE sees whole pictures; else a quarter of each
VIEW_SHARE = 0.5  # of the captions that CLIP learns, how many name the view
LIKE = 0.2  # how much it counts what the first latents should be
IS_FRONTED = np.array([kind in FRONTED for kind in KINDS])


def _recipe(steps: int, batch: int, lr: float, *, muon: bool = False) -> Recipe:
    return Recipe(steps, batch, lr, cooldown=0.25, beta2=0.99, muon=muon)


RECIPES: dict[str, dict[str, Recipe]] = {
    "cpu": {
        "clip": _recipe(500, 192, 1e-3),
        "vae": _recipe(3500, 64, 2e-3),
        "unet": _recipe(6000, 64, 1e-3, muon=True),
        "judge": _recipe(1500, 64, 1e-3),
        "likeness": _recipe(1500, 128, 2e-3),
        "faces": _recipe(1500, 64, 2e-3),
        "hd vae": _recipe(7000, 32, 2e-3),
        "hd unet": _recipe(6000, 64, 1e-3, muon=True),
    },
    "cuda": {
        "clip": _recipe(3000, 512, 1e-3),
        "vae": _recipe(5000, 256, 1e-3),
        "unet": _recipe(8000, 512, 1e-3, muon=True),
        "judge": _recipe(4000, 256, 1e-3),
        "likeness": _recipe(4000, 256, 2e-3),
        "faces": _recipe(4000, 256, 2e-3),
        "hd vae": _recipe(6000, 128, 2e-3),
        "hd unet": _recipe(8000, 256, 1e-3, muon=True),
    },
}


def clip_task(toys: Shelf, scenes: SceneShelf, weights: Path) -> Task:
    """Let the pictures and captions of a batch find each other (Radford et al. 2021)."""
    tokenizer, stock = nets.tokenizer_of(weights), Stock(toys, scenes, SCENE_SHARE)

    def batch(n: int, chance: torch.Generator) -> Batch:
        rng = numpy_chance(chance)
        numbers = stock.draw(rng, n)
        captions = stock.captions(rng, numbers, VIEW_SHARE)
        tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
        return {"input_ids": tokens.input_ids, "pixel_values": stock.images(numbers) * 2 - 1}

    def loss(model: Any, batch: Batch, chance: torch.Generator) -> Tensor:
        value: Tensor = model(**batch, return_loss=True).loss
        return value

    return new_task("clip", nets.new_clip(tokenizer), loss, batch)


def vae_task(
    toys: Shelf,
    scenes: SceneShelf,
    net: nn.Module | None = None,
    like: Callable[[Tensor], Tensor] | None = None,
) -> Task:
    """Take pictures through latents; the mean colour of every block of 8×8 to a side counts extra.

    net: toybox's new one if not given. like: what the first channels of the latents should be of
    pictures [B, 3, H, W] in -1..1.
    """
    stock, crop = Stock(toys, scenes, SCENE_SHARE), toys.size // 2

    def batch(n: int, chance: torch.Generator) -> Batch:
        rng = numpy_chance(chance)
        whole = rng.uniform() < WHOLE
        images = stock.images(stock.draw(rng, n // 4 if whole else n))
        if not whole:
            y, x = rng.integers(0, toys.size - crop + 1, 2).tolist()
            images = images[:, :, y : y + crop, x : x + crop]
        return {"images": images.contiguous() * 2 - 1}

    def loss(model: Any, batch: Batch, chance: torch.Generator) -> Tensor:
        posterior = model.encode(batch["images"]).latent_dist
        error: Tensor = model.decode(posterior.sample()).sample.float() - batch["images"]
        colour = F.avg_pool2d(error, toys.size // 8).abs().mean()
        spread: Tensor = posterior.mean.square() + posterior.var - 1 - posterior.logvar
        value = error.abs().mean() + 2 * error.square().mean() + colour + 5e-5 * spread.mean()
        if like is not None:
            wanted = like(batch["images"])
            value = value + LIKE * (posterior.mean[:, : wanted.shape[1]] - wanted).square().mean()
        return value

    def sheet(model: Any) -> Tensor:
        images = toys.images(np.arange(16) * AROUND).to(model.device)
        back = model.decode(model.encode(images * 2 - 1).latent_dist.mode()).sample
        return grid(torch.cat([images, (back + 1) / 2]), columns=16)

    return new_task("vae", net or nets.new_vae(), loss, batch, sheet)


def judge_task(toys: Shelf, scenes: SceneShelf) -> Task:
    """Learn all heads at once, from toys, in clay too, and scenes, blurred and noisy."""
    stock = Stock(toys, scenes, SCENE_SHARE, often_fronted(toys))

    def batch(n: int, chance: torch.Generator) -> Batch:
        numbers = stock.draw(numpy_chance(chance), n)
        first, second = stock.split(numbers)
        labels = np.concatenate([toy_labels(toys, first), scenes.labels[second]])
        images = spoil(stock.images(numbers), chance)
        return {"images": images, "labels": torch.from_numpy(labels.T.copy())}

    def loss(model: nn.Module, batch: Batch, chance: torch.Generator) -> Tensor:
        targets = dict(zip(HEADS, batch["labels"]))
        error = partial(F.cross_entropy, ignore_index=UNKNOWN, reduction="sum")
        errors = [error(read, targets[name]) for name, read in model(batch["images"]).items()]
        return torch.stack(errors).sum() / len(batch["images"])

    judge = Judge(heads=tuple(HEADS if len(scenes) else TOY_HEADS))
    return new_task("judge", judge, loss, batch)


def new_task(
    part: str,
    net: nn.Module,
    loss: Callable[[Any, Batch, torch.Generator], Tensor],
    batch: Callable[[int, torch.Generator], Batch],
    sheet: Callable[[Any], Tensor] | None = None,
) -> Task:
    """Make the task of a part; `sheet` gives [3, H, W], the net is kept beside the checkpoint."""
    # channels last: 1.15 x as fast on a CPU (benchmarks/toybox.py), and tensor cores want it
    net.requires_grad_(True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Task(net, loss, nets.save_part, {"system": "toybox", "part": part}, sheet, batch=batch)


def numpy_chance(chance: torch.Generator) -> Rng:
    """Make a numpy generator that depends on a torch generator alone."""
    return np.random.default_rng(int(torch.randint(2**62, (), generator=chance)))


def toy_labels(shelf: Shelf, numbers: Index) -> Index:
    """[B, heads] what the judge should read from pictures of toys [B], UNKNOWN where hidden."""
    labels = np.full((len(numbers), len(HEADS)), UNKNOWN)
    column = {name: index for index, name in enumerate(HEADS)}
    labels[:, :3] = shelf.labels[numbers // AROUND, :3]
    view = np.array([VIEWS.index(word) for word in view_words(shelf.cameras(numbers))], np.int64)
    # the view of a toy without a front can only be seen from above
    seen = IS_FRONTED[labels[:, 0]] | (view == VIEWS.index("overhead"))
    labels[:, column["view"]] = np.where(seen, view, UNKNOWN)
    labels[:, column["scene"]] = HEADS["scene"].index("toy")
    for head in ("hat", "style"):
        labels[:, column[head]] = HEADS[head].index("none")
    return labels


def spoil(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move, scale, blur, shade and add noise to pictures [B, 3, H, W] in [0, 1].

    So that a judge trained on clean pictures is fair to samples and renders, which are not.
    """
    n = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, generator=generator)

    scale, shift = uniform(0.85, 1.2), torch.cat([uniform(-0.12, 0.12), uniform(-0.12, 0.12)], 1)
    turn = torch.cat([scale * torch.eye(2), shift], 2)
    grid = F.affine_grid(turn, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return dirtied(images, generator)


def dirtied(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, shade and add noise to pictures [B, 3, H, W] in [0, 1]; nothing in them moves."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(images), 1, 1, generator=generator)

    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    softer = F.avg_pool2d(F.pad(images, (2, 2, 2, 2), mode="replicate"), 5, 1)
    pick = torch.randint(3, (len(images), 1, 1, 1), generator=generator)
    images = torch.where(pick == 0, images, torch.where(pick == 1, soft, softer))
    images = (images - 0.5) * uniform(0.85, 1.15)[..., None] + 0.5 + uniform(-0.06, 0.06)[..., None]
    noise = torch.randn(images.shape, generator=generator) * uniform(0, 0.06)[..., None]
    return (images + noise).clamp(0, 1)


def often_fronted(shelf: Shelf) -> NDArray[np.float64]:
    """[N] how often each set is to be drawn, so that there is enough to learn views from."""
    return shares(np.where(IS_FRONTED[shelf.labels[:, 0]], FRONT_SHARE, 1.0))


def shares(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N] the same weights with the sum 1."""
    scaled: NDArray[np.float64] = weights / weights.sum()
    return scaled
