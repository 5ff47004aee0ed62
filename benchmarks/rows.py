"""What `renderers/kernels/rows.py` gains: python benchmarks/rows.py [NAME=VALUE...]

Makes the default asset of "a red mug" once, with the settings given. Each call of the hash encoder
and of its backward is made twice on the same numbers, in turns first: by whole rows as vectors, and
feature by feature in plain numba, which must agree but for rounding. Printed are the processor
seconds of both, and how much longer the whole run would take with plain numba. Set
NUMBA_NUM_THREADS=1 and OMP_NUM_THREADS=1 where others share the cores.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import prange

import threed
from renderers.kernels import field_cpu
from renderers.kernels.field_cpu import BLOCK, _block, _locate
from renderers.kernels.jit import compiled

FEATURES = 2  # a constant, as in the kernels: a fifth faster than any number
Array = Any  # a numpy array; numba's functions are untyped


@compiled
def encode(points: Array, table: Array, cells: Array, active: int, out: Array) -> None:
    """As `field_cpu._encode` makes them, for out [N, L * F]."""
    n, rows, features = len(points), table.shape[1], FEATURES
    for block in prange((n + BLOCK - 1) // BLOCK):
        first = block * BLOCK
        count = min(n - first, BLOCK)
        row = np.empty(8 * BLOCK, np.uint32)
        part, here = np.empty(3 * BLOCK, np.float32), np.empty(3 * BLOCK, np.float32)
        _block(points, first, count, here)
        for level in range(active):
            grid = table[level]
            _locate(here, count, cells[level], rows, row, part)
            for p in range(count):
                x, y, z = part[p], part[BLOCK + p], part[2 * BLOCK + p]
                for f in range(features):
                    a, b = grid[row[p], f], grid[row[BLOCK + p], f]
                    c, d = grid[row[2 * BLOCK + p], f], grid[row[3 * BLOCK + p], f]
                    e, g = grid[row[4 * BLOCK + p], f], grid[row[5 * BLOCK + p], f]
                    h, k = grid[row[6 * BLOCK + p], f], grid[row[7 * BLOCK + p], f]
                    a, c = a + x * (b - a), c + x * (d - c)
                    e, h = e + x * (g - e), h + x * (k - h)
                    a, e = a + y * (c - a), e + y * (h - e)
                    out[first + p, level * features + f] = a + z * (e - a)


@compiled
def backward(points: Array, grad: Array, cells: Array, active: int, out: Array) -> None:
    """As `field_cpu._encode_backward` makes them, for grad [N, L * F]."""
    n, rows, features = len(points), out.shape[1], FEATURES
    for level in prange(active):
        grid = out[level]
        row = np.empty(8 * BLOCK, np.uint32)
        part, here = np.empty(3 * BLOCK, np.float32), np.empty(3 * BLOCK, np.float32)
        for block in range((n + BLOCK - 1) // BLOCK):
            first = block * BLOCK
            count = min(n - first, BLOCK)
            _block(points, first, count, here)
            _locate(here, count, cells[level], rows, row, part)
            for p in range(count):
                x, y, z = part[p], part[BLOCK + p], part[2 * BLOCK + p]
                for f in range(features):
                    total = grad[first + p, level * features + f]
                    high = total * z
                    low = total - high
                    c, k = low * y, high * y
                    a, e = low - c, high - k
                    b, d, g, h = a * x, c * x, e * x, k * x
                    grid[row[p], f] += a - b
                    grid[row[BLOCK + p], f] += b
                    grid[row[2 * BLOCK + p], f] += c - d
                    grid[row[3 * BLOCK + p], f] += d
                    grid[row[4 * BLOCK + p], f] += e - g
                    grid[row[5 * BLOCK + p], f] += g
                    grid[row[6 * BLOCK + p], f] += k - h
                    grid[row[7 * BLOCK + p], f] += h


class Both:
    """A kernel by rows and its plain twin: each call makes and times both."""

    def __init__(self, by_rows: Callable[[int], Any], plain: Callable[..., None]) -> None:
        self.by_rows, self.plain = by_rows, plain
        self.seconds, self.calls = {"rows": 0.0, "plain": 0.0}, 0

    def __call__(self, features: int) -> Callable[..., None]:
        """Make what the encoder calls for a number of features. ValueError if not FEATURES."""
        if features != FEATURES:
            raise ValueError(f"the plain twins are for {FEATURES} features, not {features}")

        def call(points: Array, values: Array, cells: Array, active: int, out: Array) -> None:
            other = out.copy()
            ways = [("rows", self.by_rows(features), out), ("plain", self.plain, other)]
            self.calls += 1
            for name, way, result in ways[:: 1 if self.calls % 2 else -1]:
                began = time.process_time()
                way(points, values, cells, active, result)
                if self.calls > 1:  # the first call compiles
                    self.seconds[name] += time.process_time() - began
            np.testing.assert_allclose(out, other, atol=1e-3, rtol=1e-3)

        return call


def main() -> None:
    """Make the asset and print what was found."""
    kernels = {
        "forward": Both(field_cpu._encode, encode),
        "backward": Both(field_cpu._encode_backward, backward),
    }
    field_cpu._encode, field_cpu._encode_backward = kernels.values()  # type: ignore[assignment]
    run, began = threed.load_run(overrides=sys.argv[1:]), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        threed.generate("a red mug", run, out=Path(folder) / "run")
    rows, plain = (sum(k.seconds[name] for k in kernels.values()) for name in ("rows", "plain"))
    whole = time.process_time() - began - plain
    for name, kernel in kernels.items():
        a, b = kernel.seconds["rows"], kernel.seconds["plain"]
        sys.stdout.write(f"{name}: {kernel.calls} calls, {a:.1f} s by rows, {b:.1f} s plain: "
                         f"{b / a:.2f} x\n")  # fmt: skip
    sys.stdout.write(f"the whole run, {whole:.0f} s by rows, would take "
                     f"{(plain - rows) / whole:.1%} longer\n")  # fmt: skip


if __name__ == "__main__":
    main()
