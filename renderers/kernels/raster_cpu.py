"""The rasterizer's operations in numba: float32 tensors on the CPU, all cores.

Signatures, shapes and meanings are those of `renderers.kernels.raster`, the mathematics that of
`raster_reference`, the gradients derived by hand. Every pixel is written by one thread, and every
gradient summed in an order that the shapes decide, so that results do not depend on the number of
threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from renderers.kernels.jit import array, compiled
from renderers.kernels.raster_cpu_outline import antialias, twins
from renderers.kernels.raster_cpu_texture import texture
from renderers.kernels.raster_cpu_triangles import SHIFT, derivatives, draw, rasterize_backward

__all__ = ["antialias", "derivatives", "interpolate", "rasterize", "texture", "twins"]

BLOCK = 4096  # pixels a thread takes at a time
PARTS = 4  # of few views, whose gradients are summed apart
Array = Any  # a numpy array; numba's functions are untyped


def parts_of(views: int) -> int:
    """Into how many parts the pixels of a view go whose gradients are summed apart."""
    return max(1, PARTS // max(views, 1))


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
        out = torch.empty(len(clip), height, width, 4)
        draw(array(clip), array(faces), SHIFT, out.numpy())
        ctx.save_for_backward(clip, faces, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        clip, faces, buffer = ctx.saved_tensors
        parts = parts_of(len(clip))
        out = torch.zeros(len(clip) * parts, *clip.shape[1:])
        rasterize_backward(array(grad), array(clip), array(faces),
                           array(buffer), parts, out.numpy())  # fmt: skip
        return out.view(len(clip), parts, *clip.shape[1:]).sum(1), None, None, None


def rasterize(clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """[B, height, width, 4] from clip [B, V, 4] float32 and faces [F, 3]."""
    apply: Callable[..., Tensor] = _Rasterize.apply
    return apply(clip, faces, height, width)


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
            f, slope = int(buffer[b, p, 3]) - 1, uv[b, p]
            slope[2], slope[3] = 0, 0
            if f < 0:
                slope[0], slope[1] = 0, 0
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
            slope[0], slope[1] = gu, gv


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, attributes: Tensor, buffer: Tensor, faces: Tensor) -> Tensor:
        b, h, w = buffer.shape[:3]
        out = torch.empty(b, h * w, attributes.shape[2])
        _interpolate(array(attributes), array(buffer.view(b, h * w, 4)), array(faces), out.numpy())
        ctx.save_for_backward(attributes, buffer, faces)
        return out.view(b, h, w, attributes.shape[2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        attributes, buffer, faces = ctx.saved_tensors
        b, h, w = buffer.shape[:3]
        parts = parts_of(b)
        out = torch.zeros(b * parts, *attributes.shape[1:])
        uv = torch.empty_like(buffer)
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
    apply: Callable[..., Tensor] = _Interpolate.apply
    return apply(attributes, buffer, faces)
