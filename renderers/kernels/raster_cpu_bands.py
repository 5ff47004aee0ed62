"""Which triangles lie where on the screen, in numba: a part of `raster_cpu`.

The screen is cut into bands of rows, low enough that the depths of one stay in a processor's cache
while all its triangles are drawn; bands are also what threads share.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from renderers.kernels.jit import compiled

BLOCK = 4096  # triangles a thread takes at a time
BEHIND = np.float32(-3e38)  # depth of what has no place on the screen: nearer than anything
Array = Any  # a numpy array; numba's functions are untyped
_0, _1 = np.float32(0), np.float32(1)
# indices without a sign need no test whether they count from an array's end
_U: Any = np.uint64
_I32: Any = np.int32
_F32: Any = np.float32


@compiled
def _screen(clip: Array, height: int, width: int, out: Array) -> None:
    """x and y in pixels and z / w, or BEHIND where a vertex has none of these (w <= 0): [N, 4]."""
    for i in prange(len(out)):
        w = clip[i, 3]
        if w > _F32(1e-9):
            out[i, 0] = (clip[i, 0] / w + _1) * _F32(0.5 * width)
            out[i, 1] = (_1 - clip[i, 1] / w) * _F32(0.5 * height)
            out[i, 2] = clip[i, 2] / w
        else:
            out[i, 0] = out[i, 1] = _0
            out[i, 2] = BEHIND


@compiled
def _boxes(
    screen: Array, faces: Array, vertices: int, height: int, width: int, shift: int, near: Array,
    box: Array, number: Array,
) -> None:  # fmt: skip
    """Of each triangle the least depth [B * F] and the pixels [B * F, 4]: (x, y) from, (x, y) to.

    The whole screen for a triangle that reaches behind the camera. number [B * blocks, bands]: how
    many triangles of a block reach into each band of 1 << shift rows.
    """
    count = len(faces)
    blocks = max((count + BLOCK - 1) // BLOCK, 1)
    right, bottom = _F32(width), _F32(height)
    # a vertex on a pixel's centre must not be lost to rounding: a little wider
    low, high = _F32(0.49), _F32(0.51)
    for task in prange(len(number)):
        view, first = task // blocks, task % blocks * BLOCK
        own, others = _U(view * vertices), _U(view * count)
        end = min(first + BLOCK, count)
        for n in range(first, end):
            f = _U(n)
            i, j, k = _U(faces[f, 0]) + own, _U(faces[f, 1]) + own, _U(faces[f, 2]) + own
            x0 = min(screen[i, 0], min(screen[j, 0], screen[k, 0]))
            x1 = max(screen[i, 0], max(screen[j, 0], screen[k, 0]))
            y0 = min(screen[i, 1], min(screen[j, 1], screen[k, 1]))
            y1 = max(screen[i, 1], max(screen[j, 1], screen[k, 1]))
            z = min(screen[i, 2], min(screen[j, 2], screen[k, 2]))
            ahead = z > BEHIND
            x0, x1 = min(max(x0, _0), right) + low, min(max(x1, _0), right) + high
            y0, y1 = min(max(y0, _0), bottom) + low, min(max(y1, _0), bottom) + high
            f += others
            near[f] = z
            # of integers once more: what is not a number becomes any of them
            box[f, 0] = max(_I32(x0), _I32(0)) if ahead else _I32(0)
            box[f, 1] = max(_I32(y0), _I32(0)) if ahead else _I32(0)
            box[f, 2] = min(_I32(x1), _I32(width)) if ahead else _I32(width)
            box[f, 3] = min(_I32(y1), _I32(height)) if ahead else _I32(height)
        number[task] = 0
        for n in range(first, end):
            f = _U(n) + others
            if box[f, 0] < box[f, 2] and box[f, 1] < box[f, 3]:
                for band in range(box[f, 1] >> shift, ((box[f, 3] - 1) >> shift) + 1):
                    number[task, _U(band)] += 1


@compiled
def _sort(box: Array, count: int, shift: int, place: Array, name: Array) -> None:
    """Write the triangles of each block to name, those of a band from place on, and move place."""
    blocks = max((count + BLOCK - 1) // BLOCK, 1)
    for task in prange(len(place)):
        view, first = task // blocks, task % blocks * BLOCK
        others, at = _U(view * count), place[task]
        for n in range(first, min(first + BLOCK, count)):
            f = _U(n) + others
            if box[f, 0] < box[f, 2] and box[f, 1] < box[f, 3]:
                for band in range(box[f, 1] >> shift, ((box[f, 3] - 1) >> shift) + 1):
                    name[_U(at[_U(band)])] = n
                    at[_U(band)] += 1


def bands(
    clip: Array, faces: Array, views: int, size: tuple[int, int], shift: int
) -> tuple[Array, Array, Array, Array]:
    """Least depths and boxes of triangles of clip [B * V, 4], and names of those in each band.

    near [B, F], box [B, F, 4] (first column and row, those behind the last), name [N]: in the order
    of `faces` band by band, view by view, and end [B * bands]: where each band of 1 << shift rows
    ends in it. The box is the whole screen for a triangle that reaches behind the camera.
    """
    height, width = size
    screen = np.empty_like(clip)
    _screen(clip, height, width, screen)
    near = np.empty(views * len(faces), np.float32)
    box = np.empty((len(near), 4), np.int32)
    blocks = max(-(-len(faces) // BLOCK), 1)
    number = np.empty((views, blocks, ((height - 1) >> shift) + 1), np.int64)
    counted = number.reshape(views * blocks, -1) if views else number[:, 0]
    _boxes(screen, faces, len(clip) // max(views, 1), height, width, shift, near, box, counted)
    ends = number.transpose(0, 2, 1).cumsum().reshape(views, -1, blocks)
    place = ends.transpose(0, 2, 1) - number
    name = np.empty(number.sum(), np.int32)
    _sort(box, len(faces), shift, place.reshape(counted.shape), name)
    return (near.reshape(views, len(faces)), box.reshape(views, len(faces), 4), name,
            np.ascontiguousarray(ends[:, :, -1]).ravel())  # fmt: skip
