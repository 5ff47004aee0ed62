"""What each part of the family is trained to do; the UNet in threed.toybox.unet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threed.core.cameras import VIEWS, view_name
from threed.diffusion.images import grid
from threed.toybox.family import nets as family
from threed.toybox.family.mix import SceneShelf
from threed.toybox.family.shelf import UNKNOWN, Shelf
from threed.toybox.family.training import Batch, Job, generators
from threed.toybox.judge.net import HEADS, TOY_HEADS, Judge
from threed.toybox.world.toys import FRONTED, KINDS

# of the single pictures of a batch, how many are scenes where the family learns them
SCENE_SHARE = {"clip": 0.5, "vae": 0.5, "unet": 0.8, "judge": 0.5}
FRONT_SHARE = 2.5  # times as often come kinds with a front where views are learned
SHEETS = 15  # times that a training shows what it makes
CROP = 32  # pixels a side of what the VAE sees in most steps: four times as many toys


@dataclass(frozen=True)
class Budget:
    """How long a part is trained, and on how much at once."""

    steps: int
    batch: int
    lr: float


BUDGETS: dict[str, dict[str, Budget]] = {
    "cpu": {
        "clip": Budget(500, 192, 1e-3),
        "vae": Budget(3500, 64, 2e-3),
        "unet": Budget(6000, 64, 1e-3),
        "judge": Budget(1500, 64, 1e-3),
    },
    "cuda": {
        "clip": Budget(3000, 512, 1e-3),
        "vae": Budget(5000, 256, 1e-3),
        "unet": Budget(8000, 512, 1e-3),
        "judge": Budget(4000, 256, 1e-3),
    },
}


def clip_job(
    shelf: Shelf,
    scenes: SceneShelf | None,
    budget: Budget,
    device: torch.device,
    seed: int,
    weights: Path,
) -> Job:
    """Pictures and captions of a batch find each other (Radford et al. 2021)."""
    tokenizer = family.tokenizer_of(weights)

    def batch(step: int) -> Batch:
        rng, _ = generators(seed, step)
        toys, others = split(budget.batch, "clip", scenes)
        sets, views = pick(rng, shelf, toys)
        images, captions = shelf.images(sets, views), shelf.captions(rng, sets, views, 0.5)
        if scenes is not None:
            sets, views = pick(rng, scenes, others)
            images = torch.cat([images, scenes.images(sets, views)])
            captions += scenes.captions(rng, sets)
        tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
        return {"input_ids": tokens.input_ids, "pixel_values": images * 2 - 1}

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        output: Any = model(**batch, return_loss=True)
        return output.loss

    return Job("clip", family.new_clip(tokenizer), batch, loss, budget.steps, budget.lr)


def vae_job(
    shelf: Shelf, scenes: SceneShelf | None, budget: Budget, device: torch.device, seed: int
) -> Job:
    """Pictures through 4×16×16 latents; the mean colour of every 8×8 block counts extra."""

    def batch(step: int) -> Batch:
        rng, _ = generators(seed, step)
        whole = step % 8 == 7
        toys, others = split(budget.batch // 4 if whole else budget.batch, "vae", scenes)
        images = shelf.images(*pick(rng, shelf, toys))
        if scenes is not None:
            images = torch.cat([images, scenes.images(*pick(rng, scenes, others))])
        if not whole:
            y, x = rng.integers(0, family.SIZE - CROP + 1, 2).tolist()
            images = images[:, :, y : y + CROP, x : x + CROP]
        return {"images": images.contiguous() * 2 - 1}

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        images = batch["images"]
        autoencoder: Any = model
        posterior = autoencoder.encode(images).latent_dist
        decoded = autoencoder.decode(posterior.sample()).sample.float()
        error = decoded - images
        colour = F.avg_pool2d(error, 8).abs().mean()
        spread = posterior.mean.square() + posterior.var - 1 - posterior.logvar
        return error.abs().mean() + 2 * error.square().mean() + colour + 5e-5 * spread.mean()

    def look(model: nn.Module) -> Tensor:
        images = shelf.images(np.arange(16), np.zeros(16, np.int64)).to(device)
        autoencoder: Any = model
        back = autoencoder.decode(autoencoder.encode(images * 2 - 1).latent_dist.mode()).sample
        return grid(torch.cat([images, (back + 1) / 2]), columns=16)

    return Job("vae", family.new_vae(), batch, loss, budget.steps, budget.lr, sheet=look,
               sheet_every=max(budget.steps // SHEETS, 1))  # fmt: skip


def judge_job(
    shelf: Shelf, scenes: SceneShelf | None, budget: Budget, device: torch.device, seed: int
) -> Job:
    """Toys, in clay too, and scenes of held-out seeds, blurred and noisy: all heads at once."""
    often = often_fronted(shelf)

    def batch(step: int) -> Batch:
        rng, generator = generators(seed, step)
        toys, others = split(budget.batch, "judge", scenes)
        sets, views = pick(rng, shelf, toys, often)
        images, labels = shelf.images(sets, views), toy_labels(shelf, sets, views)
        if scenes is not None:
            sets, views = pick(rng, scenes, others)
            images = torch.cat([images, scenes.images(sets, views)])
            labels = np.concatenate([labels, scenes.labels[sets]])
        return {"images": spoil(images, generator), "labels": torch.from_numpy(labels.T.copy())}

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        targets = dict(zip(HEADS, batch["labels"]))
        errors = [
            F.cross_entropy(values, targets[name], ignore_index=UNKNOWN, reduction="sum")
            for name, values in model(batch["images"]).items()
        ]
        return torch.stack(errors).sum() / len(batch["images"])

    judge = Judge(heads=tuple(TOY_HEADS if scenes is None else HEADS))
    return Job("judge", judge, batch, loss, budget.steps, budget.lr)


def toy_labels(shelf: Shelf, sets: Any, views: Any) -> Any:
    """[B, heads] what the judge should read from pictures of single toys, UNKNOWN where hidden."""
    labels = np.full((len(sets), len(HEADS)), UNKNOWN)
    column = {name: index for index, name in enumerate(HEADS)}
    labels[:, :3] = shelf.labels[sets, :3]
    view = _views(shelf, sets, views)
    # the view of a toy without a front can only be seen from above
    fronted = np.array([kind in FRONTED for kind in KINDS])[shelf.labels[sets, 0]]
    labels[:, column["view"]] = np.where(fronted | (view == VIEWS.index("overhead")), view, UNKNOWN)
    labels[:, column["scene"]] = HEADS["scene"].index("toy")
    labels[:, column["hat"]] = HEADS["hat"].index("none")
    return labels


def spoil(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures [B, 3, H, W] moved, scaled, blurred, noisy and of another brightness, in [0, 1].

    So that a judge trained on clean pictures is fair to samples and renders, which are not.
    """
    n = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, generator=generator)

    scale, shift = uniform(0.85, 1.2), torch.cat([uniform(-0.12, 0.12), uniform(-0.12, 0.12)], 1)
    turn = torch.cat([scale * torch.eye(2), shift], 2)
    grid = F.affine_grid(turn, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    softer = F.avg_pool2d(F.pad(images, (2, 2, 2, 2), mode="replicate"), 5, 1)
    pick = torch.randint(3, (n, 1, 1, 1), generator=generator)
    images = torch.where(pick == 0, images, torch.where(pick == 1, soft, softer))
    images = (images - 0.5) * uniform(0.85, 1.15)[..., None] + 0.5 + uniform(-0.06, 0.06)[..., None]
    noise = torch.randn(images.shape, generator=generator) * uniform(0, 0.06)[..., None]
    return (images + noise).clamp(0, 1)


def split(batch: int, part: str, scenes: SceneShelf | None) -> tuple[int, int]:
    """How many pictures of a batch are of single toys, and how many are scenes."""
    others = round(SCENE_SHARE[part] * batch) if scenes is not None else 0
    return batch - others, others


def pick(rng: Any, shelf: Shelf | SceneShelf, n: int, often: Any = None) -> tuple[Any, Any]:
    """n random pictures: their sets, each as often as told, and views."""
    return rng.choice(len(shelf), n, p=often), rng.integers(0, shelf.pictures.shape[1], n)


def often_fronted(shelf: Shelf) -> Any:
    """[N] how often each set is to be drawn, so that there is enough to learn views from."""
    fronted = np.array([kind in FRONTED for kind in KINDS])[shelf.labels[:, 0]]
    weight = np.where(fronted, FRONT_SHARE, 1.0)
    return weight / weight.sum()


def _views(shelf: Shelf, sets: Any, views: Any) -> Any:
    """Index into VIEWS of given pictures."""
    cameras = shelf.cameras(sets, views)
    pairs = zip(cameras.azimuth_deg.tolist(), cameras.elevation_deg.tolist())
    return np.array([VIEWS.index(view_name(a, e)) for a, e in pairs])
