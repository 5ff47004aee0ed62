"""Parts of a mesh as files have them: each of one material, which may have several maps."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from renderers.shading import to_linear, to_srgb
from threed.core.mesh import Material

Wrap = Literal["repeat", "mirror", "clamp"]  # how a picture goes on beyond its border
PERIOD = {"repeat": 1, "mirror": 2, "clamp": 0}  # after how many pictures it is the same again
EDGE = 1e-4  # of a picture: a corner so far beyond its border still counts as on it


@dataclass(frozen=True, eq=False)
class Layer:
    """A picture that lies on a surface."""

    image: Tensor  # [H, W, 3] in [0, 1]
    uv: Hashable = 0  # the name of the texture coordinates that place it: see `Part.uv`
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")  # along u, along v


@dataclass(frozen=True, eq=False)
class Surface:
    """What a file says of a material; its numbers are those of `threed.core.mesh.Material`.

    The colour is sRGB; it, the picture and the colours of the corners are multiplied as light.
    """

    color: tuple[float, float, float] = (1.0, 1.0, 1.0)
    metallic: float = Material.metallic
    roughness: float = Material.roughness
    albedo: Layer | None = None
    normal: Layer | None = None
    metallic_roughness: Layer | None = None

    def layers(self) -> dict[str, Layer]:
        """Its pictures by the names of their fields."""
        names = ("albedo", "normal", "metallic_roughness")
        found = {name: getattr(self, name) for name in names}
        return {name: layer for name, layer in found.items() if layer is not None}

    def key(self) -> Hashable:
        """Make what is the same for surfaces that look the same."""
        layers = ((name, id(one.image), one.uv, one.wrap) for name, one in self.layers().items())
        return self.color, self.metallic, self.roughness, *layers


@dataclass(frozen=True, eq=False)
class Part:
    """Faces of one surface; nothing in it need be fit for a mesh of ours yet."""

    vertices: Tensor  # [N, 3] float64, in our axes
    faces: Tensor  # [F, 3] int64
    surface: Surface = field(default_factory=Surface)
    uv: Mapping[Hashable, Tensor] = field(default_factory=dict)  # [F, 3, 2] of corners, v downwards
    colors: Tensor | None = None  # [F, 3, 3] of corners, sRGB in [0, 1]


@dataclass(frozen=True, eq=False)
class Group:
    """All faces of one surface in a mesh that was joined."""

    surface: Surface
    rows: Tensor  # [n] int64, which faces of the mesh they are
    uv: Mapping[Hashable, Tensor]  # [n, 3, 2] float64, v downwards
    colors: Tensor  # [n, 3, 3] sRGB of corners, the surface's own colour included

    def plain(self) -> Tensor | None:
        """Its one colour [3], sRGB, all over but for its picture; None if it has several."""
        first = self.colors[0, 0]
        return first if bool((self.colors == first).all()) else None

    def laid(self) -> Tensor | None:
        """Texture coordinates [n, 3, 2] of all its pictures, as close to the first as may be.

        A face moves by whole pictures where these repeat. None if the pictures need several.
        """
        layers = self.surface.layers().values()
        names, wraps = {one.uv for one in layers}, {one.wrap for one in layers}
        name = next(iter(names or self.uv), None)
        if len(names) > 1 or name not in self.uv:
            return None
        uv = self.uv[name]
        if bool(((uv >= 0) & (uv <= 1)).all()):
            return uv
        return None if len(wraps) > 1 else move(uv, next(iter(wraps), Layer.wrap))


def move(uv: Tensor, wrap: tuple[Wrap, Wrap]) -> Tensor:
    """Move texture coordinates [n, 3, 2] of faces outside a picture to it, by whole pictures.

    A corner that is hardly beyond the border then comes to lie on it.
    """
    outside = ((uv < 0) | (uv > 1)).any(1, keepdim=True)
    period = torch.tensor([PERIOD[way] for way in wrap], dtype=torch.float64)
    tile = ((uv.amin(1, keepdim=True) + EDGE) / period.clamp(min=1)).floor() * period
    moved = torch.where(outside, uv - tile, uv)
    within = moved.clamp(0, 1)
    return torch.where((moved - within).abs() <= EDGE, within, moved)


def multiply(first: Tensor, second: Tensor) -> Tensor:
    """Multiply sRGB colours [..., 3] as light, white changing nothing."""
    if bool((second == 1).all()):
        return first.expand(torch.broadcast_shapes(first.shape, second.shape))
    if bool((first == 1).all()):
        return multiply(second, first)
    return light_to_srgb(to_linear(first) * to_linear(second))


def light_to_srgb(light: Tensor) -> Tensor:
    """Turn linear colours [..., 3] of any file into sRGB; white stays exactly white."""
    return torch.where(light >= 1, 1.0, to_srgb(light.clamp(0, 1)))
