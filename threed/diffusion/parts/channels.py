"""UNets that are shown pictures beside x_t, as further input channels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.attention import install


def widened(unet: Any, extra: int) -> Any:
    """A trainable copy of a UNet2DConditionModel that takes `extra` more channels.

    Their weights are zero, so that at first it predicts what the UNet does.
    """
    config = {**unet.config, "in_channels": unet.config.in_channels + extra}
    wide = type(unet).from_config(config).to(unet.device)
    state = {name: value.float() for name, value in unet.state_dict().items()}
    first = state["conv_in.weight"]
    state["conv_in.weight"] = torch.cat([first, first.new_zeros(len(first), extra, 3, 3)], 1)
    wide.load_state_dict(state)
    return wide.requires_grad_(True)


def with_unet(backbone: StableDiffusion, unet: Any) -> StableDiffusion:
    """The same backbone around another UNet, which takes any further channels it wants."""
    other = copy.copy(backbone)
    install(unet)
    other.unet = unet
    return other


def let_learn(net: nn.Module, chosen: Callable[[str], bool]) -> None:
    """Let the parameters learn whose names are chosen, and no others.

    Group norms do not: torch 2.13 crashes on a CPU in one whose weights alone have a gradient.
    """
    norms = {name for name, part in net.named_modules() if isinstance(part, nn.GroupNorm)}
    for name, value in net.named_parameters():
        value.requires_grad_(chosen(name) and name.rpartition(".")[0] not in norms)


def unscaled(backbone: StableDiffusion, latents: Tensor) -> Tensor:
    """Latents [B, C, h, w] as the VAE itself gives them: without Stable Diffusion's scale."""
    config = backbone.vae.config
    scale: float = config.scaling_factor
    return latents / scale + (config.shift_factor or 0)
