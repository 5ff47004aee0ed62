"""Every kind of kernel that loads, on one device: python benchmarks/device.py --device cuda

Hash grid; march + composite; rasterize + interpolate + antialias; and a surface's mesh from its
grid: each forward and backward, in milliseconds. The least of interleaved repetitions, the device
waited for each time. The torch reference comes last, and alone: some of its work takes minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from benchmarks.common import keep
from benchmarks.kernels import of_kind, rays
from renderers import kernels
from renderers.kernels import cuda
from renderers.kernels.raster import antialias, interpolate, rasterize, twins
from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.scenes.surface import Surface
from threed.settings.scenes import SurfaceSettings

KINDS = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}
ONLY_TORCH = ("march", "composite")  # of which the Triton kernels are the reference's
MESHERS = ("tetrahedra", "flexicubes")
SLOW = 2000  # milliseconds, from which once is enough

Run = Callable[[], None]


@dataclass(frozen=True)
class Size:
    """How much work there is."""

    points: int = 200_000
    levels: int = 16
    log2_table: int = 19
    triangles: int = 50_000
    pixels: int = 512  # a side
    cells: int = 64  # a side of a surface's grid


SMALL = Size(points=2000, log2_table=12, triangles=400, pixels=32, cells=12)


def hash_grid(device: str, size: Size) -> Run:
    """Points in levels from 16 to 2048 cells, 2 features."""
    cells = (16 * 128 ** torch.linspace(0, 1, size.levels, dtype=torch.float64)).round().long()
    points = torch.rand(size.points, 3, device=device)
    table = torch.randn(size.levels << size.log2_table, 2, device=device, requires_grad=True)

    def run() -> None:
        table.grad = None
        kernels.hash_encode(points, table, cells, size.levels).sum().backward()

    return run


def outlines(device: str, size: Size) -> Run:
    """A ball of 4 rows² triangles, seen from four sides."""
    rows = round((size.triangles / 4) ** 0.5)
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
    matrix, twin = orbit(4, size.pixels).mvp().to(device), twins(faces)

    def run() -> None:
        clip = (F.pad(vertices, (0, 1), value=1.0) @ matrix.mT).requires_grad_()
        buffer = rasterize(clip, faces, (size.pixels, size.pixels))
        color = interpolate(vertices, buffer, faces)
        antialias(color, buffer, clip, faces, twin).sum().backward()

    return run


def mesher(name: str, device: str, size: Size) -> Run:
    """A surface's mesh from its grid, to the gradient of its distances."""
    surface = Surface(SurfaceSettings(grid=size.cells, mesher=name)).to(device)  # type: ignore[arg-type]

    def run() -> None:
        surface.zero_grad()
        surface.march().vertices.square().sum().backward()

    return run


def label(kind: str, operation: str) -> str:
    """What a kind is called: the library behind the kernels for CUDA devices."""
    return cuda.LIBRARIES[operation] if kind == "cuda" else kind


def problem(kind: str, device: str, operation: str) -> str | None:
    """Why a kind has no kernels of its own for an operation here; None if it has."""
    if kind == "triton" and operation in ONLY_TORCH:
        return "the reference's"
    try:
        kernels.set_kernels(kind)
        return None if kernels.select(device, operation) == kind else f"not for {device}"
    except InputError as error:
        return str(error)
    finally:
        kernels.set_kernels(None)


def milliseconds(runs: Mapping[str, Run], device: str) -> dict[str, float]:
    """The least of three calls of each, after one that compiles; of one that is slow, that."""
    best = dict.fromkeys(runs, float("inf"))
    for repetition in range(4):
        for name, run in runs.items():
            if SLOW < best[name] < float("inf"):
                continue
            start = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            took = 1000 * (time.perf_counter() - start)
            if repetition or took > SLOW:
                best[name] = min(best[name], took)
    return best


class Report:
    """Says what was found and keeps it, row by row."""

    def __init__(self, file: Path | None) -> None:
        self.file = file

    def missing(self, work: str, kind: str, why: str) -> None:
        """A kind that cannot be measured."""
        sys.stdout.write(f"{work:12s} {kind:11s} {why}\n")
        keep(self.file, {"work": work, "kind": kind, "problem": why})

    def found(self, work: str, times: Mapping[str, float]) -> None:
        """Milliseconds by kind."""
        for kind, value in times.items():
            sys.stdout.write(f"{work:12s} {kind:11s} {value:9.2f} ms\n")
            keep(self.file, {"work": work, "kind": kind, "ms": value})
        sys.stdout.flush()


def measure_meshers(device: str, size: Size, report: Report) -> None:
    """The ways from a grid to a mesh."""
    runs: dict[str, Run] = {}
    for name in MESHERS:
        try:
            runs[name] = mesher(name, device, size)
        except InputError as error:
            report.missing("mesher", name, str(error))
    report.found("mesher", milliseconds(runs, device))


WORKS: dict[str, tuple[str, Callable[[str, Size], Run]]] = {  # operation that decides, and work
    "hash grid": ("hash_encode", hash_grid),
    "rays": ("march", lambda device, _: rays(device)),
    "rasterizer": ("rasterize", outlines),
}


def measure_kernels(device: str, size: Size, kinds: Sequence[str], report: Report) -> None:
    """The operations of kernels: the quick kinds side by side, and at last the reference."""
    slow: dict[str, Run] = {}
    for name, (operation, make) in WORKS.items():
        work = make(device, size)
        runs: dict[str, Run] = {}
        for kind in kinds:
            why = problem(kind, device, operation)
            if why is not None:
                report.missing(name, label(kind, operation), why)
            elif kind == "reference":
                slow[name] = of_kind(kind, work)
            else:
                runs[label(kind, operation)] = of_kind(kind, work)
        report.found(name, milliseconds(runs, device))
    for name, run in slow.items():
        report.found(name, milliseconds({"reference": run}, device))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=tuple(KINDS), default="cuda")
    parser.add_argument("--kinds", help="of kernels, with commas between")
    parser.add_argument("--triangles", type=int, default=Size.triangles)
    parser.add_argument("--size", type=int, default=Size.pixels)
    parser.add_argument("--small", action="store_true", help="next to no work, to see that it runs")
    parser.add_argument("--json", type=Path, help="a file to which each row is added at once")
    asked = parser.parse_args()
    name = torch.cuda.get_device_name() if asked.device == "cuda" else "CPU"
    sys.stdout.write(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}\n")
    size = SMALL if asked.small else Size(triangles=asked.triangles, pixels=asked.size)
    kinds = asked.kinds.split(",") if asked.kinds else KINDS[asked.device]
    report = Report(asked.json)
    measure_meshers(asked.device, size, report)
    measure_kernels(asked.device, size, kinds, report)


if __name__ == "__main__":
    main()
