"""The solids that toys are made of: plain data, packed into one array for drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from threed.toybox.world import draw
from threed.toybox.world.draw import Array
from threed.toybox.world.emblems import EMBLEMS

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
        """Give the radius of a ball around center that holds the solid."""
        a, b, c, _ = self.size
        if self.shape == draw.ELLIPSOID:
            return max(a, b, c)
        if self.shape == draw.BOX:
            return math.sqrt(a * a + b * b + c * c)
        if self.shape == draw.FRUSTUM:
            return math.hypot(max(a, b), c)
        if self.shape >= draw.EMBLEM:
            return 0.0
        return a + b


def ball(center: Vector, radii: Vector | float, color: Vector, **more: object) -> Part:
    """Make an ellipsoid with radii along x, y and z, or a sphere."""
    a, b, c = radii if isinstance(radii, tuple) else (radii, radii, radii)
    return Part(draw.ELLIPSOID, center, (a, b, c, 0.0), color, **more)  # type: ignore[arg-type]


def box(
    center: Vector, half: Vector, color: Vector, *, rounding: float = 0.02, **more: object
) -> Part:
    """Make a box with half sides along x, y and z."""
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
    """Make a frustum along z: radius `bottom` at -half, `top` at +half."""
    rounding = min(rounding, 0.8 * min(max(bottom, 1e-3), max(top, 1e-3), half))
    return Part(draw.FRUSTUM, center, (bottom, top, half, rounding), color, **more)  # type: ignore[arg-type]


def ring(center: Vector, radius: float, tube: float, color: Vector, **more: object) -> Part:
    """Make a torus around z."""
    return Part(draw.TORUS, center, (radius, tube, 0.0, 0.0), color, **more)  # type: ignore[arg-type]


def emblem(
    name: str, center: Vector, half: float, color: Vector, *, turn_deg: Vector = (0, 0, 0)
) -> Part:
    """Make one of EMBLEMS, 2 half wide, that lies as paint on the solid listed before it.

    It is projected along +x as turned, upright along z.
    """
    return Part(draw.EMBLEM + EMBLEMS.index(name), center, (half, 0, 0, 0), color, turn_deg)


def legs(x: float, y: float, half: float, thick: float, color: Vector) -> list[Part]:
    """Make four legs: boxes at (±x, ±y), 2 half long, that end at z = 0."""
    corners = [(-x, -y), (-x, y), (x, -y), (x, y)]
    return [box((*corner, -half), (thick, thick, half), color) for corner in corners]


def rotation(turn_deg: Vector) -> Array:
    """[3, 3] local to world: about x, then y, then z."""
    angles = [math.radians(angle) for angle in turn_deg]
    (cx, cy, cz), (sx, sy, sz) = map(math.cos, angles), map(math.sin, angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    turn: Array = (about_z @ about_y @ about_x).astype(np.float32)
    return turn


def pack(
    parts: Sequence[Part],
    scale: float = 1.0,
    shift: Vector = (0.0, 0.0, 0.0),
    finish: int = draw.PLAIN,
    second: Vector = (0.0, 0.0, 0.0),
) -> Array:
    """[P, WIDTH] rows for draw.draw, after x -> scale * x + shift.

    Patterned parts get the finish, whose other colour is `second`.
    """
    rows = np.zeros((len(parts), draw.WIDTH), np.float32)
    for row, part in zip(rows, parts):
        row[draw.SHAPE], row[draw.CUT] = part.shape, part.cut
        row[draw.CENTER : draw.CENTER + 3] = scale * np.array(part.center) + np.array(shift)
        row[draw.ROTATION : draw.ROTATION + 9] = rotation(part.turn_deg).T.ravel()
        row[draw.SIZE : draw.SIZE + 4] = scale * np.array(part.size)
        row[draw.COLOR : draw.COLOR + 3] = part.color
        row[draw.FINISH] = finish if part.patterned else draw.PLAIN
        row[draw.BOUND] = scale * part.bound() + 0.01
        row[draw.SECOND : draw.SECOND + 3] = second
        row[draw.FRAME : draw.FRAME + 6] = (0, 0, 0, 1, 1, 0)
    return rows


def place(
    rows: Array, scale: float = 1.0, shift: Vector = (0.0, 0.0, 0.0), turn_deg: float = 0.0
) -> Array:
    """[P, WIDTH] the same parts and finish after x -> scale * turned(x) + shift."""
    placed = rows.copy()
    turn = rotation((0.0, 0.0, turn_deg))
    for column in (draw.CENTER, draw.FRAME):
        at = slice(column, column + 3)
        placed[:, at] = scale * rows[:, at] @ turn.T + np.array(shift, np.float32)
    own = rows[:, draw.ROTATION : draw.ROTATION + 9].reshape(-1, 3, 3)
    placed[:, draw.ROTATION : draw.ROTATION + 9] = (own @ turn.T).reshape(-1, 9)
    size = slice(draw.SIZE, draw.SIZE + 4)
    placed[:, size] = scale * rows[:, size]
    placed[:, draw.BOUND] = scale * (rows[:, draw.BOUND] - 0.01) + 0.01
    placed[:, draw.FRAME + 3] = scale * rows[:, draw.FRAME + 3]
    cos, sin = rows[:, draw.FRAME + 4], rows[:, draw.FRAME + 5]
    placed[:, draw.FRAME + 4] = turn[0, 0] * cos - turn[1, 0] * sin
    placed[:, draw.FRAME + 5] = turn[1, 0] * cos + turn[0, 0] * sin
    return placed


def is_solid(rows: Array) -> NDArray[np.bool_]:
    """[P] which packed parts are solids, neither cuts nor emblems."""
    return (rows[:, draw.CUT] < 0.5) & (rows[:, draw.SHAPE] < draw.EMBLEM)


def extents(rows: Array) -> Array:
    """[2, 3] the lowest and highest coordinates of the boxes around the solids of packed parts."""
    low, high = np.full(3, np.inf, np.float32), np.full(3, -np.inf, np.float32)
    for row in rows[is_solid(rows)]:
        a, b, c, _ = row[draw.SIZE : draw.SIZE + 4]
        half = {draw.ELLIPSOID: (a, b, c), draw.BOX: (a, b, c), draw.TORUS: (a + b, a + b, b),
                draw.FRUSTUM: (max(a, b), max(a, b), c)}[int(row[draw.SHAPE])]  # fmt: skip
        turn = row[draw.ROTATION : draw.ROTATION + 9].reshape(3, 3).T
        size = np.array(half, np.float32)
        # an ellipsoid's box is tighter than its corner's
        round_ = row[draw.SHAPE] == draw.ELLIPSOID
        reach = np.sqrt((turn**2) @ size**2) if round_ else np.abs(turn) @ size
        center = row[draw.CENTER : draw.CENTER + 3]
        low, high = np.minimum(low, center - reach), np.maximum(high, center + reach)
    return np.stack([low, high])
