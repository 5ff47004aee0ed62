"""Shading: the colour of a pixel from the colour, gloss and normal of a surface under light."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from threed.core.cameras import Cameras
from threed.core.errors import InputError

Look = Literal["albedo", "shaded", "textureless", "normal"]
LOOKS: tuple[str, ...] = get_args(Look)
CLAY = 0.8  # sRGB grey of a textureless surface
DIELECTRIC = 0.04  # what a surface that is no metal mirrors, seen from straight above
SMOOTHEST = 0.05  # roughness below which a lamp's reflection would be a point


@dataclass(frozen=True)
class Light:
    """One far lamp that travels with the camera, and an even sky."""

    direction: tuple[float, float, float] = (0.35, 0.6, 0.72)  # towards the lamp, camera axes
    ambient: float = 0.6  # brightness of a surface that the lamp does not reach, 0 to 1


@dataclass(frozen=True)
class Lamp:
    """One far lamp that stands in the world, and an even sky."""

    direction: Tensor  # [3] unit, towards the lamp; 0 where no lamp adds to the sky
    ambient: float  # brightness of a surface that the lamp does not reach, 0 to 1
    textureless: bool = False  # what it lights is white, whatever its colours

    def light(self, albedo: Tensor, normal: Tensor) -> Tensor:
        """sRGB [N, 3] of surface points: albedo sRGB and unit world normals, both [N, 3]."""
        base = torch.ones_like(albedo) if self.textureless else albedo
        return base * lambert(normal, self.direction.to(normal.device), self.ambient)


def lamps(light: Light, cameras: Cameras) -> Tensor:
    """[B, 3] unit world directions towards the light of each camera."""
    local = torch.tensor(light.direction, dtype=cameras.c2w.dtype, device=cameras.c2w.device)
    return F.normalize(cameras.c2w[:, :3, :3] @ local, dim=-1)


def lambert(normal: Tensor, lamp: Tensor, ambient: float) -> Tensor:
    """Brightness [..., 1] in [0, 1] of unit normals [..., 3] under lamps [..., 3]."""
    facing = (normal * lamp).sum(-1, keepdim=True).clamp(min=0)
    return ambient + (1 - ambient) * facing


def shade(look: Look, albedo: Tensor, normal: Tensor, lamp: Tensor, ambient: float) -> Tensor:
    """sRGB [..., 3] of surface points: albedo sRGB, unit world normals, and lamps, all [..., 3].

    "albedo" is the bare colour, "shaded" the colour under the light, "textureless" clay under the
    same light, "normal" the direction as (n + 1) / 2. InputError for another look.
    """
    if look == "albedo":
        return albedo
    if look == "shaded":
        return albedo * lambert(normal, lamp, ambient)
    if look == "textureless":
        return (CLAY * lambert(normal, lamp, ambient)).expand_as(albedo)
    if look == "normal":
        return (normal + 1) / 2
    raise InputError(f"there is no look {look!r}; choose one of {', '.join(LOOKS)}")


def physical(
    albedo: Tensor, gloss: Tensor, normal: Tensor, towards: Tensor, lamp: Tensor, ambient: float
) -> Tensor:
    """sRGB [N, 3] of glTF's metallic-roughness surface under a far lamp and an even sky.

    albedo sRGB; gloss [N, 2] roughness and metallic in [0, 1]; unit normals, directions to the
    camera, and lamps, all [N, 3]. A GGX lobe (Walter et al. 2007, eq. 33) with the correlated
    shadowing of Smith (Heitz 2014) and Schlick's Fresnel term; of the sky the share that Karis
    fitted for it (2014, "Physically Based Shading on Mobile"). A white matt surface that faces the
    lamp is as bright as by `lambert`. Differentiable in all tensors.
    """
    rough, metal = gloss[:, :1].clamp(min=SMOOTHEST), gloss[:, 1:]
    base, square = to_linear(albedo), rough**4
    mirrors = DIELECTRIC * (1 - metal) + base * metal
    half = F.normalize(towards + lamp, dim=-1)
    over, above = _cosine(normal, towards).clamp(min=1e-3), _cosine(normal, lamp)
    lobe = square / (math.pi * (_cosine(normal, half).square() * (square - 1) + 1).square())
    shadow = above * (over.square() * (1 - square) + square).sqrt()
    shadow = shadow + over * (above.square() * (1 - square) + square).sqrt()
    fresnel = mirrors + (1 - mirrors) * (1 - _cosine(towards, half)) ** 5
    matt = (1 - fresnel) * (1 - metal) * base / math.pi
    lit = (matt + fresnel * lobe * 0.5 / shadow.clamp(min=1e-6)) * above * (math.pi * (1 - ambient))
    scale, shift = _sky_share(rough, over)
    light = lit + ambient * ((1 - metal) * base + mirrors * scale + shift)
    return to_srgb(light.clamp(0, 1))


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """[N, 1] of unit vectors [N, 3], 0 where they point apart."""
    return (a * b).sum(-1, keepdim=True).clamp(min=0)


def _sky_share(rough: Tensor, over: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift [N, 1] from a mirror's strength to its share of an even sky (Karis)."""
    x, y = 1 - rough, 0.0425 - 0.0275 * rough
    z, w = 1.04 - 0.572 * rough, 0.022 * rough - 0.04
    most = torch.minimum(x * x, torch.exp2(-9.28 * over)) * x + y
    return z - 1.04 * most, w + 1.04 * most


def to_linear(srgb: Tensor) -> Tensor:
    """Linear light of sRGB, both in [0, 1]."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: Tensor) -> Tensor:
    """sRGB of linear light, both in [0, 1]."""
    bright = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, linear * 12.92, bright)
