"""What a toy person wears, and the same garment by itself, laid flat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from threed.core.cameras import orbit
from threed.toybox.world.captions import a
from threed.toybox.world.draw import FRAME, Array, Light
from threed.toybox.world.grounds import Ground
from threed.toybox.world.parts import Part, Vector, box, extents, pack, place, rod
from threed.toybox.world.poses import SIDES, Pose, between, limb
from threed.toybox.world.scenes import Scene, Thing
from threed.toybox.world.toys import COLORS, FINISHES, second_color

UPPERS, LOWERS = ("shirt", "sweater"), ("trousers", "shorts", "skirt")
GARMENTS = (*UPPERS, *LOWERS, "dress")
CLASS = {"shirt": "top", "sweater": "top", "trousers": "trousers", "shorts": "trousers",
         "skirt": "skirt", "dress": "dress"}  # fmt: skip
FINE, FRONT = 0.55, 0.075  # size of a garment's pattern, of a toy's, and where it begins along x
FLAT = Pose("arms out", (-32.0, -36.0, -32.0, -36.0))
WHITE = Ground(("white",), "plain", (1, 1, 1), (1, 1, 1), (1, 1, 1))


@dataclass(frozen=True)
class Garment:
    """A piece of clothing as its words; as the subject of a scene it lies flat, seen from above."""

    kind: str  # of GARMENTS
    color: str  # of COLORS
    finish: str  # of FINISHES

    def rows(self, pose: Pose) -> Array:
        """[P, WIDTH] the garment on a body in this pose."""
        color = COLORS[self.color]
        parts = tuple(PIECES[self.kind](pose.joints(), color))
        rows = pack(parts, finish=FINISHES.index(self.finish), second=second_color(self.color))
        rows[:, FRAME], rows[:, FRAME + 3] = FRONT, FINE
        return rows

    def things(self) -> tuple[Thing, ...]:
        """The garment alone, in the middle, on nobody."""
        rows = self.rows(FLAT)
        low, high = extents(rows)
        scale = 1.6 / float(np.max(high - low))
        middle = float(low[2] + high[2]) / 2
        placed = place(rows, scale, (0.0, 0.0, -scale * middle))
        return (Thing(f"{self.color} {self.kind}", placed, (CLASS[self.kind],) * len(rows), ()),)

    def words(self, rng: np.random.Generator) -> str:
        """ "a striped red sweater" """
        text = self.named(rng)
        return text if self.kind in ("trousers", "shorts") else a(text)

    def named(self, rng: np.random.Generator) -> str:
        """ "striped red sweater", without an article; a pattern is left out now and then."""
        plain = self.finish == "plain" or rng.uniform() < 0.15
        return f"{'' if plain else self.finish + ' '}{self.color} {self.kind}"


def laid_flat(garment: Garment) -> Scene:
    """The garment by itself on white, seen straight on under even light."""
    camera = orbit(1, 64, elevation_deg=0.0)
    return Scene(garment, Light((0.86, 0.1, 0.5), 0.8), WHITE, camera)


def random_garment(rng: np.random.Generator, kinds: tuple[str, ...]) -> Garment:
    """Any garment of these kinds; half of them plain."""
    finish = str(rng.choice(FINISHES, p=(0.5, 0.2, 0.15, 0.15)))
    return Garment(str(rng.choice(kinds)), str(rng.choice(list(COLORS))), finish)


def _tubes(
    joints: dict[str, Vector], names: str, length: float, radii: tuple[float, ...], color: Vector
) -> list[Part]:
    """Both sleeves or legs along three joints; length 0..1 ends on the first bone, 1..2 after it.

    radii: at the first joint, at the end on the first bone, and at that on the second.
    """
    parts: list[Part] = []
    for side in SIDES:
        first, middle, last = (joints[f"{side} {name}"] for name in names.split())
        end = between(first, middle, min(length, 1.0))
        parts.append(limb(first, end, radii[0], radii[1], color, patterned=True))
        if length > 1:
            end = between(middle, last, length - 1)
            parts.append(limb(middle, end, radii[1], radii[2], color, patterned=True))
    return parts


def _shirt(joints: dict[str, Vector], color: Vector, sleeve: float = 0.75) -> list[Part]:
    trunk = box((0, 0, 0.03), (0.155, 0.235, 0.27), color, rounding=0.11, patterned=True)
    return [trunk, *_tubes(joints, "shoulder elbow wrist", sleeve, (0.11, 0.105, 0.095), color)]


def _sweater(joints: dict[str, Vector], color: Vector) -> list[Part]:
    collar = rod((0, 0, 0.3), 0.13, 0.12, 0.05, color, patterned=True)
    return [*_shirt(joints, color, 1.8), collar]


def _trousers(joints: dict[str, Vector], color: Vector, length: float = 1.9) -> list[Part]:
    hips = box((0, 0, -0.2), (0.145, 0.215, 0.1), color, rounding=0.07, patterned=True)
    return [hips, *_tubes(joints, "hip knee ankle", length, (0.12, 0.12, 0.115), color)]


def _shorts(joints: dict[str, Vector], color: Vector) -> list[Part]:
    return _trousers(joints, color, 0.85)


def _skirt(_: dict[str, Vector], color: Vector, bottom: float = -0.58) -> list[Part]:
    half = (-0.14 - bottom) / 2
    return [
        box((0, 0, -0.16), (0.16, 0.22, 0.06), color, rounding=0.05, patterned=True),
        rod((0, 0, -0.14 - half), 0.4, 0.2, half, color, patterned=True),
    ]


def _dress(joints: dict[str, Vector], color: Vector) -> list[Part]:
    return [*_shirt(joints, color, 0.45), *_skirt(joints, color, -0.68)]


PIECES: dict[str, Callable[[dict[str, Vector], Vector], list[Part]]] = {
    "shirt": _shirt, "sweater": _sweater, "trousers": _trousers, "shorts": _shorts,
    "skirt": _skirt, "dress": _dress,
}  # fmt: skip
