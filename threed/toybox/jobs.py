"""What each part of the family is trained to do."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threed.cameras import VIEWS, orbit, view_name
from threed.diffusion.attention import Views, install
from threed.diffusion.backbone import load_backbone
from threed.diffusion.images import grid, make_images
from threed.diffusion.mvdream import camera_vector
from threed.toybox import family
from threed.toybox.judge import HEADS, TOY_HEADS, Judge
from threed.toybox.mix import SceneShelf
from threed.toybox.shelf import UNKNOWN, Shelf
from threed.toybox.training import Batch, Job, generators
from threed.toybox.world import FRONTED, KINDS

# of the single pictures of a batch, how many are scenes where the family learns them
SCENE_SHARE = {"clip": 0.5, "vae": 0.5, "unet": 0.8, "judge": 0.5}
FRONT_SHARE = 2.5  # times as often come kinds with a front where views are learned
PAIR_SHARE = 2.5  # times as often as its share in the world comes a pair where the UNet learns
SETS_EVERY, SETS_AT = 5, (1, 3)  # of as many steps, those in which the UNet sees sets of four
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
        toys, others = _split(budget.batch, "clip", scenes)
        sets, views = _pick(rng, shelf, toys)
        images, captions = shelf.images(sets, views), shelf.captions(rng, sets, views, 0.5)
        if scenes is not None:
            sets, views = _pick(rng, scenes, others)
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
        toys, others = _split(budget.batch // 4 if whole else budget.batch, "vae", scenes)
        images = shelf.images(*_pick(rng, shelf, toys))
        if scenes is not None:
            images = torch.cat([images, scenes.images(*_pick(rng, scenes, others))])
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
    often = _often(shelf)

    def batch(step: int) -> Batch:
        rng, generator = generators(seed, step)
        toys, others = _split(budget.batch, "judge", scenes)
        sets, views = _pick(rng, shelf, toys, often)
        images, labels = shelf.images(sets, views), toy_labels(shelf, sets, views)
        if scenes is not None:
            sets, views = _pick(rng, scenes, others)
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


def unet_job(
    shelf: Shelf,
    scenes: SceneShelf | None,
    budget: Budget,
    device: torch.device,
    seed: int,
    weights: Path,
) -> Job:
    """Noise prediction on single pictures and on sets of four views of a toy (MVDream).

    Two steps of five are of sets, and of the single pictures a quarter or so shows pairs: they are
    the hardest. Single pictures have no camera; a set shares t, and its self-attention spans the
    views. The loss is weighted by 1 / sqrt(SNR) (Yu et al. 2023, Debias the Training of Diffusion
    Models): kind and pose are settled where noise is strong. A tenth of the captions is empty.
    """
    latents = Latents(shelf, weights, device)
    others = Latents(scenes, weights, device) if scenes is not None else None
    texts = Texts(weights, device)
    alphas = torch.as_tensor(family.new_scheduler().alphas_cumprod).to(device)
    unet = family.new_unet(multiview=True)
    install(unet)
    often, pairs = _often(shelf), _often_pairs(scenes)

    def batch(step: int) -> Batch:
        rng, generator = generators(seed, step)
        count = shelf.pictures.shape[1] if step % SETS_EVERY in SETS_AT else 1
        share = often if count > 1 else None
        toys, rest = _split(budget.batch, "unet", scenes if count == 1 else None)
        sets = np.repeat(rng.choice(len(shelf), toys // count, p=share), count)
        views = (np.arange(len(sets)) if count > 1 else rng.integers(0, 4, len(sets))) % 4
        captions = shelf.captions(rng, sets, views, view_words=0.6 if count == 1 else 0.4)
        made: Batch = {"count": count, "pictures": (sets, views)}
        if rest and scenes is not None:
            chosen, first = _pick(rng, scenes, rest, pairs)
            captions += scenes.captions(rng, chosen)
            made["scenes"] = (chosen, first)
        made["tokens"] = texts.tokens(["" if rng.uniform() < 0.1 else text for text in captions])
        # t is spread evenly over the batch: less chance in the loss
        n = len(captions)
        place = (torch.randperm(n // count, generator=generator)
                 + torch.rand(n // count, generator=generator))  # fmt: skip
        made["t"] = (place * (1000 * count / n)).long().repeat_interleave(count)
        made["noise"] = torch.randn(n, *latents.kept.shape[2:], generator=generator)
        if count > 1:
            made["cameras"] = camera_vector(shelf.cameras(sets, views))
        return made

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        z = latents.of(*batch["pictures"])
        if others is not None and "scenes" in batch:
            z = torch.cat([z, others.of(*batch["scenes"])])
        noise, t, abar = batch["noise"], batch["t"], alphas[batch["t"]][:, None, None, None]
        options: dict[str, Any] = {
            "class_labels": batch.get("cameras", torch.zeros(len(z), 16, device=device))
        }
        if batch["count"] > 1:
            options["cross_attention_kwargs"] = {"edits": (Views(batch["count"]),)}
        x = abar.sqrt() * z + (1 - abar).sqrt() * noise
        predicted = model(x, t, texts.of(batch["tokens"]), return_dict=False, **options)[0]
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        return (error * ((1 - abar) / abar).sqrt().flatten()).mean()

    def look(model: nn.Module) -> Tensor:
        save_unets(model, weights)
        return samples(weights, device)

    return Job("unet", unet, batch, loss, budget.steps, budget.lr, sheet=look,
               sheet_every=max(budget.steps // SHEETS, 1))  # fmt: skip


class Latents:
    """The latents of a shelf's pictures, encoded when first asked for."""

    def __init__(self, shelf: Shelf | SceneShelf, weights: Path, device: torch.device) -> None:
        from diffusers import AutoencoderKL

        folder = family.need(weights, "vae", "the UNet")
        self.vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).to(device)
        self.vae.eval().requires_grad_(False)
        n, views, size = shelf.pictures.shape[:3]
        self.shelf, self.device = shelf, device
        shape = (n, views, 4, size // 4, size // 4)
        self.kept = torch.empty(shape, dtype=torch.float16, device=device)
        self.known = np.zeros((n, views), bool)

    @torch.no_grad()
    def of(self, sets: Any, views: Any) -> Tensor:
        """[B, 4, 16, 16] float32, scaled, of given sets [B] and views [B]."""
        new = ~self.known[sets, views]
        if new.any():
            pictures = self.shelf.images(sets[new], views[new]).to(self.device)
            with torch.autocast(self.device.type, enabled=False):
                z = self.vae.encode(pictures * 2 - 1).latent_dist.mode()
            where = torch.from_numpy(sets[new]), torch.from_numpy(views[new])
            self.kept[where] = (z * self.vae.config.scaling_factor).half()
            self.known[sets[new], views[new]] = True
        return self.kept[torch.from_numpy(sets), torch.from_numpy(views)].float()


class Texts:
    """The frozen text encoder."""

    def __init__(self, weights: Path, device: torch.device) -> None:
        from transformers import CLIPTextModel, CLIPTokenizer

        folder = family.need(weights, "text_encoder", "the UNet")
        self.tokenizer = CLIPTokenizer.from_pretrained(weights / "tokenizer")
        self.encoder = CLIPTextModel.from_pretrained(folder, dtype=torch.float32).to(device)
        self.encoder.eval().requires_grad_(False)

    def tokens(self, captions: list[str]) -> Tensor:
        """[B, L] int64 the captions as tokens."""
        made = self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt")
        return made.input_ids

    @torch.no_grad()
    def of(self, tokens: Tensor) -> Tensor:
        """[B, L, C] embeddings of tokens on the encoder's device."""
        return self.encoder(tokens)[0]


def save_unets(model: nn.Module, weights: Path) -> None:
    """Write the multi-view UNet, and the plain one that it is without cameras."""
    unet: Any = model
    family.save_part(unet, weights / "unet_multiview")
    family.save_part(family.single_view(copy.deepcopy(unet).cpu()), weights / "unet")
    family.save_index(weights)


def samples(weights: Path, device: torch.device) -> Tensor:
    """Three sets of four views and sixteen single pictures, to look at."""
    backbone = load_backbone(
        str(weights / "unet_multiview"), device=str(device), dtype=torch.float32
    )
    views = orbit(4, family.SIZE, start_deg=20.0)
    rows = [
        make_images(backbone, prompt, n=4, steps=20, guidance_scale=5, cameras=views)
        for prompt in ("a red mug", "a blue car", "a checkered green robot")
    ]
    for prompt in (
        "a yellow duck, side view",
        "a striped purple teapot",
        "a red ball and a blue cube",
        "a green car on top of a yellow drum",
    ):
        rows.append(make_images(backbone, prompt, n=4, steps=20, guidance_scale=5))
    return grid(torch.cat(rows), columns=4)


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


def _split(batch: int, part: str, scenes: SceneShelf | None) -> tuple[int, int]:
    """How many pictures of a batch are of single toys, and how many are scenes."""
    others = round(SCENE_SHARE[part] * batch) if scenes is not None else 0
    return batch - others, others


def _pick(rng: Any, shelf: Shelf | SceneShelf, n: int, often: Any = None) -> tuple[Any, Any]:
    """n random pictures: their sets, each as often as told, and views."""
    return rng.choice(len(shelf), n, p=often), rng.integers(0, shelf.pictures.shape[1], n)


def _often(shelf: Shelf) -> Any:
    """[N] how often each set is to be drawn, so that there is enough to learn views from."""
    fronted = np.array([kind in FRONTED for kind in KINDS])[shelf.labels[:, 0]]
    weight = np.where(fronted, FRONT_SHARE, 1.0)
    return weight / weight.sum()


def _often_pairs(scenes: SceneShelf | None) -> Any:
    """[N] how often each scene is to be drawn, so that there is enough to learn pairs from."""
    if scenes is None:
        return None
    names = HEADS["scene"]
    pairs = [names.index("pair beside"), names.index("pair above")]
    weight = np.where(np.isin(scenes.labels[:, list(HEADS).index("scene")], pairs), PAIR_SHARE, 1.0)
    return weight / weight.sum()


def _views(shelf: Shelf, sets: Any, views: Any) -> Any:
    """Index into VIEWS of given pictures."""
    cameras = shelf.cameras(sets, views)
    pairs = zip(cameras.azimuth_deg.tolist(), cameras.elevation_deg.tolist())
    return np.array([VIEWS.index(view_name(a, e)) for a, e in pairs])
