"""What `threed repair` makes of broken meshes, beside our own repairs alone.

    python benchmarks/repair.py

Needs pymeshlab: pip install 'threed[repair]'. Volumes that are known in closed form stand in the
second column. Times are of the processor, MeshLab's processes included.
"""

from __future__ import annotations

import math
import os

from benchmarks.common import head, row
from exporters import meshlab
from exporters.clean import repair
from exporters.mended import State, state_of
from exporters.meshlab import Clock
from exporters.remesh import Mending, mend
from tests.broken import ball, cells, edge_lengths, eight, joined, moved, soup, with_fins
from threed.apps.cli.show import say
from threed.core.mesh import Mesh

BALL = 4 / 3 * math.pi
GAP = math.sqrt(1 + 0.1**2 + 0.05**2)  # between the middles of two balls of radius 1
UNION = 2 * BALL - math.pi * (4 + GAP) * (2 - GAP) ** 2 / 12


def cases() -> dict[str, tuple[Mesh, float | None]]:
    """Meshes by what is wrong with them, and the volume that they should have, if that is known."""
    two = joined(ball(4), moved(ball(4), 1.0, 0.1, 0.05))
    large = joined(ball(6), moved(ball(6), 1.0, 0.1, 0.05))
    solids, count = cells(6)
    return {
        "two balls, one into the other": (two, UNION),
        "the same with 16 times the faces": (large, UNION),
        "the first with a hole": (Mesh(two.vertices, two.faces[60:]), UNION),
        "a tube through itself": (eight(), None),
        "cubes on a grid, with their walls": (solids, float(count)),
        "a ball with 300 fins": (with_fins(ball(), 300), BALL),
        "a soup of a ball": (soup(ball(4), 0.005), BALL),
        "a soup, every second face inside out": (soup(ball(4), 0.005, turned=0.5), BALL),
    }


def wrong(state: State, exact: float | None) -> str:
    """How whole it is, and by how much its volume is off."""
    if state.volume is None or exact is None:
        return state.problems or "a solid"
    return f"{state.problems or 'a solid'}; volume {state.volume / exact - 1:+.2%}"


def main() -> None:
    """Repair and print."""
    say(head("mesh", "faces", "is", "our own repairs", "threed repair", "faces then", "moved", "s"))
    for name, (mesh, exact) in cases().items():
        own = repair(mesh)[0]
        plain = state_of(own, meshlab.work(own, [], Clock.of(600)).crossing)
        start = os.times()
        done = mend(mesh)
        used = sum(os.times()[:4]) - sum(start[:4])
        states = [done.before.problems, wrong(plain, exact), wrong(done.after, exact)]
        figures = [f"{done.after.faces:,}", f"{done.moved:.3%}", f"{used:.1f}"]
        say(row(name, f"{done.before.faces:,}", *states, *figures))
    even = mend(ball(2, 1.0), Mending(remesh="0.1")).mesh
    lengths = edge_lengths(even)
    say("\n" + head("even triangles", "mean edge", "spread", "shortest", "longest"))
    measures = (lengths.mean(), lengths.std(), lengths.min(), lengths.max())
    say(row("a ball, edges of 0.1", *(f"{value:.4f}" for value in measures)))


if __name__ == "__main__":
    main()
