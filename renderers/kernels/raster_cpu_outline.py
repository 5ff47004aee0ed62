"""Outlines in numba: which edges are one, and pixels blended where outlines cross between them.

The work of `raster_cpu` that is not about what lies inside of triangles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from renderers.kernels.jit import array, compiled, inlined, serial

WALK = 128  # as in raster_reference
Array = Any  # a numpy array; numba's functions are untyped


@serial
def _twins(faces: Array, vertices: int, out: Array) -> None:
    """Edges sorted by their ends (counting, first by the higher end): twins stand together."""
    n = 3 * len(faces)
    low, high = np.empty(n, np.int32), np.empty(n, np.int32)
    first = np.zeros(vertices + 1, np.int32)
    second = np.zeros(vertices + 1, np.int32)
    for f in range(len(faces)):
        for i in range(3):
            a, b = faces[f, (i + 1) % 3], faces[f, (i + 2) % 3]
            low[3 * f + i], high[3 * f + i] = min(a, b), max(a, b)
            first[max(a, b) + 1] += 1
            second[min(a, b) + 1] += 1
    for v in range(vertices):
        first[v + 1] += first[v]
        second[v + 1] += second[v]
    by_high, order = np.empty(n, np.int32), np.empty(n, np.int32)
    for e in range(n):
        by_high[first[high[e]]] = e
        first[high[e]] += 1
    for at in range(n):
        e = by_high[at]
        order[second[low[e]]] = e
        second[low[e]] += 1
    at = 0
    while at < n:
        e, end = order[at], at + 1
        while end < n and low[order[end]] == low[e] and high[order[end]] == high[e]:
            end += 1
        if end == at + 2:
            out[e], out[order[at + 1]] = order[at + 1], e
        at = end


def twins(faces: Tensor) -> Tensor:
    """[F, 3] int64 from faces [F, 3]."""
    out = torch.full((faces.numel(),), -1)
    if len(faces):
        _twins(array(faces), int(faces.max()) + 1, out.numpy())
    return out.view(-1, 3)


@inlined
def _line(clip: Array, i: int, j: int) -> tuple[float, float, float]:
    """The line through two vertices: x, y and constant part of a function that is 0 on it."""
    ax, ay, aw = _point(clip, i)
    bx, by, bw = _point(clip, j)
    return ay * bw - aw * by, aw * bx - ax * bw, ax * by - ay * bx


@inlined
def _follow(
    clip: Array, faces: Array, twin: Array, face: int, goal: int,
    x: float, y: float, dx: float, dy: float, height: int, width: int,
) -> tuple[int, float]:  # fmt: skip
    """The edge that is the outline between two pixels, or -1, and after which part of the way.

    The way (dx, dy) leads from the centre (x, y) of a pixel that triangle `face` covers to one of
    triangle `goal`.
    """
    entry = -1
    for _ in range(WALK):
        i, j, k = faces[face, 0], faces[face, 1], faces[face, 2]
        ax, ay, aw = _point(clip, i)
        bx, by, bw = _point(clip, j)
        cx, cy, cw = _point(clip, k)
        # the sides as lines, positive where the triangle is if its determinant is
        ux, uy, u1 = by * cw - bw * cy, bw * cx - bx * cw, bx * cy - by * cx
        vx, vy, v1 = cy * aw - cw * ay, cw * ax - cx * aw, cx * ay - cy * ax
        tx, ty, t1 = ay * bw - aw * by, aw * bx - ax * bw, ax * by - ay * bx
        det = ux * ax + uy * ay + u1 * aw
        if det == 0:
            return -1, 0.0
        sign = 1.0 if det > 0 else -1.0
        best, side = 2.0, -1
        mx, my, m1 = ux, uy, u1
        here, change = sign * (ux * x + uy * y + u1), sign * (ux * dx + uy * dy)
        if entry != 0 and change < 0 and here + change < 0:
            best, side = here / -change, 0
        here, change = sign * (vx * x + vy * y + v1), sign * (vx * dx + vy * dy)
        if entry != 1 and change < 0 and here + change < 0 and here < -best * change:
            best, side = here / -change, 1
            mx, my, m1 = vx, vy, v1
        here, change = sign * (tx * x + ty * y + t1), sign * (tx * dx + ty * dy)
        if entry != 2 and change < 0 and here + change < 0 and here < -best * change:
            best, side = here / -change, 2
            mx, my, m1 = tx, ty, t1
        if side < 0:
            return -1, 0.0
        beyond = twin[face, side]
        if beyond >= 0:
            px, py, pw = _point(clip, faces[beyond // 3, beyond % 3])
            if sign * (mx * px + my * py + m1 * pw) <= 0:
                face, entry = beyond // 3, beyond % 3
                if face == goal:
                    return -1, 0.0
                continue
        # an edge that runs more along the way than across is left to the pairs of pixels across it
        steep = abs(mx) * height >= abs(my) * width
        return (3 * face + side, best) if steep == (dy == 0) else (-1, 0.0)
    return -1, 0.0


@inlined
def _point(clip: Array, vertex: int) -> tuple[float, float, float]:
    """x, y and w of a vertex."""
    return np.float64(clip[vertex, 0]), np.float64(clip[vertex, 1]), np.float64(clip[vertex, 3])


@inlined
def _center(pixel: int, height: int, width: int) -> tuple[float, float]:
    """x and y in [-1, 1] of the centre of a pixel, counted row by row, view by view."""
    return 2 * (pixel % width + 0.5) / width - 1, 1 - 2 * (pixel // width % height + 0.5) / height


@compiled
def _find(
    buffer: Array, clip: Array, faces: Array, twin: Array, number: Array, pair: Array,
    edge: Array, part: Array,
) -> None:  # fmt: skip
    """Outlines in each row of a view's pixels: `number` [H] of them, then entries [H, 2 W].

    pair: 4 * column of the left or upper pixel, + 2 if the other lies below, + 1 if the other is
    the nearer one.
    """
    height, width = buffer.shape[:2]
    right, down = 2 / width, -2 / height
    for row in prange(height):
        count = 0
        for column in range(width):
            here = buffer[row, column]
            for below in range(2):
                r, c = row + below, column + 1 - below
                if r == height or c == width or buffer[r, c, 3] == here[3]:
                    continue
                there = buffer[r, c]
                swap = there[3] > 0 and (here[3] == 0 or there[2] < here[2])
                near, far = int(here[3]) - 1, int(there[3]) - 1
                x, y = (column + 0.5) * right - 1, (row + 0.5) * down + 1
                dx, dy = (1 - below) * right, below * down
                if swap:
                    near, far, x, y, dx, dy = far, near, x + dx, y + dy, -dx, -dy
                found, at = _follow(clip, faces, twin, near, far, x, y, dx, dy, height, width)
                if found >= 0:
                    pair[row, count] = 4 * column + 2 * below + int(swap)
                    edge[row, count], part[row, count] = found, at
                    count += 1
        number[row] = count


@serial
def _pack(
    number: Array, pair: Array, edge: Array, part: Array, width: int, first: int, index: Array,
    at: Array,
) -> None:  # fmt: skip
    """The entries one after the other: index [N, 3] of near pixel, far pixel, edge; at [N]."""
    n = 0
    for row in range(len(number)):
        for k in range(number[row]):
            code = pair[row, k]
            one = first + row * width + code // 4
            other = one + (width if code & 2 else 1)
            index[n, 0], index[n, 1] = (other, one) if code & 1 else (one, other)
            index[n, 2], at[n] = edge[row, k], part[row, k]
            n += 1


def _outlines(
    buffer: Tensor, clip: Tensor, faces: Tensor, twin: Tensor
) -> tuple[list[Array], list[Array]]:
    """Of each view, outlines as `_pack` has them."""
    height, width = buffer.shape[1:3]
    number = np.zeros(height, np.int64)
    pair, edge = np.empty((2, height, 2 * width), np.int32)
    part = np.empty((height, 2 * width), np.float32)
    indices, places = [], []
    for b, (pixels, points) in enumerate(zip(array(buffer), array(clip))):
        _find(pixels, points, array(faces), array(twin), number, pair, edge, part)
        index, at = np.empty((number.sum(), 3), np.int64), np.empty(number.sum(), np.float32)
        _pack(number, pair, edge, part, width, b * height * width, index, at)
        indices.append(index)
        places.append(at)
    return indices, places


@serial
def _blend(color: Array, index: Array, at: Array, out: Array) -> None:
    half = np.float32(0.5)
    for n in range(len(index)):
        near, far = index[n, 0], index[n, 1]
        moved = far if at[n] >= half else near
        for c in range(color.shape[1]):
            out[moved, c] += (at[n] - half) * (color[near, c] - color[far, c])


@serial
def _blend_backward(
    grad: Array, color: Array, index: Array, at: Array, slope: Array, out: Array
) -> None:
    """Adds to out [P, C], the color's gradient; writes slope [N], that of `at`."""
    half = np.float32(0.5)
    for n in range(len(index)):
        near, far = index[n, 0], index[n, 1]
        moved = far if at[n] >= half else near
        total = np.float32(0)
        for c in range(color.shape[1]):
            g = grad[moved, c]
            total += g * (color[near, c] - color[far, c])
            out[near, c] += (at[n] - half) * g
            out[far, c] -= (at[n] - half) * g
        slope[n] = total


@serial
def _move_backward(
    slope: Array, index: Array, clip: Array, faces: Array, height: int, width: int, out: Array
) -> None:
    """Adds to out [V, 4] what the slopes [N] of a view's outlines say of the vertices [V, 4]."""
    for n in range(len(index)):
        if slope[n] == 0:
            continue
        face, side = index[n, 2] // 3, index[n, 2] % 3
        i, j = faces[face, (side + 1) % 3], faces[face, (side + 2) % 3]
        lx, ly, l1 = _line(clip, i, j)
        near, far = index[n, 0], index[n, 1]
        px, py = _center(near, height, width)
        qx, qy = _center(far, height, width)
        here, there = lx * px + ly * py + l1, lx * qx + ly * qy + l1
        scale = slope[n] / ((here - there) * (here - there))
        # of the line: the place of the crossing is here / (here - there)
        gx = scale * (here * qx - there * px)
        gy = scale * (here * qy - there * py)
        g1 = scale * (here - there)
        ax, ay, aw = _point(clip, i)
        bx, by, bw = _point(clip, j)
        out[i, 0] += by * g1 - bw * gy
        out[i, 1] += bw * gx - bx * g1
        out[i, 3] += bx * gy - by * gx
        out[j, 0] += gy * aw - g1 * ay
        out[j, 1] += g1 * ax - gx * aw
        out[j, 3] += gx * ay - gy * ax


class _Antialias(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, color: Tensor, buffer: Tensor, clip: Tensor, faces: Tensor, twin: Tensor
    ) -> Tensor:
        ctx.indices, ctx.places = _outlines(buffer, clip, faces, twin)
        out = color.clone(memory_format=torch.contiguous_format)
        pixels, result = array(color).reshape(-1, color.shape[3]), out.numpy()
        for index, at in zip(ctx.indices, ctx.places):
            _blend(pixels, index, at, result.reshape(pixels.shape))
        ctx.save_for_backward(color, clip, faces)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, None, None]:
        color, clip, faces = ctx.saved_tensors
        height, width, channels = color.shape[1:]
        pixels, given = array(color).reshape(-1, channels), array(grad).reshape(-1, channels)
        out, moved = grad.clone(memory_format=torch.contiguous_format), torch.zeros_like(clip)
        result, points = out.numpy().reshape(pixels.shape), array(clip)
        for b, (index, at) in enumerate(zip(ctx.indices, ctx.places)):
            slope = np.empty_like(at)
            _blend_backward(given, pixels, index, at, slope, result)
            _move_backward(slope, index, points[b], array(faces), height, width, moved[b].numpy())
        return out, None, moved, None, None


def antialias(
    color: Tensor, buffer: Tensor, clip: Tensor, faces: Tensor, twin: Tensor | None
) -> Tensor:
    """[B, H, W, C] from color of that shape."""
    twin = twins(faces) if twin is None else twin
    apply: Callable[..., Tensor] = _Antialias.apply
    return apply(color, buffer, clip, faces, twin)
