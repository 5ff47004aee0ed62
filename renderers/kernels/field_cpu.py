"""The field's operations in numba: float32 tensors on the CPU, all cores.

Signatures, shapes and meanings are those of `renderers.kernels`. Every sum is made by one thread in
a fixed order, so that results do not depend on the number of threads: rays are independent, and
the gradient of the hash table is summed by one thread a level.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from renderers.kernels import Samples, Sums
from renderers.kernels.jit import compiled, exact, inlined, inlined_exact
from renderers.kernels.rows import add_to_rows, read_rows

BLOCK = 128  # points located at once: their corners and fractions stay in the first cache
STOP = np.float32(1e-4)  # as in field_reference
Array = Any  # a numpy array; numba's functions are untyped
_Y, _Z = np.uint32(2654435761), np.uint32(805459861)
_0, _1 = np.float32(0), np.float32(1)
_u = np.uint32


@inlined
def _block(points: Array, first: int, count: int, out: Array) -> None:
    """A block's points in [0, 1], one coordinate after the other."""
    for p in range(count):
        for axis in range(3):
            out[axis * BLOCK + p] = min(max(points[first + p, axis], _0), _1)


@inlined
def _locate(points: Array, count: int, cell: int, rows: int, row: Array, part: Array) -> None:
    """The rows of the 8 corners around a block's points, x fastest, and where in the cell they are.

    Written so that LLVM makes vector code of it: corner k of point p is row[k * BLOCK + p].
    """
    scale, last, side = np.float32(cell), _u(cell - 1), _u(cell + 1)
    layer, mask = _u(side * side), _u(rows - 1)
    dense = (cell + 1) ** 3 <= rows
    for p in range(count):
        x, y, z = points[p] * scale, points[BLOCK + p] * scale, points[2 * BLOCK + p] * scale
        ix = min(_u(np.int32(x)), last)
        iy = min(_u(np.int32(y)), last)
        iz = min(_u(np.int32(z)), last)
        part[p] = x - np.float32(np.int32(ix))
        part[BLOCK + p] = y - np.float32(np.int32(iy))
        part[2 * BLOCK + p] = z - np.float32(np.int32(iz))
        if dense:
            a = _u(ix + _u(side * _u(iy + _u(side * iz))))
            c = _u(a + layer)
            row[p] = a
            row[BLOCK + p] = _u(a + _u(1))
            row[2 * BLOCK + p] = _u(a + side)
            row[3 * BLOCK + p] = _u(a + side + _u(1))
            row[4 * BLOCK + p] = c
            row[5 * BLOCK + p] = _u(c + _u(1))
            row[6 * BLOCK + p] = _u(c + side)
            row[7 * BLOCK + p] = _u(c + side + _u(1))
        else:
            jx, y0, z0 = _u(ix + _u(1)), _u(iy * _Y), _u(iz * _Z)
            y1, z1 = _u(y0 + _Y), _u(z0 + _Z)
            row[p] = (ix ^ y0 ^ z0) & mask
            row[BLOCK + p] = (jx ^ y0 ^ z0) & mask
            row[2 * BLOCK + p] = (ix ^ y1 ^ z0) & mask
            row[3 * BLOCK + p] = (jx ^ y1 ^ z0) & mask
            row[4 * BLOCK + p] = (ix ^ y0 ^ z1) & mask
            row[5 * BLOCK + p] = (jx ^ y0 ^ z1) & mask
            row[6 * BLOCK + p] = (ix ^ y1 ^ z1) & mask
            row[7 * BLOCK + p] = (jx ^ y1 ^ z1) & mask


@functools.cache
def _encode(features: int) -> Callable[..., None]:
    """Reads the table; compiled for one number of features."""

    @compiled
    def encode(points: Array, table: Array, cells: Array, active: int, out: Array) -> None:
        n, rows, levels = len(points), table.shape[1], len(cells)
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
                    place = (first + p) * levels + level
                    read_rows(grid, row, part, p, out, place, features, BLOCK)

    return encode


@functools.cache
def _encode_backward(features: int) -> Callable[..., None]:
    """Adds to the table's gradient, each level by one thread."""

    @compiled
    def backward(points: Array, grad: Array, cells: Array, active: int, out: Array) -> None:
        n, rows, levels = len(points), out.shape[1], len(cells)
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
                    place = (first + p) * levels + level
                    add_to_rows(grid, row, part, p, grad, place, features, BLOCK)

    return backward


class _HashEncode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, cells: Tensor, active: int) -> Tensor:
        levels, features = len(cells), table.shape[1]
        ctx.save_for_backward(points, cells)
        ctx.active, ctx.shape = active, table.shape
        make = torch.empty if active == levels else torch.zeros
        out = make(len(points), levels * features)
        grid = table.detach().numpy().reshape(levels, -1, features)
        _encode(features)(points.numpy(), grid, cells.numpy(), active, out.numpy())
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None]:
        points, cells = ctx.saved_tensors
        features = ctx.shape[1]
        out = torch.zeros(ctx.shape)
        grid = out.numpy().reshape(len(cells), -1, features)
        given = (points.numpy(), grad.contiguous().numpy(), cells.numpy(), ctx.active)
        _encode_backward(features)(*given, grid)
        return None, out, None, None


def hash_encode(points: Tensor, table: Tensor, resolutions: Tensor, active_levels: int) -> Tensor:
    """Features [N, L * F] of points [N, 3] in [0, 1]; differentiable in the table only."""
    points, table = _plain(points.detach()), _plain(table)
    cells, active = resolutions.long().contiguous(), min(active_levels, len(resolutions))
    apply: Callable[..., Tensor] = _HashEncode.apply
    return apply(points, table, cells, active)


@inlined
def _three(rows: Array, i: int) -> Any:
    """A row of [N, 3] as a tuple: a view of an array made in a loop costs more than it holds."""
    return rows[i, 0], rows[i, 1], rows[i, 2]


@inlined_exact
def _occupied(origin: Any, direction: Any, t: Any, occupancy: Array) -> Any:
    size = np.float32(occupancy.shape[0])
    half = size / np.float32(2)
    x = (origin[0] + t * direction[0] + _1) * half
    y = (origin[1] + t * direction[1] + _1) * half
    z = (origin[2] + t * direction[2] + _1) * half
    inside = _0 <= x < size and _0 <= y < size and _0 <= z < size
    # by way of int32: there is no instruction from a float to an unsigned number before AVX-512
    return inside and occupancy[_u(np.int32(x)), _u(np.int32(y)), _u(np.int32(z))]


@inlined
def _crossing(origin: Any, direction: Any, box: Array) -> Any:
    """Distances at which a ray enters and leaves the box [2, 3]; leaving first if it misses."""
    enter, leave = np.float32(-1e9), np.float32(1e9)
    for axis in range(3):
        low, high = box[0, axis] - origin[axis], box[1, axis] - origin[axis]
        slope = direction[axis]
        if abs(slope) > np.float32(1e-6):
            a, b = low / slope, high / slope
            enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
        elif low > np.float32(1e-5) or high < np.float32(-1e-5):
            leave = np.float32(-2e9)
    return enter, leave


@exact
def _march_count(
    origins: Array, directions: Array, bounds: Array, occupancy: Array, step: Any, box: Array,
    counts: Array, firsts: Array,
) -> None:  # fmt: skip
    """How many samples of each ray are taken, and the number of the first of them.

    Exact, like the filling: a sample on a cell's border must be in the same cell for both.
    """
    for ray in prange(len(origins)):
        near, far, jitter = _three(bounds, ray)
        origin, direction = _three(origins, ray), _three(directions, ray)
        enter, leave = _crossing(origin, direction, box)
        # a step more on both sides: rounding must not lose a sample
        far = min(far, leave + step)
        k = max(np.float32(math.floor((enter - near) / step - jitter)) - _1, np.float32(0))
        count, first = 0, k
        t = near + (k + jitter) * step
        while t < far:
            if _occupied(origin, direction, t, occupancy):
                if count == 0:
                    first = k
                count += 1
            k += _1
            t = near + (k + jitter) * step
        counts[ray] = count
        firsts[ray] = first


@exact
def _march_fill(
    origins: Array, directions: Array, bounds: Array, occupancy: Array, step: Any, packed: Array,
    firsts: Array, index: Array, ts: Array,
) -> None:  # fmt: skip
    for ray in prange(len(origins)):
        near, _, jitter = _three(bounds, ray)
        origin, direction = _three(origins, ray), _three(directions, ray)
        place = packed[ray, 0]
        end = place + packed[ray, 1]
        k = firsts[ray]
        while place < end:
            t = near + (k + jitter) * step
            if _occupied(origin, direction, t, occupancy):
                index[place] = ray
                ts[place] = t
                place += 1
            k += _1


def march(
    origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, occupancy: Tensor,
    step: float, jitter: Tensor,
) -> Samples:  # fmt: skip
    """Find the samples of R rays [R, 3], near and far [R], that lie in an occupied cell.

    They are at near + (k + jitter) * step < far; occupancy [N, N, N], jitter [R].
    """
    bounds = torch.stack([near, far, jitter], 1)
    arrays = [_plain(v.detach()).numpy() for v in (origins, directions, bounds)]
    rays: tuple[Array, ...] = (*arrays, occupancy.contiguous().numpy(), np.float32(step))
    counts, firsts = torch.empty(len(origins), dtype=torch.int64), torch.empty(len(origins))
    _march_count(*rays, _box(occupancy).numpy(), counts.numpy(), firsts.numpy())
    packed = torch.stack([counts.cumsum(0) - counts, counts], 1)
    total = int(counts.sum())
    index, t = torch.empty(total, dtype=torch.int64), torch.empty(total)
    _march_fill(*rays, packed.numpy(), firsts.numpy(), index.numpy(), t.numpy())
    return Samples(index, t, torch.full_like(t, step), packed)


def _box(occupancy: Tensor) -> Tensor:
    """[2, 3] float32 corners of the box around what is occupied; far away if nothing is."""
    box = torch.full((2, 3), 1e6)
    for axis in range(3):
        others = [a for a in range(3) if a != axis]
        used = occupancy.any(others[1]).any(others[0]).nonzero()[:, 0]
        if len(used):
            box[:, axis] = torch.stack([used[0], used[-1] + 1]) * (2 / len(occupancy)) - 1
    return box


@compiled
def _composite(
    density: Array, values: Array, t: Array, dt: Array, packed: Array,
    weights: Array, behind: Array, sums: Array, totals: Array,
) -> None:  # fmt: skip
    for ray in prange(len(packed)):
        start, end = packed[ray, 0], packed[ray, 0] + packed[ray, 1]
        front = _1
        for i in range(start, end):
            if front < STOP:
                weights[i:end] = _0
                behind[i:end] = _0
                break
            w = front * -np.float32(math.expm1(-density[i] * dt[i]))
            front -= w
            weights[i] = w
            behind[i] = front
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
        saved = ctx.saved_tensors  # once: a checkpoint recomputes them for one use
        values, t = saved[:2]
        g_density, g_values = torch.empty_like(t), torch.empty_like(values)
        given = (g.contiguous() for g in (g_weights, g_sums, g_totals))
        tensors = (*saved, *given, g_density, g_values)
        _composite_backward(*(v.detach().numpy() for v in tensors))
        return g_density, g_values, None, None, None


def composite(density: Tensor, values: Tensor, samples: Samples, n_rays: int) -> Sums:
    """weights [M], sums [n_rays, C], opacity and depth [n_rays, 1]."""
    apply: Callable[..., tuple[Tensor, Tensor, Tensor]] = _Composite.apply
    lying = samples.t, samples.dt, samples.packed
    weights, sums, totals = apply(_plain(density), _plain(values), *lying)
    return weights, sums, totals[:, :1], totals[:, 1:]


def _plain(value: Tensor) -> Tensor:
    if value.dtype != torch.float32:
        raise TypeError(f"the cpu kernels take float32, got {value.dtype}; "
                        "set_kernels('reference') takes any")  # fmt: skip
    return value.contiguous()
