"""The nearest triangle of each pixel in numba: a part of `raster_cpu`.

Wrongly predicted branches and waiting for memory cost a processor more time than arithmetic. So the
screen is drawn by bands of rows (`raster_cpu_bands`) that fit into a cache, in three passes without
branches in their inner loops: choose the triangles (`_choose`), compute their planes (`_planes`),
then test all pixels of each row of a triangle's box (`_cover`). A pixel is one integer, its key:
the nearer the triangle, the smaller the key, so that the nearest is a minimum. The buffer's weights
are computed last, once a pixel (`_resolve`). The nearer triangles, about as many as a closed
surface shows, are drawn in a first turn; most of the others then lie behind whole tiles of pixels,
and are left out of the second.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from renderers.kernels.jit import array, compiled, inlined
from renderers.kernels.raster_cpu_bands import bands

SHIFT = 5  # log2 of the rows of a band
TILE = 8  # pixels a side of what is hidden as one
LANES = 4  # pixels a processor computes at once: rows are drawn in multiples of these
WIDE = 16  # pixels from which a row is cut to the triangle's own part of it
SAMPLE = 16  # one of so many triangles is asked for the middle depth
NEARER = np.float32(0.5)  # standard deviations by which the middle lies before the mean depth
CLEAR = (0x3F800000 + 1) << 32  # key of a pixel without a triangle: just farther than z / w = 1
Array = Any  # a numpy array; numba's functions are untyped
_0, _1 = np.float32(0), np.float32(1)
# indices without a sign need no test whether they count from an array's end
_U: Any = np.uint64
_I32: Any = np.int32
_I64: Any = np.int64
_F32: Any = np.float32
_F64: Any = np.float64


@inlined
def _edges(clip: Array, i: int, j: int, k: int) -> tuple[Any, ...]:
    """The edge functions of a triangle's vertices, (x, y, 1) parts each, and the determinant.

    In float64 the products of float32 are exact: neighbours agree on their common edge.
    """
    ax, ay, aw = _F64(clip[i, 0]), _F64(clip[i, 1]), _F64(clip[i, 3])
    bx, by, bw = _F64(clip[j, 0]), _F64(clip[j, 1]), _F64(clip[j, 3])
    cx, cy, cw = _F64(clip[k, 0]), _F64(clip[k, 1]), _F64(clip[k, 3])
    a = (by * cw - bw * cy, bw * cx - bx * cw, bx * cy - by * cx)
    b = (cy * aw - cw * ay, cw * ax - cx * aw, cx * ay - cy * ax)
    c = (ay * bw - aw * by, aw * bx - ax * bw, ax * by - ay * bx)
    return a, b, c, a[0] * ax + a[1] * ay + a[2] * aw


@inlined
def _depth(key: int) -> Any:
    """The z / w in the upper half of a key."""
    high = key >> 32
    sign = high >> 63
    bits = _I32(((high ^ sign) - sign) | (sign & _I64(-0x80000000)))
    return bits.view(np.float32)


@inlined
def _farthest(keys: Array, rows: int, width: int, most: Array, far: Array) -> None:
    """The largest depth, and a little more for rounding, in each tile [T, tiles a row].

    most [width] is overwritten.
    """
    stride = len(keys) // rows
    for tile in range(far.shape[0]):
        most[:] = -CLEAR
        for row in range(tile * TILE, min(tile * TILE + TILE, rows)):
            for c in range(width):
                most[c] = max(most[c], keys[row * stride + c])
        for t in range(far.shape[1]):
            key = most[t * TILE]
            for c in range(t * TILE, min(t * TILE + TILE, width)):
                key = max(key, most[_U(c)])
            far[tile, t] = _depth(key) + _F32(1e-6)


@inlined
def _choose(
    name: Array, near: Array, box: Array, middle: float, turn: int, rows: tuple[int, int],
    far: Array, chosen: Array,
) -> int:  # fmt: skip
    """Write to chosen the places in name of a band's triangles to be drawn; how many there are.

    In turn 0 those nearer than the middle, in turn 1 those of the others that far does not hide.
    """
    found = 0
    top, bottom = rows
    for m in range(len(name)):
        at = _U(name[_U(m)])
        z = near[at]
        if (z > middle) != turn:
            continue
        if turn:
            c0, c1 = _U(box[at, 0]) // _U(TILE), _U(box[at, 2] - 1) // _U(TILE)
            r0 = _U(max(box[at, 1], top) - top) // _U(TILE)
            r1 = _U(min(box[at, 3], bottom) - 1 - top) // _U(TILE)
            deepest = max(max(far[r0, c0], far[r0, c1]), max(far[r1, c0], far[r1, c1]))
            if z > deepest and (c1 > c0 + _U(1) or r1 > r0 + _U(1)):
                for r in range(r0, r1 + _U(1)):
                    for c in range(c0, c1 + _U(1)):
                        deepest = max(deepest, far[r, c])
            if z > deepest:
                continue
        chosen[_U(found)] = m
        found += 1
    return found


@inlined
def _planes(clip: Array, faces: Array, name: Array, chosen: Array, count: int, plane: Array) -> int:
    """Rows of plane [N, 12] for the first `count` chosen, and take out those without area.

    x, y and constant parts: first of the weights of both first vertices, by turns, then of the
    third's, not negative inside (their sum is then positive); then of z / w. How many are left.
    """
    left = 0
    for n in range(count):
        row = _U(chosen[_U(n)])
        f = _U(name[row])
        i, j, k = _U(faces[f, 0]), _U(faces[f, 1]), _U(faces[f, 2])
        a, b, c, det = _edges(clip, i, j, k)
        if det == 0:
            continue
        inverse, side = 1 / det, 1.0 if det > 0 else -1.0
        az, bz, cz = _F64(clip[i, 2]), _F64(clip[j, 2]), _F64(clip[k, 2])
        for part in range(3):
            p = _U(part)
            plane[row, p + p], plane[row, p + p + _U(1)] = a[part] * side, b[part] * side
            plane[row, p + _U(6)] = c[part] * side
            plane[row, p + _U(9)] = (az * a[part] + bz * b[part] + cz * c[part]) * inverse
        chosen[_U(left)] = chosen[_U(n)]
        left += 1
    return left


@inlined
def _crossing(x: float, at_first: float, y: float, low: float, high: float) -> tuple[Any, ...]:
    """Where an edge function x * column + y * row + at_first is not negative in a row of pixels.

    From column p + q * row on, and up to column s + t * row: low or high where there is no limit.
    """
    inverse = -1 / x if x != 0 else 0.0
    place, move = at_first * inverse, y * inverse
    begins, ends = inverse < 0, inverse > 0
    return (place if begins else low, move if begins else 0.0,
            place if ends else high, move if ends else 0.0)  # fmt: skip


@inlined
def _key(
    x: float, ax: float, a1: float, bx: float, b1: float, cx: float, c1: float, zx: float,
    z1: float, m: int,
) -> int:  # fmt: skip
    """The key of the triangle at place m in column x of a row, CLEAR outside of it.

    It is z / w, as an integer of the same order, and below it m: the least of keys is that of the
    nearest triangle, and of equally near ones of the first.
    """
    z = _F32(zx * x + z1)
    bits = _I64(z.view(np.int32))
    sign = bits >> 63
    key = ((((bits & 0x7FFFFFFF) ^ sign) - sign) << 32) | m
    inside = (min(ax * x + a1, min(bx * x + b1, cx * x + c1)) >= 0) & (z >= -_1)
    return key if inside else CLEAR


@inlined
def _cover(
    plane: Array, name: Array, chosen: Array, count: int, box: Array, rows: tuple[int, int],
    ys: Array, xs: Array, keys: Array,
) -> None:  # fmt: skip
    """Draw the first `count` chosen into the keys of a band, those in narrow boxes.

    All pixels of the box are looked at: it is sooner done than to find which of them matter.
    """
    top, bottom = rows
    stride = len(keys) // (bottom - top)
    for n in range(count):
        m = chosen[_U(n)]
        r = _U(m)
        at = _U(name[r])
        x0, x1 = _I64(box[at, 0]), _I64(box[at, 2])
        if x1 - x0 > WIDE:
            continue
        ax, ay, a1 = plane[r, 0], plane[r, 2], plane[r, 4]
        bx, by, b1 = plane[r, 1], plane[r, 3], plane[r, 5]
        cx, cy, c1 = plane[r, 6], plane[r, 7], plane[r, 8]
        zx, zy, z1 = plane[r, 9], plane[r, 10], plane[r, 11]
        lanes = (x1 - x0 + LANES - 1) // LANES * LANES
        for row in range(max(_I64(box[at, 1]), top), min(_I64(box[at, 3]), bottom)):
            y, first = ys[_U(row)], (row - top) * stride + x0
            ra, rb, rc, rz = ay * y + a1, by * y + b1, cy * y + c1, zy * y + z1
            for lane in range(lanes):
                p = _U(first + lane)
                key = _key(xs[_U(x0 + lane)], ax, ra, bx, rb, cx, rc, zx, rz, m)
                keys[p] = min(keys[p], key)  # always written: a store that depends costs more


@inlined
def _cover_wide(
    plane: Array, name: Array, chosen: Array, count: int, box: Array, rows: tuple[int, int],
    ys: Array, xs: Array, keys: Array,
) -> None:  # fmt: skip
    """As `_cover`, those in wide boxes: in each row, from where it enters to where it leaves."""
    top, bottom = rows
    stride = len(keys) // (bottom - top)
    left, right, down = xs[0], xs[1] - xs[0], ys[1] - ys[0]
    for n in range(count):
        m = chosen[_U(n)]
        r = _U(m)
        at = _U(name[r])
        x0, x1 = _I64(box[at, 0]), _I64(box[at, 2])
        if x1 - x0 <= WIDE:
            continue
        low, high, upper = _F64(x0), _F64(x1 - 1), ys[0]
        ax, ay, a1 = plane[r, 0], plane[r, 2], plane[r, 4]
        bx, by, b1 = plane[r, 1], plane[r, 3], plane[r, 5]
        cx, cy, c1 = plane[r, 6], plane[r, 7], plane[r, 8]
        zx, zy, z1 = plane[r, 9], plane[r, 10], plane[r, 11]
        pa, qa, sa, ta = _crossing(ax * right, ax * left + ay * upper + a1, ay * down, low, high)
        pb, qb, sb, tb = _crossing(bx * right, bx * left + by * upper + b1, by * down, low, high)
        pc, qc, sc, tc = _crossing(cx * right, cx * left + cy * upper + c1, cy * down, low, high)
        for row in range(max(_I64(box[at, 1]), top), min(_I64(box[at, 3]), bottom)):
            # a little wider for rounding
            y, v = ys[_U(row)], _F64(row)
            enter = max(max(pa + v * qa, pb + v * qb), max(pc + v * qc, low))
            leave = min(min(sa + v * ta, sb + v * tb), min(sc + v * tc, high))
            start = max(_I64(min(enter, high + 1) + 0.999), x0)
            stop = min(_I64(max(leave, low - 1) + 1.001), x1)
            first = (row - top) * stride + start
            ra, rb, rc, rz = ay * y + a1, by * y + b1, cy * y + c1, zy * y + z1
            for lane in range((stop - start + LANES - 1) // LANES * LANES):
                p = _U(first + lane)
                key = _key(xs[_U(start + lane)], ax, ra, bx, rb, cx, rc, zx, rz, m)
                keys[p] = min(keys[p], key)


@inlined
def _resolve(keys: Array, plane: Array, name: Array, ys: Array, xs: Array, out: Array) -> None:
    """A band's part of the buffer, out [rows, W, 4], from its keys; ys are its rows."""
    rows, width = out.shape[:2]
    stride = len(keys) // rows
    for row in range(rows):
        y, q = ys[row], _U(row)
        for column in range(width):
            p = _U(column)
            key = keys[_U(row * stride + column)]
            if key == CLEAR:
                out[q, p, 0] = out[q, p, 1] = out[q, p, 2] = out[q, p, 3] = _0
                continue
            r, x = _U(key & 0xFFFFFFFF), xs[p]
            a = plane[r, 0] * x + (plane[r, 2] * y + plane[r, 4])
            b = plane[r, 1] * x + (plane[r, 3] * y + plane[r, 5])
            c = plane[r, 6] * x + (plane[r, 7] * y + plane[r, 8])
            scale = 1 / max(a + b + c, 1e-300)
            out[q, p, 0], out[q, p, 1] = _F32(a * scale), _F32(b * scale)
            out[q, p, 2], out[q, p, 3] = _depth(key), _F32(name[r] + 1)


@compiled
def _draw(
    clip: Array, faces: Array, middle: Array, near: Array, box: Array, name: Array, end: Array,
    shift: int, out: Array,
) -> None:  # fmt: skip
    """All of out [B, H, W, 4] from clip [B, V, 4] and what `bands` says; a band is a task.

    middle [B]: the depth that parts what is drawn first from what may lie behind it.
    """
    views, height, width = out.shape[:3]
    count = len(end) // max(views, 1)
    xs = (1 / width - 1) + (2 / width) * np.arange(width + LANES)
    ys = (1 - 1 / height) - (2 / height) * np.arange(height + 1)
    for task in prange(len(end)):
        view, top = task // count, task % count << shift
        rows = (top, min(top + (1 << shift), height))
        here = name[end[task - 1] if task else 0 : end[task]]
        # the last of a row's lanes may lie outside of the picture
        keys = np.full((rows[1] - top) * (width + LANES), CLEAR, np.int64)
        most = np.empty(width, np.int64)
        far = np.empty(((rows[1] - top - 1) // TILE + 1, (width - 1) // TILE + 1), np.float32)
        plane, chosen = np.empty((len(here), 12)), np.empty(len(here), np.int64)
        for turn in range(2):
            if turn:
                _farthest(keys, rows[1] - top, width, most, far)
            found = _choose(here, near[view], box[view], middle[view], turn, rows, far, chosen)
            found = _planes(clip[view], faces, here, chosen, found, plane)
            _cover(plane, here, chosen, found, box[view], rows, ys, xs, keys)
            _cover_wide(plane, here, chosen, found, box[view], rows, ys, xs, keys)
        _resolve(keys, plane, here, ys[top:], xs, out[view, top : rows[1]])


@inlined
def _basis(clip: Array, i: int, j: int, k: int) -> tuple[Any, ...]:
    """What `_slopes` needs of a triangle: two edges and the sum of three, over the determinant."""
    a, b, c, det = _edges(clip, i, j, k)
    scale = 1 / det
    return (
        scale * a[0], scale * a[1], scale * a[2], scale * b[0], scale * b[1], scale * b[2],
        scale * (a[0] + b[0] + c[0]), scale * (a[1] + b[1] + c[1]), scale * (a[2] + b[2] + c[2]),
    )  # fmt: skip


@inlined
def _slopes(basis: tuple[Any, ...], pixel: Array) -> tuple[Any, ...]:
    """x, y and w parts of the gradient of a triangle's weights u and v with p = (x, y, 1)."""
    ax, ay, aw, bx, by, bw, x, y, w = basis
    u, v = np.float64(pixel[0]), np.float64(pixel[1])
    return ax - u * x, ay - u * y, aw - u * w, bx - v * x, by - v * y, bw - v * w


@compiled
def rasterize_backward(
    grad: Array, clip: Array, faces: Array, buffer: Array, parts: int, out: Array
) -> None:
    """Adds to out [B * parts, V, 4] what each part of the rows gives."""
    views, height, width = buffer.shape[:3]
    for task in prange(views * parts):
        b, part = task // parts, task % parts
        last, basis = -1, (0.0,) * 9
        for row in range(part * height // parts, (part + 1) * height // parts):
            for column in range(width):
                pixel = buffer[b, row, column]
                gu, gv = grad[b, row, column, 0], grad[b, row, column, 1]
                f = int(pixel[3]) - 1
                if f < 0 or (gu == 0 and gv == 0):
                    continue
                i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
                if f != last:  # pixels beside each other often show one triangle
                    last, basis = f, _basis(clip[b], i, j, k)
                ux, uy, uw, vx, vy, vw = _slopes(basis, pixel)
                x, y, w = gu * ux + gv * vx, gu * uy + gv * vy, gu * uw + gv * vw
                u, v = pixel[0], pixel[1]
                t = np.float32(1) - u - v
                one, two, three = out[task, i], out[task, j], out[task, k]
                one[0], one[1], one[3] = one[0] - x * u, one[1] - y * u, one[3] - w * u
                two[0], two[1], two[3] = two[0] - x * v, two[1] - y * v, two[3] - w * v
                three[0], three[1], three[3] = three[0] - x * t, three[1] - y * t, three[3] - w * t


def draw(clip: Array, faces: Array, shift: int, out: Array) -> None:
    """Triangles of clip [B, V, 4] into all of out [B, H, W, 4], by bands of 1 << shift rows."""
    near, *found = bands(clip.reshape(-1, 4), faces, len(out), out.shape[1:3], shift)
    some = near[:, ::SAMPLE].clip(-1, 1)
    asked = np.float32(max(some.shape[1], 1))
    mean, square = some.sum(1) / asked, (some * some).sum(1) / asked
    middle = mean - NEARER * np.sqrt(np.maximum(square - mean * mean, _0))
    _draw(clip, faces, middle, near, *found, shift, out)


@compiled
def _derivatives(
    attributes: Array, clip: Array, buffer: Array, faces: Array, names: Array, out: Array
) -> None:
    views, height, width, channels = out.shape
    shared = len(attributes) == 1
    right, down = 2 / width, -2 / height
    for task in prange(views * height):
        b, row = task // height, task % height
        values = attributes[0 if shared else b]
        for column in range(width):
            pixel, result = buffer[b, row, column], out[b, row, column]
            f = int(pixel[3]) - 1
            if f < 0:
                continue
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            ux, uy, _, vx, vy, _ = _slopes(_basis(clip[b], i, j, k), pixel)
            # the slopes are those of weights divided by w: times w they are the weights' own
            u, v = pixel[0], pixel[1]
            w = u * clip[b, i, 3] + v * clip[b, j, 3] + (_1 - u - v) * clip[b, k, 3]
            i, j, k = names[f, 0], names[f, 1], names[f, 2]
            for c in range(channels // 2):
                one = w * (values[i, c] - values[k, c])
                two = w * (values[j, c] - values[k, c])
                result[2 * c] = (one * ux + two * vx) * right
                result[2 * c + 1] = (one * uy + two * vy) * down


def derivatives(
    attributes: Tensor, clip: Tensor, buffer: Tensor, faces: Tensor, names: Tensor
) -> Tensor:
    """[B, H, W, 2 C] from attributes [1 or B, V, C]."""
    out = torch.zeros(*buffer.shape[:3], 2 * attributes.shape[2])
    _derivatives(array(attributes), array(clip), array(buffer),
                 array(faces), array(names), out.numpy())  # fmt: skip
    return out
