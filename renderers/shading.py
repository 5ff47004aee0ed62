"""How a surface's colour becomes a pixel's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from threed.core import Cameras, InputError

Look = Literal["albedo", "shaded", "textureless", "normal"]
LOOKS: tuple[str, ...] = get_args(Look)
CLAY = 0.8  # sRGB grey of a textureless surface


@dataclass(frozen=True)
class Light:
    """One far lamp that travels with the camera, and an even sky."""

    direction: tuple[float, float, float] = (0.35, 0.6, 0.72)  # towards the lamp, camera axes
    ambient: float = 0.6  # brightness of a surface that the lamp does not reach, 0 to 1


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
