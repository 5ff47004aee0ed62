"""What a toy person wears, and the same garment by itself, laid flat."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from threed.core.cameras import orbit
from threed.toybox.world.captions import a
from threed.toybox.world.chance import Rng, choose
from threed.toybox.world.draw import FRAME, Array, Light
from threed.toybox.world.emblems import EMBLEMS
from threed.toybox.world.grounds import Ground
from threed.toybox.world.paint import main
from threed.toybox.world.parts import Part, Vector, ball, box, emblem, extents, pack, place, rod
from threed.toybox.world.poses import ARM, HEAD, LEG, SIDES, Pose, between, limb
from threed.toybox.world.scenes import Scene, Thing
from threed.toybox.world.toys import COLORS, FINISHES, second_color

UPPERS, LOWERS = ("shirt", "sweater"), ("trousers", "shorts", "skirt")
GARMENTS, HATS = (*UPPERS, *LOWERS, "dress"), ("cap", "beanie", "top hat")
CLASS = {"shirt": "top", "sweater": "top", "trousers": "trousers", "shorts": "trousers",
         "skirt": "skirt", "dress": "dress", **dict.fromkeys(HATS, "hat")}  # fmt: skip
SLEEVES = {  # lengths that a garment may have, as in `tubes`; the first unless another is said
    "shirt": (0.75, 0.0, 0.4, 1.8), "sweater": (1.8, 1.3), "dress": (0.45, 0.0, 1.8),
}  # fmt: skip
HEMS = {  # the same of legs, and z of the end of a skirt
    "trousers": (1.9, 1.5), "shorts": (0.85, 0.55), "skirt": (-0.58, -0.45, -0.72),
    "dress": (-0.68, -0.55, -0.8),
}  # fmt: skip
SMALL, LARGE = 0.12, 0.19  # half the width of an emblem, and of a print
WAIST, TUCKED = -0.14, -0.2  # z of a skirt's upper end, and where it lies under a shirt
FINE, FRONT = 0.55, 0.075  # size of a garment's pattern, of a toy's, and where it begins along x
Joints = dict[str, Vector]
FLAT = Pose("arms out", (-32.0, -36.0, -32.0, -36.0))
WHITE = Ground(("white",), "plain", (1, 1, 1), (1, 1, 1), (1, 1, 1))


@dataclass(frozen=True)
class Print:
    """An emblem on the front of a garment."""

    name: str  # of EMBLEMS
    color: str  # of COLORS
    half: float  # of its width: SMALL or LARGE


@dataclass(frozen=True)
class Garment:
    """A piece of clothing as its words; as the subject of a scene it lies flat, seen from above.

    Its words say neither how long it is nor what is printed on it.
    """

    kind: str  # of GARMENTS or HATS
    color: str  # of COLORS
    finish: str  # of FINISHES
    sleeve: float | None = None  # of SLEEVES
    hem: float | None = None  # of HEMS
    waist: float = WAIST  # of a skirt, its upper end
    mark: Print | None = None

    def parts(self, pose: Pose) -> list[Part]:
        """Make its solids on a body in this pose."""
        parts = PIECES[self.kind](self, pose.joints(), COLORS[self.color])
        if self.mark is not None:
            middle = -0.34 if self.kind in LOWERS else 0.06
            worn = COLORS[self.mark.color]
            first = 2 if self.kind == "skirt" else 1  # after its cone, else after its trunk
            parts.insert(first, emblem(self.mark.name, (0, 0, middle), self.mark.half, worn))
        return parts

    def arms(self) -> float:
        """Say how long its sleeves are."""
        return SLEEVES[self.kind][0] if self.sleeve is None else self.sleeve

    def end(self) -> float:
        """Say where its legs or its skirt end."""
        return HEMS[self.kind][0] if self.hem is None else self.hem

    def rows(self, pose: Pose) -> Array:
        """[P, WIDTH] the garment on a body in this pose."""
        finish, second = FINISHES.index(self.finish), second_color(self.color)
        rows = pack(self.parts(pose), finish=finish, second=second)
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


def tailored(rng: Rng, garment: Garment) -> Garment:
    """Give a garment a length, and in half of those that are plain an emblem or a print."""
    kind = garment.kind
    sleeve, hem = (
        float(rng.choice(lengths[kind])) if kind in lengths else None for lengths in (SLEEVES, HEMS)
    )
    marked = garment.finish == "plain" and kind not in ("trousers", "shorts", *HATS)
    mark = random_print(rng, garment.color) if marked and rng.uniform() < 0.5 else None
    return replace(garment, sleeve=sleeve, hem=hem, mark=mark)


def random_print(rng: Rng, ground: str) -> Print:
    """Choose an emblem or a print that is easily seen on this one of COLORS."""
    apart = {name: math.dist(color, COLORS[ground]) for name, color in COLORS.items()}
    color = choose(rng, [name for name in COLORS if apart[name] > 0.6])
    return Print(choose(rng, EMBLEMS), color, SMALL if rng.uniform() < 0.5 else LARGE)


def tubes(
    joints: Joints, names: Sequence[str], length: float, radii: Vector, color: Vector
) -> list[Part]:
    """Make both sleeves or legs along three joints; length 0..1 ends on the first bone, 1..2 after.

    radii: at the first joint, at the end on the first bone, and at that on the second.
    """
    parts: list[Part] = []
    for side in SIDES if length else ():
        first, middle, last = (joints[f"{side} {name}"] for name in names)
        end = between(first, middle, min(length, 1.0))
        parts.append(limb(first, end, radii[0], radii[1], color, patterned=True))
        if length > 1:
            end = between(middle, last, length - 1)
            parts.append(limb(middle, end, radii[1], radii[2], color, patterned=True))
    return parts


def shirt(joints: Joints, color: Vector, sleeve: float) -> list[Part]:
    """Make a trunk with sleeves of a length as in `tubes`."""
    trunk = box((0, 0, 0.03), (0.155, 0.235, 0.27), rounding=0.11, **main(color))
    return [trunk, *tubes(joints, ARM, sleeve, (0.11, 0.105, 0.095), color)]


def trousers(joints: Joints, color: Vector, length: float) -> list[Part]:
    """Make hips with legs of a length as in `tubes`."""
    hips = box((0, 0, -0.2), (0.145, 0.215, 0.1), rounding=0.07, **main(color))
    return [hips, *tubes(joints, LEG, length, (0.12, 0.12, 0.115), color)]


def skirt(color: Vector, bottom: float, top: float = WAIST) -> list[Part]:
    """Make a waist at a height and a cone from there to another."""
    waist = box((0, 0, top - 0.02), (0.16, 0.22, 0.06), rounding=0.05, **main(color))
    half, wide = (top - bottom) / 2, min(0.4, 0.2 + 0.2 * (WAIST - bottom) / 0.44)
    return [waist, rod((0, 0, top - half), wide, 0.2, half, **main(color))]


def hat(kind: str, color: Vector) -> list[Part]:
    """Make one of HATS on a head, over hair that lies close to it."""
    _, _, z = HEAD
    if kind == "top hat":
        return [rod((-0.04, 0, z + 0.2), 0.42, 0.42, 0.025, **main(color)),
                rod((-0.04, 0, z + 0.36), 0.29, 0.31, 0.17, **main(color))]  # fmt: skip
    dome = ball((-0.05, 0, z + 0.1), (0.31, 0.34, 0.29), **main(color))
    below = box((0, 0, z - 0.35), (1, 1, 0.5), color, cut=True)
    if kind == "cap":
        return [dome, below, ball((0.26, 0, z + 0.17), (0.24, 0.23, 0.04), **main(color))]
    band = rod((-0.05, 0, z + 0.19), 0.335, 0.33, 0.05, rounding=0.04, **main(color))
    return [dome, below, band, ball((-0.05, 0, z + 0.42), 0.08, color)]


PIECES: dict[str, Callable[[Garment, Joints, Vector], list[Part]]] = {
    "shirt": lambda g, j, c: shirt(j, c, g.arms()),
    "sweater": lambda g, j, c: [
        *shirt(j, c, g.arms()), rod((0, 0, 0.3), 0.13, 0.12, 0.05, **main(c)),
    ],
    "trousers": lambda g, j, c: trousers(j, c, g.end()),
    "shorts": lambda g, j, c: trousers(j, c, g.end()),
    "skirt": lambda g, j, c: skirt(c, g.end(), g.waist),
    "dress": lambda g, j, c: [*shirt(j, c, g.arms()), *skirt(c, g.end())],
    **dict.fromkeys(HATS, lambda g, j, c: hat(g.kind, c)),
}  # fmt: skip
