"""The rasterizer's operations in numba: float32 tensors on the CPU, all cores.

Signatures, shapes and meanings are those of `renderers.kernels.raster`, the mathematics that of
`raster_reference`, the gradients derived by hand. Every pixel is written by one thread in the order
of the faces, and every gradient summed in an order that the shapes decide, so that results do not
depend on the number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
from numba import prange
from torch import Tensor

from renderers.kernels.jit import array, compiled, inlined
from renderers.kernels.raster_cpu_outline import antialias, twins
from renderers.kernels.raster_cpu_texture import texture

__all__ = ["antialias", "derivatives", "interpolate", "rasterize", "texture", "twins"]

BLOCK = 4096  # pixels a thread takes at a time
PARTS = 4  # of few views, whose gradients are summed apart
Array = Any  # a numpy array; numba's functions are untyped


@compiled
def _screen(clip: Array, height: int, width: int, out: Array) -> None:
    """Pixel positions [B, V, 2] of the vertices, and 1 where they have one (w > 0), else 0."""
    views, n = clip.shape[:2]
    for i in prange(views * n):
        b, k = i // n, i % n
        w = clip[b, k, 3]
        if w > np.float32(1e-9):
            out[b, k, 0] = (clip[b, k, 0] / w + np.float32(1)) * np.float32(0.5 * width)
            out[b, k, 1] = (np.float32(1) - clip[b, k, 1] / w) * np.float32(0.5 * height)
            out[b, k, 2] = np.float32(1)
        else:
            out[b, k, 2] = np.float32(0)


@compiled
def _rasterize(
    clip: Array, screen: Array, faces: Array, bands: int, depth: Array, out: Array
) -> None:
    """Each task draws all triangles into a band of rows of a view.

    depth [B, H, W] is z / w once more, where it can be read in fewer steps; just above 1 at first.
    """
    views, height, width = out.shape[:3]
    for task in prange(views * bands):
        b, band = task // bands, task % bands
        first, last = band * height // bands, (band + 1) * height // bands - 1
        top, bottom, border = np.float32(first), np.float32(last + 1), np.float32(width)
        # the centre of pixel (row, column) is at upper + row * down, left + column * right
        right, down, left, upper = 2 / width, -2 / height, 1 / width - 1, 1 - 1 / height
        for f in range(len(faces)):
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            x0, x1, y0, y1 = 0, width - 1, first, last
            if screen[b, i, 2] + screen[b, j, 2] + screen[b, k, 2] > np.float32(2.5):
                # a vertex on a pixel's centre must not be lost to rounding: a little wider
                ay, by, cy = screen[b, i, 1], screen[b, j, 1], screen[b, k, 1]
                low, high = min(ay, min(by, cy)), max(ay, max(by, cy))
                if low > bottom or high < top:
                    continue
                y0 = max(math.ceil(max(low, top) - np.float32(0.51)), first)
                y1 = min(math.floor(min(high, bottom) - np.float32(0.49)), last)
                ax, bx, cx = screen[b, i, 0], screen[b, j, 0], screen[b, k, 0]
                low, high = min(ax, min(bx, cx)), max(ax, max(bx, cx))
                if y0 > y1 or low > border or high < 0:
                    continue
                x0 = max(math.ceil(max(low, np.float32(0)) - np.float32(0.51)), 0)
                x1 = min(math.floor(min(high, border) - np.float32(0.49)), width - 1)
                if x0 > x1:
                    continue
            a, e, c, det = _edges(clip[b], i, j, k)
            if det == 0:
                continue
            inverse = 1 / det  # now not negative inside
            ax, ay, a1 = a[0] * inverse, a[1] * inverse, a[2] * inverse
            bx, by, b1 = e[0] * inverse, e[1] * inverse, e[2] * inverse
            cx, cy, c1 = c[0] * inverse, c[1] * inverse, c[2] * inverse
            az, bz, cz = clip[b, i, 2], clip[b, j, 2], clip[b, k, 2]
            zx, zy, z1 = (
                az * ax + bz * bx + cz * cx,
                az * ay + bz * by + cz * cy,
                az * a1 + bz * b1 + cz * c1,
            )
            ga, gb, gc = _inverse(ax * right), _inverse(bx * right), _inverse(cx * right)
            low, high = np.float64(x0), np.float64(x1)
            for row in range(y0, y1 + 1):
                y = upper + row * down
                ra, rb, rc = ay * y + a1, by * y + b1, cy * y + c1
                # where the row enters and leaves the triangle, a little wider for rounding
                ta, tb, tc = (
                    -(ra + ax * left) * ga,
                    -(rb + bx * left) * gb,
                    -(rc + cx * left) * gc,
                )
                enter = max(
                    max(ta if ga > 0 else low, tb if gb > 0 else low), tc if gc > 0 else low
                )
                leave = min(
                    min(ta if ga < 0 else high, tb if gb < 0 else high), tc if gc < 0 else high
                )
                start = math.ceil(min(max(enter, low), high + 1) - 0.001)
                stop = math.floor(max(min(leave, high), low - 1) + 0.001)
                for column in range(max(start, x0), min(stop, x1) + 1):
                    x = left + column * right
                    wa, wb, wc = ax * x + ra, bx * x + rb, cx * x + rc
                    total = wa + wb + wc
                    z = np.float32(zx * x + zy * y + z1)
                    # one condition, not several: which of them fails cannot be foretold
                    if not (
                        (min(wa, min(wb, wc)) >= 0)
                        & (total > 0)
                        & (z >= np.float32(-1))
                        & (z < depth[b, row, column])
                    ):
                        continue
                    depth[b, row, column] = z
                    pixel = out[b, row, column]
                    scale = 1 / total
                    pixel[0] = wa * scale
                    pixel[1] = wb * scale
                    pixel[2] = z
                    pixel[3] = f + 1


@inlined
def _inverse(value: float) -> float:
    return 1 / value if value != 0 else 0.0


@inlined
def _edges(clip: Array, i: int, j: int, k: int) -> tuple[Any, ...]:
    """The edge functions of a triangle's vertices, (x, y, 1) parts each, and the determinant.

    In float64 the products of float32 are exact: neighbours agree on their common edge.
    """
    ax, ay, aw = np.float64(clip[i, 0]), np.float64(clip[i, 1]), np.float64(clip[i, 3])
    bx, by, bw = np.float64(clip[j, 0]), np.float64(clip[j, 1]), np.float64(clip[j, 3])
    cx, cy, cw = np.float64(clip[k, 0]), np.float64(clip[k, 1]), np.float64(clip[k, 3])
    a = (by * cw - bw * cy, bw * cx - bx * cw, bx * cy - by * cx)
    b = (cy * aw - cw * ay, cw * ax - cx * aw, cx * ay - cy * ax)
    c = (ay * bw - aw * by, aw * bx - ax * bw, ax * by - ay * bx)
    return a, b, c, a[0] * ax + a[1] * ay + a[2] * aw


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


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
        views = len(clip)
        out = torch.zeros(views, height, width, 4)
        vertices = array(clip)
        screen = np.empty((*clip.shape[:2], 3), np.float32)
        _screen(vertices, height, width, screen)
        bands = max(1, min(height, numba.get_num_threads() // max(views, 1)))
        depth = np.full(out.shape[:3], np.nextafter(np.float32(1), np.float32(2)))
        _rasterize(vertices, screen, array(faces), bands, depth, out.numpy())
        ctx.save_for_backward(clip, faces, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        clip, faces, buffer = ctx.saved_tensors
        parts = _parts(len(clip))
        out = torch.zeros(len(clip) * parts, *clip.shape[1:])
        _rasterize_backward(array(grad), array(clip), array(faces),
                            array(buffer), parts, out.numpy())  # fmt: skip
        return out.view(len(clip), parts, *clip.shape[1:]).sum(1), None, None, None


def _parts(views: int) -> int:
    return max(1, PARTS // max(views, 1))


def rasterize(clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """[B, height, width, 4] from clip [B, V, 4] float32 and faces [F, 3]."""
    buffer: Tensor = _Rasterize.apply(clip, faces, height, width)
    return buffer


@compiled
def _interpolate(attributes: Array, buffer: Array, faces: Array, out: Array) -> None:
    views, pixels, channels = out.shape
    shared = len(attributes) == 1
    blocks = (pixels + BLOCK - 1) // BLOCK
    for task in prange(views * blocks):
        b, first = task // blocks, task % blocks * BLOCK
        values = attributes[0 if shared else b]
        for p in range(first, min(first + BLOCK, pixels)):
            pixel, result = buffer[b, p], out[b, p]
            f = int(pixel[3]) - 1
            if f < 0:
                for c in range(channels):
                    result[c] = 0
                continue
            u, v = pixel[0], pixel[1]
            t = np.float32(1) - u - v
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            for c in range(channels):
                result[c] = u * values[i, c] + v * values[j, c] + t * values[k, c]


@compiled
def _interpolate_backward(
    grad: Array, attributes: Array, buffer: Array, faces: Array, parts: int, out: Array, uv: Array
) -> None:
    """Adds to out [B * parts, V, C] what each part of the pixels gives; writes uv [B, P, 4]."""
    views, pixels, channels = grad.shape
    shared = len(attributes) == 1
    for task in prange(views * parts):
        b, part = task // parts, task % parts
        values = attributes[0 if shared else b]
        for p in range(part * pixels // parts, (part + 1) * pixels // parts):
            f = int(buffer[b, p, 3]) - 1
            if f < 0:
                continue
            u, v = buffer[b, p, 0], buffer[b, p, 1]
            t = np.float32(1) - u - v
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            gu, gv = np.float32(0), np.float32(0)
            for c in range(channels):
                g = grad[b, p, c]
                out[task, i, c] += u * g
                out[task, j, c] += v * g
                out[task, k, c] += t * g
                gu += g * (values[i, c] - values[k, c])
                gv += g * (values[j, c] - values[k, c])
            uv[b, p, 0], uv[b, p, 1] = gu, gv


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, attributes: Tensor, buffer: Tensor, faces: Tensor) -> Tensor:
        b, h, w = buffer.shape[:3]
        out = torch.empty(b, h * w, attributes.shape[2])
        _interpolate(array(attributes), array(buffer.view(b, h * w, 4)), array(faces),
                     out.numpy())  # fmt: skip
        ctx.save_for_backward(attributes, buffer, faces)
        return out.view(b, h, w, attributes.shape[2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        attributes, buffer, faces = ctx.saved_tensors
        b, h, w = buffer.shape[:3]
        parts = _parts(b)
        out = torch.zeros(b * parts, *attributes.shape[1:])
        uv = torch.zeros_like(buffer)
        _interpolate_backward(
            array(grad).reshape(b, h * w, grad.shape[3]), array(attributes),
            array(buffer.view(b, h * w, 4)), array(faces), parts, out.numpy(),
            uv.view(b, h * w, 4).numpy(),
        )  # fmt: skip
        # of attributes that all views share, the gradients of all views
        parts = len(out) // max(len(attributes), 1)
        return out.view(len(attributes), parts, *attributes.shape[1:]).sum(1), uv, None


def interpolate(attributes: Tensor, buffer: Tensor, faces: Tensor) -> Tensor:
    """[B, H, W, C] from attributes [1 or B, V, C]."""
    values: Tensor = _Interpolate.apply(attributes, buffer, faces)
    return values


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
