"""What a turntable costs: `python benchmarks/turntable.py asset.glb`.

Processor seconds of a frame, by `film`, which turntables use, and by render_mesh, on as many
threads as numba and torch are told to use, compilation apart; then of the whole video. And what a
texture taken as small as the pixels need gains: PSNR against means of 8 x 8 pixels in each one, for
the asset's texture and for noise in its place.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from exporters import load, pictures, topology, video
from renderers.film import film, texels_a_pixel
from renderers.raster import render_mesh
from threed.core.cameras import Cameras, orbit
from threed.core.mesh import Mesh

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


def likeness(mesh: Mesh, size: int, finer: int = 8) -> tuple[float, float, float]:
    """Texels a pixel; PSNR of pictures of size² with the texture as it is, and taken smaller."""
    cameras = orbit(2, size)
    many = by_render_mesh(mesh, cameras.resized(finer * size, finer * size))
    pooled = F.avg_pool2d(torch.stack(list(many)).permute(0, 3, 1, 2), finer)
    truth = pooled.permute(0, 2, 3, 1)
    plain = torch.stack(list(by_render_mesh(mesh, cameras)))
    small = torch.stack(list(film(mesh, cameras, background=BACKGROUND, look="shaded")))
    psnr = [-10 * math.log10(float((seen - truth).square().mean())) for seen in (plain, small)]
    return texels_a_pixel(mesh, cameras), psnr[0], psnr[1]


def main() -> None:
    """Print the costs of the mesh in the file that is the only argument."""
    mesh = load(Path(sys.argv[1]))
    framed = pictures.fit_ball(mesh)
    solid = topology.is_solid(mesh)
    fast = cost(lambda c: film(framed, c, background=BACKGROUND, look="shaded", solid=solid))
    slow = cost(lambda c: by_render_mesh(framed, c))
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        video.save_turntable(mesh, Path(folder) / "turntable.mp4")
    whole = time.process_time() - began
    sys.stdout.write(
        f"{len(mesh.faces):,} faces at {SIZE}²: film {1000 * fast:.1f} ms a frame, render_mesh "
        f"{1000 * slow:.1f} ms ({slow / fast:.1f} times); 120 frames with encoding {whole:.2f} s\n"
    )
    image = framed.material.albedo
    if image is None:
        return
    noise = replace(framed, material=replace(framed.material, albedo=torch.rand(image.shape)))
    for name, textured in (("its texture", framed), ("noise", noise)):
        for size in (64, 128, 256):
            many, plain, small = likeness(textured, size)
            sys.stdout.write(f"{name} at {size}², {many:.1f} texels a pixel: {plain:.1f} dB as it "
                             f"is, {small:.1f} dB taken smaller\n")  # fmt: skip


if __name__ == "__main__":
    main()
