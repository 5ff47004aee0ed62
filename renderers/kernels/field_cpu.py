"""The field's operations in numba: float32 tensors on the CPU, all cores.

Signatures, shapes and meanings are those of `renderers.kernels`. Every sum is made by one thread in
a fixed order, so that results do not depend on the number of threads: rays are independent, and
the gradient of the hash table is summed by one thread a level.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from renderers.kernels import Samples
from renderers.kernels.jit import compiled, inlined

BLOCK = 512  # points a level is read for before the next one: output and level stay in the cache
STOP = np.float32(1e-4)  # as in field_reference
Array = Any  # a numpy array; numba's functions are untyped
_Y, _Z = np.uint32(2654435761), np.uint32(805459861)
_1 = np.float32(1)
_0 = np.float32(0)


@inlined
def _corners(x: Any, y: Any, z: Any, cell: Any, rows: Any) -> Any:
    """The 8 rows around a point (4 at its low x, 4 at its high x), 4 weights, fraction along x."""
    scale = np.float32(cell)
    x, y, z = x * scale, y * scale, z * scale
    ix = np.uint32(min(max(int(x), 0), cell - 1))
    iy = np.uint32(min(max(int(y), 0), cell - 1))
    iz = np.uint32(min(max(int(z), 0), cell - 1))
    x, y, z = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
    one = np.uint32(1)
    if (cell + 1) ** 3 <= rows:
        side = np.uint32(cell + 1)
        a = np.uint32(ix + side * (iy + side * iz))
        b = np.uint32(a + side)
        c = np.uint32(a + side * side)
        d = np.uint32(c + side)
        e, f, g, h = np.uint32(a + one), np.uint32(b + one), np.uint32(c + one), np.uint32(d + one)
    else:
        mask = np.uint32(rows - 1)
        y0, z0 = np.uint32(iy * _Y), np.uint32(iz * _Z)
        y1, z1 = np.uint32(y0 + _Y), np.uint32(z0 + _Z)
        jx = np.uint32(ix + one)
        a, b, c, d = y0 ^ z0, y1 ^ z0, y0 ^ z1, y1 ^ z1
        e, f, g, h = (jx ^ a) & mask, (jx ^ b) & mask, (jx ^ c) & mask, (jx ^ d) & mask
        a, b, c, d = (ix ^ a) & mask, (ix ^ b) & mask, (ix ^ c) & mask, (ix ^ d) & mask
    low = (np.uint64(a), np.uint64(b), np.uint64(c), np.uint64(d))
    high = (np.uint64(e), np.uint64(f), np.uint64(g), np.uint64(h))
    return low, high, ((_1 - y) * (_1 - z), y * (_1 - z), (_1 - y) * z, y * z), x


@compiled
def _encode(points: Array, table: Array, cells: Array, active: int, out: Array) -> None:
    n, rows, features = len(points), table.shape[1], table.shape[2]
    for block in prange((n + BLOCK - 1) // BLOCK):
        for level in range(active):
            cell, grid = cells[level], table[level]
            for p in range(block * BLOCK, min(n, (block + 1) * BLOCK)):
                i, j, w, x = _corners(points[p, 0], points[p, 1], points[p, 2], cell, rows)
                for f in range(features):
                    low = w[0] * grid[i[0], f] + w[1] * grid[i[1], f]
                    low += w[2] * grid[i[2], f] + w[3] * grid[i[3], f]
                    high = w[0] * grid[j[0], f] + w[1] * grid[j[1], f]
                    high += w[2] * grid[j[2], f] + w[3] * grid[j[3], f]
                    out[p, level * features + f] = low + x * (high - low)


@compiled
def _encode_backward(points: Array, grad: Array, cells: Array, active: int, out: Array) -> None:
    n, rows, features = len(points), out.shape[1], out.shape[2]
    for level in prange(active):
        cell, grid = cells[level], out[level]
        for p in range(n):
            i, j, w, x = _corners(points[p, 0], points[p, 1], points[p, 2], cell, rows)
            for f in range(features):
                g = grad[p, level * features + f]
                high = g * x
                low = g - high
                grid[i[0], f] += w[0] * low
                grid[i[1], f] += w[1] * low
                grid[i[2], f] += w[2] * low
                grid[i[3], f] += w[3] * low
                grid[j[0], f] += w[0] * high
                grid[j[1], f] += w[1] * high
                grid[j[2], f] += w[2] * high
                grid[j[3], f] += w[3] * high


class _HashEncode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, cells: Tensor, active: int) -> Tensor:
        levels, features = len(cells), table.shape[1]
        ctx.save_for_backward(points, cells)
        ctx.active, ctx.shape = active, table.shape
        make = torch.empty if active == levels else torch.zeros
        out = make(len(points), levels * features)
        grid = table.detach().numpy().reshape(levels, -1, features)
        _encode(points.numpy(), grid, cells.numpy(), active, out.numpy())
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None]:
        points, cells = ctx.saved_tensors
        out = torch.zeros(ctx.shape)
        grid = out.numpy().reshape(len(cells), -1, ctx.shape[1])
        _encode_backward(points.numpy(), grad.contiguous().numpy(), cells.numpy(), ctx.active, grid)
        return None, out, None, None


def hash_encode(points: Tensor, table: Tensor, resolutions: Tensor, active_levels: int) -> Tensor:
    """Features [N, L * F] of points [N, 3] in [0, 1]; differentiable in the table only."""
    points, table = _plain(points.detach()), _plain(table)
    features: Tensor = _HashEncode.apply(
        points, table, resolutions.long().contiguous(), min(active_levels, len(resolutions))
    )
    return features


@inlined
def _occupied(origin: Array, direction: Array, t: Any, occupancy: Array) -> Any:
    size = occupancy.shape[0]
    half = np.float32(size) / np.float32(2)
    x = math.floor((origin[0] + t * direction[0] + _1) * half)
    y = math.floor((origin[1] + t * direction[1] + _1) * half)
    z = math.floor((origin[2] + t * direction[2] + _1) * half)
    inside = 0 <= x < size and 0 <= y < size and 0 <= z < size
    return inside and occupancy[x, y, z]


@compiled
def _march_count(
    origins: Array, directions: Array, bounds: Array, occupancy: Array, step: Any, counts: Array
) -> None:
    for ray in prange(len(origins)):
        count = 0
        k = np.float32(0)
        t = bounds[ray, 0] + bounds[ray, 2] * step
        while t < bounds[ray, 1]:
            count += _occupied(origins[ray], directions[ray], t, occupancy)
            k += _1
            t = bounds[ray, 0] + (k + bounds[ray, 2]) * step
        counts[ray] = count


@compiled
def _march_fill(
    origins: Array,
    directions: Array,
    bounds: Array,
    occupancy: Array,
    step: Any,
    packed: Array,
    index: Array,
    ts: Array,
) -> None:
    for ray in prange(len(origins)):
        place = packed[ray, 0]
        end = place + packed[ray, 1]
        k = np.float32(0)
        while place < end:
            t = bounds[ray, 0] + (k + bounds[ray, 2]) * step
            if _occupied(origins[ray], directions[ray], t, occupancy):
                index[place] = ray
                ts[place] = t
                place += 1
            k += _1


def march(
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    occupancy: Tensor,
    step: float,
    jitter: Tensor,
) -> Samples:
    """Samples at near + (k + jitter) * step < far that lie in an occupied cell."""
    bounds = torch.stack([near, far, jitter], 1)
    arrays = [_plain(v.detach()).numpy() for v in (origins, directions, bounds)]
    rays: tuple[Array, ...] = (*arrays, occupancy.contiguous().numpy(), np.float32(step))
    counts = torch.empty(len(origins), dtype=torch.int64)
    _march_count(*rays, counts.numpy())
    packed = torch.stack([counts.cumsum(0) - counts, counts], 1)
    total = int(counts.sum())
    index, t = torch.empty(total, dtype=torch.int64), torch.empty(total)
    _march_fill(*rays, packed.numpy(), index.numpy(), t.numpy())
    return Samples(index, t, torch.full_like(t, step), packed)


@compiled
def _composite(
    density: Array, values: Array, t: Array, dt: Array, packed: Array,
    weights: Array, behind: Array, sums: Array, totals: Array,
) -> None:  # fmt: skip
    for ray in prange(len(packed)):
        start, end = packed[ray, 0], packed[ray, 0] + packed[ray, 1]
        optical = _0
        for i in range(start, end):
            front = np.exp(-optical)
            if front < STOP:
                weights[i:end] = _0
                behind[i:end] = _0
                break
            here = density[i] * dt[i]
            optical += here
            w = front * -np.float32(math.expm1(-here))
            weights[i] = w
            behind[i] = np.exp(-optical)
            totals[ray, 0] += w
            totals[ray, 1] += w * t[i]
            for c in range(values.shape[1]):
                sums[ray, c] += w * values[i, c]


@compiled
def _composite_backward(
    values: Array, t: Array, dt: Array, packed: Array, weights: Array, behind: Array,
    g_weights: Array, g_sums: Array, g_totals: Array, g_density: Array, g_values: Array,
) -> None:  # fmt: skip
    for ray in prange(len(packed)):
        later = _0  # Σ of gradient times weight over the samples behind this one
        for k in range(packed[ray, 1]):
            i = packed[ray, 0] + packed[ray, 1] - 1 - k
            g = g_weights[i] + g_totals[ray, 0] + g_totals[ray, 1] * t[i]
            for c in range(values.shape[1]):
                g += g_sums[ray, c] * values[i, c]
                g_values[i, c] = g_sums[ray, c] * weights[i]
            g_density[i] = dt[i] * (g * behind[i] - later)
            later += g * weights[i]


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, density: Tensor, values: Tensor, t: Tensor, dt: Tensor, packed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights, behind = torch.empty_like(t), torch.empty_like(t)
        sums, totals = torch.zeros(len(packed), values.shape[1]), torch.zeros(len(packed), 2)
        tensors = (density, values, t, dt, packed, weights, behind, sums, totals)
        _composite(*(v.detach().numpy() for v in tensors))
        ctx.save_for_backward(values, t, dt, packed, weights, behind)
        return weights, sums, totals

    @staticmethod
    def backward(
        ctx: Any, g_weights: Tensor, g_sums: Tensor, g_totals: Tensor
    ) -> tuple[Tensor, Tensor, None, None, None]:
        values, t = ctx.saved_tensors[:2]
        g_density, g_values = torch.empty_like(t), torch.empty_like(values)
        given = (g.contiguous() for g in (g_weights, g_sums, g_totals))
        tensors = (*ctx.saved_tensors, *given, g_density, g_values)
        _composite_backward(*(v.detach().numpy() for v in tensors))
        return g_density, g_values, None, None, None


def composite(
    density: Tensor, values: Tensor, samples: Samples, n_rays: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """weights [M], sums [n_rays, C], opacity and depth [n_rays, 1]."""
    weights, sums, totals = _Composite.apply(
        _plain(density), _plain(values), samples.t, samples.dt, samples.packed
    )
    return weights, sums, totals[:, :1], totals[:, 1:]


def _plain(value: Tensor) -> Tensor:
    if value.dtype != torch.float32:
        raise TypeError(f"the cpu kernels take float32, got {value.dtype}; "
                        "set_kernels('reference') takes any")  # fmt: skip
    return value.contiguous()
