"""Every kind of kernel that loads, on one device: python benchmarks/device.py --device cuda

Hash grid, and rasterize + interpolate + antialias, each forward and backward: milliseconds, and the
ratio to the quickest. The minimum of interleaved repetitions, the device waited for each time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from renderers import kernels
from renderers.kernels.raster import antialias, interpolate, rasterize, twins
from threed.core.cameras import orbit
from threed.core.errors import InputError

KINDS = {"cpu": ("reference", "cpu"), "cuda": ("reference", "triton", "cuda")}
POINTS, LEVELS, LOG2_TABLE = 200_000, 16, 19
SLOW = 2000  # milliseconds, from which once is enough


def hash_grid(device: str) -> Callable[[], None]:
    """200,000 points, 16 levels from 16 to 2048 cells, 2 features, tables of 2^19 rows."""
    cells = (16 * 128 ** torch.linspace(0, 1, LEVELS, dtype=torch.float64)).round().long()
    points = torch.rand(POINTS, 3, device=device)
    table = torch.randn(LEVELS << LOG2_TABLE, 2, device=device, requires_grad=True)

    def run() -> None:
        table.grad = None
        kernels.hash_encode(points, table, cells, LEVELS).sum().backward()

    return run


def outlines(device: str, size: int, rows: int) -> Callable[[], None]:
    """A ball of 4 rows² triangles, seen from four sides."""
    theta, phi = torch.meshgrid(
        torch.linspace(0, torch.pi, rows + 1),
        torch.linspace(0, 2 * torch.pi, 2 * rows + 1)[:-1],
        indexing="ij",
    )
    around = torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], -1)
    index = torch.arange(around[..., 0].numel()).view(rows + 1, 2 * rows)
    a, b, c, d = index[:-1], index[1:], index[1:].roll(-1, 1), index[:-1].roll(-1, 1)
    faces = torch.cat([torch.stack([a, b, c], -1), torch.stack([a, c, d], -1)]).view(-1, 3)
    faces, vertices = faces.to(device), 0.8 * around.view(-1, 3).to(device)
    matrix, twin = orbit(4, size).mvp().to(device), twins(faces)

    def run() -> None:
        clip = (F.pad(vertices, (0, 1), value=1.0) @ matrix.mT).requires_grad_()
        buffer = rasterize(clip, faces, (size, size))
        color = interpolate(vertices, buffer, faces)
        antialias(color, buffer, clip, faces, twin).sum().backward()

    return run


def loads(kind: str, device: str, operation: str) -> bool:
    """Whether a kind has an operation here, with the reason printed if not."""
    try:
        kernels.set_kernels(kind)
        return kernels.select(device, operation) == kind
    except InputError as error:
        sys.stdout.write(f"{operation}: {error}\n")
        return False


def milliseconds(run: Callable[[], None], kinds: list[str], device: str) -> dict[str, float]:
    """The least of three calls of each kind, after one that compiles; of one that is slow, that."""
    best = dict.fromkeys(kinds, float("inf"))
    for repetition in range(4):
        for kind in kinds:
            if SLOW < best[kind] < float("inf"):
                continue
            kernels.set_kernels(kind)
            start = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            took = 1000 * (time.perf_counter() - start)
            if repetition or took > SLOW:
                best[kind] = min(best[kind], took)
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=tuple(KINDS), default="cuda")
    parser.add_argument("--triangles", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=512)
    asked = parser.parse_args()
    name = torch.cuda.get_device_name() if asked.device == "cuda" else "CPU"
    sys.stdout.write(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}\n")
    rows = round((asked.triangles / 4) ** 0.5)
    for title, operation, work in (
        ("hash grid", "hash_encode", hash_grid(asked.device)),
        ("rasterizer", "rasterize", outlines(asked.device, asked.size, rows)),
    ):
        kinds = [kind for kind in KINDS[asked.device] if loads(kind, asked.device, operation)]
        found = milliseconds(work, kinds, asked.device)
        for kind, value in found.items():
            ratio = value / min(found.values())
            sys.stdout.write(f"{title:12s} {kind:10s} {value:9.2f} ms {ratio:7.2f} x\n")


if __name__ == "__main__":
    main()
