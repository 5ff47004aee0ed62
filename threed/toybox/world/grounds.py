"""What stands behind a scene: one colour, a gradient from one to another, or a pattern."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from threed.toybox.world.captions import BACKGROUNDS, a
from threed.toybox.world.chance import Rng, choose
from threed.toybox.world.draw import Array
from threed.toybox.world.parts import Vector
from threed.toybox.world.toys import COLORS, FINISHES, TINTS

STRIPES = 6  # of a pattern, from one side of the picture to the other


@dataclass(frozen=True)
class Ground:
    """A background as data; colours are sRGB in [0, 1]."""

    names: tuple[str, ...]  # of BACKGROUNDS: one, or those of the top and of the bottom
    pattern: str  # of FINISHES
    top: Vector
    bottom: Vector
    other: Vector  # the pattern's second colour
    phase: float = 0.0  # where the pattern begins, 0 to 1

    def words(self) -> str:
        """Say what it is called: "a white background", "a striped blue background"."""
        words = " to ".join(self.names)
        return f"{a(words if self.pattern == 'plain' else f'{self.pattern} {words}')} background"

    def pixels(self, size: int) -> Array:
        """[size, size, 3] its colours."""
        x, y = np.meshgrid(*[(np.arange(size, dtype=np.float32) + 0.5) / size] * 2)
        mix = y[..., None]
        first = np.array(self.top) * (1 - mix) + np.array(self.bottom) * mix
        u, v = x * STRIPES + self.phase, y * STRIPES + self.phase
        second = {
            "plain": np.zeros_like(u, bool),
            "striped": (u + v) % 2 < 1,
            "dotted": (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.09,
            "checkered": (np.floor(u) + np.floor(v)) % 2 < 1,
        }[self.pattern]
        return np.where(second[..., None], np.array(self.other), first).astype(np.float32)


def ground_of(name: str, rng: Rng, pattern: str = "plain") -> Ground:
    """Make a background of this name of BACKGROUNDS."""
    color = shade(name, rng)
    by = 0.16 if sum(color) < 2.4 else -0.14
    red, green, blue = (min(1.0, value + by) for value in color)
    return Ground((name,), pattern, color, color, (red, green, blue), float(rng.uniform()))


def random_ground(rng: Rng) -> Ground:
    """Make a plain background in two thirds, a gradient in a sixth, a pattern in a sixth."""
    pick = rng.uniform()
    if pick < 2 / 3:
        name = "white" if pick < 0.4 else "grey" if pick < 0.52 else choose(rng, TINTS)
        return ground_of(name, rng)
    if pick < 5 / 6:
        top, bottom = (str(name) for name in rng.choice(TINTS, 2, replace=False))
        return Ground((top, bottom), "plain", shade(top, rng), shade(bottom, rng), (1, 1, 1))
    return ground_of(choose(rng, BACKGROUNDS[1:]), rng, choose(rng, FINISHES[1:]))


def shade(name: str, rng: Rng) -> Vector:
    """Choose a pale colour of this name, so that a toy of the same colour is seen before it."""
    if name == "white":
        return (1.0, 1.0, 1.0)
    if name == "grey":
        value = float(rng.uniform(0.45, 0.75))
        return (value, value, value)
    pale = (0.45 * value + 0.5 for value in COLORS[name])
    red, green, blue = (value + float(rng.uniform(-0.04, 0.04)) for value in pale)
    return (red, green, blue)
