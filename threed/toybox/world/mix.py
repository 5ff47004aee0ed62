"""Every sort of scene in its share: toys, pairs, persons, garments."""

from __future__ import annotations

from collections.abc import Callable

from threed.toybox.world.chance import Rng, choose
from threed.toybox.world.figures import random_figure_scene
from threed.toybox.world.garments import GARMENTS, laid_flat, random_garment
from threed.toybox.world.pairs import random_pair_scene, random_toy_scene
from threed.toybox.world.scenes import Scene

SCENES: dict[str, Callable[[Rng], Scene]] = {
    "toy": random_toy_scene,
    "pair": random_pair_scene,
    "figure": random_figure_scene,
    "garment": lambda rng: laid_flat(random_garment(rng, GARMENTS)),
}
SHARES = {"toy": 0.25, "pair": 0.4, "figure": 0.3, "garment": 0.05}


def random_scene(rng: Rng, kind: str | None = None) -> Scene:
    """Make a scene of this kind of SCENES, or of any, by SHARES."""
    return SCENES[kind or choose(rng, SHARES, list(SHARES.values()))](rng)
