"""Emblems: small flat pictures of one colour that a toy or a garment wears."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

EMBLEMS = ("star", "heart", "moon", "bolt", "ring", "cross", "drop", "crown", "A", "K", "T", "Z")
SIZE = 32  # pixels a side of a bitmap
Bits = NDArray[np.bool_]
Points = list[tuple[float, float]]

OUTLINES: dict[str, list[Points]] = {  # polygons from -1 to 1, y upwards; one inside cuts a hole
    "bolt": [[(0.25, 1), (-0.6, -0.1), (-0.05, -0.1), (-0.3, -1), (0.6, 0.25), (0.05, 0.25)]],
    "crown": [[(-0.9, -0.7), (0.9, -0.7), (0.9, 0.7), (0.4, 0), (0, 0.8), (-0.4, 0), (-0.9, 0.7)]],
    "A": [[(-0.9, -1), (-0.2, 1), (0.2, 1), (0.9, -1), (0.5, -1), (0.3, -0.4), (-0.3, -0.4),
           (-0.5, -1)], [(-0.18, -0.05), (0.18, -0.05), (0, 0.55)]],
    "K": [[(-0.8, -1), (-0.8, 1), (-0.4, 1), (-0.4, 0.2), (0.35, 1), (0.9, 1), (0.05, 0.1),
           (0.9, -1), (0.35, -1), (-0.2, -0.2), (-0.4, -0.4), (-0.4, -1)]],
    "T": [[(-0.9, 1), (0.9, 1), (0.9, 0.6), (0.22, 0.6), (0.22, -1), (-0.22, -1), (-0.22, 0.6),
           (-0.9, 0.6)]],
    "Z": [[(-0.85, 1), (0.85, 1), (0.85, 0.65), (-0.3, -0.6), (0.85, -0.6), (0.85, -1),
           (-0.85, -1), (-0.85, -0.65), (0.3, 0.6), (-0.85, 0.6)]],
}  # fmt: skip


def bitmap(name: str) -> Bits:
    """[SIZE, SIZE] where the emblem of this name, of EMBLEMS, is; row 0 is the top."""
    x, up = np.meshgrid(*[(np.arange(SIZE) + 0.5) / SIZE * 2 - 1] * 2)
    y, r, angle = -up, np.hypot(x, up), np.arctan2(x, -up)
    if name == "star":
        spike = np.abs((angle * 5 / (2 * np.pi)) % 1 - 0.5) * 2  # 1 at the five points
        return np.asarray(r < 0.42 + 0.58 * spike**1.5)
    if name == "heart":
        high = 1.15 * y + 0.2
        return np.asarray((1.4 * x * x + high**2 - 0.8) ** 3 < 2 * x * x * high**3)
    if name == "moon":
        return np.asarray((r < 0.95) & (np.hypot(x - 0.45, y - 0.15) > 0.75))
    if name == "ring":
        return np.asarray((r < 0.95) & (r > 0.5))
    if name == "cross":
        thin, long = np.minimum(abs(x), abs(y)), np.maximum(abs(x), abs(y))
        return np.asarray((thin < 0.3) & (long < 0.95))
    if name == "drop":
        return np.asarray(np.hypot(x, y + 0.3) < 0.65) | ((y > -0.3) & (abs(x) < 0.5 * (0.95 - y)))
    inside = np.zeros((SIZE, SIZE), bool)
    for polygon in OUTLINES[name]:
        for (x0, y0), (x1, y1) in zip(polygon, [*polygon[1:], polygon[0]]):
            if y0 != y1:
                crossed = (y < max(y0, y1)) & (y >= min(y0, y1))
                inside ^= crossed & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


BITMAPS = np.stack([bitmap(name) for name in EMBLEMS])
"""[E, SIZE, SIZE] where each of EMBLEMS is."""
