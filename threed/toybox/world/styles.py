"""Styles: looks that belong to a whole picture, for any scene.

A style is drawn from what the camera sees and its truth. Four have a word that captions may use;
the others have none, so that only a picture can say what they are. Each instance has its own
numbers (colours, widths, angles), which make one hatching another than the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from threed.toybox.world.chance import Rng, choose
from threed.toybox.world.draw import Array
from threed.toybox.world.parts import Vector
from threed.toybox.world.scenes import View

Pixels = NDArray[np.floating[Any]]  # [H, W, 3] sRGB
LUMA = np.array((0.299, 0.587, 0.114), np.float32)
WORDS = {"sepia": "in sepia", "night": "at night", "clay": "made of clay", "pixel": "in pixel art"}
"""What a caption says of a style that has words."""


@dataclass(frozen=True)
class Style:
    """One style with its numbers."""

    name: str  # of STYLES
    colors: tuple[Vector, ...]  # sRGB, dark ones first
    amount: float  # 0 to 1: how wide, coarse or strong
    angle_deg: float  # of lines and dots

    @property
    def words(self) -> str | None:
        """What captions may say of it, or None."""
        return WORDS.get(self.name)

    def paint(self, view: View) -> Array:
        """[H, W, 3] sRGB in [0, 1] the view in this style."""
        return STYLES[self.name](self, view).clip(0, 1).astype(np.float32)


def random_style(rng: Rng, name: str | None = None) -> Style:
    """Make up a style of this name of STYLES, or of any."""
    colors = rng.uniform(0, 1, (4, 3))
    bright = colors @ LUMA
    # from dark to bright, so far apart that what is drawn can be read
    aim = np.linspace(0.12, 0.92, 4)
    colors = (colors * 0.5 + 0.25) + (aim - (bright * 0.5 + 0.25))[:, None]
    dark, low, high, pale = (tuple(map(float, color)) for color in colors.clip(0, 1))
    return Style(
        name or choose(rng, STYLES),
        ((dark[0], dark[1], dark[2]), (low[0], low[1], low[2]),
         (high[0], high[1], high[2]), (pale[0], pale[1], pale[2])),
        float(rng.uniform()),
        float(rng.uniform(0, 180)),
    )  # fmt: skip


def luma(rgb: Array) -> Array:
    """[H, W] the brightness of a picture [H, W, 3]."""
    bright: Array = rgb @ LUMA
    return bright


def contours(view: View, width: int = 1) -> Array:
    """[H, W] 1 where parts or things border on each other or on the ground, `width` pixels wide.

    A pixel is one of a picture of 64; of larger ones it is more.
    """
    part = view.picture.part
    width *= _fine(part.shape[0])
    found = np.zeros(part.shape, bool)
    for step in range(1, width + 1):
        found[:, step:] |= part[:, step:] != part[:, :-step]
        found[step:] |= part[step:] != part[:-step]
    return found.astype(np.float32)


def _fine(size: int) -> int:
    """Tell how many pixels of a picture of this size stand for one of a picture of 64."""
    return max(size // 64, 1)


def _palette(style: Style, view: View) -> Pixels:
    """Paint with four colours, by brightness."""
    colors = np.array(style.colors, np.float32)
    painted: Pixels = colors[np.searchsorted((0.25, 0.5, 0.8), luma(view.picture.rgb))]
    return painted


def _waves(style: Style, size: int, per_picture: float, turn_deg: float = 0.0) -> Array:
    """[size, size] lines at an angle as a wave from 0 to 1."""
    x, y = np.meshgrid(*[(np.arange(size, dtype=np.float32) + 0.5) / size] * 2)
    angle = np.radians(style.angle_deg + turn_deg)
    along = x * np.cos(angle) + y * np.sin(angle)
    wave: Array = 0.5 + 0.5 * np.cos(2 * np.pi * per_picture * along)
    return wave


def _hatched(style: Style, view: View) -> Pixels:
    """Draw lines, closer and crossed where it is dark, with contours."""
    size, bright = view.picture.alpha.shape[0], luma(view.picture.rgb)
    count = 8 + 3 * style.amount  # the VAE sees no finer lines
    ink = (_waves(style, size, count) > 0.5) & (bright < 0.75)
    ink |= (_waves(style, size, count, 90) > 0.5) & (bright < 0.4)
    return _inked(style, np.maximum(ink, contours(view)))


def _dotted(style: Style, view: View) -> Pixels:
    """Draw dots that grow where it is dark."""
    size, bright = view.picture.alpha.shape[0], luma(view.picture.rgb)
    count = 6 + 3 * style.amount
    dots = (_waves(style, size, count) + _waves(style, size, count, 90)) / 2
    return _inked(style, np.clip((dots - bright + 0.1) * 8, 0, 1))


def _inked(style: Style, ink: NDArray[np.generic]) -> Pixels:
    """[H, W, 3] the darkest colour where there is ink [H, W], the palest elsewhere."""
    dark, pale = np.array(style.colors[0]), np.array(style.colors[-1])
    painted: Pixels = pale + (dark - pale) * np.asarray(ink, np.float32)[..., None]
    return painted


def _outlined(style: Style, view: View) -> Pixels:
    """Paint every part in its mean colour, on tinted paper, with thick dark contours."""
    paper, part = np.array(style.colors[-1], np.float32), view.picture.part
    rgb = 0.7 * view.picture.rgb + 0.3 * paper
    for index in np.unique(part[part >= 0]):
        rgb[part == index] = rgb[part == index].mean(0)
    edge = contours(view, 1 + round(style.amount))[..., None]
    return rgb * (1 - edge) + np.array(style.colors[0]) * edge


def _clay(style: Style, view: View) -> Pixels:
    """Shade one pale material softly from above; the ground is of the same."""
    clay = 0.35 * np.array(style.colors[2]) + 0.65 * np.array((0.78, 0.72, 0.66))
    normal = view.picture.normal
    shade = 0.72 + 0.3 * normal[..., 2:] + 0.12 * normal[..., :1]
    covered = view.picture.alpha[..., None]
    painted: Pixels = clay * (shade * covered + 1.08 * (1 - covered))
    return painted


def _pixelated(style: Style, view: View) -> Pixels:
    """Paint squares of one colour each, of a few shades a channel."""
    rgb = view.picture.rgb
    size = rgb.shape[0]
    block = (3 + round(2 * style.amount)) * _fine(size)
    index = np.minimum(np.arange(size) // block * block + block // 2, size - 1)
    squares = rgb[index][:, index]
    painted: Pixels = np.round(squares * 4) / 4
    return painted


def _night(style: Style, view: View) -> Pixels:
    """Darken all to a blue, with a glow around the middle."""
    size = view.picture.alpha.shape[0]
    x, y = np.meshgrid(*[(np.arange(size) + 0.5) / size * 2 - 1] * 2)
    glow = np.exp(-(x**2 + y**2) * (1.2 + style.amount))[..., None]
    blue = np.array((0.16, 0.22, 0.46))
    painted: Pixels = view.picture.rgb * (blue + glow * np.array((0.42, 0.36, 0.16))) + 0.03
    return painted


def _sepia(style: Style, view: View) -> Pixels:
    """Paint in browns, darker to the corners."""
    size, bright = view.picture.alpha.shape[0], luma(view.picture.rgb)[..., None]
    x, y = np.meshgrid(*[(np.arange(size) + 0.5) / size * 2 - 1] * 2)
    dim = 1 - (0.15 + 0.2 * style.amount) * ((x**2 + y**2) / 2)[..., None]
    brown = np.array((0.17, 0.09, 0.04)) * (1 - bright) + np.array((1.0, 0.9, 0.72)) * bright
    painted: Pixels = brown * dim
    return painted


STYLES: dict[str, Callable[[Style, View], Pixels]] = {
    "palette": _palette, "hatched": _hatched, "dotted": _dotted, "outlined": _outlined,
    "clay": _clay, "pixel": _pixelated, "night": _night, "sepia": _sepia,
}  # fmt: skip
