"""Faces of toy persons at close sight: an identity with its numbers, and how it looks today."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from threed.toybox.world.chance import Rng, choose
from threed.toybox.world.draw import Array
from threed.toybox.world.figures import EYES, HAIR_COLORS, SKINS, Identity, random_identity
from threed.toybox.world.paint import DARK, LIGHT
from threed.toybox.world.parts import Part, Vector, ball, box, ring, rod
from threed.toybox.world.poses import SIDES

NUMBERS = (
    "length", "jaw", "skin tone", "hair tone", "eye gap", "eye size", "eye height", "brow width",
    "brow slant", "nose length", "nose width", "mouth width", "mouth height", "lips", "ears",
    "cheeks",
)  # fmt: skip
EXPRESSIONS = ("calm", "smiling", "laughing", "sad", "angry", "surprised", "winking")
BROWS = {"sad": 16.0, "angry": -22.0, "surprised": 6.0}  # degrees, outer ends down is positive
FACEPOINTS = ("right eye", "left eye", "nose", "right mouth corner", "left mouth corner")
Named = Iterator[tuple[str, Part]]


@dataclass(frozen=True)
class Face:
    """What stays the same of a person in all pictures: what words can say, and NUMBERS."""

    identity: Identity
    numbers: tuple[float, ...]  # one for each of NUMBERS, -1 to 1

    def vector(self) -> Array:
        """[40] the identity's vector and the numbers."""
        return np.concatenate([self.identity.vector(), np.array(self.numbers, np.float32)])

    def number(self, name: str, middle: float, reach: float) -> float:
        """Give one of NUMBERS as a size: the middle, plus or minus up to `reach`."""
        return middle + reach * self.numbers[NUMBERS.index(name)]

    def size(self) -> Vector:
        """Give the radii of the head along x, y and z."""
        wide = self.number("jaw", 0.46, 0.05) * self.identity.width
        return (0.46, wide, self.number("length", 0.54, 0.06))

    def surface(self, y: float, z: float, out: float = 0.0) -> Vector:
        """Find the place on the front of the head at y and z, moved out along x."""
        a, b, c = self.size()
        return (a * math.sqrt(max(1 - (y / b) ** 2 - (z / c) ** 2, 0.0)) + out, y, z)

    def points(self) -> dict[str, Vector]:
        """Place FACEPOINTS on a calm face that looks along +x."""
        eye, up = self.number("eye gap", 0.19, 0.035), self.number("eye height", 0.08, 0.04)
        wide, low = self.number("mouth width", 0.16, 0.05), self.number("mouth height", -0.29, 0.03)
        points = {"nose": self.surface(0, self.nose_height(), 0.1)}
        for side, sign in SIDES.items():
            points[f"{side} eye"] = self.surface(sign * eye, up)
            points[f"{side} mouth corner"] = self.surface(sign * wide, low)
        return {name: points[name] for name in FACEPOINTS}

    def nose_height(self) -> float:
        """Give the z of the nose's tip."""
        return -0.1 - self.number("nose length", 0.0, 0.05)


def random_face(rng: Rng, identity: Identity | None = None) -> Face:
    """Make up the face of any person, or of one whose words are given."""
    numbers = rng.uniform(-1, 1, len(NUMBERS)).tolist()
    return Face(identity or random_identity(rng), tuple(numbers))


def random_expression(rng: Rng) -> str:
    """Choose one of EXPRESSIONS; a third are calm."""
    rest = (1 - 1 / 3) / (len(EXPRESSIONS) - 1)
    return choose(rng, EXPRESSIONS, [1 / 3, *[rest] * (len(EXPRESSIONS) - 1)])


def head_parts(face: Face, expression: str) -> Named:
    """Yield the parts of a head around the origin that looks along +x, its class before each."""
    skin = toned(SKINS[face.identity.skin], face.number("skin tone", 0, 0.06))
    hair = toned(HAIR_COLORS[face.identity.hair_color], face.number("hair tone", 0, 0.07))
    a, b, c = face.size()
    yield "skin", ball((0, 0, 0), (a, b, c), skin)
    shade = (skin[0] * 0.86, skin[1] * 0.78, skin[2] * 0.74)
    length, width = face.number("nose length", 0.13, 0.05), face.number("nose width", 0.06, 0.022)
    tip = face.surface(0, face.nose_height(), 0.02)
    yield "skin", ball((tip[0], 0, tip[2] + length / 2), (0.07, width * 0.7, length), shade)
    yield "skin", ball((tip[0] + 0.03, 0, tip[2]), (0.07, width, 0.055), shade)
    ear = face.number("ears", 0.1, 0.03)
    blush = (min(skin[0] * 1.04, 1.0), skin[1] * 0.9, skin[2] * 0.88)
    for s in SIDES.values():
        yield "skin", ball((0, s * (b + 0.01), 0), (0.07, 0.06, ear), skin)
        if face.number("cheeks", 0, 1) > 0:
            yield "skin", ball(face.surface(s * 0.27, -0.13, -0.02), (0.025, 0.07, 0.05), blush)
    yield from _eyes(face, expression)
    yield from _brows(face, expression, hair)
    yield from _mouth(face, expression)
    yield from (("hair", part) for part in _hair(face, hair))
    yield from (("beard", part) for part in _beard(face, hair))
    if face.identity.glasses:
        yield from (("glasses", part) for part in _glasses(face))


def toned(color: Vector, by: float) -> Vector:
    """Make a colour a little brighter or darker."""
    red, green, blue = (min(max(value + by, 0.03), 1.0) for value in color)
    return (red, green, blue)


def _eyes(face: Face, expression: str) -> Named:
    size = face.number("eye size", 0.085, 0.018)
    tall = size * {"surprised": 1.1, "laughing": 0.55, "angry": 0.65}.get(expression, 0.85)
    points = face.points()
    for side in SIDES:
        x, y, z = points[f"{side} eye"]
        if expression == "winking" and side == "left":
            yield "eyes", box((x, y, z), (0.03, size, 0.016), DARK, rounding=0.012)
            continue
        yield "eyes", ball((x - 0.02, y, z), (0.06, size, tall), LIGHT)
        iris = (x + 0.02, y, z)
        yield "eyes", ball(iris, (0.035, size * 0.55, min(size * 0.55, tall)),
                           EYES[face.identity.eyes])  # fmt: skip
        yield "eyes", ball((x + 0.045, y, z), (0.02, size * 0.27, size * 0.27), DARK)


def _brows(face: Face, expression: str, hair: Vector) -> Named:
    lift = {"surprised": 0.06, "angry": -0.03}.get(expression, 0.0)
    dark = toned(hair, -0.12)
    for s in SIDES.values():
        y, z = s * face.number("eye gap", 0.19, 0.035), face.number("eye height", 0.08, 0.04)
        slant = BROWS.get(expression, 0.0) + face.number("brow slant", 2, 7)
        place = face.surface(y, z + 0.15 + lift, 0.01)
        half = (0.035, face.number("brow width", 0.1, 0.02), 0.024)
        yield "hair", box(place, half, dark, turn_deg=(-s * slant, 0, 0), rounding=0.015)


def _mouth(face: Face, expression: str) -> Named:
    lips = (0.7, 0.24, 0.22) if face.number("lips", 0, 1) > 0 else (0.56, 0.2, 0.18)
    thick = face.number("lips", 0.024, 0.008)
    wide, low = face.number("mouth width", 0.16, 0.05), face.number("mouth height", -0.29, 0.03)
    out = 0.03 if face.identity.beard == "beard" else 0.0
    if expression in ("surprised", "laughing"):
        half = (wide * 0.5, 0.085) if expression == "surprised" else (wide, 0.075)
        yield "skin", ball(face.surface(0, low, out - 0.01), (0.05, *half), (0.3, 0.06, 0.07))
        if expression == "laughing":
            teeth = face.surface(0, low + 0.035, out + 0.02)
            yield "skin", box(teeth, (0.025, wide * 0.75, 0.022), LIGHT, rounding=0.015)
        return
    bend = {"smiling": 0.075, "winking": 0.06, "sad": -0.07, "angry": -0.03}.get(expression, 0.01)
    for step in (-2, -1, 0, 1, 2):
        y, z = step / 2 * wide, low + bend * ((step / 2) ** 2 - 0.5)
        yield "skin", ball(face.surface(y, z, out), (0.03, wide * 0.33, thick), lips)


def _hair(face: Face, color: Vector) -> Iterator[Part]:
    """Yield hair as `threed.toybox.world.figures.hair_parts` has it, on a larger head."""
    hair = face.identity.hair
    a, b, c = face.size()
    if hair != "bald":
        yield ball((-0.14, 0, 0.12), (a * 1.02, b * 1.07, c * 0.95), color)
    if hair == "long":
        yield ball((-0.22, 0, -0.3), (0.34, b * 1.3, 0.75), color)
    elif hair == "curly":
        for y, z in ((0, 0.5), (0.27, 0.42), (-0.27, 0.42), (0.47, 0.2), (-0.47, 0.2),
                     (0.5, -0.08), (-0.5, -0.08)):  # fmt: skip
            yield ball((-0.1, y * b / 0.46, z), (0.26, 0.17, 0.17), color)
    elif hair == "bun":
        yield ball((-0.12, 0, c + 0.16), 0.2, color)
    elif hair == "spiky":
        for s in (-2, -1, 0, 1, 2):
            spike = (-0.02, s * 0.17, c + 0.06 - 0.05 * s * s)
            yield rod(spike, 0.13, 0.01, 0.18, color, turn_deg=(-15.0 * s, 0, 0))


def _beard(face: Face, color: Vector) -> Iterator[Part]:
    a, b, _ = face.size()
    mouth = face.number("mouth height", -0.29, 0.03)
    if face.identity.beard == "beard":
        yield ball((0.05, 0, mouth - 0.08), (a * 0.9, b * 0.88, 0.3), color)
    elif face.identity.beard == "moustache":
        for s in SIDES.values():
            place = face.surface(s * 0.08, mouth + 0.07, 0.01)
            yield ball(place, (0.05, 0.11, 0.035), color, turn_deg=(-s * 14, 0, 0))


def _glasses(face: Face) -> Iterator[Part]:
    points = face.points()
    right, left = points["right eye"], points["left eye"]
    for x, y, z in (right, left):
        yield ring((x + 0.09, y, z), 0.145, 0.024, DARK, turn_deg=(0, 90, 0))
    middle = ((right[0] + 0.1), 0.0, right[2] + 0.02)
    yield box(middle, (0.02, max(left[1] - 0.14, 0.02), 0.02), DARK)
    for s in SIDES.values():
        yield box((0.2, s * (face.size()[1] + 0.005), right[2] + 0.02), (0.2, 0.02, 0.022), DARK)
