"""One toy, with a hat or without, and two toys beside each other or one on the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from threed.toybox.world import draw
from threed.toybox.world.captions import a, toy_words
from threed.toybox.world.chance import Rng, choose, choose_other
from threed.toybox.world.draw import Array
from threed.toybox.world.parts import Vector, extents, is_solid, place
from threed.toybox.world.scenes import Point, Scene, Thing, random_camera, staged
from threed.toybox.world.toys import COLORS, KINDS, random_finish, random_toy

BESIDE, ABOVE = "beside", "above"
# tops on which another toy can stand
BROAD = ("table", "cube", "hat", "mug", "donut", "mushroom", "car", "ball", "cupcake", "apple",
         "television", "fish")  # fmt: skip
GAP = 0.06  # between two toys, world units
FIT = 1.08  # radius of the ball in which the corners of a pair lie; its surface is within it


@dataclass(frozen=True)
class Single:
    """A toy as its words and a seed for the rest, so that one word can change alone."""

    kind: str
    color: str
    finish: str
    seed: int  # decides the proportions
    hat: str | None = None  # the colour of the hat that it wears
    scale: float = 1.0
    turn_deg: float = 0.0
    lift: float = 0.0  # of its middle, world units

    def thing(self, shift: Vector | None = None) -> Thing:
        """Place the toy, or move its middle to `shift`."""
        toy = random_toy(np.random.default_rng(self.seed), self.kind, self.color, self.finish)
        middle = shift or (0.0, 0.0, self.lift)
        rows = place(toy.packed(), self.scale, middle, self.turn_deg)
        labels = [self.kind] * len(rows)
        points = toy_points(rows)
        if self.hat:
            hat = hat_on(rows, self.hat, self.seed)
            rows, labels = np.concatenate([rows, hat]), labels + ["hat"] * len(hat)
        return Thing(f"{self.color} {self.kind}", rows, tuple(labels), points)

    def things(self) -> tuple[Thing, ...]:
        """Place the toy alone."""
        return (self.thing(),)

    def words(self, rng: Rng, drop: float = 0.08) -> str:
        """Say it: "a striped blue teapot with a red hat"; `drop` as in toy_words."""
        text = a(toy_words(rng, self.kind, self.color, self.finish, drop))
        return f"{text} with {a(self.hat)} hat" if self.hat else text


@dataclass(frozen=True)
class Pair:
    """Two toys: `first` to the left of `second`, or on top of it, seen from about the front."""

    first: Single
    second: Single
    relation: str  # BESIDE or ABOVE

    @property
    def toys(self) -> tuple[Single, Single]:
        """Both, in their order."""
        return self.first, self.second

    def things(self) -> tuple[Thing, ...]:
        """Put both at their places, together as large as fits."""
        one, two = (extents(toy.thing().rows) for toy in self.toys)
        (thick, wide, high), (deep, broad, tall) = one[1] - one[0], two[1] - two[0]
        if self.relation == BESIDE:  # y is to the right, both on one floor
            width, height = wide + broad + GAP, max(high, tall)
            places = ((-width / 2 - one[0, 1], -height / 2 - one[0, 2]),
                      (width / 2 - two[1, 1], -height / 2 - two[0, 2]))  # fmt: skip
        else:
            width, height = max(wide, broad), high + tall
            places = ((0.0, height / 2 - one[1, 2]), (0.0, -height / 2 - two[0, 2]))
        fit = 2 * FIT / float(np.linalg.norm((max(thick, deep), width, height)))
        return tuple(
            replace(toy, scale=fit * toy.scale).thing((0.0, fit * float(y), fit * float(z)))
            for toy, (y, z) in zip(self.toys, places)
        )

    def words(self, rng: Rng) -> str:
        """Say it from left to right, or with their places: "a red ball and a blue cube"."""
        one, two = (toy.words(rng, drop=0.03) for toy in self.toys)
        if self.relation == ABOVE:
            return f"{one} on top of {two}" if rng.uniform() < 0.8 else f"{one} on {two}"
        ways = [f"{one} and {two}", f"{one} next to {two}", f"{one} to the left of {two}"]
        ways += [f"{two} to the right of {one}", f"{one} on the left and {two} on the right"]
        return choose(rng, ways, (0.5, 0.14, 0.14, 0.14, 0.08))


def toy_points(rows: Array) -> tuple[Point, ...]:
    """Put a point inside each solid: its middle, or a place on its ring."""
    found = []
    for index, row in enumerate(rows):
        if not is_solid(row[None])[0]:
            continue
        middle = row[draw.CENTER : draw.CENTER + 3].copy()
        if row[draw.SHAPE] == draw.TORUS:
            middle += row[draw.ROTATION : draw.ROTATION + 3] * row[draw.SIZE]
        x, y, z = middle.tolist()
        found.append(Point(f"part {index}", (x, y, z), float(row[draw.BOUND])))
    return tuple(found)


def hat_on(rows: Array, color: str, seed: int) -> Array:
    """[P, WIDTH] a hat that stands on the highest solid of a toy."""
    tops = [extents(row[None])[1, 2] for row in rows]
    best = int(np.argmax(tops))
    low, high = extents(rows)
    scale = 0.34 + 0.17 * float(high[:2].max() - low[:2].min())
    hat = random_toy(np.random.default_rng([seed, 1]), "hat", color, "plain").packed()
    x, y = rows[best, draw.CENTER : draw.CENTER + 2].tolist()
    return place(hat, scale, (x, y, float(tops[best]) - scale * float(extents(hat)[0, 2]) - 0.03))


def random_single(rng: Rng, kinds: Sequence[str] = KINDS) -> Single:
    """Choose a toy of these kinds, without a hat."""
    kind, color, finish = choose(rng, kinds), choose(rng, COLORS), random_finish(rng)
    return Single(kind, color, finish, int(rng.integers(2**31)))


def in_hat(toy: Single, color: str) -> Single:
    """Put a hat of this colour on a toy, and make both smaller so that they fit."""
    low, high = extents(replace(toy, hat=color).thing().rows)[:, 2].tolist()
    scale = min(1.75 / (high - low), 1.0) * toy.scale
    return replace(toy, hat=color, scale=scale, lift=-scale * (low + high) / (2 * toy.scale))


def random_toy_scene(rng: Rng) -> Scene:
    """Stage one toy, in a hat in a quarter of them, from any side, on any ground."""
    toy = random_single(rng)
    if rng.uniform() < 0.25 and toy.kind != "hat":
        toy = in_hat(toy, choose(rng, COLORS))
    return staged(rng, toy, random_camera(rng, (-180, 180), (-10, 45)))


def random_pair(rng: Rng) -> Pair:
    """Choose two toys of unlike kinds and colours; in three of ten one stands on the other."""
    above = rng.uniform() < 0.3
    first = random_single(rng)
    under = BROAD if above else KINDS
    second = random_single(rng, [kind for kind in under if kind != first.kind])
    sizes, turns = rng.uniform(0.8, 1, 2), rng.uniform(-35, 35, 2)
    second = replace(second, color=choose_other(rng, COLORS, first.color))
    placed = zip((first, second), sizes.tolist(), turns.tolist())
    one, two = (replace(toy, scale=size, turn_deg=turn) for toy, size, turn in placed)
    return Pair(one, two, ABOVE if above else BESIDE)


def random_pair_scene(rng: Rng) -> Scene:
    """Stage a random pair, seen from about the front."""
    return staged(rng, random_pair(rng), random_camera(rng, (-15, 15), (0, 30), (0.95, 1.05)))
