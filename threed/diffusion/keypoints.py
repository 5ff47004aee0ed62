"""Five keypoints of a face, drawn as InstantID was taught them (arXiv:2401.07519)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from threed.core.pictures import Size, sides

COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
LIMBS = ((0, 2), (1, 2), (3, 2), (4, 2))  # from the eyes and the mouth's corners to the nose
FULL = 1024  # pixels of a picture's shorter side from which discs and limbs are as published
RADIUS, THICK, DARK = 10, 4, 0.6  # of discs and limbs in pixels; how bright limbs are
_SIN = np.round(np.sin(np.radians(np.arange(451))), 7).astype(np.float32).astype(float)  # OpenCV's
Whole = NDArray[np.int64]


def draw_points(points: NDArray[np.floating], size: Size) -> NDArray[np.uint8]:
    """[H, W, 3] discs at five points [5, 2] (x, y in pixels), and limbs to the nose, on black.

    From FULL pixels on they are as the published code draws them, to the pixel; in smaller pictures
    they are smaller.
    """
    width, height = sides(size)
    share = min(1, min(width, height) / FULL)
    drawn = np.zeros((height, width, 3), np.uint8)
    for first, nose in LIMBS:
        ellipse = _ellipse(points[first], points[nose], max(round(share * THICK), 1))
        _fill(drawn, ellipse, COLORS[first])
    drawn = (drawn * DARK).astype(np.uint8)
    reach = _disc(max(round(share * RADIUS), 2))
    for (x, y), color in zip(points.astype(int), COLORS):
        for row, half in enumerate(reach):
            for at in {y - row, y + row} & {*range(height)}:
                drawn[at, max(x - half, 0) : max(x + half + 1, 0)] = color
    return drawn


def _ellipse(a: NDArray[np.floating], b: NDArray[np.floating], thick: int) -> Whole:
    """[N, 2] the corners of an ellipse from one point to another, as OpenCV's ellipse2Poly."""
    (dx, dy), long = (a - b).tolist(), int(((a - b) ** 2).sum() ** 0.5 / 2)
    angle = int(math.degrees(math.atan2(dy, dx))) % 360
    sin, cos, turn = _SIN[angle], _SIN[450 - angle], np.arange(361)
    x, y = long * _SIN[450 - turn], thick * _SIN[turn]
    center = np.mean([a, b], 0).astype(int)
    corners: Whole = np.rint(center + np.stack([x * cos - y * sin, x * sin + y * cos], 1)).astype(
        int
    )
    return corners


def _fill(drawn: NDArray[np.uint8], corners: Whole, color: tuple[int, int, int]) -> None:
    """Colour a convex polygon, its outline included, as OpenCV's fillConvexPoly."""
    height, width, _ = drawn.shape
    left, right = np.full(height, width), np.full(height, -1)
    for a, b in zip(corners, np.roll(corners, -1, 0)):
        for x, y in (*_outline(a, b), *_side(a, b)):
            if 0 <= y < height:
                left[y], right[y] = min(left[y], x), max(right[y], x)
    for row in np.flatnonzero(right >= 0):
        drawn[row, max(left[row], 0) : right[row] + 1] = color


def _outline(a: Whole, b: Whole) -> Iterator[tuple[int, int]]:
    """The pixels of a line (Bresenham's): from the left, halves go to where it comes from."""
    (x, y), (to_x, to_y) = sorted((a.tolist(), b.tolist()), key=lambda point: point[0])
    dx, dy = to_x - x, to_y - y
    count = max(dx, abs(dy), 1)
    for k in range(count + 1):
        down = math.ceil(k * abs(dy) / count - 0.5)
        yield x + math.ceil(k * dx / count - 0.5), y + (down if dy > 0 else -down)


def _side(a: Whole, b: Whole) -> Iterator[tuple[int, int]]:
    """Where a polygon's side is in each of its rows, in OpenCV's steps of 1 / 65536 pixel."""
    (x, y), (to_x, to_y) = sorted((a.tolist(), b.tolist()), key=lambda point: point[1])
    rows = to_y - y
    for row in range(rows + 1 if rows else 0):
        step = int(((to_x - x) * 2**17 + rows) / (2 * rows))
        yield (x * 2**16 + row * step + 2**15) >> 16, y + row


def _disc(radius: int) -> list[int]:
    """Half the width of a disc in each row from its middle, as OpenCV's circle."""
    reach, error, x, y = [0] * (radius + 1), 0, radius, 0
    while x >= y:
        reach[y], reach[x] = max(reach[y], x), max(reach[x], y)
        error += 2 * y + 1
        y += 1
        if error > 0:
            error -= 2 * x - 1
            x -= 1
    return reach
