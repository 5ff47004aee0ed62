"""Plots of what was measured: lines through named points, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT, EDGE = 640, 440, 56
COLOURS = ((40, 90, 200), (200, 60, 40), (30, 140, 70), (150, 80, 170), (190, 130, 0), (90, 90, 90))
Point = tuple[float, float, str]  # across, up, and its name


def plot(path: Path, lines: Mapping[str, Sequence[Point]], across: str, up: str) -> None:
    """Write a picture of lines through their points, with their names in their colours."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(canvas)
    places = np.array([(x, y) for points in lines.values() for x, y, _ in points])
    room = np.maximum(np.ptp(places, axis=0) * 0.15, 0.005)
    low, high = places.min(0) - room, places.max(0) + room

    def at(x: float, y: float) -> tuple[float, float]:
        u, v = (np.array([x, y]) - low) / (high - low)
        return EDGE + u * (WIDTH - 1.5 * EDGE), HEIGHT - EDGE - v * (HEIGHT - 1.5 * EDGE)

    pen.line([at(low[0], high[1]), at(*low), at(high[0], low[1])], fill="black")
    for part in np.linspace(0, 1, 5):
        x, y = low + part * (high - low)
        (u, base), (left, v) = at(x, low[1]), at(low[0], y)
        pen.text((u, base + 6), f"{x:.3f}", fill="black", anchor="ma")
        pen.text((left - 4, v), f"{y:.3f}", fill="black", anchor="rm")
    pen.text((WIDTH / 2, HEIGHT - 18), across, fill="black", anchor="mm")
    pen.text((8, 10), up, fill="black", anchor="lm")
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        pen.line([at(x, y) for x, y, _ in points], fill=colour, width=2)
        for x, y, said in points:
            u, v = at(x, y)
            pen.ellipse((u - 3, v - 3, u + 3, v + 3), fill=colour)
            pen.text((u + 6, v - 8), said, fill="black")
        pen.text((WIDTH - 10, 14 + 14 * number), name, fill=colour, anchor="rm")
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)
