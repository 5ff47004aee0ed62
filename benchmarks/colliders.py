"""How well colliders fill what a mesh does: python benchmarks/colliders.py [KIND...]

Toys of the world, solid and hollow, are meshed out of their own solids, and convex parts are found
as `threed export --profile unreal` finds them. What points inside a toy lie in no part is left out;
what points inside the parts lie in no toy is too much. Both are of the toy's volume. Needs coacd.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import numpy as np
import torch
from numba import njit
from scipy.spatial import ConvexHull

from benchmarks.common import head, row
from exporters.clean import clean
from exporters.colliders import convex_parts
from exporters.simplify import simplify
from threed.apps.cli.show import say
from threed.core.mesh import Mesh
from threed.scenes.tetrahedra import grid_points, march
from threed.toybox.world import draw
from threed.toybox.world.toys import KINDS, random_toy

USUAL = ("apple", "mug", "hat", "boat", "table", "donut", "teapot", "chair", "car")
CELLS = 128  # a side of the grid that toys are meshed on
FACES = 20_000  # of the profile unreal
POINTS = 200_000  # looked at, in the box of a toy


@njit(cache=True)
def _measure(parts: Any, points: Any, distance: Any) -> None:
    for n in range(len(points)):
        x, y, z = points[n]
        distance[n] = 1e9
        for i in range(len(parts)):
            if parts[i, draw.CUT] < 0.5 and parts[i, draw.SHAPE] < draw.EMBLEM:
                distance[n] = min(distance[n], draw._carved(parts, i, x, y, z)[0])


def distances(parts: draw.Array, points: draw.Array) -> draw.Array:
    """The signed distance [N] from points [N, 3] to packed parts."""
    found = np.empty(len(points), np.float32)
    _measure(parts, points, found)
    return found


def made_of(parts: draw.Array) -> Mesh:
    """A mesh of packed parts."""
    places = grid_points(CELLS)
    found = march(torch.from_numpy(distances(parts, places.numpy())), places)
    return simplify(clean(Mesh(found.vertices, found.faces)), FACES)


def errors(parts: draw.Array, hulls: list[Mesh]) -> tuple[float, float]:
    """What hulls leave out of packed parts, and what of them lies outside, both of the volume."""
    places = np.concatenate([hull.vertices.numpy() for hull in hulls])
    low, high = places.min(0) - 0.05, places.max(0) + 0.05
    points = np.random.default_rng(0).uniform(low, high, (POINTS, 3)).astype(np.float32)
    inside, filled = distances(parts, points) < 0, np.zeros(POINTS, bool)
    for hull in hulls:
        planes = ConvexHull(hull.vertices.numpy()).equations.astype(np.float32)
        filled |= (points @ planes[:, :3].T + planes[:, 3]).max(1) < 0
    return (inside & ~filled).sum() / inside.sum(), (filled & ~inside).sum() / inside.sum()


def main() -> None:
    """Find parts and print a table."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], default=USUAL, metavar="KIND")
    say(head("toy", "parts", "triangles", "left out", "too much", "s"))
    for kind in parser.parse_args().kinds:
        parts = random_toy(np.random.default_rng(0), kind, "red", "plain").packed()
        mesh, start = made_of(parts), os.times()
        hulls = convex_parts(mesh)
        spent = os.times().user - start.user
        out, extra = errors(parts, hulls)
        say(row(kind, len(hulls), sum(len(hull.faces) for hull in hulls), f"{out:.1%}",
                f"{extra:.1%}", f"{spent:.0f}"))  # fmt: skip


if __name__ == "__main__":
    main()
