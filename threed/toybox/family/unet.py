"""What the UNet is trained to do: the noise in single pictures, and in four views of a toy."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from threed.core.cameras import orbit
from threed.diffusion.catalog import load_backbone
from threed.diffusion.images import grid, make_images
from threed.diffusion.models.multiview import camera_vector
from threed.diffusion.parts.attention import Views, install
from threed.toybox.family import nets as family
from threed.toybox.family.jobs import SHEETS, Budget, often_fronted, pick, split
from threed.toybox.family.mix import SceneShelf
from threed.toybox.family.shelf import Shelf, images_of
from threed.toybox.family.training import Batch, Job, generators
from threed.toybox.judge.net import HEADS

PAIR_SHARE = 2.5  # times as often as its share in the world comes a pair
SETS_EVERY = 4  # of as many steps one is of sets of four views
VIEW_WORDS = {1: 0.6, 4: 0.4}  # the share of captions that name the view, by pictures of a set
EMPTY = 0.1  # share of captions that are left out


def unet_job(
    shelf: Shelf,
    scenes: SceneShelf | None,
    budget: Budget,
    device: torch.device,
    seed: int,
    weights: Path,
) -> Job:
    """Noise prediction on single pictures and on sets of four views of a toy (MVDream).

    One step of four is of sets, and of the other pictures half or so shows pairs: they are the
    hardest. Single pictures have no camera; a set shares t, and its self-attention spans the views.
    The loss is weighted by 1 / sqrt(SNR) (Yu et al. 2023, Debias the Training of Diffusion Models):
    kind and pose are settled where noise is strong. A tenth of the captions is empty.
    """
    texts = Texts(weights, device)
    unet = family.new_unet(multiview=True)
    install(unet)

    def look(model: nn.Module) -> Tensor:
        save_unets(model, weights)
        return samples(weights, device)

    return Job(
        "unet", unet, Batches(shelf, scenes, budget.batch, seed, texts),
        Denoising(shelf, scenes, weights, device, texts), budget.steps, budget.lr, sheet=look,
        sheet_every=max(budget.steps // SHEETS, 1), muon=True,
    )  # fmt: skip


class Batches:
    """Which pictures a step is of, what they are called, and the noise that is added to them."""

    def __init__(
        self, shelf: Shelf, scenes: SceneShelf | None, n: int, seed: int, texts: Texts
    ) -> None:
        self.shelf, self.scenes, self.n, self.seed, self.texts = shelf, scenes, n, seed, texts
        self.often = often_fronted(shelf)
        self.pairs = None if scenes is None else _often_pairs(scenes)

    def __call__(self, step: int) -> Batch:
        """ "count" pictures of a set, "pictures" and "scenes" (numbers of them), "tokens" [B, L],
        "t" [B], "noise" [B, 4, h, w], and of sets "cameras" [B, 16].
        """
        rng, generator = generators(self.seed, step)
        batch, captions = self._sets(rng) if step % SETS_EVERY == 1 else self._singles(rng)
        said = ["" if rng.uniform() < EMPTY else text for text in captions]
        # t is spread evenly over the batch: less chance in the loss
        n, count = len(captions) // batch["count"], batch["count"]
        place = torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)
        size = self.shelf.pictures.shape[2] // 4
        return batch | {
            "tokens": self.texts.tokens(said),
            "t": (place * (1000 / n)).long().repeat_interleave(count),
            "noise": torch.randn(len(captions), 4, size, size, generator=generator),
        }

    def _sets(self, rng: np.random.Generator) -> tuple[Batch, list[str]]:
        """Whole sets of single toys, and their captions."""
        count = self.shelf.pictures.shape[1]
        sets = np.repeat(rng.choice(len(self.shelf), self.n // count, p=self.often), count)
        views = np.arange(len(sets)) % count
        cameras = camera_vector(self.shelf.cameras(sets, views))
        captions = self.shelf.captions(rng, sets, views, VIEW_WORDS[count])
        return {"count": count, "pictures": (sets, views), "cameras": cameras}, captions

    def _singles(self, rng: np.random.Generator) -> tuple[Batch, list[str]]:
        """Single toys and scenes, and their captions."""
        toys, rest = split(self.n, "unet", self.scenes)
        sets, views = pick(rng, self.shelf, toys)
        batch: Batch = {"count": 1, "pictures": (sets, views)}
        captions = self.shelf.captions(rng, sets, views, VIEW_WORDS[1])
        if self.scenes is not None:
            batch["scenes"] = pick(rng, self.scenes, rest, self.pairs)
            captions += self.scenes.captions(rng, batch["scenes"][0])
        return batch, captions


class Denoising:
    """The weighted error of the noise that is predicted in a batch."""

    def __init__(
        self,
        shelf: Shelf,
        scenes: SceneShelf | None,
        weights: Path,
        device: torch.device,
        texts: Texts,
    ) -> None:
        self.texts = texts
        self.latents = Latents(shelf, weights, device)
        self.others = None if scenes is None else Latents(scenes, weights, device)
        self.alphas_cumprod = torch.as_tensor(family.new_scheduler().alphas_cumprod).to(device)

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of a batch of Batches, on the device."""
        z = self.latents.of(*batch["pictures"])
        if self.others is not None and "scenes" in batch:
            z = torch.cat([z, self.others.of(*batch["scenes"])])
        noise, t = batch["noise"], batch["t"]
        abar = self.alphas_cumprod[t][:, None, None, None]
        options: dict[str, Any] = {"class_labels": batch.get("cameras", z.new_zeros(len(z), 16))}
        if batch["count"] > 1:
            options["cross_attention_kwargs"] = {"edits": (Views(batch["count"]),)}
        x = abar.sqrt() * z + (1 - abar).sqrt() * noise
        text = self.texts.of(batch["tokens"])
        predicted = model(x, t, text, return_dict=False, **options)[0]
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        return (error * ((1 - abar) / abar).sqrt().flatten()).mean()


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
            pictures = images_of(self.shelf.pictures[sets[new], views[new]], self.device)
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


def _often_pairs(scenes: SceneShelf) -> Any:
    """[N] how often each scene is to be drawn, so that there is enough to learn pairs from."""
    names = HEADS["scene"]
    pairs = [names.index("pair beside"), names.index("pair above")]
    weight = np.where(np.isin(scenes.labels[:, list(HEADS).index("scene")], pairs), PAIR_SHARE, 1.0)
    return weight / weight.sum()
