"""How clean assets are beside the real toys: python benchmarks/surfaces.py RUN...

Each RUN is a folder that `threed generate` or `threed evaluate` made of a toy of one colour
(`threed evaluate` makes one for every prompt). Real toys of the same words are meshed out of the
world's own solids, with as many faces. Of both: the median angle between neighbouring faces, and
how much the colour varies where it is the one that was asked for, of 1. Of the asset: how far its
colour is from the one that was asked for, in no light, where it is nearest to that.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import head, row
from exporters import load
from exporters.clean import weld
from exporters.fair import neighbours
from exporters.simplify import simplify
from threed.core.mesh import Mesh
from threed.scenes.paint import Spots, colors_of
from threed.scenes.tetrahedra import grid_points, march
from threed.toybox.world import draw
from threed.toybox.world.toys import COLORS, KINDS, Toy, random_light, random_toy

TOYS = 5  # real ones that an asset is compared with
CELLS = 128  # a side of the grid that they are meshed on
LIGHTS = 64


@njit(cache=True)
def nearest(parts: Any, points: Any, distance: Any, owner: Any) -> None:
    """The signed distance [N] of points [N, 3] to packed parts, and whose surface [N] is there."""
    for n in range(len(points)):
        x, y, z = points[n]
        distance[n] = 1e9
        for i in range(len(parts)):
            if parts[i, draw.CUT] > 0.5 or parts[i, draw.SHAPE] > 3.5:
                continue
            d, whose = draw._carved(parts, i, x, y, z)
            if d < distance[n]:
                distance[n], owner[n] = d, whose


def real_toy(toy: Toy, faces: int) -> tuple[Mesh, Tensor]:
    """A toy's mesh of about so many faces, and its vertices' colours [V, 3] in the mean light."""
    parts, places = toy.packed(), grid_points(CELLS)
    made = march(torch.from_numpy(_nearest(parts, places.numpy())[0]), places)
    mesh = simplify(Mesh(made.vertices, made.faces), faces)
    _, owner = _nearest(parts, mesh.vertices.numpy())
    base = torch.from_numpy(parts[owner, draw.COLOR : draw.COLOR + 3])
    normals, rng = mesh.vertex_normals(), np.random.default_rng(0)
    shade = torch.zeros(len(base))
    for light in (random_light(rng) for _ in range(LIGHTS)):
        facing = (normals @ torch.tensor(light.direction)).clamp(min=0)
        sky = 0.9 + 0.1 * normals[:, 2]
        shade += (light.ambient * sky + (1 - light.ambient) * facing) / LIGHTS
    return mesh, (base * shade[:, None] * 1.04).clamp(max=1)


def _nearest(parts: draw.Array, points: draw.Array) -> tuple[draw.Array, Any]:
    distance, owner = np.empty(len(points), np.float32), np.zeros(len(points), np.int64)
    nearest(parts, points, distance, owner)
    return distance, owner


def bend_deg(mesh: Mesh) -> float:
    """The median angle between neighbouring faces, in degrees."""
    normal = F.normalize(mesh.face_normals().double(), dim=-1)
    one, other = neighbours(mesh)
    cosine = (normal[one] * normal[other]).sum(1)
    return float(cosine.clamp(-1, 1).arccos().rad2deg().median())


def spread(colors: Tensor, color: str) -> float:
    """How far colours [N, 3] that look most like the named one are from their mean (RMS, of 1)."""
    names, known = list(COLORS), torch.tensor(list(COLORS.values()))
    like = (colors[:, None] - known).square().sum(-1).argmin(1) == names.index(color)
    own = colors[like]
    return float((own - own.mean(0)).square().mean().sqrt()) if len(own) else float("nan")


def aside(colors: Tensor, color: str) -> float:
    """How far the median of the nearest 40 % of colours [N, 3] is from the named one, of 1."""
    named = torch.tensor(COLORS[color])
    away = (colors - named).norm(dim=1)
    nearest = colors[away <= away.quantile(0.4)]
    return float((nearest.median(0).values - named).norm())


def measure(run: Path) -> tuple[str, float, float, float, float, float]:
    """The prompt of a run; angles of its asset and of real toys; the spread of both's colours.

    At last, how far its colour is from the one that was asked for.
    """
    prompt = (run / "prompt.txt").read_text(encoding="utf-8").strip()
    color, kind = prompt.split()[-2:]
    if color not in COLORS or kind not in KINDS or len(prompt.split()) != 3:
        raise SystemExit(f"{run}: its prompt is to be a colour and a kind, got {prompt!r}")
    mesh = load(run / "asset.glb")
    spots = Spots.on(mesh)
    colors = colors_of(mesh, spots)
    assert colors is not None  # an asset has a texture
    toys = [random_toy(np.random.default_rng(i), kind, color, "plain") for i in range(TOYS)]
    real = [real_toy(toy, len(mesh.faces)) for toy in toys]
    bends, spreads = zip(*((bend_deg(one), spread(own, color)) for one, own in real))
    bend = bend_deg(weld(Mesh(mesh.vertices, mesh.faces)))
    return prompt, bend, median(bends), spread(colors, color), median(spreads), aside(colors, color)


def table(runs: list[Path]) -> Iterator[str]:
    """Lines of Markdown, one a run."""
    yield head("prompt", "angle of faces", "of real toys'", "spread of colour", "of real toys'",
               "beside its colour")  # fmt: skip
    for run in runs:
        prompt, bend, real, own, true, away = measure(run)
        yield row(
            prompt, f"{bend:.2f}°", f"{real:.2f}°", f"{own:.3f}", f"{true:.3f}", f"{away:.2f}"
        )


def main() -> None:
    """Measure runs and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    for line in table(parser.parse_args().runs):
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
