"""The recipes of the toys: each draws its proportions and returns its parts.

A recipe gets a random generator and the main colour; parts in the main colour also take the
finish. The front is +x, up is +z; the size is free, since the world scales every toy to fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from threed.toybox.world import kinds_with_front as fronted
from threed.toybox.world.chance import Rng
from threed.toybox.world.paint import CLAY, CREAM, DARK, GLASS, GREY, LIGHT, WOOD, against, main
from threed.toybox.world.parts import Part, Vector, ball, box, legs, ring, rod

Build = Callable[[Rng, Vector], Iterator[Part]]  # (chance, main colour) -> parts


def mug(r: Rng, c: Vector) -> Iterator[Part]:
    """A hollow cup with a handle at its left side."""
    w, h = r.uniform(0.42, 0.5), r.uniform(0.46, 0.56)
    inside = (c[0] * 0.7, c[1] * 0.7, c[2] * 0.7)
    yield ring((0, w + 0.08, 0), h * 0.52, 0.085, c, turn_deg=(90, 0, 90), name="handle")
    yield rod((0, 0, 0), w, w, h, **main(c), name="body")
    yield rod((0, 0, 0.1), w - 0.08, w - 0.08, h, inside, cut=True)


def apple(r: Rng, c: Vector) -> Iterator[Part]:
    """A fruit with a stem and one leaf."""
    s = r.uniform(0.9, 1.05)
    yield ball((0, 0, 0), (0.6, 0.6, 0.54 * s), **main(c))
    yield rod((0, 0, 0.62), 0.04, 0.05, 0.18, WOOD)
    yield ball((0, 0.17, 0.68), (0.09, 0.19, 0.05), (0.20, 0.55, 0.20), turn_deg=(25, 0, 0))


def table(r: Rng, c: Vector) -> Iterator[Part]:
    """A wide top on four legs."""
    w, d, h = r.uniform(0.7, 0.85), r.uniform(0.5, 0.6), r.uniform(0.5, 0.62)
    yield from legs(d - 0.1, w - 0.1, h / 2, 0.065, c)
    yield box((0, 0, 0), (d, w, 0.075), **main(c))


def mushroom(r: Rng, c: Vector) -> Iterator[Part]:
    """A cap in the main colour on a pale stem."""
    w = r.uniform(0.55, 0.68)
    yield rod((0, 0, -0.3), 0.2, 0.15, 0.34, CREAM)
    yield ball((0, 0, 0.05), (w, w, 0.42), **main(c))
    yield box((0, 0, -0.42), (1, 1, 0.4), CREAM, cut=True)


def tree(r: Rng, c: Vector) -> Iterator[Part]:
    """Three stacked cones on a trunk."""
    w = r.uniform(0.46, 0.56)
    yield rod((0, 0, -0.55), 0.12, 0.1, 0.22, WOOD)
    for i in range(3):
        yield rod((0, 0, -0.1 + 0.33 * i), w * (1 - 0.22 * i), 0.06, 0.28, **main(c))


def rocket(r: Rng, c: Vector) -> Iterator[Part]:
    """A body with a grey nose, four fins and a window."""
    h = r.uniform(0.5, 0.6)
    turns = np.arange(4) * np.pi / 2
    fins = [((0.3 * np.cos(a), 0.3 * np.sin(a), -h + 0.02), np.degrees(a)) for a in turns]
    yield rod((0, 0, 0), 0.26, 0.26, h, **main(c))
    yield rod((0, 0, h + 0.2), 0.26, 0.02, 0.22, GREY)
    yield ball((0.24, 0, 0.2), (0.06, 0.12, 0.12), GLASS)
    yield rod((0, 0, -h - 0.08), 0.2, 0.12, 0.1, DARK)
    yield from (box(at, (0.17, 0.03, 0.2), GREY, turn_deg=(0, 0, float(turn))) for at, turn in fins)


def sword(r: Rng, c: Vector) -> Iterator[Part]:
    """A pale blade with a point; hilt and guard in the main colour."""
    h = r.uniform(0.6, 0.7)
    yield box((0, 0, 0.25), (0.035, 0.105, h), (0.78, 0.80, 0.84))
    yield box((0, 0, 0.25 + h), (0.03, 0.074, 0.074), (0.78, 0.80, 0.84), turn_deg=(45, 0, 0))
    yield box((0, 0, -h + 0.22), (0.08, 0.32, 0.07), **main(c))
    yield rod((0, 0, -h - 0.02), 0.075, 0.075, 0.22, **main(c))
    yield ball((0, 0, -h - 0.26), 0.11, c)


def bottle(r: Rng, c: Vector) -> Iterator[Part]:
    """A body, shoulders, a thin neck and a cork."""
    h = r.uniform(0.42, 0.5)
    yield rod((0, 0, -0.2), 0.29, 0.29, h, **main(c), rounding=0.05)
    yield rod((0, 0, h - 0.2 + 0.1), 0.29, 0.1, 0.13, c)
    yield rod((0, 0, h + 0.16), 0.1, 0.1, 0.2, c)
    yield rod((0, 0, h + 0.4), 0.085, 0.095, 0.06, CREAM)


def lamp(r: Rng, c: Vector) -> Iterator[Part]:
    """A shade in the main colour on a thin grey stand."""
    w = r.uniform(0.42, 0.52)
    yield rod((0, 0, -0.62), 0.32, 0.28, 0.05, GREY)
    yield rod((0, 0, -0.2), 0.05, 0.05, 0.45, GREY)
    yield rod((0, 0, 0.38), w, w * 0.5, 0.3, **main(c))


def donut(r: Rng, c: Vector) -> Iterator[Part]:
    """A ring of dough with icing in the main colour."""
    tube = r.uniform(0.22, 0.26)
    yield ring((0, 0, -0.03), 0.5, tube, (0.80, 0.58, 0.34))
    yield ring((0, 0, 0.05), 0.5, tube * 0.97, **main(c))


def cactus(r: Rng, c: Vector) -> Iterator[Part]:
    """A column with two arms in a clay pot."""
    h = r.uniform(0.45, 0.52)
    yield rod((0, 0, -0.62), 0.22, 0.32, 0.2, CLAY)
    yield rod((0, 0, -0.42), 0.36, 0.36, 0.05, CLAY)
    yield rod((0, 0, 0.08), 0.19, 0.19, h, **main(c), rounding=0.17)
    yield rod((0, 0.3, 0.02), 0.1, 0.1, 0.16, c, rounding=0.09, turn_deg=(90, 0, 0))
    yield rod((0, 0.44, 0.2), 0.1, 0.1, 0.26, c, rounding=0.09)
    yield rod((0, -0.3, -0.1), 0.1, 0.1, 0.16, c, rounding=0.09, turn_deg=(90, 0, 0))
    yield rod((0, -0.44, 0.05), 0.1, 0.1, 0.22, c, rounding=0.09)


def cupcake(r: Rng, c: Vector) -> Iterator[Part]:
    """A brown case, icing in the main colour in two swirls, a cherry."""
    w = r.uniform(0.48, 0.54)
    yield rod((0, 0, -0.35), 0.34, 0.47, 0.26, (0.45, 0.27, 0.15))
    yield ball((0, 0, 0.0), (w, w, 0.24), **main(c))
    yield ball((0, 0, 0.2), (w * 0.68, w * 0.68, 0.22), **main(c))
    yield ball((0, 0, 0.46), 0.12, (0.85, 0.08, 0.12))


def cube(r: Rng, c: Vector) -> Iterator[Part]:
    """A box with equal sides."""
    yield box((0, 0, 0), (0.55, 0.55, 0.55), **main(c), rounding=r.uniform(0.02, 0.06))


def sphere(r: Rng, c: Vector) -> Iterator[Part]:
    """A ball."""
    yield ball((0, 0, 0), 0.62, **main(c))


def hat(r: Rng, c: Vector) -> Iterator[Part]:
    """A top hat: a wide brim, a crown and a pale band."""
    h, w = r.uniform(0.32, 0.42), r.uniform(0.36, 0.42)
    yield rod((0, 0, -h), 0.72, 0.72, 0.05, **main(c))
    yield rod((0, 0, 0), w, w * 1.06, h, **main(c))
    yield rod((0, 0, -h + 0.13), w + 0.025, w + 0.025, 0.09, LIGHT if sum(c) < 2.2 else DARK)


def teapot(r: Rng, c: Vector) -> Iterator[Part]:
    """A round pot with lid, handle at one side and spout at the other."""
    s = r.uniform(0.4, 0.45)
    yield ring((0, 0.52, 0), 0.24, 0.065, c, turn_deg=(90, 0, 90))
    yield ball((0, 0, 0), (0.5, 0.5, s), **main(c))
    yield rod((0, -0.62, 0.1), 0.12, 0.07, 0.27, c, turn_deg=(52, 0, 0))
    yield rod((0, 0, s - 0.02), 0.24, 0.2, 0.05, c)
    yield ball((0, 0, s + 0.1), 0.085, against(c))


def boat(r: Rng, c: Vector) -> Iterator[Part]:
    """A hull with a mast and a pale sail."""
    h = r.uniform(0.55, 0.68)
    yield ball((0, 0, -0.2), (0.75, 0.34, 0.36), **main(c))
    yield box((0, 0, 0.22), (1, 1, 0.36), WOOD, cut=True)
    yield rod((0.05, 0, 0.15), 0.035, 0.035, h, WOOD)
    yield box((-0.22, 0, 0.28), (0.24, 0.025, 0.34), LIGHT)
    yield box((0.28, 0, 0.2), (0.16, 0.025, 0.25), LIGHT)


RECIPES: dict[str, Build] = {
    "mug": mug, "apple": apple, "chair": fronted.chair, "table": table, "mushroom": mushroom,
    "house": fronted.house, "tree": tree, "snowman": fronted.snowman, "rocket": rocket,
    "car": fronted.car, "sword": sword, "bottle": bottle, "lamp": lamp, "donut": donut,
    "cactus": cactus, "cupcake": cupcake, "cube": cube, "ball": sphere, "hat": hat,
    "duck": fronted.duck, "teapot": teapot, "boat": boat, "robot": fronted.robot,
    "airplane": fronted.airplane, "bear": fronted.bear, "television": fronted.television,
    "clock": fronted.clock, "fish": fronted.fish,
}  # fmt: skip
FRONTED = tuple(kind for kind, build in RECIPES.items() if build.__module__ == fronted.__name__)
"""Kinds whose front cannot be mistaken."""
