"""Look-ups in a texture and in its smaller copies, in numba: a part of `raster_cpu`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from renderers.kernels.jit import array, compiled, inlined

BLOCK = 4096  # pixels a thread takes at a time
Array = Any  # a numpy array; numba's functions are untyped
_0, _1, _HALF = np.float32(0), np.float32(1), np.float32(0.5)


@inlined
def _corners(sizes: Array, level: int, u: Any, v: Any) -> tuple[Any, ...]:
    """The four texels around a place: upper left, upper right, lower left, lower right; where."""
    h, w = sizes[level, 0], sizes[level, 1]
    x = min(max(u * np.float32(w) - _HALF, _0), np.float32(w - 1))
    y = min(max((_1 - v) * np.float32(h) - _HALF, _0), np.float32(h - 1))
    x0, y0 = int(x), int(y)
    right, down = min(x0 + 1, w - 1) - x0, (min(y0 + 1, h - 1) - y0) * w
    first = sizes[level, 2] + y0 * w + x0
    return (first, first + right, first + down, first + down + right,
            x - np.float32(x0), y - np.float32(y0))  # fmt: skip


@inlined
def _levels(level: Any, count: int) -> tuple[int, Any]:
    """The sharper of the two levels between which `level` is, and the other one's share."""
    level = min(max(level, _0), np.float32(count - 1))
    lower = min(int(level), max(count - 2, 0))
    return lower, level - np.float32(lower)


@compiled
def _texture(texels: Array, sizes: Array, uv: Array, level: Array, out: Array) -> None:
    views, pixels, channels = out.shape
    shared = len(texels) == 1
    blocks = (pixels + BLOCK - 1) // BLOCK
    for task in prange(views * blocks):
        b, first = task // blocks, task % blocks * BLOCK
        values = texels[0 if shared else b]
        for p in range(first, min(first + BLOCK, pixels)):
            lower, share = _levels(level[b, p], len(sizes))
            for c in range(channels):
                out[b, p, c] = 0
            for k in range(2 if share > _0 else 1):
                part = share if k else _1 - share
                a, e, f, g, x, y = _corners(sizes, lower + k, uv[b, p, 0], uv[b, p, 1])
                for c in range(channels):
                    top = values[a, c] * (_1 - x) + values[e, c] * x
                    bottom = values[f, c] * (_1 - x) + values[g, c] * x
                    out[b, p, c] += part * (top * (_1 - y) + bottom * y)


@compiled
def _texels_backward(grad: Array, sizes: Array, uv: Array, level: Array, out: Array) -> None:
    """Adds to out [1 or B, T, C], each texture by one thread."""
    views, pixels, channels = grad.shape
    each = views // len(out)
    for task in prange(len(out)):
        result = out[task]
        for b in range(task * each, (task + 1) * each):
            for p in range(pixels):
                lower, share = _levels(level[b, p], len(sizes))
                for k in range(2 if share > _0 else 1):
                    part = share if k else _1 - share
                    a, e, f, g, x, y = _corners(sizes, lower + k, uv[b, p, 0], uv[b, p, 1])
                    for c in range(channels):
                        top = part * grad[b, p, c] * (_1 - y)
                        bottom = part * grad[b, p, c] * y
                        result[a, c] += top * (_1 - x)
                        result[e, c] += top * x
                        result[f, c] += bottom * (_1 - x)
                        result[g, c] += bottom * x


@compiled
def _uv_backward(
    grad: Array, texels: Array, sizes: Array, uv: Array, level: Array, out: Array
) -> None:
    """Writes out [B, P, 2]: 0 where the place is beyond the border."""
    views, pixels, channels = grad.shape
    shared = len(texels) == 1
    blocks = (pixels + BLOCK - 1) // BLOCK
    for task in prange(views * blocks):
        b, first = task // blocks, task % blocks * BLOCK
        values = texels[0 if shared else b]
        for p in range(first, min(first + BLOCK, pixels)):
            lower, share = _levels(level[b, p], len(sizes))
            gu, gv = _0, _0
            for k in range(2 if share > _0 else 1):
                part = share if k else _1 - share
                a, e, f, g, x, y = _corners(sizes, lower + k, uv[b, p, 0], uv[b, p, 1])
                h, w = np.float32(sizes[lower + k, 0]), np.float32(sizes[lower + k, 1])
                px, py = uv[b, p, 0] * w - _HALF, (_1 - uv[b, p, 1]) * h - _HALF
                inside_x, inside_y = px >= _0 and px <= w - _1, py >= _0 and py <= h - _1
                for c in range(channels):
                    scale = part * grad[b, p, c]
                    if inside_x:
                        top, bottom = values[e, c] - values[a, c], values[g, c] - values[f, c]
                        gu += scale * w * (top * (_1 - y) + bottom * y)
                    if inside_y:
                        left, right = values[f, c] - values[a, c], values[g, c] - values[e, c]
                        gv -= scale * h * (left * (_1 - x) + right * x)
            out[b, p, 0], out[b, p, 1] = gu, gv


class _Texture(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, texels: Tensor, sizes: Tensor, uv: Tensor, level: Tensor) -> Tensor:
        b, h, w = uv.shape[:3]
        out = torch.empty(b, h, w, texels.shape[2])
        result = out.numpy().reshape(b, h * w, texels.shape[2])
        _texture(array(texels), array(sizes), array(uv).reshape(b, h * w, 2),
                 array(level).reshape(b, h * w), result)  # fmt: skip
        ctx.save_for_backward(texels, sizes, uv, level)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        texels, sizes, uv, level = ctx.saved_tensors
        b, h, w = uv.shape[:3]
        given, places = array(grad).reshape(b, h * w, grad.shape[3]), array(uv).reshape(b, h * w, 2)
        blur = array(level).reshape(b, h * w)
        of_texels = of_uv = None
        if ctx.needs_input_grad[0]:
            of_texels = torch.zeros_like(texels)
            _texels_backward(given, array(sizes), places, blur, of_texels.numpy())
        if ctx.needs_input_grad[2]:
            of_uv = torch.empty_like(uv)
            _uv_backward(given, array(texels), array(sizes), places, blur,
                         of_uv.numpy().reshape(places.shape))  # fmt: skip
        return of_texels, None, of_uv, None


def texture(texels: Tensor, sizes: list[tuple[int, int]], uv: Tensor, level: Tensor) -> Tensor:
    """[B, H, W, C] from texels [1 or B, T, C], level by level."""
    shapes = torch.tensor(sizes)
    areas = shapes.prod(1)
    table = torch.cat([shapes, (areas.cumsum(0) - areas)[:, None]], 1)
    apply: Callable[..., Tensor] = _Texture.apply
    return apply(texels, table, uv, level)
