"""A picture's colours from a rasterized buffer, in one pass: float32 tensors on the CPU.

The mathematics is that of `renderers.raster.render_mesh`, of which this is the fast twin where
nothing but its rgb is wanted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from renderers.kernels.jit import compiled, inlined

Array = Any  # a numpy array; numba's functions are untyped
LOOKS = ("albedo", "shaded", "textureless", "normal")  # by their numbers here
PLAIN, COLORS, TEXTURE = 0, 1, 2  # where a mesh's own colour comes from
CLAY, GREY = np.float32(0.8), np.float32(0.7)


# indices, not slices, all through: each slice of an array would count references


@inlined
def _looked_up(u: Any, v: Any, i: int, j: int, k: int, rows: Array, image: Array) -> Any:
    """An image, bilinear, at weights u, v of a face whose corners i, j, k are rows of uv."""
    t = np.float32(1) - u - v
    h, w = image.shape[0], image.shape[1]
    x = (u * rows[i, 0] + v * rows[j, 0] + t * rows[k, 0]) * np.float32(w) - np.float32(0.5)
    y = (np.float32(1) - (u * rows[i, 1] + v * rows[j, 1] + t * rows[k, 1])) * np.float32(h)
    x = min(max(x, np.float32(0)), np.float32(w - 1))
    y = min(max(y - np.float32(0.5), np.float32(0)), np.float32(h - 1))
    x0, y0 = int(x), int(y)
    x1, y1 = min(x0 + 1, w - 1), min(y0 + 1, h - 1)
    fx, fy = x - np.float32(x0), y - np.float32(y0)
    a, b = (np.float32(1) - fx) * (np.float32(1) - fy), fx * (np.float32(1) - fy)
    c, d = (np.float32(1) - fx) * fy, fx * fy
    return (
        a * image[y0, x0, 0] + b * image[y0, x1, 0] + c * image[y1, x0, 0] + d * image[y1, x1, 0],
        a * image[y0, x0, 1] + b * image[y0, x1, 1] + c * image[y1, x0, 1] + d * image[y1, x1, 1],
        a * image[y0, x0, 2] + b * image[y0, x1, 2] + c * image[y1, x0, 2] + d * image[y1, x1, 2],
    )


@inlined
def _own(source: int, u: Any, v: Any, i: int, j: int, k: int, rows: Array, image: Array) -> Any:
    """The albedo at weights u, v of a face whose corners i, j, k are rows of colours, or of uv."""
    if source == PLAIN:
        return GREY, GREY, GREY
    t = np.float32(1) - u - v
    if source == COLORS:
        return (u * rows[i, 0] + v * rows[j, 0] + t * rows[k, 0],
                u * rows[i, 1] + v * rows[j, 1] + t * rows[k, 1],
                u * rows[i, 2] + v * rows[j, 2] + t * rows[k, 2])  # fmt: skip
    return _looked_up(u, v, i, j, k, rows, image)


@inlined
def _shaded(look: int, color: Any, normal: Any, away: bool, lamp: Array) -> Any:
    """The colour of a sample under the lamp [4], its last number the ambient light."""
    if look == 0:
        return color
    x, y, z = normal
    scale = np.float32(1) / max(np.sqrt(x * x + y * y + z * z), np.float32(1e-12))
    if away:
        scale = -scale
    x, y, z = x * scale, y * scale, z * scale
    if look == 3:
        half = np.float32(0.5)
        return (x + 1) * half, (y + 1) * half, (z + 1) * half
    facing = max(x * lamp[0] + y * lamp[1] + z * lamp[2], np.float32(0))
    light = lamp[3] + (np.float32(1) - lamp[3]) * facing
    if look == 2:
        return CLAY * light, CLAY * light, CLAY * light
    return color[0] * light, color[1] * light, color[2] * light


@inlined
def _smooth(u: Any, v: Any, i: int, j: int, k: int, normals: Array) -> Any:
    """The normal at weights u, v of a face, not unit."""
    t = np.float32(1) - u - v
    return (u * normals[i, 0] + v * normals[j, 0] + t * normals[k, 0],
            u * normals[i, 1] + v * normals[j, 1] + t * normals[k, 1],
            u * normals[i, 2] + v * normals[j, 2] + t * normals[k, 2])  # fmt: skip


@compiled
def resolve(
    buffer: Array, factor: int, jump: float, look: int, faces: Array, normals: Array,
    planes: Array, camera: Array, lamp: Array, source: int, own_faces: Array, rows: Array,
    image: Array, relief: Array, behind: Array, top: int, left: int, out: Array,
) -> None:  # fmt: skip
    """Colours into a part of out [H, W, 3] from a buffer [h * factor, w * factor, 4] of that part.

    normals [V, 3] of the vertices; planes [F, 4] hold a face's normal and how far it is from the
    origin along it; rows are the vertices' colours, or the uv that own_faces name; relief [h, w, 3]
    are normals on this map, or has no row. Pixels without a sample are left alone; where the depth
    of the samples differs by less than `jump`, one of them is shaded for all.
    """
    height, width = buffer.shape[0] // factor, buffer.shape[1] // factor
    total = factor * factor
    for row in prange(height):
        for column in range(width):
            count, low, high = 0, np.float32(2), np.float32(-2)
            y, x = row * factor, column * factor
            for s in range(total):
                sy, sx = y + s // factor, x + s % factor
                if buffer[sy, sx, 3] > 0:
                    count += 1
                    low, high = min(low, buffer[sy, sx, 2]), max(high, buffer[sy, sx, 2])
            if count == 0:
                continue
            shown = total
            if count == total and high - low <= jump * (1 - high):
                shown = 1
            red, green, blue = np.float32(0), np.float32(0), np.float32(0)
            for s in range(shown):
                sy, sx = y + s // factor, x + s % factor
                face = int(buffer[sy, sx, 3]) - 1
                if face < 0:
                    continue
                u, v = buffer[sy, sx, 0], buffer[sy, sx, 1]
                i, j, k = own_faces[face, 0], own_faces[face, 1], own_faces[face, 2]
                own = _own(source, u, v, i, j, k, rows, image)
                ahead = (planes[face, 0] * camera[0] + planes[face, 1] * camera[1]
                         + planes[face, 2] * camera[2])  # fmt: skip
                away = planes[face, 3] > ahead  # the face is seen from behind
                if len(relief):
                    normal = _looked_up(u, v, i, j, k, rows, relief)
                else:
                    i, j, k = faces[face, 0], faces[face, 1], faces[face, 2]
                    normal = _smooth(u, v, i, j, k, normals)
                r, g, b = _shaded(look, own, normal, away, lamp)
                red += min(max(r, np.float32(0)), np.float32(1))
                green += min(max(g, np.float32(0)), np.float32(1))
                blue += min(max(b, np.float32(0)), np.float32(1))
            bare = np.float32(total - count) / np.float32(total)
            share = np.float32(1) / np.float32(shown)
            out[top + row, left + column, 0] = red * share + bare * behind[0]
            out[top + row, left + column, 1] = green * share + bare * behind[1]
            out[top + row, left + column, 2] = blue * share + bare * behind[2]
