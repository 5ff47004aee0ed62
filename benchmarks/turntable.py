"""What a turntable costs: `python benchmarks/turntable.py asset.glb`.

Processor seconds of a frame, for the one-pass pictures that turntables use and for render_mesh, on
as many threads as numba and torch are told to use, compilation apart; then of the whole video.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from exporters import pictures, topology, video
from exporters.load import load
from renderers.film import film
from renderers.raster import render_mesh
from threed.cameras import orbit
from threed.core import Cameras, Mesh

FRAMES, SIZE = 16, 512
BACKGROUND = torch.full((3,), video.BACKGROUND)


def cost(draw: Callable[[Cameras], Iterable[Tensor]]) -> float:
    """Processor seconds of a frame."""
    cameras = orbit(FRAMES, SIZE)
    list(draw(cameras[:1]))
    began = time.process_time()
    for _ in draw(cameras):
        pass
    return (time.process_time() - began) / FRAMES


def by_render_mesh(mesh: Mesh, cameras: Cameras) -> Iterator[Tensor]:
    """The same pictures, two at a time."""
    for first in range(0, len(cameras), 2):
        views = cameras[first : first + 2]
        yield from render_mesh(mesh, views, background=BACKGROUND, look="shaded").rgb


def main() -> None:
    """Print the costs of the mesh in the file that is the only argument."""
    mesh = load(Path(sys.argv[1]))
    framed = pictures.framed(mesh)
    solid = topology.is_solid(mesh)
    fast = cost(lambda c: film(framed, c, background=BACKGROUND, look="shaded", solid=solid))
    slow = cost(lambda c: by_render_mesh(framed, c))
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        video.turntable(mesh, Path(folder) / "turntable.mp4")
    whole = time.process_time() - began
    sys.stdout.write(
        f"{len(mesh.faces):,} faces at {SIZE}²: film {1000 * fast:.1f} ms a frame, render_mesh "
        f"{1000 * slow:.1f} ms ({slow / fast:.1f} times); 120 frames with encoding {whole:.2f} s\n"
    )


if __name__ == "__main__":
    main()
