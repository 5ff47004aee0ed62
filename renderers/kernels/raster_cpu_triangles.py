"""The nearest triangle of each pixel in numba: a part of `raster_cpu`.

A processor loses more time by guessing wrongly which way a short loop goes than by its sums. So the
loops are split: boxes of all triangles (many at once), spans of pixels of a batch of triangles,
then all these pixels in one straight loop. The nearer half of the triangles is drawn first; most
others then lie behind whole tiles of pixels, and are left out.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numba import prange
from torch import Tensor

from renderers.kernels.jit import array, compiled, inlined

BLOCK = 4096  # triangles a thread takes at a time
TILE = 8  # pixels a side of what is hidden as one
BATCH = 128  # triangles whose pixels are looked at together ...
PIXELS = 1024  # ... or about so many pixels
QUICK = 4  # pixels of a span that are noted without asking how many there are
PARTS = 4  # of few views, whose gradients are summed apart
BEHIND = np.float32(-2)  # depth of what has no place on the screen: nearer than anything
CLEAR = np.nextafter(np.float32(1), np.float32(2))  # depth of a pixel without a triangle
Array = Any  # a numpy array; numba's functions are untyped
_0, _1 = np.float32(0), np.float32(1)
# indices without a sign need no test whether they count from an array's end
_U: Any = np.uint64
_I32: Any = np.int32
_F32: Any = np.float32
_F64: Any = np.float64


@compiled
def _screen(clip: Array, height: int, width: int, out: Array) -> None:
    """x and y in pixels, z / w, and 1 where a vertex has these (w > 0), else 0: all [B * V, 4]."""
    for i in prange(len(out)):
        w = clip[i, 3]
        if w > _F32(1e-9):
            out[i, 0] = (clip[i, 0] / w + _1) * _F32(0.5 * width)
            out[i, 1] = (_1 - clip[i, 1] / w) * _F32(0.5 * height)
            out[i, 2] = clip[i, 2] / w
            out[i, 3] = _1
        else:
            out[i, 0] = out[i, 1] = out[i, 3] = _0
            out[i, 2] = BEHIND


@compiled
def _boxes(
    screen: Array, faces: Array, vertices: int, height: int, width: int, near: Array, box: Array
) -> None:
    """The least depth [B * F] of each triangle, and its pixels [4, B * F]: columns, rows, from, to.

    The whole screen for a triangle that reaches behind the camera.
    """
    count = len(faces)
    blocks = (count + BLOCK - 1) // BLOCK
    right, bottom = _F32(width), _F32(height)
    # a vertex on a pixel's centre must not be lost to rounding: a little wider
    low, high = _F32(0.49), _F32(0.51)
    for task in prange(len(near) // max(count, 1) * blocks):
        view, first = task // blocks, task % blocks * BLOCK
        own, others = _U(view * vertices), _U(view * count)
        for n in range(first, min(first + BLOCK, count)):
            f = _U(n)
            i, j, k = _U(faces[f, 0]) + own, _U(faces[f, 1]) + own, _U(faces[f, 2]) + own
            x0 = min(screen[i, 0], min(screen[j, 0], screen[k, 0]))
            x1 = max(screen[i, 0], max(screen[j, 0], screen[k, 0]))
            y0 = min(screen[i, 1], min(screen[j, 1], screen[k, 1]))
            y1 = max(screen[i, 1], max(screen[j, 1], screen[k, 1]))
            ahead = min(screen[i, 3], min(screen[j, 3], screen[k, 3])) > _0
            x0, x1 = min(max(x0, _0), right) + low, min(max(x1, _0), right) + high
            y0, y1 = min(max(y0, _0), bottom) + low, min(max(y1, _0), bottom) + high
            f += others
            near[f] = min(screen[i, 2], min(screen[j, 2], screen[k, 2]))
            box[0, f] = max(_I32(x0), _I32(0)) if ahead else _I32(0)
            box[1, f] = min(_I32(x1), _I32(width)) if ahead else _I32(width)
            box[2, f] = max(_I32(y0), _I32(0)) if ahead else _I32(0)
            box[3, f] = min(_I32(y1), _I32(height)) if ahead else _I32(height)


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
def _plane(clip: Array, i: int, j: int, k: int, name: int, row: int, plane: Array) -> bool:
    """Row of plane [BATCH, 13]: (x, y, 1) parts of three weights divided by w, of z / w; the name.

    False for a triangle without area.
    """
    a, b, c, det = _edges(clip, i, j, k)
    if det == 0:
        return False
    inverse = 1 / det  # with it, weights are not negative inside
    az, bz, cz = _F64(clip[i, 2]), _F64(clip[j, 2]), _F64(clip[k, 2])
    for part in range(3):
        one, two, three = a[part] * inverse, b[part] * inverse, c[part] * inverse
        plane[row, part], plane[row, 3 + part], plane[row, 6 + part] = one, two, three
        plane[row, 9 + part] = az * one + bz * two + cz * three
    plane[row, 12] = name
    return True


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
def _fill(
    pixel: Array, count: int, plane: Array, xs: Array, ys: Array, first: int, depth: Array,
    out: Array,
) -> None:  # fmt: skip
    """Draw the first `count` of pixel [N, 3]: rows of plane, rows and columns of the view."""
    for n in range(count):
        at = _U(n)
        m, row, column = _U(pixel[at, 0]), _U(pixel[at, 1]), _U(pixel[at, 2])
        x, y = xs[column], ys[row]
        a = plane[m, 0] * x + (plane[m, 1] * y + plane[m, 2])
        b = plane[m, 3] * x + (plane[m, 4] * y + plane[m, 5])
        c = plane[m, 6] * x + (plane[m, 7] * y + plane[m, 8])
        z = _F32(plane[m, 9] * x + (plane[m, 10] * y + plane[m, 11]))
        name, total = _F32(plane[m, 12]), a + b + c
        p = _U(first) + row * _U(len(xs)) + column
        nearer = (z < depth[p]) | ((z == depth[p]) & (name < out[p, 3]))
        # one condition, not several: which of them fails cannot be foretold
        if nearer & (min(a, min(b, c)) >= 0) & (total > 0) & (abs(z) <= _1):
            scale = _1 / _F32(total)
            depth[p] = z
            out[p, 0], out[p, 1] = _F32(a) * scale, _F32(b) * scale
            out[p, 2], out[p, 3] = z, name


@inlined
def _spans(
    plane: Array, m: int, box: tuple[int, int, int, int], steps: tuple[float, float, float],
    xs: Array, ys: Array, first: int, pixel: Array, filled: int, depth: Array, out: Array,
) -> int:  # fmt: skip
    """Note the pixels of a triangle, a row of plane, behind the `filled` first; how many there are.

    box: first and last column and row; steps: x of column 0, and from pixel to pixel x and y. Where
    they grow too many, they are drawn.
    """
    x0, x1, y0, y1 = box
    left, right, down = steps
    low, high, y = _F64(x0), _F64(x1), ys[_U(y0)]
    pa, qa, sa, ta = _crossing(
        plane[m, 0] * right, plane[m, 0] * left + (plane[m, 1] * y + plane[m, 2]),
        plane[m, 1] * down, low, high,
    )  # fmt: skip
    pb, qb, sb, tb = _crossing(
        plane[m, 3] * right, plane[m, 3] * left + (plane[m, 4] * y + plane[m, 5]),
        plane[m, 4] * down, low, high,
    )  # fmt: skip
    pc, qc, sc, tc = _crossing(
        plane[m, 6] * right, plane[m, 6] * left + (plane[m, 7] * y + plane[m, 8]),
        plane[m, 7] * down, low, high,
    )  # fmt: skip
    for row in range(y0, y1 + 1):
        # where the row enters and leaves the triangle, a little wider for rounding
        r = _F64(row - y0)
        enter = max(max(pa + r * qa, pb + r * qb), max(pc + r * qc, low))
        leave = min(min(sa + r * ta, sb + r * tb), min(sc + r * tc, high))
        start = max(int(min(enter, high + 1) + 0.999), x0)
        stop = min(int(max(leave, low - 1) + 1.001), x1 + 1)
        for c in range(QUICK):  # what is too much, the next row writes over
            note = _U(filled + c)
            pixel[note, 0], pixel[note, 1], pixel[note, 2] = m, row, start + c
        for c in range(QUICK, stop - start):
            note = _U(filled + c)
            pixel[note, 0], pixel[note, 1], pixel[note, 2] = m, row, start + c
        filled += max(stop - start, 0)
        if filled > PIXELS:
            _fill(pixel, filled, plane, xs, ys, first, depth, out)
            filled = 0
    return filled


@inlined
def _farthest(depth: Array, first: int, rows: tuple[int, int], width: int, far: Array) -> None:
    """The largest depth, and a little more for rounding, in each tile [T, tiles a row]."""
    far[:] = BEHIND
    for row in range(*rows):
        for tile in range(far.shape[1]):
            most, start = BEHIND, first + row * width + tile * TILE
            for p in range(start, start + min(TILE, width - tile * TILE)):
                most = max(most, depth[_U(p)])
            far[row // TILE, tile] = max(far[row // TILE, tile], most + _F32(1e-6))


@compiled
def _draw(
    clip: Array, near: Array, box: Array, faces: Array, height: int, bands: int, depth: Array,
    out: Array,
) -> None:  # fmt: skip
    """Each task draws all triangles into a band of rows of a view.

    near and box are those of _boxes. depth [B * H * W] is z / w once more, where it can be read in
    fewer steps, CLEAR at first; all of out [B * H * W, 4] is written.
    """
    count = len(faces)
    views = len(near) // max(count, 1)
    width, vertices = len(depth) // max(views * height, 1), len(clip) // max(views, 1)
    right, down, left, upper = 2 / width, -2 / height, 1 / width - 1, 1 - 1 / height
    xs, ys = left + right * np.arange(width), upper + down * np.arange(height)
    for task in prange(views * bands):
        view, band = task // bands, task % bands
        top, bottom = band * height // bands, (band + 1) * height // bands
        first, own, others = view * height * width, _U(view * vertices), view * count
        far = np.empty(((height - 1) // TILE + 1, (width - 1) // TILE + 1), np.float32)
        plane = np.empty((BATCH, 13), np.float64)
        pixel = np.empty((PIXELS + width + QUICK, 3), np.int32)
        middle = near[others : others + count].mean()
        for turn in range(2):
            if turn:
                _farthest(depth, first, (top, bottom), width, far)
            m, filled = 0, 0
            for n in range(count):
                at = _U(others + n)
                if (near[at] > middle) != turn:
                    continue
                x0, x1 = np.int64(box[0, at]), np.int64(box[1, at]) - 1
                y0, y1 = max(np.int64(box[2, at]), top), min(np.int64(box[3, at]), bottom) - 1
                if x0 > x1 or y0 > y1:
                    continue
                if turn and x1 - x0 <= TILE and y1 - y0 <= TILE:
                    r0, r1, c0, c1 = y0 // TILE, y1 // TILE, _U(x0 // TILE), _U(x1 // TILE)
                    r0, r1 = _U(r0), _U(r1)
                    if near[at] > max(max(far[r0, c0], far[r0, c1]), max(far[r1, c0], far[r1, c1])):
                        continue
                f, at = _U(n), _U(m)
                i, j, k = _U(faces[f, 0]) + own, _U(faces[f, 1]) + own, _U(faces[f, 2]) + own
                if not _plane(clip, i, j, k, n + 1, at, plane):
                    continue
                filled = _spans(plane, at, (x0, x1, y0, y1), (left, right, down), xs, ys, first,
                                pixel, filled, depth, out)  # fmt: skip
                m += 1
                if m == BATCH:
                    _fill(pixel, filled, plane, xs, ys, first, depth, out)
                    m, filled = 0, 0
            _fill(pixel, filled, plane, xs, ys, first, depth, out)
        for p in range(first + top * width, first + bottom * width):
            if depth[_U(p)] == CLEAR:
                out[_U(p), 0] = out[_U(p), 1] = out[_U(p), 2] = out[_U(p), 3] = _0


@inlined
def _slopes(clip: Array, i: int, j: int, k: int, pixel: Array) -> tuple[Any, ...]:
    """x, y and w parts of the gradient of a triangle's weights u and v with p = (x, y, 1)."""
    a, b, c, det = _edges(clip, i, j, k)
    u, v, scale = np.float64(pixel[0]), np.float64(pixel[1]), 1 / det
    x, y, w = a[0] + b[0] + c[0], a[1] + b[1] + c[1], a[2] + b[2] + c[2]
    return (
        scale * (a[0] - u * x), scale * (a[1] - u * y), scale * (a[2] - u * w),
        scale * (b[0] - v * x), scale * (b[1] - v * y), scale * (b[2] - v * w),
    )  # fmt: skip


@compiled
def _rasterize_backward(
    grad: Array, clip: Array, faces: Array, buffer: Array, parts: int, out: Array
) -> None:
    """Adds to out [B * parts, V, 4] what each part of the rows gives."""
    views, height, width = buffer.shape[:3]
    for task in prange(views * parts):
        b, part = task // parts, task % parts
        for row in range(part * height // parts, (part + 1) * height // parts):
            for column in range(width):
                pixel = buffer[b, row, column]
                gu, gv = grad[b, row, column, 0], grad[b, row, column, 1]
                f = int(pixel[3]) - 1
                if f < 0 or (gu == 0 and gv == 0):
                    continue
                i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
                ux, uy, uw, vx, vy, vw = _slopes(clip[b], i, j, k, pixel)
                x, y, w = gu * ux + gv * vx, gu * uy + gv * vy, gu * uw + gv * vw
                u, v = pixel[0], pixel[1]
                t = np.float32(1) - u - v
                one, two, three = out[task, i], out[task, j], out[task, k]
                one[0], one[1], one[3] = one[0] - x * u, one[1] - y * u, one[3] - w * u
                two[0], two[1], two[3] = two[0] - x * v, two[1] - y * v, two[3] - w * v
                three[0], three[1], three[3] = three[0] - x * t, three[1] - y * t, three[3] - w * t


def parts_of(views: int) -> int:
    """Into how many parts the pixels of a view go whose gradients are summed apart."""
    return max(1, PARTS // max(views, 1))


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
        views, vertices = clip.shape[:2]
        out = torch.empty(views, height, width, 4)
        bands = max(1, min(height, numba.get_num_threads() // max(views, 1)))
        draw(array(clip).reshape(-1, 4), array(faces), vertices, bands, out.numpy())
        ctx.save_for_backward(clip, faces, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        clip, faces, buffer = ctx.saved_tensors
        parts = parts_of(len(clip))
        out = torch.zeros(len(clip) * parts, *clip.shape[1:])
        _rasterize_backward(array(grad), array(clip), array(faces),
                            array(buffer), parts, out.numpy())  # fmt: skip
        return out.view(len(clip), parts, *clip.shape[1:]).sum(1), None, None, None


def draw(clip: Array, faces: Array, vertices: int, bands: int, out: Array) -> None:
    """Triangles of clip [B * V, 4] into all of out [B, H, W, 4], by bands of rows of each view."""
    views, height, width = out.shape[:3]
    screen = np.empty_like(clip)
    _screen(clip, height, width, screen)
    near = np.empty(views * len(faces), np.float32)
    box = np.empty((4, len(near)), np.int32)
    _boxes(screen, faces, vertices, height, width, near, box)
    depth = np.full(views * height * width, CLEAR)
    _draw(clip, near, box, faces, height, bands, depth, out.reshape(-1, 4))


def rasterize(clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """[B, height, width, 4] from clip [B, V, 4] float32 and faces [F, 3]."""
    buffer: Tensor = _Rasterize.apply(clip, faces, height, width)
    return buffer


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
            ux, uy, _, vx, vy, _ = _slopes(clip[b], i, j, k, pixel)
            # the slopes are those of weights divided by w: times w they are the weights' own
            w = (
                pixel[0] * clip[b, i, 3]
                + pixel[1] * clip[b, j, 3]
                + (np.float32(1) - pixel[0] - pixel[1]) * clip[b, k, 3]
            )
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
