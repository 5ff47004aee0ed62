"""The solids that toys are made of: plain data, packed into one array for drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from threed.toybox import draw
from threed.toybox.draw import Array

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """One coloured solid. Build it with ball, box, rod or ring."""

    shape: int
    center: Vector
    size: tuple[float, float, float, float]
    color: Vector
    turn_deg: Vector = (0.0, 0.0, 0.0)  # about x, then y, then z
    patterned: bool = False  # takes the toy's finish
    cut: bool = False  # taken away from the solid before it
    name: str = ""

    def bound(self) -> float:
        """Radius of a ball around center that holds the solid."""
        a, b, c, _ = self.size
        if self.shape == draw.ELLIPSOID:
            return max(a, b, c)
        if self.shape == draw.BOX:
            return math.sqrt(a * a + b * b + c * c)
        if self.shape == draw.FRUSTUM:
            return math.hypot(max(a, b), c)
        return a + b


def ball(center: Vector, radii: Vector | float, color: Vector, **more: object) -> Part:
    """An ellipsoid with radii along x, y and z, or a sphere."""
    a, b, c = radii if isinstance(radii, tuple) else (radii, radii, radii)
    return Part(draw.ELLIPSOID, center, (a, b, c, 0.0), color, **more)  # type: ignore[arg-type]


def box(
    center: Vector, half: Vector, color: Vector, *, rounding: float = 0.02, **more: object
) -> Part:
    """A box with half sides along x, y and z."""
    rounding = min(rounding, 0.95 * min(half))
    return Part(draw.BOX, center, (*half, rounding), color, **more)  # type: ignore[arg-type]


def rod(
    center: Vector,
    bottom: float,
    top: float,
    half: float,
    color: Vector,
    *,
    rounding: float = 0.02,
    **more: object,
) -> Part:
    """A frustum along z: radius `bottom` at -half, `top` at +half; a cylinder or a cone."""
    rounding = min(rounding, 0.8 * min(max(bottom, 1e-3), max(top, 1e-3), half))
    return Part(draw.FRUSTUM, center, (bottom, top, half, rounding), color, **more)  # type: ignore[arg-type]


def ring(center: Vector, radius: float, tube: float, color: Vector, **more: object) -> Part:
    """A torus around z."""
    return Part(draw.TORUS, center, (radius, tube, 0.0, 0.0), color, **more)  # type: ignore[arg-type]


def rotation(turn_deg: Vector) -> Array:
    """[3, 3] local to world: about x, then y, then z."""
    x, y, z = (math.radians(angle) for angle in turn_deg)
    cx, sx, cy, sy, cz, sz = (
        math.cos(x), math.sin(x), math.cos(y), math.sin(y), math.cos(z), math.sin(z),
    )  # fmt: skip
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return (about_z @ about_y @ about_x).astype(np.float32)


def pack(parts: Sequence[Part], scale: float = 1.0, shift: Vector = (0.0, 0.0, 0.0)) -> Array:
    """[P, WIDTH] rows for draw.draw, after x -> scale * x + shift."""
    rows = np.zeros((len(parts), draw.WIDTH), np.float32)
    for row, part in zip(rows, parts):
        row[draw.SHAPE], row[draw.CUT] = part.shape, part.cut
        row[draw.CENTER : draw.CENTER + 3] = scale * np.array(part.center) + np.array(shift)
        row[draw.ROTATION : draw.ROTATION + 9] = rotation(part.turn_deg).T.ravel()
        row[draw.SIZE : draw.SIZE + 4] = scale * np.array(part.size)
        row[draw.COLOR : draw.COLOR + 3] = part.color
        row[draw.PATTERNED] = part.patterned
        row[draw.BOUND] = scale * part.bound() + 0.01
    return rows
