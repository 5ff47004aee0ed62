"""Uni-ControlNet's local adapter: an encoder beside the UNet that sees all maps at once.

Where ControlNet adds its hint once, before the first block, the maps' features scale and shift
what each resolution's first resnet has normalised (arXiv:2305.16322, section 3.2).
"""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threed.diffusion.models.convert import encoder_name
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.control import new_controlnet

INJECTED = (192, 256, 384, 512)  # features a resolution, of an encoder that begins with 320
HIDDEN = (32, 64, 128)  # channels on the way there


class Denormalise(nn.Module):
    """Group norm whose scale and shift are convolutions of features: FDN.

    It begins as the norm that it takes the place of, whatever the features are, so far as the
    convolutions say nothing yet.
    """

    def __init__(self, norm: nn.GroupNorm, features: int) -> None:
        super().__init__()
        self.groups, self.eps = norm.num_groups, norm.eps
        self.conv_gamma = nn.Conv2d(features, norm.num_channels, 3, padding=1)
        self.conv_beta = nn.Conv2d(features, norm.num_channels, 3, padding=1)
        self.conv_gamma.bias = nn.Parameter(norm.weight.detach().clone() - 1)
        self.conv_beta.bias = nn.Parameter(norm.bias.detach().clone())
        self.features: Tensor | None = None  # [B, features, h, w] of this call

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> the same."""
        if self.features is None:
            raise ValueError("the features of this call have not been set")
        plain = F.group_norm(x, self.groups, eps=self.eps)
        gamma: Tensor = self.conv_gamma(self.features)
        beta: Tensor = self.conv_beta(self.features)
        return plain * (1 + gamma) + beta


class Extractor(nn.Module):
    """Maps -> features at each resolution of the encoder, at first zeros. Names are the paper's."""

    def __init__(self, channels: int, injected: tuple[int, ...], hidden: tuple[int, ...],
                 halvings: int) -> None:  # fmt: skip
        super().__init__()
        a, b, c = hidden
        widths = ((channels, a), (a, b), (b, b), (b, c), (c, c))
        # the last halving before the latents' size belongs to the first extractor
        strides = (1, 2 if halvings > 1 else 1, 1, 2 if halvings > 2 else 1, 1)
        layers: list[nn.Module] = []
        for (inputs, outputs), stride in zip(widths, strides):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.SiLU()]
        self.pre_extractor = nn.Sequential(*layers)
        self.extractors = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.SiLU())
            for inputs, outputs in zip((c, *injected), injected)
        )
        self.zero_convs = nn.ModuleList(nn.Conv2d(n, n, 3, padding=1) for n in injected)
        for parameter in self.zero_convs.parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: Tensor) -> list[Tensor]:
        """[B, channels, H, W] -> a tensor for each resolution, from fine to coarse."""
        h, out = self.pre_extractor(maps), []
        for extract, zero in zip(self.extractors, self.zero_convs):
            h = extract(h)
            out.append(zero(h))
        return out


class _Nothing(nn.Module):
    """In the place of ControlNet's own convolutions over its hint."""

    def forward(self, hint: Tensor) -> Tensor:
        """Zero."""
        return hint.new_zeros(())


class LocalAdapter(nn.Module):
    """A trainable copy of a UNet's encoder, shown n maps of three channels: control.Beside."""

    def __init__(self, backbone: StableDiffusion, maps: int) -> None:
        super().__init__()
        self.body = new_controlnet(backbone)
        self.body.controlnet_cond_embedding = _Nothing()
        levels = backbone.unet.config.block_out_channels
        share = min(1.0, levels[0] / 320)
        injected = tuple(8 * max(1, round(n * share / 8)) for n in _grown(len(levels)))
        # small encoders need no wide way to the maps' features
        hidden = HIDDEN if share == 1 else (HIDDEN[0] // 2, HIDDEN[1] // 2, HIDDEN[2] // 2)
        self.features = Extractor(3 * maps, injected, hidden, round(math.log2(backbone.factor)))
        self._norms: list[tuple[Denormalise, Denormalise]] = []
        for block, width in zip(self.body.down_blocks, injected):
            first: Any = block.resnets[0]
            norms = Denormalise(first.norm1, width), Denormalise(first.norm2, width)
            first.norm1, first.norm2 = norms
            self._norms.append(norms)

    def forward(
        self, x: Tensor, t: Tensor, tokens: Tensor, hint: Tensor, extras: dict[str, Any]
    ) -> tuple[list[Tensor], Tensor]:
        """Maps [B, 3 n, H, W] in [0, 1] -> a tensor for each skip, and one for the middle."""
        dtype = next(self.parameters()).dtype
        hint = hint.to(dtype)
        for norms, features in zip(self._norms, self.features(hint)):
            for norm in norms:
                norm.features = features
        x, tokens = x.to(dtype), tokens.to(dtype)
        skips, middle = self.body(x, t, tokens, hint, return_dict=False, **extras)
        for norm in chain(*self._norms):
            norm.features = None  # of this call, and no other's
        return list(skips), middle


def _grown(levels: int) -> tuple[int, ...]:
    return INJECTED[:levels] + INJECTED[-1:] * max(0, levels - len(INJECTED))


def local_name(name: str, layers: int) -> str:
    """What LocalAdapter calls a tensor of uni.ckpt; layers: resnets a block on the way down."""
    if name.startswith("feature_extractor."):
        return f"features.{name.removeprefix('feature_extractor.')}"
    encoder = encoder_name(name, layers)
    return "body." + encoder.replace(".norm_in.", ".norm1.").replace(".norm_out.", ".norm2.")


def dropped_maps(n: int, maps: int, generator: torch.Generator) -> Tensor:
    """[n, maps] bool: which maps of an example are left out, so that each is learned alone, too.

    In a tenth of the examples none is, in a tenth all are, else each with probability 1/2.
    """
    kind = torch.rand(n, generator=generator)[:, None]
    each = torch.rand(n, maps, generator=generator) < 0.5
    return (each & (kind >= 0.1)) | (kind >= 0.9)
