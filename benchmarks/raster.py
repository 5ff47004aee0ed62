"""How fast the rasterizer is, as ratios within one run: python benchmarks/raster.py [--json]

A bumpy sphere whose vertices move before every call; the minimum of interleaved repetitions, after
a first call that compiles. Embree (embreex, of the dev extra) builds its tree and traces one ray a
pixel. Processor time of all threads, which a busy machine disturbs least; its load is stated.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from renderers.kernels.raster import antialias, interpolate, rasterize, twins
from renderers.raster import render_mesh
from threed.core.cameras import Cameras, orbit
from threed.core.mesh import Material, Mesh

TRIANGLES, SIZES = (10_000, 50_000, 200_000), (256, 512, 1024)
Ways = dict[str, Callable[[], None]]


def bumpy_sphere(triangles: int) -> tuple[Tensor, Tensor]:
    """Vertices [V, 3] and faces [F, 3] of about so many triangles, within the unit ball."""
    rows = round((triangles / 4) ** 0.5)
    columns = 2 * rows
    theta, phi = torch.meshgrid(
        torch.linspace(0, torch.pi, rows + 1),
        torch.linspace(0, 2 * torch.pi, columns + 1)[:-1],
        indexing="ij",
    )
    radius = 0.8 + 0.05 * torch.sin(9 * theta) * torch.sin(8 * phi)
    around = torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], -1)
    index = torch.arange((rows + 1) * columns).view(rows + 1, columns)
    a, b = index[:-1], index[1:]
    c, d = b.roll(-1, 1), a.roll(-1, 1)
    faces = torch.cat([torch.stack([a, b, c], -1), torch.stack([a, c, d], -1)]).view(-1, 3)
    return (radius[..., None] * around).reshape(-1, 3), faces


class Work:
    """The same moving mesh and view for all that is timed."""

    def __init__(self, triangles: int, size: int) -> None:
        self.vertices, self.faces = bumpy_sphere(triangles)
        self.cameras: Cameras = orbit(1, size)
        self.matrix = self.cameras.mvp()
        self.twin = twins(self.faces)
        self.generator = torch.Generator().manual_seed(0)
        self.color = torch.rand(len(self.vertices), 3, generator=self.generator)

    def moved(self) -> Tensor:
        """The vertices, each a little elsewhere than ever before."""
        shift = torch.rand(self.vertices.shape, generator=self.generator)
        return self.vertices + 0.002 * shift

    def clip(self) -> Tensor:
        """Clip coordinates [1, V, 4] of the vertices, moved."""
        return F.pad(self.moved(), (0, 1), value=1.0) @ self.matrix.mT

    def size(self) -> tuple[int, int]:
        """Pixels."""
        return self.cameras.height, self.cameras.width


def fastest(prepare: Callable[[], Any], ways: dict[str, Callable[[Any], None]], n: int) -> dict:
    """Least seconds by the clock of n interleaved calls of each, `prepare` left out.

    Not processor time, of which a process does not see what its waiting threads took.
    """
    best = dict.fromkeys(ways, float("inf"))
    for repetition in range(n + 1):
        for name, run in ways.items():
            given = prepare()
            start = time.perf_counter()
            run(given)
            if repetition:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repetitions", type=int, default=10)
    asked = parser.parse_args()
    result: dict[str, Any] = {
        "load": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "against_embree": {size: against_embree(size, asked.repetitions) for size in SIZES[:2]},
        "whole_step": {size: whole_step(size, asked.repetitions) for size in SIZES[:2]},
        "rasterize_ms": {
            triangles: {size: rasterize_ms(triangles, size, asked.repetitions) for size in SIZES}
            for triangles in TRIANGLES
        },
        "turntable_frame_1024_s": turntable_frame(asked.repetitions),
    }
    if asked.json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        sys.stdout.write("\n".join(lines(result)) + "\n")


def against_embree(size: int, repetitions: int) -> dict[str, float]:
    """Seconds of rasterizing 50,000 triangles, and of Embree's tree and its tracing."""
    from embreex import rtcore_scene
    from embreex.mesh_construction import TriangleMesh

    work = Work(50_000, size)
    origins, directions = (v.reshape(-1, 3).numpy() for v in work.cameras.rays())
    origins = np.ascontiguousarray(origins)
    faces = work.faces.int().numpy()

    def embree(vertices: Tensor) -> None:
        scene = rtcore_scene.EmbreeScene()
        TriangleMesh(scene, vertices.numpy(), faces)
        scene.run(origins, directions)

    def own(vertices: Tensor) -> None:
        clip = F.pad(vertices, (0, 1), value=1.0) @ work.matrix.mT
        rasterize(clip, work.faces, work.size())

    seconds = fastest(work.moved, {"cpu": own, "embree": embree}, repetitions)
    return seconds | {"ratio": seconds["embree"] / seconds["cpu"]}


def whole_step(size: int, repetitions: int) -> dict[str, float]:
    """Seconds of rasterizing alone, and of it, interpolation and antialiasing, and back."""
    work = Work(50_000, size)

    def bare(clip: Tensor) -> None:
        rasterize(clip, work.faces, work.size())

    def whole(clip: Tensor) -> None:
        clip.requires_grad_()
        color = work.color.clone().requires_grad_()
        buffer = rasterize(clip, work.faces, work.size())
        picture = interpolate(color, buffer, work.faces)
        antialias(picture, buffer, clip, work.faces, work.twin).sum().backward()

    seconds = fastest(work.clip, {"rasterize": bare, "whole": whole}, repetitions)
    return seconds | {"ratio": seconds["whole"] / seconds["rasterize"]}


def rasterize_ms(triangles: int, size: int, repetitions: int) -> float:
    """Milliseconds of one view."""
    work = Work(triangles, size)

    def bare(clip: Tensor) -> None:
        rasterize(clip, work.faces, work.size())

    return 1000 * fastest(work.clip, {"rasterize": bare}, repetitions)["rasterize"]


def turntable_frame(repetitions: int) -> float:
    """Seconds of a 1024 x 1024 frame, shaded and smooth, of a textured mesh of 50,000 triangles."""
    vertices, faces = bumpy_sphere(50_000)
    uv = (vertices[:, :2] + 1) / 2
    material = Material(torch.rand(1024, 1024, 3))
    mesh = Mesh(vertices, faces, uv=uv, uv_faces=faces, material=material)
    cameras = orbit(1, 1024)

    def frame(_: None) -> None:
        render_mesh(mesh, cameras, look="shaded")

    return fastest(lambda: None, {"frame": frame}, min(repetitions, 3))["frame"]


def lines(result: dict[str, Any]) -> list[str]:
    """The result for reading."""
    out = [f"load {result['load']:.1f}, {result['threads']} threads; 50,000 triangles that move"]
    for size, found in result["against_embree"].items():
        out.append(f"  {size}²: rasterize {1000 * found['cpu']:.2f} ms, Embree's tree and tracing "
                   f"{1000 * found['embree']:.1f} ms: {found['ratio']:.1f} x")  # fmt: skip
    for size, found in result["whole_step"].items():
        out.append(f"  {size}²: rasterize + interpolate + antialias, forward and backward: "
                   f"{1000 * found['whole']:.1f} ms, {found['ratio']:.1f} x rasterize")  # fmt: skip
    out.append("rasterize, ms     " + "".join(f"{size:8d}²" for size in SIZES))
    for triangles, row in result["rasterize_ms"].items():
        out.append(f"{triangles:9,d} triangles" + "".join(f"{row[s]:9.2f}" for s in SIZES))
    out.append(f"a 1024² turntable frame of 50,000 textured triangles: "
               f"{result['turntable_frame_1024_s']:.2f} s")  # fmt: skip
    return out


if __name__ == "__main__":
    main()
