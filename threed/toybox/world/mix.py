"""Every sort of scene in its share: toys, pairs, persons, portraits, garments; some in a style."""

from __future__ import annotations

from collections.abc import Callable

from threed.toybox.world.chance import Rng, choose
from threed.toybox.world.figures import random_figure_scene
from threed.toybox.world.garments import GARMENTS, laid_flat, random_garment
from threed.toybox.world.pairs import random_pair_scene, random_toy_scene
from threed.toybox.world.portraits import portrait_scene, random_portrait
from threed.toybox.world.scenes import Scene
from threed.toybox.world.styles import Style, random_style

SCENES: dict[str, Callable[[Rng], Scene]] = {
    "toy": random_toy_scene,
    "pair": random_pair_scene,
    "figure": random_figure_scene,
    "portrait": lambda rng: portrait_scene(rng, random_portrait(rng)),
    "garment": lambda rng: laid_flat(random_garment(rng, GARMENTS)),
}
SHARES = {"toy": 0.22, "pair": 0.36, "figure": 0.26, "portrait": 0.12, "garment": 0.04}
STYLED = 0.1  # share of pictures in a style
UNNAMED = "in some style"  # what a caption says of a style without words


def random_scene(rng: Rng, kind: str | None = None) -> Scene:
    """Make a scene of this kind of SCENES, or of any, by SHARES."""
    return SCENES[kind or choose(rng, SHARES, list(SHARES.values()))](rng)


def maybe_style(rng: Rng) -> Style | None:
    """Choose a style for one picture in ten."""
    return random_style(rng) if rng.uniform() < STYLED else None


def in_style(text: str, style: Style | None) -> str:
    """Say that a captioned picture is in a style: "a red mug in sepia"."""
    return text if style is None else f"{text} {style.words or UNNAMED}"
