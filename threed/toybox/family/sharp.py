"""toybox-hd: the same world and words in pictures of 128×128, for the stages that refine an asset.

Its VAE halves three times, so latents stay 16×16 and the UNet costs what toybox's does; they have
CHANNELS channels. The first ones are toybox's own latents of the picture at half its size, as
nearly as they can be learned, and the others hold what is finer. So both nets begin from toybox's,
and the UNet knows all of its kinds from the first step.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from threed.diffusion.catalog import load_backbone
from threed.learning.loop import Task
from threed.toybox.family import nets
from threed.toybox.family.shelf import SceneShelf, Shelf
from threed.toybox.family.tasks import vae_task as task_of

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

SIZE = 128  # pixels a side of a picture
CHANNELS = 8  # of the latents
SPLIT = ("encoder.conv_out.", "quant_conv.")  # tensors that end in means and log variances
HEARD = 0.5  # of an untrained kernel's usual size: what reads the UNet's further channels
PREFIX = "hd "  # of what its parts are called beside toybox's
PARTS = ("vae", "unet")  # what it has of its own, in the order of their training


def begin(weights: Path) -> None:
    """Give a new folder toybox's words: tokenizer and text encoder."""
    for part in ("tokenizer", "text_encoder"):
        if not (weights / part).exists():
            shutil.copytree(nets.WEIGHTS / part, weights / part)


def new_vae() -> AutoencoderKL:
    """Make a VAE from 128×128 pictures to 8×16×16 latents and back.

    It is toybox's with a level more on the outside, which is untrained, as is what reads and
    writes the further channels.
    """
    from diffusers import AutoencoderKL

    small = _toybox().vae
    widths = small.config.block_out_channels
    vae = AutoencoderKL.from_config(nets.config_of(small) | {
        "block_out_channels": (widths[0], *widths), "latent_channels": CHANNELS,
        "down_block_types": ("DownEncoderBlock2D", *small.config.down_block_types),
        "up_block_types": ("UpDecoderBlock2D", *small.config.up_block_types),
        "sample_size": SIZE,
    })  # fmt: skip
    for conv in (vae.quant_conv, vae.post_quant_conv):
        torch.nn.init.dirac_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    state = {_moved(name, len(widths)): value for name, value in small.state_dict().items()}
    _take(vae, {name: value for name, value in state.items() if not name.startswith(SPLIT)})
    _take_split(vae, state)
    return vae


@torch.no_grad()
def _take_split(vae: AutoencoderKL, state: dict[str, Tensor]) -> None:
    """Fill what writes means and log variances [2C, ...] of latents, which are not C any more."""
    own, few = vae.state_dict(), len(state["quant_conv.bias"]) // 2
    rows = torch.tensor([*range(few), *range(CHANNELS, CHANNELS + few)])
    own["quant_conv.weight"][rows[:, None], rows] = state["quant_conv.weight"]
    for name in ("quant_conv.bias", "encoder.conv_out.weight", "encoder.conv_out.bias"):
        own[name][rows] = state[name]


def _moved(name: str, levels: int) -> str:
    """Name a tensor of toybox's VAE as in one that has a level more on the outside."""
    for number in reversed(range(levels)):
        name = name.replace(f"encoder.down_blocks.{number}.", f"encoder.down_blocks.{number + 1}.")
    return name


def new_unet() -> UNet2DConditionModel:
    """Make toybox's multi-view UNet for CHANNELS channels: of the others it says nothing yet.

    It hears them, though: if it did neither, no gradient would ever tell it to.
    """
    from diffusers import UNet2DConditionModel

    small = _toybox().unet
    wide = {"in_channels": CHANNELS, "out_channels": CHANNELS}
    unet = UNet2DConditionModel.from_config(nets.config_of(small) | wide)
    with torch.no_grad():
        unet.conv_in.weight *= HEARD
    for values in (unet.conv_out.weight, unet.conv_out.bias):
        torch.nn.init.zeros_(values)
    _take(unet, small.state_dict())
    return unet


@torch.no_grad()
def _take(net: torch.nn.Module, state: dict[str, Tensor]) -> None:
    """Fill the leading rows and columns of a net's tensors with those of these names."""
    own = net.state_dict()
    for name, value in state.items():
        if name in own and own[name].ndim == value.ndim:
            own[name][tuple(slice(length) for length in value.shape)] = value


def vae_task(toys: Shelf, scenes: SceneShelf, device: torch.device) -> Task:
    """Take pictures through latents whose first channels are toybox's of half the size."""
    small: Any = _toybox(device)

    @torch.no_grad()
    def like(images: Tensor) -> Tensor:
        wanted: Tensor = small.encode_image(F.avg_pool2d(images, 2) / 2 + 0.5)
        return wanted

    return task_of(toys, scenes, new_vae(), like)


def _toybox(device: torch.device | None = None) -> Any:
    folder = str(nets.WEIGHTS / "unet_multiview")
    return load_backbone(folder, device=str(device or "cpu"), dtype=torch.float32)
