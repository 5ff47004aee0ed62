"""What the UNet learns: the noise in single pictures, and in four views of a toy."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.images import grid, make_images
from threed.diffusion.packed import write_packed
from threed.diffusion.weights import weights_file
from threed.learning.data import Batch, Latents
from threed.learning.loop import Task
from threed.learning.losses import denoising_loss
from threed.toybox.family import nets, sharp
from threed.toybox.family.shelf import SceneShelf, Shelf, Stock
from threed.toybox.family.tasks import new_task, numpy_chance, often_fronted, shares
from threed.toybox.judge.net import HEADS
from threed.toybox.world.toys import AROUND

SCENE_SHARE = 0.8  # of the single pictures of a batch
OFTEN = {"pair beside": 2.0, "pair above": 2.0, "person": 1.8}  # times its share in the world
SET_SHARE = 1 / 4  # of the batches: they are of sets of four views
VIEW_SHARES = {1: 0.6, AROUND: 0.4}  # of the captions that name the view, by pictures of a set
EMPTY = 0.1  # share of captions that are left out
TEXT_RATE = 0.3  # the text encoder's, of the UNet's
LATENTS = 2**31  # bytes of them that are kept
PROMPTS = ("a red mug", "a blue car", "a checkered green robot")  # of sets that a sheet shows
SINGLES = ("a yellow duck, side view", "a striped purple teapot", "a red ball and a blue cube",
           "a green car on top of a yellow drum")  # fmt: skip


class Drawer(nn.Module):
    """What learns together: a UNet, and the encoder of the words that it reads."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder


def unet_task(toys: Shelf, scenes: SceneShelf, weights: Path, device: torch.device) -> Task:
    """Predict the noise of single pictures and of sets of four views of a toy (MVDream).

    One batch of four is of sets, and of the other pictures most show pairs and persons: they are
    the hardest. Single pictures have no camera; a set shares t, and its self-attention spans the
    views. A tenth of the captions is empty. The loss is debiased: kind and pose are settled where
    noise is strong. The text encoder learns along, slowly: CLIP, which has to tell pictures of a
    batch apart, says nearly the same of a shirt and a sweater. The nets are those in `weights`; an
    untrained UNet is put there where there is none.
    """
    larger = toys.size > nets.SIZE
    for part in ("vae", "text_encoder"):
        nets.need(weights, part, "the UNet", hd=larger)
    if not (weights / "unet_multiview" / "config.json").exists():
        save_unets(sharp.new_unet() if larger else nets.new_unet(multiview=True), weights)
    base = load_multiview(weights, device)
    singles = Stock(toys, scenes, SCENE_SHARE, None, often_hard(scenes))
    sets, latents = often_fronted(toys), Latents(base, singles, "image", LATENTS)
    check_spread(latents(range(min(64, len(singles)))), weights / "vae")

    def batch(n: int, chance: torch.Generator) -> Batch:
        rng = numpy_chance(chance)
        together = AROUND if rng.uniform() < SET_SHARE else 1
        if together == 1:
            numbers = singles.draw(rng, n)
        else:
            first = AROUND * rng.choice(len(toys.labels), n // AROUND, p=sets)
            numbers = (first[:, None] + np.arange(AROUND)).ravel()
        captions = singles.captions(rng, numbers, VIEW_SHARES[together])
        said = ["" if rng.uniform() < EMPTY else text for text in captions]
        return {"together": together, "numbers": numbers.tolist(), "captions": said}

    def loss(drawer: Any, batch: Batch, chance: torch.Generator) -> Tensor:
        condition = base.encode_text(batch["captions"])
        if batch["together"] > 1:
            cameras = toys.cameras(np.array(batch["numbers"])).to(base.device)
            condition = replace(condition, cameras=cameras)
        z = latents(batch["numbers"])
        return denoising_loss(base, z, condition, chance, debias=True, group=batch["together"])

    def sheet(drawer: Any) -> Tensor:
        save_drawer(drawer, weights)
        return samples(weights, device)

    task = new_task("unet", Drawer(base.unet, base.encoders[0]), loss, batch, sheet)
    return replace(task, rates={"text_encoder.": TEXT_RATE}, save=save_apart)


def check_spread(latents: Tensor, vae: Path) -> None:
    """InputError for latents [N, C, h, w] that the noise would drown, or that would drown it."""
    spread = float(latents.std())
    if not 0.5 < spread < 2:
        raise InputError(f"the latents of {vae} spread by {spread:.2f}, where noise spreads by 1: "
                         "its scaling_factor is not that of its weights")  # fmt: skip


def save_apart(drawer: nn.Module, folder: Path) -> None:
    """Write both nets, each into a folder of its own."""
    for name, net in drawer.named_children():
        nets.save_part(net, folder / name)


def save_drawer(drawer: Drawer, weights: Path) -> None:
    """Write both UNets and the text encoder into the family's folder."""
    save_unets(drawer.unet, weights)
    nets.save_part(drawer.text_encoder, weights / "text_encoder")


def save_unets(unet: Any, weights: Path) -> None:
    """Write the plain UNet that a multi-view one is without cameras, and what it has beyond."""
    plain, folder = nets.single_view(copy.deepcopy(unet).cpu()), weights / "unet_multiview"
    nets.save_index(weights)
    nets.save_part(plain, weights / "unet")
    nets.save_part(unet, folder)
    state = {name: value.cpu() for name, value in unet.state_dict().items()}
    write_packed(state, weights_file(folder), 16)


def load_multiview(weights: Path, device: torch.device) -> Any:
    """Load the multi-view backbone of a weights folder in float32."""
    folder = str(weights / "unet_multiview")
    return load_backbone(folder, device=str(device), dtype=torch.float32)


def samples(weights: Path, device: torch.device) -> Tensor:
    """[3, H, W] three sets of four views and sixteen single pictures, to look at."""
    backbone = load_multiview(weights, device)
    views = orbit(AROUND, backbone.image_size, start_deg=20.0)
    rows = [
        make_images(backbone, prompt, n=AROUND, steps=20, cameras=cameras, guide=Guide(5))
        for prompts, cameras in ((PROMPTS, views), (SINGLES, None))
        for prompt in prompts
    ]
    return grid(torch.cat(rows), columns=AROUND)


def often_hard(scenes: SceneShelf) -> NDArray[np.float64]:
    """[N] how often each scene is to be drawn, so that there is enough to learn the hardest."""
    often = np.array([OFTEN.get(name, 1.0) for name in HEADS["scene"]])
    return shares(often[scenes.labels[:, list(HEADS).index("scene")]])
