"""What the recipes of toys are painted with."""

from __future__ import annotations

from typing import TypedDict

from threed.toybox.world.parts import Vector

DARK: Vector = (0.10, 0.10, 0.11)
LIGHT: Vector = (0.95, 0.95, 0.93)
GREY: Vector = (0.55, 0.56, 0.58)
WOOD: Vector = (0.50, 0.32, 0.18)
CLAY: Vector = (0.75, 0.42, 0.28)
CREAM: Vector = (0.93, 0.85, 0.70)
ORANGE: Vector = (0.95, 0.50, 0.10)
GLASS: Vector = (0.60, 0.80, 0.92)


class Paint(TypedDict):
    """Arguments of a part."""

    color: Vector
    patterned: bool


def main(color: Vector) -> Paint:
    """Paint a part in the main colour, which takes the finish too."""
    return {"color": color, "patterned": True}


def against(c: Vector) -> Vector:
    """Choose dark on a bright colour and light on a dark one, so that eyes and knobs are seen."""
    return DARK if sum(c) > 0.8 else LIGHT
