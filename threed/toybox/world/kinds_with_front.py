"""The recipes of the toys whose front cannot be mistaken: see `threed.toybox.world.kinds`."""

from __future__ import annotations

from collections.abc import Iterator

from threed.toybox.world.chance import Rng
from threed.toybox.world.paint import CREAM, DARK, GLASS, GREY, LIGHT, ORANGE, WOOD, against, main
from threed.toybox.world.parts import Part, Vector, ball, box, legs, rod


def chair(r: Rng, c: Vector) -> Iterator[Part]:
    """A seat on four legs; the back rest stands at the back."""
    w, h = r.uniform(0.38, 0.46), r.uniform(0.35, 0.45)
    yield from legs(w - 0.07, w - 0.07, h / 2, 0.06, c)
    yield box((0, 0, 0), (w, w, 0.07), **main(c))
    yield box((-w + 0.06, 0, r.uniform(0.4, 0.5)), (0.06, w, 0.48), **main(c))


def house(r: Rng, c: Vector) -> Iterator[Part]:
    """Coloured walls under a dark pyramid roof; door and windows at the front."""
    w, h = r.uniform(0.42, 0.5), r.uniform(0.34, 0.42)
    door = CREAM if sum(c) < 1.3 else (0.35, 0.2, 0.12)
    yield box((0, 0, 0), (w, w, h), **main(c))
    yield rod((0, 0, h + 0.26), w * 1.55, 0.02, 0.28, (0.35, 0.2, 0.16), rounding=0.0)
    yield box((w, 0, -h + 0.24), (0.04, 0.14, 0.24), door)
    yield from (box((w, y, 0.1), (0.03, 0.11, 0.12), GLASS) for y in (-0.29, 0.29))


def snowman(r: Rng, c: Vector) -> Iterator[Part]:
    """Three balls with eyes, a carrot nose, buttons and a hat."""
    w = r.uniform(0.4, 0.46)
    yield ball((0, 0, -0.45), (w, w, w * 0.9), **main(c))
    yield ball((0, 0, 0.12), 0.32, **main(c))
    yield ball((0, 0, 0.55), 0.25, **main(c))
    yield from (ball((0.2, y, 0.62), 0.075, against(c)) for y in (-0.11, 0.11))
    yield from (ball((0.29 + 0.02 * (z < 0.1), 0, z), 0.07, against(c)) for z in (0.02, 0.23))
    yield rod((0.36, 0, 0.52), 0.08, 0.015, 0.17, ORANGE, turn_deg=(0, 90, 0))
    yield rod((0, 0, 0.76), 0.27, 0.27, 0.03, DARK)
    yield rod((0, 0, 0.9), 0.17, 0.17, 0.14, DARK)


def car(r: Rng, c: Vector) -> Iterator[Part]:
    """A body with a cabin set back, wheels, head lamps at the front."""
    length = r.uniform(0.72, 0.82)
    wheels = [(x, y, -0.2) for x in (-0.45, 0.45) for y in (-0.37, 0.37)]
    yield box((0, 0, -0.02), (length, 0.38, 0.18), **main(c), rounding=0.07)
    yield box((-0.15, 0, 0.26), (0.38, 0.32, 0.16), GLASS, rounding=0.06)
    yield box((-0.15, 0, 0.42), (0.36, 0.32, 0.04), c, rounding=0.03)
    yield from (rod(wheel, 0.17, 0.17, 0.07, DARK, turn_deg=(90, 0, 0)) for wheel in wheels)
    yield from (ball((length, y, 0.02), (0.05, 0.1, 0.1), (1.0, 0.95, 0.6)) for y in (-0.26, 0.26))
    yield box((length, 0, -0.03), (0.03, 0.14, 0.08), against(c))
    yield from (box((-length, y, 0.03), (0.03, 0.08, 0.06), (0.8, 0.1, 0.1)) for y in (-0.27, 0.27))


def duck(r: Rng, c: Vector) -> Iterator[Part]:
    """A round body, a head with beak and eyes at the front, a tail."""
    s = r.uniform(0.24, 0.29)
    yield ball((0, 0, -0.12), (0.62, 0.42, 0.36), **main(c))
    yield ball((0.33, 0, 0.4), s, **main(c))
    yield ball((0.65, 0, 0.36), (0.19, 0.16, 0.07), ORANGE)
    yield ball((-0.58, 0, 0.08), (0.2, 0.14, 0.1), c, turn_deg=(0, 40, 0))
    yield from (ball((0.47, y, 0.5), 0.08, against(c)) for y in (-0.16, 0.16))
    yield from (ball((-0.08, y, -0.05), (0.3, 0.09, 0.17), c) for y in (-0.4, 0.4))


def robot(r: Rng, c: Vector) -> Iterator[Part]:
    """A boxy body with arms and legs; bright eyes and a panel at the front."""
    w = r.uniform(0.3, 0.36)
    yield box((0, 0, -0.1), (0.26, w, 0.33), **main(c), rounding=0.04)
    yield box((0, 0, 0.48), (0.23, 0.27, 0.21), **main(c), rounding=0.05)
    yield box((0.26, 0, -0.08), (0.025, 0.2, 0.16), against(c))
    yield rod((0, 0, 0.78), 0.025, 0.025, 0.1, GREY)
    yield ball((0, 0, 0.9), 0.07, (0.9, 0.15, 0.1))
    yield from (rod((0, y, -0.62), 0.1, 0.12, 0.2, GREY) for y in (-0.17, 0.17))
    yield from (rod((0, s * (w + 0.11), -0.1), 0.08, 0.08, 0.28, GREY) for s in (-1, 1))
    yield from (ball((0.24, y, 0.5), (0.05, 0.1, 0.1), (1.0, 0.95, 0.5)) for y in (-0.13, 0.13))
    yield box((0.24, 0, 0.35), (0.02, 0.16, 0.035), against(c))


def airplane(r: Rng, c: Vector) -> Iterator[Part]:
    """A fuselage with wings, a tail fin at the back, a dark window at the front."""
    span = r.uniform(0.75, 0.88)
    yield ball((0, 0, 0), (0.85, 0.19, 0.19), **main(c))
    yield box((0.05, 0, -0.02), (0.19, span, 0.035), **main(c))
    yield box((-0.7, 0, 0.03), (0.1, 0.32, 0.03), c)
    yield box((-0.7, 0, 0.2), (0.11, 0.03, 0.2), c)
    yield ball((0.6, 0, 0.1), (0.17, 0.14, 0.1), DARK if sum(c) > 0.8 else GLASS)
    yield ball((0.82, 0, 0), (0.09, 0.1, 0.1), GREY)


def bear(r: Rng, c: Vector) -> Iterator[Part]:
    """A sitting teddy: round ears, a pale snout and belly, eyes at the front."""
    e = r.uniform(0.11, 0.14)
    yield ball((0, 0, -0.18), (0.36, 0.38, 0.42), **main(c))
    yield ball((0, 0, 0.44), 0.31, **main(c))
    yield ball((0.27, 0, 0.35), (0.13, 0.17, 0.13), CREAM)
    yield ball((0.39, 0, 0.39), 0.07, DARK)
    yield ball((0.2, 0, -0.18), (0.2, 0.24, 0.27), CREAM)
    yield from (ball((0.25, y, 0.53), 0.075, against(c)) for y in (-0.14, 0.14))
    for s in (-1, 1):
        yield ball((-0.02, s * 0.24, 0.7), (0.07, e, e), c)
        yield ball((0.08, s * 0.42, -0.02), (0.13, 0.13, 0.26), c, turn_deg=(s * 30, 0, 0))
        yield ball((0.3, s * 0.25, -0.5), (0.28, 0.15, 0.15), c)


def television(r: Rng, c: Vector) -> Iterator[Part]:
    """A box with a pale screen at the front, feet and two antennas."""
    w = r.uniform(0.55, 0.64)
    antennas = [((0, s * 0.17, 0.62), (-s * 35, 0, 0)) for s in (-1, 1)]
    yield box((0, 0, 0), (0.3, w, 0.46), **main(c), rounding=0.05)
    yield box((0.3, 0.09, 0.02), (0.025, w - 0.2, 0.34), GLASS)
    yield ball((0.31, -w + 0.1, 0.14), 0.06, against(c))
    yield ball((0.31, -w + 0.1, -0.08), 0.06, against(c))
    yield from (box((0, y, -0.52), (0.2, 0.06, 0.08), WOOD) for y in (-0.35, 0.35))
    yield from (rod(at, 0.025, 0.025, 0.24, GREY, turn_deg=turn) for at, turn in antennas)


def clock(r: Rng, c: Vector) -> Iterator[Part]:
    """A round clock on two feet: a pale dial with dark hands at the front."""
    w = r.uniform(0.52, 0.6)
    yield rod((0, 0, 0), w, w, 0.2, **main(c), turn_deg=(0, 90, 0))
    yield rod((0.2, 0, 0), w - 0.1, w - 0.1, 0.025, LIGHT, turn_deg=(0, 90, 0))
    yield box((0.24, 0, 0.14), (0.02, 0.035, 0.17), DARK)
    yield box((0.24, -0.11, 0), (0.02, 0.14, 0.035), DARK)
    yield from (ball((0, s * 0.33, w + 0.06), 0.15, GREY) for s in (-1, 1))
    yield from (rod((0, s * 0.3, -w - 0.04), 0.05, 0.07, 0.12, GREY) for s in (-1, 1))


def fish(r: Rng, c: Vector) -> Iterator[Part]:
    """A flat body with eyes and mouth at the front, a tail fin at the back."""
    h = r.uniform(0.38, 0.46)
    white = LIGHT if sum(c) < 2.2 else DARK
    yield ball((0.05, 0, 0), (0.62, 0.24, h), **main(c))
    yield ball((0.65, 0, -0.04), (0.07, 0.1, 0.08), (0.9, 0.4, 0.4))
    yield box((-0.68, 0, 0), (0.22, 0.03, 0.22), c, turn_deg=(0, 45, 0))
    yield box((-0.05, 0, h + 0.04), (0.2, 0.03, 0.14), c, turn_deg=(0, 20, 0))
    yield from (ball((0.4, s * 0.17, 0.1), 0.09, white) for s in (-1, 1))
