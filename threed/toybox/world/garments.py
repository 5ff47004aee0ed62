"""What a toy person wears, and the same garment by itself, laid flat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from threed.core.cameras import orbit
from threed.toybox.world.captions import a
from threed.toybox.world.chance import Rng, choose
from threed.toybox.world.draw import FRAME, Array, Light
from threed.toybox.world.grounds import Ground
from threed.toybox.world.paint import main
from threed.toybox.world.parts import Part, Vector, box, extents, pack, place, rod
from threed.toybox.world.poses import ARM, LEG, SIDES, Pose, between, limb
from threed.toybox.world.scenes import Scene, Thing
from threed.toybox.world.toys import COLORS, FINISHES, second_color

UPPERS, LOWERS = ("shirt", "sweater"), ("trousers", "shorts", "skirt")
GARMENTS = (*UPPERS, *LOWERS, "dress")
CLASS = {"shirt": "top", "sweater": "top", "trousers": "trousers", "shorts": "trousers",
         "skirt": "skirt", "dress": "dress"}  # fmt: skip
FINE, FRONT = 0.55, 0.075  # size of a garment's pattern, of a toy's, and where it begins along x
Joints = dict[str, Vector]
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
        parts = PIECES[self.kind](pose.joints(), color)
        rows = pack(parts, finish=FINISHES.index(self.finish), second=second_color(self.color))
        rows[:, FRAME], rows[:, FRAME + 3] = FRONT, FINE
        return rows

    def things(self) -> tuple[Thing, ...]:
        """Place the garment alone, in the middle, on nobody."""
        rows = self.rows(FLAT)
        low, high = extents(rows)
        scale = 1.6 / float(np.max(high - low))
        middle = float(low[2] + high[2]) / 2
        placed = place(rows, scale, (0.0, 0.0, -scale * middle))
        return (Thing(f"{self.color} {self.kind}", placed, (CLASS[self.kind],) * len(rows), ()),)

    def words(self, rng: Rng) -> str:
        """Say it: "a striped red sweater"; a pattern is left out now and then."""
        plain = self.finish == "plain" or rng.uniform() < 0.15
        text = f"{'' if plain else self.finish + ' '}{self.color} {self.kind}"
        return text if self.kind in ("trousers", "shorts") else a(text)


def laid_flat(garment: Garment) -> Scene:
    """Stage a garment by itself on white, seen straight on under even light."""
    camera = orbit(1, 64, elevation_deg=0.0)
    return Scene(garment, Light((0.86, 0.1, 0.5), 0.8), WHITE, camera)


def random_garment(rng: Rng, kinds: tuple[str, ...]) -> Garment:
    """Choose a garment of these kinds; half of them are plain."""
    finish = choose(rng, FINISHES, (0.5, 0.2, 0.15, 0.15))
    return Garment(choose(rng, kinds), choose(rng, COLORS), finish)


def tubes(
    joints: Joints, names: Sequence[str], length: float, radii: Vector, color: Vector
) -> list[Part]:
    """Make both sleeves or legs along three joints; length 0..1 ends on the first bone, 1..2 after.

    radii: at the first joint, at the end on the first bone, and at that on the second.
    """
    parts: list[Part] = []
    for side in SIDES:
        first, middle, last = (joints[f"{side} {name}"] for name in names)
        end = between(first, middle, min(length, 1.0))
        parts.append(limb(first, end, radii[0], radii[1], color, patterned=True))
        if length > 1:
            end = between(middle, last, length - 1)
            parts.append(limb(middle, end, radii[1], radii[2], color, patterned=True))
    return parts


def shirt(joints: Joints, color: Vector, sleeve: float = 0.75) -> list[Part]:
    """Make a trunk with sleeves of a length as in `tubes`."""
    trunk = box((0, 0, 0.03), (0.155, 0.235, 0.27), rounding=0.11, **main(color))
    return [trunk, *tubes(joints, ARM, sleeve, (0.11, 0.105, 0.095), color)]


def trousers(joints: Joints, color: Vector, length: float = 1.9) -> list[Part]:
    """Make hips with legs of a length as in `tubes`."""
    hips = box((0, 0, -0.2), (0.145, 0.215, 0.1), rounding=0.07, **main(color))
    return [hips, *tubes(joints, LEG, length, (0.12, 0.12, 0.115), color)]


def skirt(_: Joints, color: Vector, bottom: float = -0.58) -> list[Part]:
    """Make a waist and a cone down to a height."""
    waist = box((0, 0, -0.16), (0.16, 0.22, 0.06), rounding=0.05, **main(color))
    half = (-0.14 - bottom) / 2
    return [waist, rod((0, 0, -0.14 - half), 0.4, 0.2, half, **main(color))]


PIECES: dict[str, Callable[[Joints, Vector], list[Part]]] = {
    "shirt": shirt,
    "sweater": lambda j, c: [*shirt(j, c, 1.8), rod((0, 0, 0.3), 0.13, 0.12, 0.05, **main(c))],
    "trousers": trousers,
    "shorts": lambda j, c: trousers(j, c, 0.85),
    "skirt": skirt,
    "dress": lambda j, c: [*shirt(j, c, 0.45), *skirt(j, c, -0.68)],
}
