"""The rasterizer's operations in numba: float32 tensors on the CPU, all cores.

Signatures, shapes and meanings are those of `renderers.kernels.raster`, the mathematics that of
`raster_reference`. Every pixel is written by one thread in the order of the faces, so that results
do not depend on the number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
from numba import prange
from torch import Tensor

from renderers.kernels import raster_reference as reference
from renderers.kernels.jit import compiled
from renderers.kernels.raster_reference import antialias, twins

__all__ = ["antialias", "interpolate", "rasterize", "texture", "twins"]

BLOCK = 4096  # pixels a thread takes at a time
Array = Any  # a numpy array; numba's functions are untyped


@compiled
def _screen(clip: Array, height: int, width: int, out: Array) -> None:
    """Pixel positions [B, V, 2] of the vertices; NaN where they have none (w <= 0)."""
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
def _rasterize(clip: Array, screen: Array, faces: Array, bands: int, out: Array) -> None:
    """Each task draws all triangles into a band of rows of a view."""
    views, height, width = out.shape[:3]
    for task in prange(views * bands):
        b, band = task // bands, task % bands
        first, last = band * height // bands, (band + 1) * height // bands - 1
        for f in range(len(faces)):
            i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
            x0, x1, y0, y1 = 0, width - 1, first, last
            if screen[b, i, 2] + screen[b, j, 2] + screen[b, k, 2] > np.float32(2.5):
                # a vertex on a pixel's centre must not be lost to rounding: a little wider
                ax, bx, cx = screen[b, i, 0], screen[b, j, 0], screen[b, k, 0]
                ay, by, cy = screen[b, i, 1], screen[b, j, 1], screen[b, k, 1]
                low_y, high_y = min(ay, min(by, cy)), max(ay, max(by, cy))
                low_x, high_x = min(ax, min(bx, cx)), max(ax, max(bx, cx))
                if low_y > last + 1 or high_y < first or low_x > width or high_x < 0:
                    continue
                x0 = math.ceil(max(low_x, np.float32(0)) - np.float32(0.51))
                x1 = math.floor(min(high_x, np.float32(width)) - np.float32(0.49))
                y0 = math.ceil(max(low_y, np.float32(first)) - np.float32(0.51))
                y1 = math.floor(min(high_y, np.float32(last + 1)) - np.float32(0.49))
                x0, x1, y0, y1 = max(x0, 0), min(x1, width - 1), max(y0, first), min(y1, last)
                if x0 > x1 or y0 > y1:
                    continue
            # in float64 the products of float32 are exact: neighbours agree on their common edge
            ax, ay = np.float64(clip[b, i, 0]), np.float64(clip[b, i, 1])
            bx, by = np.float64(clip[b, j, 0]), np.float64(clip[b, j, 1])
            cx, cy = np.float64(clip[b, k, 0]), np.float64(clip[b, k, 1])
            aw, bw, cw = (np.float64(clip[b, i, 3]), np.float64(clip[b, j, 3]),
                          np.float64(clip[b, k, 3]))  # fmt: skip
            e0x, e0y, e0 = by * cw - bw * cy, bw * cx - bx * cw, bx * cy - by * cx
            e1x, e1y, e1 = cy * aw - cw * ay, cw * ax - cx * aw, cx * ay - cy * ax
            e2x, e2y, e2 = ay * bw - aw * by, aw * bx - ax * bw, ax * by - ay * bx
            det = e0x * ax + e0y * ay + e0 * aw
            if det == 0:
                continue
            if det < 0:
                e0x, e0y, e0 = -e0x, -e0y, -e0
                e1x, e1y, e1 = -e1x, -e1y, -e1
                e2x, e2y, e2 = -e2x, -e2y, -e2
                det = -det
            az, bz, cz = clip[b, i, 2] / det, clip[b, j, 2] / det, clip[b, k, 2] / det
            for row in range(y0, y1 + 1):
                y = 1 - 2 * (row + 0.5) / height
                r0, r1, r2 = e0y * y + e0, e1y * y + e1, e2y * y + e2
                for column in range(x0, x1 + 1):
                    x = 2 * (column + 0.5) / width - 1
                    w0, w1, w2 = e0x * x + r0, e1x * x + r1, e2x * x + r2
                    total = w0 + w1 + w2
                    if w0 < 0 or w1 < 0 or w2 < 0 or total <= 0:
                        continue
                    z = np.float32(az * w0 + bz * w1 + cz * w2)
                    if z < -1 or z > 1:
                        continue
                    pixel = out[b, row, column]
                    if pixel[3] > 0 and z >= pixel[2]:
                        continue
                    pixel[0] = w0 / total
                    pixel[1] = w1 / total
                    pixel[2] = z
                    pixel[3] = f + 1


def rasterize(clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """[B, height, width, 4] from clip [B, V, 4] float32 and faces [F, 3]."""
    out = torch.zeros(len(clip), height, width, 4)
    vertices = clip.detach().numpy()
    screen = np.empty((*clip.shape[:2], 3), np.float32)
    _screen(vertices, height, width, screen)
    bands = max(1, min(height, 2 * numba.get_num_threads() // len(clip))) if len(clip) else 1
    _rasterize(vertices, screen, faces.numpy(), bands, out.numpy())
    if clip.requires_grad:
        return reference.weigh(clip, faces, out[..., 3].long())
    return out


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


def interpolate(attributes: Tensor, buffer: Tensor, faces: Tensor) -> Tensor:
    """[B, H, W, C] from attributes [1 or B, V, C]."""
    if attributes.requires_grad or buffer.requires_grad:
        return reference.interpolate(attributes, buffer, faces)
    b, h, w = buffer.shape[:3]
    out = torch.empty(b, h * w, attributes.shape[2])
    pixels = buffer.view(b, h * w, 4)
    _interpolate(attributes.detach().numpy(), pixels.numpy(), faces.numpy(), out.numpy())
    return out.view(b, h, w, out.shape[2])


@compiled
def _texture(image: Array, uv: Array, out: Array) -> None:
    views, pixels, channels = out.shape
    h, w = image.shape[1:3]
    shared = len(image) == 1
    blocks = (pixels + BLOCK - 1) // BLOCK
    for task in prange(views * blocks):
        b, first = task // blocks, task % blocks * BLOCK
        texels = image[0 if shared else b]
        for p in range(first, min(first + BLOCK, pixels)):
            x = uv[b, p, 0] * np.float32(w) - np.float32(0.5)
            y = (np.float32(1) - uv[b, p, 1]) * np.float32(h) - np.float32(0.5)
            x = min(max(x, np.float32(0)), np.float32(w - 1))
            y = min(max(y, np.float32(0)), np.float32(h - 1))
            x0, y0 = int(x), int(y)
            x1, y1 = min(x0 + 1, w - 1), min(y0 + 1, h - 1)
            fx, fy = x - np.float32(x0), y - np.float32(y0)
            gx, gy = np.float32(1) - fx, np.float32(1) - fy
            for c in range(channels):
                top = texels[y0, x0, c] * gx + texels[y0, x1, c] * fx
                bottom = texels[y1, x0, c] * gx + texels[y1, x1, c] * fx
                out[b, p, c] = top * gy + bottom * fy


def texture(image: Tensor, uv: Tensor) -> Tensor:
    """[B, H, W, C] from image [1 or B, h, w, C]."""
    if image.requires_grad or uv.requires_grad:
        return reference.texture(image, uv)
    b, h, w = uv.shape[:3]
    out = torch.empty(b, h * w, image.shape[3])
    _texture(image.detach().numpy(), uv.view(b, h * w, 2).numpy(), out.numpy())
    return out.view(b, h, w, out.shape[2])
