"""The toybox world: toys as data, drawn from any camera with their truth.

Everything random comes from one numpy Generator, so a seed decides a toy, its light, its
background and its cameras.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from threed.core.cameras import Cameras, at, view_name
from threed.toybox.world.chance import Rng, choose
from threed.toybox.world.draw import Array, Light, Picture, draw
from threed.toybox.world.kinds import RECIPES
from threed.toybox.world.parts import Part, Vector, extents, pack

KINDS = tuple(RECIPES)
FINISHES = ("plain", "striped", "dotted", "checkered")
COLORS: dict[str, Vector] = {
    "red": (0.86, 0.10, 0.10), "orange": (0.96, 0.50, 0.06), "yellow": (0.97, 0.86, 0.12),
    "green": (0.12, 0.62, 0.18), "blue": (0.12, 0.28, 0.86), "purple": (0.52, 0.16, 0.68),
    "pink": (0.98, 0.58, 0.76), "brown": (0.44, 0.26, 0.13), "white": (0.95, 0.95, 0.94),
    "black": (0.08, 0.08, 0.09),
}  # fmt: skip
TINTS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")  # of backgrounds
AROUND = 4  # pictures of a set, 90 degrees apart
CLAY = (0.8, 0.8, 0.8)  # sRGB of a toy of which only the shape is to be read
RADIUS = 0.8  # a toy's corners lie in the ball of this radius


@dataclass(frozen=True)
class Toy:
    """One toy: what it is, and the solids that it is made of."""

    kind: str
    color: str
    finish: str
    parts: tuple[Part, ...]
    second: Vector  # the other colour of the finish

    def packed(self) -> Array:
        """[P, WIDTH] the parts, centred and scaled into the ball of radius RADIUS."""
        return packed_to_fit(self.parts, FINISHES.index(self.finish), self.second)


@dataclass(frozen=True)
class Set:
    """V pictures of one toy under one light, on one background."""

    toy: Toy
    cameras: Cameras  # V of them
    pictures: tuple[Picture, ...]
    background: str  # its name, for the caption


def packed_to_fit(parts: Sequence[Part], finish: int, second: Vector) -> Array:
    """[P, WIDTH] solids of any size, centred and scaled into the ball of radius RADIUS."""
    low, high = extents(pack(parts))
    middle, scale = (low + high) / 2, RADIUS / float(np.linalg.norm((high - low) / 2))
    scale = min(scale * 1.12, 0.86 / float(np.max(high - low) / 2))
    x, y, z = (-scale * middle).tolist()
    return pack(parts, scale, (x, y, z), finish, second)


def random_toy(
    rng: Rng,
    kind: str | None = None,
    color: str | None = None,
    finish: str | None = None,
) -> Toy:
    """Make a toy of random proportions; kind, colour and finish are random unless given."""
    kind, color = kind or choose(rng, KINDS), color or choose(rng, COLORS)
    finish = finish or random_finish(rng)
    jitter = np.clip(np.array(COLORS[color]) + rng.uniform(-0.035, 0.035, 3), 0, 1)
    red, green, blue = jitter.tolist()
    parts = tuple(RECIPES[kind](rng, (red, green, blue)))
    return Toy(kind, color, finish, parts, second_color(color))


def random_finish(rng: Rng) -> str:
    """Choose a finish; about half of them are plain."""
    return choose(rng, FINISHES, (0.55, 0.15, 0.15, 0.15))


def second_color(color: str) -> Vector:
    """Choose the other colour of a finish whose first is `color`."""
    return (0.93, 0.93, 0.91) if sum(COLORS[color]) < 2.1 else (0.30, 0.30, 0.33)


def random_light(rng: Rng) -> Light:
    """Put a lamp somewhere above the horizon."""
    azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.45, 0.95)
    flat = float(np.sqrt(1 - height**2))
    direction = (flat * float(np.cos(azimuth)), flat * float(np.sin(azimuth)), height)
    return Light(direction, float(rng.uniform(0.55, 0.75)))


def random_background(rng: Rng) -> tuple[str, Array]:
    """Choose a name and the colours [2, 3] of the top and the bottom row."""
    pick = rng.uniform()
    if pick < 0.65:
        return "white", np.ones((2, 3), np.float32)
    if pick < 0.85:
        return "grey", np.full((2, 3), rng.uniform(0.35, 0.8), np.float32)
    name = choose(rng, TINTS)
    pale = 0.45 * np.array(COLORS[name], np.float32) + 0.5
    shift = rng.uniform(0, 0.1)
    return name, np.stack([pale - shift, pale + shift]).clip(0, 1).astype(np.float32)


def draw_set(
    toy: Toy, cameras: Cameras, light: Light, background: Array, *, name: str = "white"
) -> Set:
    """Draw a toy from every camera; background [2, 3] as from random_background."""
    parts = toy.packed()
    pictures = tuple(
        draw(parts, c2w, fov, cameras.height, light, background)
        for c2w, fov in zip(cameras.c2w.numpy(), cameras.fov_y.tolist())
    )
    return Set(toy, cameras, pictures, name)


def random_set(rng: Rng, size: int = 64, *, kind: str | None = None, clay: bool = False) -> Set:
    """Draw a random toy, of clay or not, under a random light, from AROUND cameras at one height.

    Elevation is in -10..45 degrees, or in one of eight sets in 62..85; field of view 35..45
    degrees; the distance is zoom / sin(fov / 2), zoom in 0.85..1.1, so the unit ball about fits.
    """
    toy = random_toy(rng, kind=kind)
    toy = in_clay(toy) if clay else toy
    name, background = random_background(rng)
    elevation = rng.uniform(62, 85) if rng.uniform() < 0.125 else rng.uniform(-10, 45)
    fov, zoom = rng.uniform(35, 45), rng.uniform(0.85, 1.1)
    azimuth = rng.uniform(-180, 180) + np.arange(AROUND) * (360 / AROUND)
    one, distance = torch.ones(AROUND), zoom / np.sin(np.radians(fov) / 2)
    around = torch.from_numpy((azimuth + 180) % 360 - 180).float()
    cameras = at(around, one * elevation, one * distance, one * fov, size)
    return draw_set(toy, cameras, random_light(rng), background, name=name)


def in_clay(toy: Toy) -> Toy:
    """Make the same toy of one pale grey without a finish: only the shape is left."""
    return replace(toy, finish="plain", parts=tuple(replace(p, color=CLAY) for p in toy.parts))


def view_words(cameras: Cameras) -> list[str]:
    """Say what the view of each camera is called, of threed.core.cameras.VIEWS."""
    places = zip(cameras.azimuth_deg.tolist(), cameras.elevation_deg.tolist())
    return [view_name(azimuth, elevation) for azimuth, elevation in places]
