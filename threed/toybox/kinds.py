"""The recipes of the toys: each draws its proportions and returns its parts.

A recipe gets a random generator and the main colour; parts in the main colour also take the
finish. The front is +x, up is +z; the size is free, since the world scales every toy to fit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from threed.toybox.parts import Part, Vector, ball, box, ring, rod

Rng = np.random.Generator
Recipe = Callable[[Rng, Vector], list[Part]]

DARK: Vector = (0.10, 0.10, 0.11)
LIGHT: Vector = (0.95, 0.95, 0.93)
GREY: Vector = (0.55, 0.56, 0.58)
WOOD: Vector = (0.50, 0.32, 0.18)
LEAF: Vector = (0.20, 0.55, 0.20)
CLAY: Vector = (0.75, 0.42, 0.28)
CREAM: Vector = (0.93, 0.85, 0.70)
ORANGE: Vector = (0.95, 0.50, 0.10)
GLASS: Vector = (0.60, 0.80, 0.92)


def _main(color: Vector) -> dict[str, object]:
    return {"color": color, "patterned": True}


def mug(r: Rng, c: Vector) -> list[Part]:
    """A hollow cup with a handle at its left side."""
    w, h = r.uniform(0.42, 0.5), r.uniform(0.46, 0.56)
    return [
        ring((0, w + 0.08, 0), h * 0.52, 0.085, c, turn_deg=(90, 0, 90), name="handle"),
        rod((0, 0, 0), w, w, h, **_main(c), name="body"),  # type: ignore[arg-type]
        rod((0, 0, 0.1), w - 0.08, w - 0.08, h, _shade(c, 0.7), cut=True),
    ]


def _shade(c: Vector, by: float) -> Vector:
    return (c[0] * by, c[1] * by, c[2] * by)


def _against(c: Vector) -> Vector:
    """Dark on a bright colour and light on a dark one: eyes and knobs that can be seen."""
    return DARK if sum(c) > 0.8 else LIGHT


def apple(r: Rng, c: Vector) -> list[Part]:
    """A fruit with a stem and one leaf."""
    s = r.uniform(0.9, 1.05)
    return [
        ball((0, 0, 0), (0.6, 0.6, 0.54 * s), **_main(c)),  # type: ignore[arg-type]
        rod((0, 0, 0.62), 0.04, 0.05, 0.18, WOOD),
        ball((0, 0.17, 0.68), (0.09, 0.19, 0.05), LEAF, turn_deg=(25, 0, 0)),
    ]


def chair(r: Rng, c: Vector) -> list[Part]:
    """A seat on four legs; the back rest stands at the back."""
    w, h = r.uniform(0.38, 0.46), r.uniform(0.35, 0.45)
    legs = [
        box((sx * (w - 0.07), sy * (w - 0.07), -h / 2), (0.06, 0.06, h / 2), c)
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
    return [
        *legs,
        box((0, 0, 0), (w, w, 0.07), **_main(c)),  # type: ignore[arg-type]
        box((-w + 0.06, 0, r.uniform(0.4, 0.5)), (0.06, w, 0.48), **_main(c)),  # type: ignore[arg-type]
    ]


def table(r: Rng, c: Vector) -> list[Part]:
    """A wide top on four legs."""
    w, d, h = r.uniform(0.7, 0.85), r.uniform(0.5, 0.6), r.uniform(0.5, 0.62)
    legs = [
        box((sx * (d - 0.1), sy * (w - 0.1), -h / 2), (0.065, 0.065, h / 2), c)
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
    return [*legs, box((0, 0, 0), (d, w, 0.075), **_main(c))]  # type: ignore[arg-type]


def mushroom(r: Rng, c: Vector) -> list[Part]:
    """A cap in the main colour on a pale stem."""
    w = r.uniform(0.55, 0.68)
    return [
        rod((0, 0, -0.3), 0.2, 0.15, 0.34, CREAM),
        ball((0, 0, 0.05), (w, w, 0.42), **_main(c)),  # type: ignore[arg-type]
        box((0, 0, -0.42), (1, 1, 0.4), CREAM, cut=True),
    ]


def house(r: Rng, c: Vector) -> list[Part]:
    """Coloured walls under a dark pyramid roof; door and windows at the front."""
    w, h = r.uniform(0.42, 0.5), r.uniform(0.34, 0.42)
    windows = [box((w, y, 0.1), (0.03, 0.11, 0.12), GLASS) for y in (-0.29, 0.29)]
    door = CREAM if sum(c) < 1.3 else (0.35, 0.2, 0.12)
    return [
        box((0, 0, 0), (w, w, h), **_main(c)),  # type: ignore[arg-type]
        rod((0, 0, h + 0.26), w * 1.55, 0.02, 0.28, (0.35, 0.2, 0.16), rounding=0.0),
        box((w, 0, -h + 0.24), (0.04, 0.14, 0.24), door),
        *windows,
    ]


def tree(r: Rng, c: Vector) -> list[Part]:
    """Three stacked cones on a trunk."""
    w = r.uniform(0.46, 0.56)
    cones = [
        rod((0, 0, -0.1 + 0.33 * i), w * (1 - 0.22 * i), 0.06, 0.28, **_main(c))  # type: ignore[arg-type]
        for i in range(3)
    ]
    return [rod((0, 0, -0.55), 0.12, 0.1, 0.22, WOOD), *cones]


def snowman(r: Rng, c: Vector) -> list[Part]:
    """Three balls with eyes, a carrot nose, buttons and a hat."""
    w = r.uniform(0.4, 0.46)
    eyes = [ball((0.2, y, 0.62), 0.075, _against(c)) for y in (-0.11, 0.11)]
    buttons = [ball((0.29 + 0.02 * (z < 0.1), 0, z), 0.07, _against(c)) for z in (0.02, 0.23)]
    return [
        ball((0, 0, -0.45), (w, w, w * 0.9), **_main(c)),  # type: ignore[arg-type]
        ball((0, 0, 0.12), 0.32, **_main(c)),  # type: ignore[arg-type]
        ball((0, 0, 0.55), 0.25, **_main(c)),  # type: ignore[arg-type]
        *eyes,
        *buttons,
        rod((0.36, 0, 0.52), 0.08, 0.015, 0.17, ORANGE, turn_deg=(0, 90, 0)),
        rod((0, 0, 0.76), 0.27, 0.27, 0.03, DARK),
        rod((0, 0, 0.9), 0.17, 0.17, 0.14, DARK),
    ]


def rocket(r: Rng, c: Vector) -> list[Part]:
    """A body with a grey nose, four fins and a window."""
    h = r.uniform(0.5, 0.6)
    fins = [
        box(
            (0.3 * np.cos(a), 0.3 * np.sin(a), -h + 0.02),
            (0.17, 0.03, 0.2),
            GREY,
            turn_deg=(0, 0, float(np.degrees(a))),
        )
        for a in np.arange(4) * np.pi / 2
    ]
    return [
        rod((0, 0, 0), 0.26, 0.26, h, **_main(c)),  # type: ignore[arg-type]
        rod((0, 0, h + 0.2), 0.26, 0.02, 0.22, GREY),
        ball((0.24, 0, 0.2), (0.06, 0.12, 0.12), GLASS),
        rod((0, 0, -h - 0.08), 0.2, 0.12, 0.1, DARK),
        *fins,
    ]


def car(r: Rng, c: Vector) -> list[Part]:
    """A body with a cabin set back, wheels, head lamps at the front."""
    length = r.uniform(0.72, 0.82)
    wheels = [
        rod((x, y, -0.2), 0.17, 0.17, 0.07, DARK, turn_deg=(90, 0, 0))
        for x in (-0.45, 0.45)
        for y in (-0.37, 0.37)
    ]
    lamps = [ball((length, y, 0.02), (0.05, 0.1, 0.1), (1.0, 0.95, 0.6)) for y in (-0.26, 0.26)]
    grille = box((length, 0, -0.03), (0.03, 0.14, 0.08), _against(c))
    rear = [box((-length, y, 0.03), (0.03, 0.08, 0.06), (0.8, 0.1, 0.1)) for y in (-0.27, 0.27)]
    return [
        box((0, 0, -0.02), (length, 0.38, 0.18), **_main(c), rounding=0.07),  # type: ignore[arg-type]
        box((-0.15, 0, 0.26), (0.38, 0.32, 0.16), GLASS, rounding=0.06),
        box((-0.15, 0, 0.42), (0.36, 0.32, 0.04), c, rounding=0.03),
        *wheels, *lamps, grille, *rear,
    ]  # fmt: skip


def sword(r: Rng, c: Vector) -> list[Part]:
    """A pale blade with a point; hilt and guard in the main colour."""
    h = r.uniform(0.6, 0.7)
    return [
        box((0, 0, 0.25), (0.035, 0.105, h), (0.78, 0.80, 0.84)),
        box((0, 0, 0.25 + h), (0.03, 0.074, 0.074), (0.78, 0.80, 0.84), turn_deg=(45, 0, 0)),
        box((0, 0, -h + 0.22), (0.08, 0.32, 0.07), **_main(c)),  # type: ignore[arg-type]
        rod((0, 0, -h - 0.02), 0.075, 0.075, 0.22, **_main(c)),  # type: ignore[arg-type]
        ball((0, 0, -h - 0.26), 0.11, c),
    ]


def bottle(r: Rng, c: Vector) -> list[Part]:
    """A body, shoulders, a thin neck and a cork."""
    h = r.uniform(0.42, 0.5)
    return [
        rod((0, 0, -0.2), 0.29, 0.29, h, **_main(c), rounding=0.05),  # type: ignore[arg-type]
        rod((0, 0, h - 0.2 + 0.1), 0.29, 0.1, 0.13, c),
        rod((0, 0, h + 0.16), 0.1, 0.1, 0.2, c),
        rod((0, 0, h + 0.4), 0.085, 0.095, 0.06, CREAM),
    ]


def lamp(r: Rng, c: Vector) -> list[Part]:
    """A shade in the main colour on a thin grey stand."""
    w = r.uniform(0.42, 0.52)
    return [
        rod((0, 0, -0.62), 0.32, 0.28, 0.05, GREY),
        rod((0, 0, -0.2), 0.05, 0.05, 0.45, GREY),
        rod((0, 0, 0.38), w, w * 0.5, 0.3, **_main(c)),  # type: ignore[arg-type]
    ]


def donut(r: Rng, c: Vector) -> list[Part]:
    """A ring of dough with icing in the main colour."""
    tube = r.uniform(0.22, 0.26)
    return [
        ring((0, 0, -0.03), 0.5, tube, (0.80, 0.58, 0.34)),
        ring((0, 0, 0.05), 0.5, tube * 0.97, **_main(c)),  # type: ignore[arg-type]
    ]


def cactus(r: Rng, c: Vector) -> list[Part]:
    """A column with two arms in a clay pot."""
    h = r.uniform(0.45, 0.52)
    return [
        rod((0, 0, -0.62), 0.22, 0.32, 0.2, CLAY),
        rod((0, 0, -0.42), 0.36, 0.36, 0.05, CLAY),
        rod((0, 0, 0.08), 0.19, 0.19, h, **_main(c), rounding=0.17),  # type: ignore[arg-type]
        rod((0, 0.3, 0.02), 0.1, 0.1, 0.16, c, rounding=0.09, turn_deg=(90, 0, 0)),
        rod((0, 0.44, 0.2), 0.1, 0.1, 0.26, c, rounding=0.09),
        rod((0, -0.3, -0.1), 0.1, 0.1, 0.16, c, rounding=0.09, turn_deg=(90, 0, 0)),
        rod((0, -0.44, 0.05), 0.1, 0.1, 0.22, c, rounding=0.09),
    ]


def cupcake(r: Rng, c: Vector) -> list[Part]:
    """A brown case, icing in the main colour in two swirls, a cherry."""
    w = r.uniform(0.48, 0.54)
    return [
        rod((0, 0, -0.35), 0.34, 0.47, 0.26, (0.45, 0.27, 0.15)),
        ball((0, 0, 0.0), (w, w, 0.24), **_main(c)),  # type: ignore[arg-type]
        ball((0, 0, 0.2), (w * 0.68, w * 0.68, 0.22), **_main(c)),  # type: ignore[arg-type]
        ball((0, 0, 0.46), 0.12, (0.85, 0.08, 0.12)),
    ]


def cube(r: Rng, c: Vector) -> list[Part]:
    """A box with equal sides."""
    return [box((0, 0, 0), (0.55, 0.55, 0.55), **_main(c), rounding=r.uniform(0.02, 0.06))]  # type: ignore[arg-type]


def sphere(r: Rng, c: Vector) -> list[Part]:
    """A ball."""
    return [ball((0, 0, 0), 0.62, **_main(c))]  # type: ignore[arg-type]


def hat(r: Rng, c: Vector) -> list[Part]:
    """A top hat: a wide brim, a crown and a pale band."""
    h, w = r.uniform(0.32, 0.42), r.uniform(0.36, 0.42)
    return [
        rod((0, 0, -h), 0.72, 0.72, 0.05, **_main(c)),  # type: ignore[arg-type]
        rod((0, 0, 0), w, w * 1.06, h, **_main(c)),  # type: ignore[arg-type]
        rod((0, 0, -h + 0.13), w + 0.025, w + 0.025, 0.09, LIGHT if sum(c) < 2.2 else DARK),
    ]


def duck(r: Rng, c: Vector) -> list[Part]:
    """A round body, a head with beak and eyes at the front, a tail."""
    s = r.uniform(0.24, 0.29)
    eyes = [ball((0.47, y, 0.5), 0.08, _against(c)) for y in (-0.16, 0.16)]
    wings = [ball((-0.08, y, -0.05), (0.3, 0.09, 0.17), c) for y in (-0.4, 0.4)]
    return [
        ball((0, 0, -0.12), (0.62, 0.42, 0.36), **_main(c)),  # type: ignore[arg-type]
        ball((0.33, 0, 0.4), s, **_main(c)),  # type: ignore[arg-type]
        ball((0.65, 0, 0.36), (0.19, 0.16, 0.07), ORANGE),
        ball((-0.58, 0, 0.08), (0.2, 0.14, 0.1), c, turn_deg=(0, 40, 0)),
        *eyes, *wings,
    ]  # fmt: skip


def teapot(r: Rng, c: Vector) -> list[Part]:
    """A round pot with lid, handle at one side and spout at the other."""
    s = r.uniform(0.4, 0.45)
    return [
        ring((0, 0.52, 0), 0.24, 0.065, c, turn_deg=(90, 0, 90)),
        ball((0, 0, 0), (0.5, 0.5, s), **_main(c)),  # type: ignore[arg-type]
        rod((0, -0.62, 0.1), 0.12, 0.07, 0.27, c, turn_deg=(52, 0, 0)),
        rod((0, 0, s - 0.02), 0.24, 0.2, 0.05, c),
        ball((0, 0, s + 0.1), 0.085, _against(c)),
    ]


def boat(r: Rng, c: Vector) -> list[Part]:
    """A hull with a mast and a pale sail."""
    h = r.uniform(0.55, 0.68)
    return [
        ball((0, 0, -0.2), (0.75, 0.34, 0.36), **_main(c)),  # type: ignore[arg-type]
        box((0, 0, 0.22), (1, 1, 0.36), WOOD, cut=True),
        rod((0.05, 0, 0.15), 0.035, 0.035, h, WOOD),
        box((-0.22, 0, 0.28), (0.24, 0.025, 0.34), LIGHT),
        box((0.28, 0, 0.2), (0.16, 0.025, 0.25), LIGHT),
    ]


def robot(r: Rng, c: Vector) -> list[Part]:
    """A boxy body with arms and legs; bright eyes and a panel at the front."""
    w = r.uniform(0.3, 0.36)
    limbs = [
        rod((0, y, -0.62), 0.1, 0.12, 0.2, GREY) for y in (-0.17, 0.17)
    ] + [rod((0, s * (w + 0.11), -0.1), 0.08, 0.08, 0.28, GREY) for s in (-1, 1)]  # fmt: skip
    eyes = [ball((0.24, y, 0.5), (0.05, 0.1, 0.1), (1.0, 0.95, 0.5)) for y in (-0.13, 0.13)]
    mouth = box((0.24, 0, 0.35), (0.02, 0.16, 0.035), _against(c))
    return [
        box((0, 0, -0.1), (0.26, w, 0.33), **_main(c), rounding=0.04),  # type: ignore[arg-type]
        box((0, 0, 0.48), (0.23, 0.27, 0.21), **_main(c), rounding=0.05),  # type: ignore[arg-type]
        box((0.26, 0, -0.08), (0.025, 0.2, 0.16), _against(c)),
        rod((0, 0, 0.78), 0.025, 0.025, 0.1, GREY),
        ball((0, 0, 0.9), 0.07, (0.9, 0.15, 0.1)),
        *limbs, *eyes, mouth,
    ]  # fmt: skip


def airplane(r: Rng, c: Vector) -> list[Part]:
    """A fuselage with wings, a tail fin at the back, a dark window at the front."""
    span = r.uniform(0.75, 0.88)
    return [
        ball((0, 0, 0), (0.85, 0.19, 0.19), **_main(c)),  # type: ignore[arg-type]
        box((0.05, 0, -0.02), (0.19, span, 0.035), **_main(c)),  # type: ignore[arg-type]
        box((-0.7, 0, 0.03), (0.1, 0.32, 0.03), c),
        box((-0.7, 0, 0.2), (0.11, 0.03, 0.2), c),
        ball((0.6, 0, 0.1), (0.17, 0.14, 0.1), DARK if sum(c) > 0.8 else GLASS),
        ball((0.82, 0, 0), (0.09, 0.1, 0.1), GREY),
    ]


def bear(r: Rng, c: Vector) -> list[Part]:
    """A sitting teddy: round ears, a pale snout and belly, eyes at the front."""
    e = r.uniform(0.11, 0.14)
    eyes = [ball((0.25, y, 0.53), 0.075, _against(c)) for y in (-0.14, 0.14)]
    pairs = [
        part
        for s in (-1, 1)
        for part in (
            ball((-0.02, s * 0.24, 0.7), (0.07, e, e), c),
            ball((0.08, s * 0.42, -0.02), (0.13, 0.13, 0.26), c, turn_deg=(s * 30, 0, 0)),
            ball((0.3, s * 0.25, -0.5), (0.28, 0.15, 0.15), c),
        )
    ]
    return [
        ball((0, 0, -0.18), (0.36, 0.38, 0.42), **_main(c)),  # type: ignore[arg-type]
        ball((0, 0, 0.44), 0.31, **_main(c)),  # type: ignore[arg-type]
        ball((0.27, 0, 0.35), (0.13, 0.17, 0.13), CREAM),
        ball((0.39, 0, 0.39), 0.07, DARK),
        ball((0.2, 0, -0.18), (0.2, 0.24, 0.27), CREAM),
        *eyes, *pairs,
    ]  # fmt: skip


def television(r: Rng, c: Vector) -> list[Part]:
    """A box with a pale screen at the front, feet and two antennas."""
    w = r.uniform(0.55, 0.64)
    legs = [box((0, y, -0.52), (0.2, 0.06, 0.08), WOOD) for y in (-0.35, 0.35)]
    antennas = [
        rod((0, s * 0.17, 0.62), 0.025, 0.025, 0.24, GREY, turn_deg=(-s * 35, 0, 0))
        for s in (-1, 1)
    ]
    return [
        box((0, 0, 0), (0.3, w, 0.46), **_main(c), rounding=0.05),  # type: ignore[arg-type]
        box((0.3, 0.09, 0.02), (0.025, w - 0.2, 0.34), GLASS),
        ball((0.31, -w + 0.1, 0.14), 0.06, _against(c)),
        ball((0.31, -w + 0.1, -0.08), 0.06, _against(c)),
        *legs, *antennas,
    ]  # fmt: skip


def clock(r: Rng, c: Vector) -> list[Part]:
    """A round clock on two feet: a pale dial with dark hands at the front."""
    w = r.uniform(0.52, 0.6)
    bells = [ball((0, s * 0.33, w + 0.06), 0.15, GREY) for s in (-1, 1)]
    feet = [rod((0, s * 0.3, -w - 0.04), 0.05, 0.07, 0.12, GREY) for s in (-1, 1)]
    return [
        rod((0, 0, 0), w, w, 0.2, **_main(c), turn_deg=(0, 90, 0)),  # type: ignore[arg-type]
        rod((0.2, 0, 0), w - 0.1, w - 0.1, 0.025, LIGHT, turn_deg=(0, 90, 0)),
        box((0.24, 0, 0.14), (0.02, 0.035, 0.17), DARK),
        box((0.24, -0.11, 0), (0.02, 0.14, 0.035), DARK),
        *bells, *feet,
    ]  # fmt: skip


def fish(r: Rng, c: Vector) -> list[Part]:
    """A flat body with eyes and mouth at the front, a tail fin at the back."""
    h = r.uniform(0.38, 0.46)
    eyes = [ball((0.4, s * 0.17, 0.1), 0.09, LIGHT if sum(c) < 2.2 else DARK) for s in (-1, 1)]
    return [
        ball((0.05, 0, 0), (0.62, 0.24, h), **_main(c)),  # type: ignore[arg-type]
        ball((0.65, 0, -0.04), (0.07, 0.1, 0.08), (0.9, 0.4, 0.4)),
        box((-0.68, 0, 0), (0.22, 0.03, 0.22), c, turn_deg=(0, 45, 0)),
        box((-0.05, 0, h + 0.04), (0.2, 0.03, 0.14), c, turn_deg=(0, 20, 0)),
        *eyes,
    ]


RECIPES: dict[str, Recipe] = {
    "mug": mug, "apple": apple, "chair": chair, "table": table, "mushroom": mushroom,
    "house": house, "tree": tree, "snowman": snowman, "rocket": rocket, "car": car,
    "sword": sword, "bottle": bottle, "lamp": lamp, "donut": donut, "cactus": cactus,
    "cupcake": cupcake, "cube": cube, "ball": sphere, "hat": hat, "duck": duck,
    "teapot": teapot, "boat": boat, "robot": robot, "airplane": airplane, "bear": bear,
    "television": television, "clock": clock, "fish": fish,
}  # fmt: skip

FRONTED = (
    "chair", "house", "snowman", "car", "duck", "robot", "airplane", "bear", "television",
    "clock", "fish",
)  # fmt: skip
"""Kinds whose front cannot be mistaken."""
