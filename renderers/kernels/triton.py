"""The operations that a CUDA device waits for most, in Triton, which comes with CUDA PyTorch.

Signatures, shapes and meanings are those of `renderers.kernels` and `renderers.kernels.raster`.
What is not here runs as the torch reference on the device. Nothing has to be compiled by the user.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from renderers.kernels import raster_reference
from renderers.kernels.field_reference import composite, march
from renderers.kernels.raster_reference import antialias, derivatives, interpolate, texture, twins

__all__ = ["antialias", "composite", "derivatives", "hash_encode", "interpolate", "march",
           "rasterize", "texture", "twins"]  # fmt: skip

BLOCK = 128  # points, or triangles, a program works on
NOTHING = 2**63 - 1  # no triangle is as far


@triton.jit
def _corner(ix, iy, iz, side, rows, dense):  # type: ignore[no-untyped-def]
    """Row within its level of grid corners (Müller et al. 2022, equation 4)."""
    x, y, z = ix.to(tl.uint32), iy.to(tl.uint32), iz.to(tl.uint32)
    hashed = (x ^ (y * 2654435761) ^ (z * 805459861)).to(tl.int32) & (rows - 1)
    return tl.where(dense, ix + side * (iy + side * iz), hashed)


@triton.jit  # type: ignore[untyped-decorator]
def _encode(  # type: ignore[no-untyped-def]
    points, table, cells, out, grad, n, rows, FEATURES: tl.constexpr, BACK: tl.constexpr,
    SIZE: tl.constexpr,
):  # fmt: skip
    """One level of a block of points: read out of the table into out, or add grad to the table."""
    level, levels = tl.program_id(1), tl.num_programs(1)
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    here = at < n
    side = tl.load(cells + level)
    x = tl.minimum(tl.maximum(tl.load(points + 3 * at, here, 0.0), 0.0), 1.0) * side
    y = tl.minimum(tl.maximum(tl.load(points + 3 * at + 1, here, 0.0), 0.0), 1.0) * side
    z = tl.minimum(tl.maximum(tl.load(points + 3 * at + 2, here, 0.0), 0.0), 1.0) * side
    ix = tl.minimum(x.to(tl.int32), side - 1)
    iy = tl.minimum(y.to(tl.int32), side - 1)
    iz = tl.minimum(z.to(tl.int32), side - 1)
    fx, fy, fz = x - ix, y - iy, z - iz
    count = (side + 1).to(tl.int64)
    dense = count * count * count <= rows
    base = level.to(tl.int64) * rows
    place = (at.to(tl.int64) * levels + level) * FEATURES
    for f in tl.static_range(FEATURES):
        total = tl.zeros([SIZE], tl.float32)
        if BACK:
            total = tl.load(grad + place + f, here, 0.0)
        value = tl.zeros([SIZE], tl.float32)
        for corner in tl.static_range(8):
            jx, jy, jz = ix + (corner & 1), iy + (corner >> 1 & 1), iz + (corner >> 2)
            wx = fx if corner & 1 else 1 - fx
            wy = fy if corner >> 1 & 1 else 1 - fy
            wz = fz if corner >> 2 else 1 - fz
            row = base + _corner(jx, jy, jz, side + 1, rows, dense)
            if BACK:
                tl.atomic_add(table + row * FEATURES + f, wx * wy * wz * total, mask=here)
            else:
                value += wx * wy * wz * tl.load(table + row * FEATURES + f, here, 0.0)
        if not BACK:
            tl.store(out + place + f, value, here)


class _HashEncode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, cells: Tensor, active: int) -> Tensor:
        levels, features = len(cells), table.shape[1]
        points, cells = points.contiguous().float(), cells.to(points.device, torch.int32)
        ctx.save_for_backward(points, cells)
        ctx.shape, ctx.active = table.shape, active
        out = points.new_zeros(len(points), active, features)
        _launch(points, table.contiguous(), cells, out, out, features, len(table) // levels, False)
        rest = out.new_zeros(len(points), levels - active, features)
        return torch.cat([out, rest], 1).flatten(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None]:
        points, cells = ctx.saved_tensors
        features = ctx.shape[1]
        grad = grad.view(len(grad), len(cells), features)[:, : ctx.active].contiguous()
        table = grad.new_zeros(ctx.shape)
        _launch(points, table, cells, grad, grad, features, ctx.shape[0] // len(cells), True)
        return None, table, None, None


def _launch(
    points: Tensor, table: Tensor, cells: Tensor, out: Tensor, grad: Tensor, features: int,
    rows: int, back: bool,
) -> None:  # fmt: skip
    n, active = out.shape[:2]
    if n and active:
        _encode[(triton.cdiv(n, BLOCK), active)](
            points, table, cells, out, grad, n, rows, FEATURES=features, BACK=back, SIZE=BLOCK
        )


def hash_encode(points: Tensor, table: Tensor, resolutions: Tensor, active_levels: int) -> Tensor:
    """Features [N, L * F] of points [N, 3] in [0, 1]; differentiable in the table."""
    apply: Callable[..., Tensor] = _HashEncode.apply
    return apply(points, table, resolutions, active_levels)


@triton.jit
def _point(vertex):  # type: ignore[no-untyped-def]
    """x, y and w of vertices of clip, in float64: there the products of float32 are exact.

    So neighbours agree on their common edge.
    """
    x, y, w = tl.load(vertex), tl.load(vertex + 1), tl.load(vertex + 3)
    return x.to(tl.float64), y.to(tl.float64), w.to(tl.float64)


@triton.jit
def _span(a, b, c, front, size):  # type: ignore[no-untyped-def]
    """The first and last pixel of a row that triangles' corners a, b, c in [-1, 1] lie between.

    All `size` of them for a triangle that is not in front of the camera as a whole.
    """
    least = tl.minimum(tl.minimum(a, b), c)
    most = tl.maximum(tl.maximum(a, b), c)
    # clamped before they become integers; a little wider for rounding
    least, most = tl.maximum(tl.minimum(least, 2.0), -2.0), tl.maximum(tl.minimum(most, 2.0), -2.0)
    first = tl.maximum(tl.ceil((least + 1) * 0.5 * size - 0.51), 0.0)
    last = tl.minimum(tl.floor((most + 1) * 0.5 * size - 0.49), size - 1.0)
    return tl.where(front, first, 0.0), tl.where(front, last, size - 1.0)


@triton.jit  # type: ignore[untyped-decorator]
def _cover(  # type: ignore[no-untyped-def]
    clip, faces, nearest, n_faces, n_vertices, height, width, SIZE: tl.constexpr
):
    """Lowers `nearest` [B, H, W], depth and number in one integer, where triangles cover pixels.

    Each lane has a triangle and goes through the pixels of its box; all wait for the largest.
    """
    view = tl.program_id(1).to(tl.int64)
    f = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    here = f < n_faces
    base = clip + view * n_vertices * 4
    a = base + tl.load(faces + 3 * f, here, 0) * 4
    b = base + tl.load(faces + 3 * f + 1, here, 0) * 4
    c = base + tl.load(faces + 3 * f + 2, here, 0) * 4
    ax, ay, aw = _point(a)
    bx, by, bw = _point(b)
    cx, cy, cw = _point(c)
    ux, uy, u1 = by * cw - bw * cy, bw * cx - bx * cw, bx * cy - by * cx
    vx, vy, v1 = cy * aw - cw * ay, cw * ax - cx * aw, cx * ay - cy * ax
    tx, ty, t1 = ay * bw - aw * by, aw * bx - ax * bw, ax * by - ay * bx
    det = ux * ax + uy * ay + u1 * aw
    good = here & (det != 0)
    sign = tl.where(det < 0, -1.0, 1.0)
    size = tl.where(good, tl.abs(det), 1.0)
    az, bz, cz = tl.load(a + 2) / size, tl.load(b + 2) / size, tl.load(c + 2) / size
    # the box of the triangle; of one that reaches behind the camera, the whole picture
    front = (aw > 1e-9) & (bw > 1e-9) & (cw > 1e-9)
    da, db, dc = tl.where(front, aw, 1.0), tl.where(front, bw, 1.0), tl.where(front, cw, 1.0)
    x0, x1 = _span(ax / da, bx / db, cx / dc, front, width)
    y0, y1 = _span(-ay / da, -by / db, -cy / dc, front, height)  # row 0 is the top
    columns = tl.maximum(x1 - x0 + 1, 0.0).to(tl.int32)
    lines = tl.maximum(y1 - y0 + 1, 0.0).to(tl.int32)
    count = tl.where(good, columns * lines, 0)
    column0, row0 = x0.to(tl.int32), y0.to(tl.int32)
    across = tl.maximum(columns, 1)
    for step in range(tl.max(count, 0)):
        row, column = row0 + step // across, column0 + step % across
        x = 2 * (column.to(tl.float64) + 0.5) / width - 1
        y = 1 - 2 * (row.to(tl.float64) + 0.5) / height
        wa = (ux * x + uy * y + u1) * sign
        wb = (vx * x + vy * y + v1) * sign
        wc = (tx * x + ty * y + t1) * sign
        z = (az * wa + bz * wb + cz * wc).to(tl.float32)
        inside = (step < count) & (wa >= 0) & (wb >= 0) & (wc >= 0) & (wa + wb + wc > 0)
        inside = inside & (z >= -1) & (z <= 1)
        # z + 2 is positive: such floats are ordered as their bits are
        depth = (z.to(tl.float64) + 2).to(tl.int64, bitcast=True)
        key = (depth & -(1 << 24)) | f.to(tl.int64)
        tl.atomic_min(nearest + (view * height + row) * width + column, key, mask=inside)


def rasterize(clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """[B, height, width, 4] from clip [B, V, 4] float32 and faces [F, 3]."""
    nearest = torch.full((len(clip), height, width), NOTHING, device=clip.device)
    if nearest.numel() and len(faces):
        _cover[(triton.cdiv(len(faces), BLOCK), len(clip))](
            clip.detach(), faces, nearest, len(faces), clip.shape[1], height, width, SIZE=BLOCK
        )
    ids = torch.where(nearest == NOTHING, 0, (nearest & (2**24 - 1)) + 1)
    return raster_reference.weigh(clip, faces, ids)
