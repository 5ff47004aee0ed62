"""Whole toy persons: an identity, garments, a pose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from threed.toybox.world import poses
from threed.toybox.world.captions import a
from threed.toybox.world.chance import Rng, choose
from threed.toybox.world.draw import Array
from threed.toybox.world.garments import CLASS, LOWERS, UPPERS, Garment, random_garment
from threed.toybox.world.paint import DARK, LIGHT
from threed.toybox.world.parts import Part, Vector, ball, box, pack, place, ring, rod
from threed.toybox.world.poses import ARM, HEAD, LEG, Pose, limb
from threed.toybox.world.scenes import Point, Scene, Thing, random_camera, staged

SKINS: dict[str, Vector] = {
    "pale": (0.97, 0.83, 0.73), "light": (0.91, 0.72, 0.56), "tan": (0.78, 0.56, 0.39),
    "brown": (0.58, 0.38, 0.25), "dark": (0.36, 0.23, 0.16),
}  # fmt: skip
HAIR_COLORS: dict[str, Vector] = {
    "black": (0.09, 0.08, 0.08), "brown": (0.36, 0.2, 0.1), "blonde": (0.93, 0.76, 0.36),
    "red": (0.76, 0.27, 0.09), "grey": (0.68, 0.68, 0.7),
}  # fmt: skip
HAIRS = ("bald", "short", "long", "curly", "bun", "spiky")
EYES: dict[str, Vector] = {
    "brown": (0.3, 0.17, 0.08), "blue": (0.15, 0.42, 0.8), "green": (0.16, 0.5, 0.24),
}  # fmt: skip
BEARDS = ("none", "beard", "moustache")
LIPS = (0.62, 0.16, 0.16)
# how far behind the surface a keypoint may lie: the face is hidden from behind, an arm by the body,
# a leg by no skirt
REACH = {"nose": 0.1, "right eye": 0.08, "left eye": 0.08, "neck": 0.3}
IN_ARM, IN_LEG = 0.17, 0.45
SCALE, DROP = 0.9, -0.02  # of a person, and where the origin moves along z over it


@dataclass(frozen=True)
class Identity:
    """What makes a person the same person in another pose and other clothes."""

    skin: str  # of SKINS
    hair: str  # of HAIRS
    hair_color: str  # of HAIR_COLORS; the beard's too
    eyes: str  # of EYES
    glasses: bool
    beard: str  # of BEARDS
    width: float  # of the head, 0.9 to 1.1

    def vector(self) -> Array:
        """[24] one-hot for the names, 1 for glasses, the width from -1 to 1."""
        choices = ((self.skin, SKINS), (self.hair, HAIRS), (self.hair_color, HAIR_COLORS),
                   (self.eyes, EYES), (self.beard, BEARDS))  # fmt: skip
        flags = [float(value == name) for value, names in choices for name in names]
        return np.array([*flags, float(self.glasses), 10 * (self.width - 1)], np.float32)

    def words(self) -> list[str]:
        """List what may be said: "short brown hair", "glasses", "a beard"."""
        bun = f"{a(self.hair_color)} bun"
        hair = bun if self.hair == "bun" else f"{self.hair} {self.hair_color} hair"
        found = [hair] * (self.hair != "bald") + ["glasses"] * self.glasses
        return found + [a(self.beard)] * (self.beard != "none")


@dataclass(frozen=True)
class Figure:
    """A person. With a dress as the upper garment there is no lower one."""

    identity: Identity
    upper: Garment
    lower: Garment | None
    pose: Pose

    def things(self) -> tuple[Thing, ...]:
        """Place the person in the unit ball."""
        scale, shift = SCALE, (0.0, 0.0, SCALE * DROP)
        joints = self.pose.joints()
        pieces = [(label, pack((part,))) for label, part in self._body()]
        pieces += [(CLASS[g.kind], g.rows(self.pose)) for g in self.worn()]
        rows = place(np.concatenate([rows for _, rows in pieces]), scale, shift)
        labels = tuple(label for label, rows in pieces for _ in rows)
        points = tuple(_point(name, joints[name], scale, shift) for name in poses.KEYPOINTS)
        return (Thing("person", rows, labels, points, poses.BONES),)

    def words(self, rng: Rng) -> str:
        """Say it: "a person with long blonde hair in a red shirt and blue trousers, waving"."""
        person = "bald person" if self.identity.hair == "bald" else "person"
        text = a(person)
        face = self.identity.words() if rng.uniform() < 0.75 else []
        text += f" with {listed(face)}" if face else ""
        clothes = [self.upper, *([self.lower] if self.lower else [])]
        if rng.uniform() < 0.9:
            text += " wearing " if rng.uniform() < 0.4 else " in "
            text += listed([garment.words(rng) for garment in clothes])
        if rng.uniform() < 0.5:
            held = self.pose.name in ("arms out", "hands on hips")
            text += f", {'with ' if held else ''}{self.pose.name}"
        return text

    def worn(self) -> tuple[Garment, ...]:
        """List the garments."""
        return (self.upper, self.lower) if self.lower else (self.upper,)

    def _body(self) -> Iterator[tuple[str, Part]]:
        skin = SKINS[self.identity.skin]
        joints = self.pose.joints()
        yield "skin", rod((0, 0, 0.32), 0.1, 0.1, 0.1, skin)
        yield "skin", box((0, 0, 0.02), (0.13, 0.2, 0.25), skin, rounding=0.1)
        yield "skin", box((0, 0, -0.2), (0.12, 0.19, 0.08), skin, rounding=0.06)
        for side in poses.SIDES:
            shoulder, elbow, wrist = (joints[f"{side} {name}"] for name in ARM)
            hip, knee, ankle = (joints[f"{side} {name}"] for name in LEG)
            yield "skin", limb(shoulder, elbow, 0.08, 0.075, skin)
            yield "skin", limb(elbow, wrist, 0.075, 0.065, skin)
            yield "skin", ball(wrist, 0.085, skin)
            yield "skin", limb(hip, knee, 0.1, 0.09, skin)
            yield "skin", limb(knee, ankle, 0.09, 0.08, skin)
            x, y, z = ankle
            yield "shoes", ball((x + 0.06, y, z - 0.05), (0.17, 0.105, 0.09), DARK)
        yield from face_parts(self.identity)


def face_parts(identity: Identity) -> Iterator[tuple[str, Part]]:
    """Yield the parts of the head, each with its class before it."""
    skin, hair, w = SKINS[identity.skin], HAIR_COLORS[identity.hair_color], identity.width
    dark = (skin[0] * 0.85, skin[1] * 0.78, skin[2] * 0.75)
    _, _, z = HEAD
    mouth, front = ((0.75, 0.3, 0.28), 0.285) if identity.beard == "beard" else (LIPS, 0.235)
    yield "skin", ball(HEAD, (0.27, 0.27 * w, 0.3), skin)
    yield "skin", ball((0.27, 0, z - 0.04), (0.06, 0.045, 0.05), dark)
    for s in (-1, 1):
        yield "skin", ball((0, s * 0.275 * w, z - 0.02), (0.05, 0.05, 0.075), skin)
        yield "eyes", ball((0.225, s * 0.105, z + 0.05), (0.05, 0.075, 0.07), LIGHT)
        yield "eyes", ball((0.268, s * 0.1, z + 0.05), (0.02, 0.045, 0.048), EYES[identity.eyes])
    yield from (("hair", part) for part in hair_parts(identity.hair, hair, w))
    if identity.beard == "beard":
        yield "beard", ball((0.05, 0, z - 0.19), (0.24, 0.235 * w, 0.17), hair)
    elif identity.beard == "moustache":
        yield "beard", ball((0.25, 0, z - 0.1), (0.05, 0.13, 0.035), hair)
    yield "skin", ball((front - 0.02, 0, z - 0.165), (0.025, 0.085, 0.024), mouth)
    if identity.glasses:
        for s in (-1, 1):
            rim, turn = (0.3, s * 0.115, z + 0.05), (0, 90, 0)
            yield "glasses", ring(rim, 0.092, 0.022, DARK, turn_deg=turn)
            yield "glasses", box((0.15, s * 0.275 * w, z + 0.06), (0.15, 0.015, 0.02), DARK)
        yield "glasses", box((0.3, 0, z + 0.06), (0.018, 0.04, 0.018), DARK)


def hair_parts(hair: str, color: Vector, w: float) -> Iterator[Part]:
    """Yield the parts of hair, of HAIRS, on a head of this width."""
    _, _, z = HEAD
    if hair != "bald":
        yield ball((-0.07, 0, z + 0.07), (0.27, 0.292 * w, 0.28), color)
    if hair == "long":
        yield ball((-0.12, 0, z - 0.14), (0.2, 0.34 * w, 0.42), color)
    elif hair == "curly":
        yield ball((-0.09, 0, z + 0.14), (0.3, 0.36, 0.32), color)
        yield from (ball((-0.06, s * 0.3, z - 0.02), (0.2, 0.14, 0.2), color) for s in (-1, 1))
    elif hair == "bun":
        yield ball((-0.07, 0, z + 0.42), 0.15, color)
    elif hair == "spiky":
        for s in (-2, -1, 0, 1, 2):
            spike = (-0.05, s * 0.105, z + 0.36 - 0.035 * s * s)
            yield rod(spike, 0.08, 0.01, 0.12, color, turn_deg=(-14.0 * s, 0, 0))


def random_identity(rng: Rng) -> Identity:
    """Make up any person."""
    skin, hair = choose(rng, SKINS), choose(rng, HAIRS, (0.1, 0.2, 0.2, 0.18, 0.16, 0.16))
    hair_color, eyes, glasses = choose(rng, HAIR_COLORS), choose(rng, EYES), rng.uniform() < 0.4
    beard, width = choose(rng, BEARDS, (0.6, 0.25, 0.15)), float(rng.uniform(0.92, 1.08))
    return Identity(skin, hair, hair_color, eyes, bool(glasses), beard, width)


def random_figure(rng: Rng, identity: Identity | None = None) -> Figure:
    """Dress a person of this identity or any; a dress in a fifth."""
    identity = identity or random_identity(rng)
    upper = random_garment(rng, ("dress",) if rng.uniform() < 0.2 else UPPERS)
    lower, pose = random_garment(rng, LOWERS), poses.random_pose(rng)
    return Figure(identity, upper, None if upper.kind == "dress" else lower, pose)


def random_figure_scene(rng: Rng) -> Scene:
    """Stage a random figure, seen from about the front."""
    return figure_scene(rng, random_figure(rng))


def figure_scene(rng: Rng, figure: Figure) -> Scene:
    """Stage a figure, seen from about the front, under a random light, on a random ground."""
    return staged(rng, figure, random_camera(rng, (-28, 28), (-4, 14), (0.97, 1.05)))


def _point(name: str, place: Vector, scale: float, shift: Vector) -> Point:
    """A joint of a person that is moved, and how far behind the surface it may lie."""
    x, y, z = (scale * value + by for value, by in zip(place, shift))
    reach = REACH.get(name, IN_LEG if name.rpartition(" ")[2] in LEG else IN_ARM)
    return Point(name, (x, y, z), scale * reach)


def listed(words: list[str]) -> str:
    """List words: "glasses and a beard"."""
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
