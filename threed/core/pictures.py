"""Pictures' sizes and names."""

from __future__ import annotations

from threed.core.errors import InputError

FORMATS = (".png", ".jpg", ".jpeg", ".webp")
Size = int | tuple[int, int]
"""Pixels a side of a square picture, or (width, height)."""


def sides(size: Size) -> tuple[int, int]:
    """Say the (width, height) of a picture."""
    return (size, size) if isinstance(size, int) else size


def read_size(text: str) -> Size:
    """Read "512", or "768x512": the width first. InputError for anything else."""
    numbers = text.lower().replace("×", "x").split("x")
    if len(numbers) > 2 or not all(number.strip().isdecimal() for number in numbers):
        raise InputError(f"size must be pixels a side, such as 512, or WIDTHxHEIGHT, such as "
                         f"768x512, got {text!r}")  # fmt: skip
    width, height = int(numbers[0]), int(numbers[-1])
    return width if width == height else (width, height)
