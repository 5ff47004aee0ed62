"""Subjects: toys with looks that no caption can say, to be learned from a few pictures.

A subject is a toy of a known kind in colours between the ten, with an emblem, odd proportions and,
in half of them, a texture that has no name. Nothing of the sort is in the family's own training.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from threed.toybox.world import draw
from threed.toybox.world.captions import a
from threed.toybox.world.chance import Rng, choose, choose_other
from threed.toybox.world.emblems import EMBLEMS
from threed.toybox.world.kinds import RECIPES
from threed.toybox.world.pairs import ABOVE, BESIDE, BROAD, Pair, toy_points
from threed.toybox.world.parts import Part, Vector, emblem, extents, pack, place, rotation
from threed.toybox.world.scenes import Scene, Thing, random_camera, staged
from threed.toybox.world.toys import COLORS, KINDS, packed_to_fit

TEXTURES = (draw.PLAIN, draw.ZIGZAG, draw.SPECKLED, draw.MARBLED, draw.HOOPED)
APART = 0.2  # least distance in sRGB from each of the ten colours
FLAT = 0.5  # height over width below which an emblem lies on top
STRETCH = (0.8, 1.3)  # along each axis
SIDES = (0.0, 40.0, -40.0)  # azimuths of an emblem; most solids hide one that is further round


@dataclass(frozen=True)
class Emblem:
    """What a subject wears and where."""

    name: str  # of EMBLEMS
    color: Vector
    azimuth_deg: float  # of the side that it is on, counted as cameras are
    size: float  # share of the width of the solid that wears it
    rise: float  # of its middle over the solid's, share of the height


@dataclass(frozen=True)
class Keepsake:
    """One subject, the same in each of its pictures."""

    kind: str  # of KINDS
    seed: int  # decides what the kind's recipe leaves open
    colors: tuple[Vector, Vector, Vector]  # of the main parts, of the others, of the texture
    texture: int  # of TEXTURES
    stretch: Vector  # along x, y and z
    emblem: Emblem
    scale: float = 1.0
    turn_deg: float = 0.0

    def parts(self) -> list[Part]:
        """Build its solids, each stretched and in its own colour, and its emblem."""
        main, other, _ = self.colors
        made = RECIPES[self.kind](np.random.default_rng(self.seed), main)
        parts = [stretched(_repainted(part, main, other), self.stretch) for part in made]
        wearer = max((i for i, part in enumerate(parts) if part.patterned and not part.cut),
                     key=lambda i: _area(parts[i], self.emblem.azimuth_deg))  # fmt: skip
        parts.insert(wearer + 1, self._worn(parts[wearer]))
        return parts

    def thing(self, shift: Vector = (0.0, 0.0, 0.0)) -> Thing:
        """Place it with its middle at `shift`."""
        rows = packed_to_fit(self.parts(), self.texture, self.colors[2])
        rows = place(rows, self.scale, shift, self.turn_deg)
        return Thing(self.kind, rows, (self.kind,) * len(rows), toy_points(rows))

    def things(self) -> tuple[Thing, ...]:
        """Place it alone."""
        return (self.thing(),)

    def words(self, rng: Rng, drop: float = 0.0) -> str:
        """Say its kind, which nothing drops: the rest has no words."""
        return a(self.kind)

    def _worn(self, part: Part) -> Part:
        low, high = extents(pack([part]))
        x, y, z = ((low + high) / 2).tolist()
        deep, wide, tall = ((high - low) / 2).tolist()
        mark, turn = self.emblem, np.radians(self.emblem.azimuth_deg)
        if tall < FLAT * min(deep, wide):  # seen from above
            half, facing = mark.size * min(deep, wide), (0.0, -90.0, 0.0)
        else:
            half = mark.size * min(float(np.hypot(deep * np.sin(turn), wide * np.cos(turn))), tall)
            z += mark.rise * (tall - half)
            facing = (0.0, 0.0, mark.azimuth_deg)
        return emblem(mark.name, (x, y, z), half, mark.color, turn_deg=facing)


def random_subject(rng: Rng, kind: str | None = None) -> Keepsake:
    """Make up a subject of this kind, or of any."""
    kind = kind or choose(rng, KINDS)
    main, other = unnamed_color(rng), unnamed_color(rng)
    second = unnamed_color(rng, far_from=(main,))
    worn = unnamed_color(rng, far_from=(main, second))
    x, y, z = rng.uniform(*STRETCH, 3).tolist()
    textured = rng.uniform() < 0.5
    texture = TEXTURES[int(rng.integers(1, len(TEXTURES)))] if textured else draw.PLAIN
    made = Emblem(choose(rng, EMBLEMS), worn, float(rng.choice(SIDES)),
                  float(rng.uniform(0.5, 0.7)), float(rng.uniform(-0.5, 0.5)))  # fmt: skip
    return Keepsake(kind, int(rng.integers(2**31)), (main, other, second), texture, (x, y, z), made)


def unnamed_color(rng: Rng, far_from: Sequence[Vector] = ()) -> Vector:
    """Choose an sRGB colour that lies between the ten, and is easily told from these others."""
    while True:
        hue, saturation, value = rng.uniform(0, 1), rng.uniform(0.2, 0.9), rng.uniform(0.3, 0.95)
        color = np.array(colorsys.hsv_to_rgb(hue, saturation, value))
        known = np.linalg.norm(np.array(list(COLORS.values())) - color, axis=1).min()
        others = min((float(np.linalg.norm(color - other)) for other in far_from), default=1.0)
        if known > APART and others > 0.45:
            red, green, blue = color.tolist()
            return (red, green, blue)


def stretched(part: Part, by: Vector) -> Part:
    """Stretch a solid along the world's axes, as far as its shape allows.

    The place is exact; a size is stretched along the axes that it lies nearest to, so solids that
    are turned by no right angle are a little off.
    """
    factors = np.abs(rotation(part.turn_deg)).T ** 2 @ np.array(by)  # per axis of its own
    a_, b, c, e = part.size
    x, y, z = factors.tolist()
    round_ = float(np.sqrt(x * y))
    size = {
        draw.ELLIPSOID: (a_ * x, b * y, c * z, e),
        draw.BOX: (a_ * x, b * y, c * z, e * min(x, y, z)),
        draw.FRUSTUM: (a_ * round_, b * round_, c * z, e * min(round_, z)),
        draw.TORUS: (a_ * round_, b * float(np.cbrt(x * y * z)), c, e),
    }[part.shape]
    px, py, pz = (value * factor for value, factor in zip(part.center, by))
    return replace(part, center=(px, py, pz), size=size)


def random_subject_scene(rng: Rng, subject: Keepsake) -> Scene:
    """Stage a subject alone, seen from any side, on any ground."""
    return staged(rng, subject, random_camera(rng, (-180, 180), (-10, 45)))


def random_subject_pair(rng: Rng) -> Pair:
    """Put two subjects of unlike kinds beside each other, or in three of ten one on the other."""
    above = rng.uniform() < 0.3
    under: Any = random_subject(rng, choose(rng, BROAD if above else KINDS))
    over: Any = random_subject(rng, choose_other(rng, KINDS, under.kind))
    one, two = (replace(each, scale=float(rng.uniform(0.8, 1)), turn_deg=float(turn))
                for each, turn in zip((over, under), rng.uniform(-35, 35, 2)))  # fmt: skip
    return Pair(one, two, ABOVE if above else BESIDE)


def _repainted(part: Part, main: Vector, other: Vector) -> Part:
    """The same solid; what had a colour of its own has the other one, but dark and light details.

    Those are eyes, wheels, sails.
    """
    detail = max(part.color) < 0.2 or min(part.color) > 0.85
    if detail or part.patterned or part.cut or part.color == main:
        return part
    return replace(part, color=other)


def _area(part: Part, azimuth_deg: float) -> float:
    """How large a solid is, seen from its side."""
    low, high = extents(pack([part]))
    deep, wide, tall = (high - low).tolist()
    turn = np.radians(azimuth_deg)
    return float(tall * np.hypot(deep * np.sin(turn), wide * np.cos(turn)))
