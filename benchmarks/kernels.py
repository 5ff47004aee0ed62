"""How fast the kernels are, as ratios within one run: python benchmarks/kernels.py [--json]

The minimum of interleaved repetitions, after a first call that compiles; wall clock and processor
time, with the load of the machine stated. Dr.Jit joins in where it is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from renderers import kernels
from renderers.kernels import field_reference
from renderers.volume import ball
from threed.core.cameras import orbit, random_views
from threed.scenes.field import Field

POINTS, LEVELS, FEATURES, LOG2_TABLE = 200_000, 16, 2, 15
RAYS, STEP = 16_384, 2 / 96


def resolutions() -> Tensor:
    """[LEVELS] from 16 to 2048."""
    return (16 * (2048 / 16) ** torch.linspace(0, 1, LEVELS, dtype=torch.float64)).round().long()


class _OwnBackward(torch.autograd.Function):
    """Torch at its best: embedding_bag level by level, the table's gradient by index_add_."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, cells: Tensor) -> Tensor:
        rows = len(table) // len(cells)
        ctx.shape, ctx.corners = table.shape, []
        out = points.new_empty(len(points), len(cells), table.shape[1])
        for level, side in enumerate(cells.tolist()):
            part = table[level * rows : (level + 1) * rows]
            index, weight = corners(points, side, rows)
            ctx.corners.append((index, weight))
            out[:, level] = F.embedding_bag(index, part, mode="sum", per_sample_weights=weight)
        return out.flatten(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        out = grad.new_zeros(ctx.shape)
        levels = len(ctx.corners)
        rows = len(out) // levels
        grad = grad.view(len(grad), levels, -1)
        for level, (index, weight) in enumerate(ctx.corners):
            piece = (grad[:, level, None] * weight[..., None]).flatten(0, 1)
            out[level * rows : (level + 1) * rows].index_add_(0, index.flatten(), piece)
        return None, out, None


def corners(points: Tensor, side: int, rows: int) -> tuple[Tensor, Tensor]:
    """Rows and weights [N, 8] of the corners of the cells that hold the points."""
    scaled = points * side
    low = scaled.long().clamp(max=side - 1)
    fraction = scaled - low
    bits = torch.tensor([[c & 1, c >> 1 & 1, c >> 2] for c in range(8)])
    weight = torch.where(bits == 1, fraction[:, None], 1 - fraction[:, None]).prod(-1)
    sides = torch.tensor(side + 1)
    return field_reference._rows(low[:, None] + bits, sides, rows), weight


def encoders(table: Tensor, points: Tensor) -> dict[str, Callable[[], None]]:
    """Forward and backward of each way to encode, by name."""
    cells = resolutions()
    cotangent = torch.randn(POINTS, LEVELS * FEATURES)

    def step(encode: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            table.grad = None
            encode().backward(cotangent)

        return run

    from renderers.kernels import field_cpu

    ways = {
        "cpu": step(lambda: field_cpu.hash_encode(points, table, cells, LEVELS)),
        "plain autograd": step(lambda: field_reference.hash_encode(points, table, cells, LEVELS)),
        "torch, own backward": step(lambda: _OwnBackward.apply(points, table, cells)),
    }
    drjit = drjit_encoder(points, cotangent)
    return ways if drjit is None else ways | {"Dr.Jit": drjit}


def drjit_encoder(points: Tensor, cotangent: Tensor) -> Callable[[], None] | None:
    """Dr.Jit's HashGridEncoding on the LLVM back end, or None where it is not installed."""
    try:
        import drjit as dr
        from drjit.hashgrid import HashGridEncoding
        from drjit.llvm.ad import ArrayXf, Float32
    except ImportError:
        return None
    grid = HashGridEncoding(
        Float32, 3, n_levels=LEVELS, n_features_per_level=FEATURES, hashmap_size=2**LOG2_TABLE,
        base_resolution=16, per_level_scale=(2048 / 16) ** (1 / (LEVELS - 1)), rng=dr.rng(0),
    )  # fmt: skip
    place = ArrayXf(points.T.contiguous().numpy())
    weight = ArrayXf(cotangent.T.contiguous().numpy())
    dr.make_opaque(place, weight)

    def run() -> None:
        params = Float32(dr.detach(grid.params))
        dr.enable_grad(params)
        grid.set_params(params)
        features = ArrayXf(grid(place))
        dr.eval(features)  # or it would see that nobody asks for them, and leave them out
        dr.backward(dr.sum(features * weight, axis=None))
        dr.eval(dr.grad(params))
        dr.sync_thread()

    return run


def rays(device: str = "cpu") -> Callable[[], None]:
    """March and composite, forward and backward, of RAYS rays, by the kernels that are chosen.

    A ball of radius 0.55 is occupied, 9 % of the cells: as much as a trained toy.
    """
    generator = torch.Generator().manual_seed(0)
    axis = (torch.arange(32) + 0.5) / 16 - 1
    occupied = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0) < 0.55
    cameras = random_views(4, 64, generator, views=4)
    origins, directions = (v.reshape(-1, 3) for v in cameras.rays())
    jitter = torch.rand(RAYS, generator=generator).to(device)
    told = (origins, directions, *ball(origins, directions), occupied)
    there = [each.to(device) for each in told]

    def run() -> None:
        samples = kernels.march(*there, STEP, jitter)
        count = len(samples)
        density = torch.full((count,), 3.0, requires_grad=True, device=device)
        color = torch.full((count, 3), 0.5, requires_grad=True, device=device)
        _, rgb, opacity, depth = kernels.composite(density, color, samples, RAYS)
        (rgb.sum() + opacity.sum() + depth.sum()).backward()

    return run


def of_kind(kind: str, work: Callable[[], None]) -> Callable[[], None]:
    """Some work with one kind of kernels."""

    def run() -> None:
        kernels.set_kernels(kind)
        work()
        kernels.set_kernels(None)

    return run


@dataclass(frozen=True)
class Times:
    """Seconds by name, each the least of interleaved repetitions."""

    wall: dict[str, float]
    process: dict[str, float]  # of all threads: what a busy machine disturbs least

    def ratios(self) -> dict[str, dict[str, float]]:
        """Of each to the numba kernels."""
        return {
            kind: {name: value / seconds["cpu"] for name, value in seconds.items()}
            for kind, seconds in (("wall", self.wall), ("process", self.process))
        }


def fastest(ways: dict[str, Callable[[], None]], repetitions: int) -> Times:
    """Time each, after a first call that compiles."""
    for run in ways.values():
        run()
    best = Times(dict.fromkeys(ways, float("inf")), dict.fromkeys(ways, float("inf")))
    for _ in range(repetitions):
        for name, run in ways.items():
            wall, process = time.perf_counter(), time.process_time()
            run()
            best.wall[name] = min(best.wall[name], time.perf_counter() - wall)
            best.process[name] = min(best.process[name], time.process_time() - process)
    return best


def view_memory_gib() -> float:
    """Peak memory of the process after a 1024 x 1024 view of a field."""
    with torch.no_grad():
        Field().render(orbit(1, 1024))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repetitions", type=int, default=5)
    asked = parser.parse_args()
    # first: memory is a peak, and the benchmarks need more
    memory = view_memory_gib()
    torch.manual_seed(0)
    table = torch.randn(LEVELS * 2**LOG2_TABLE, FEATURES, requires_grad=True)
    encode = fastest(encoders(table, torch.rand(POINTS, 3)), asked.repetitions)
    ways = {kind: of_kind(kind, rays()) for kind in ("cpu", "reference")}
    render = fastest(ways, asked.repetitions)
    result = {
        "load": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "hash_encode_ratio": encode.ratios(),
        "hash_encode_cpu_s": encode.wall["cpu"],
        "march_composite_ratio": render.ratios(),
        "march_composite_cpu_s": render.wall["cpu"],
        "view_1024_peak_gib": memory,
    }
    if asked.json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
        return
    lines = [f"load {result['load']:.1f}, {result['threads']} threads"]
    for title, times in (("hash_encode, forward + backward", encode),
                         ("march + composite, forward + backward", render)):  # fmt: skip
        lines.append(f"{title}: cpu {1000 * times.wall['cpu']:.0f} ms")
        wall, process = times.ratios()["wall"], times.ratios()["process"]
        lines += [
            f"  {name:20s} {wall[name]:6.2f} x cpu, in processor time {process[name]:6.2f} x"
            for name in wall
            if name != "cpu"
        ]
    lines.append(f"a 1024 x 1024 view: {memory:.2f} GiB at the peak of the process")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
