"""The rasterizer's operations in torch: the definition, on any device, in any float dtype.

Homogeneous rasterization (Olano and Greer 1997): the edge functions of a triangle are the rows of
the adjugate of its matrix [x y w], so that nothing needs to be clipped. The smoothing of outlines
is that of Laine et al. 2020, section 3.6. Signatures, shapes and meanings are those of
`renderers.kernels.raster`; gradients are torch's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 2**22  # triangle-pixel pairs looked at together
WALK = 128  # triangles between two neighbouring pixels that are looked through for an outline


def rasterize(clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """[B, height, width, 4] from clip [B, V, 4] and faces [F, 3]; gradients from u and v."""
    with torch.no_grad():
        row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        pixels = _place(row.flatten().to(clip.device), column.flatten().to(clip.device),
                        height, width)  # fmt: skip
        ids = torch.stack([_nearest(corners, pixels.T) for corners in clip.double()[:, faces]])
    return weigh(clip, faces, ids.view(-1, height, width))


def weigh(clip: Tensor, faces: Tensor, ids: Tensor) -> Tensor:
    """The buffer [B, H, W, 4] of triangles whose number + 1 is ids [B, H, W] int64."""
    height, width = ids.shape[1:]
    view, row, column = covered = torch.nonzero(ids, as_tuple=True)
    corners = clip[view[:, None], faces[ids[covered] - 1]].double()  # [N, 3, 4]
    edges, twice = _edges(corners)
    weights = (edges @ _place(row, column, height, width)[..., None])[..., 0] / twice[:, None]
    depth = (corners[..., 2] * weights).sum(1).detach()
    share = weights[:, :2] / weights.sum(1, keepdim=True)
    values = torch.cat([share, depth[:, None], ids[covered][:, None]], 1).to(clip.dtype)
    return clip.new_zeros(len(clip), height, width, 4).index_put(covered, values)


def _place(row: Tensor, column: Tensor, height: int, width: int) -> Tensor:
    """[N, 3] the centres of pixels as (x, y, 1) in [-1, 1], float64."""
    x, y = 2 * (column.double() + 0.5) / width - 1, 1 - 2 * (row.double() + 0.5) / height
    return torch.stack([x, y, torch.ones_like(x)], 1)


def _edges(corners: Tensor) -> tuple[Tensor, Tensor]:
    """Edge functions [F, 3, 3] of triangles [F, 3, 4], each 0 on its edge, and determinants [F].

    Edge function i belongs to the edge that vertex i is not on; divided by the determinant and
    applied to a pixel (x, y, 1), the three are the vertices' weights there, divided by w.
    """
    a, b, c = corners[:, :, [0, 1, 3]].unbind(1)
    cross = torch.linalg.cross
    edges = torch.stack([cross(b, c), cross(c, a), cross(a, b)], 1)
    return edges, (edges[:, 0] * a).sum(-1)


def _nearest(corners: Tensor, pixels: Tensor) -> Tensor:
    """[P] int64, one view's nearest triangle + 1: corners [F, 3, 4], pixels [3, P]."""
    found = pixels.new_zeros(pixels.shape[1], dtype=torch.int64)
    nearest = torch.full_like(pixels[0], torch.inf, dtype=torch.float32)
    step = max(1, CHUNK // pixels.shape[1])
    for first in range(0, len(corners), step):
        here = corners[first : first + step]
        edges, twice = _edges(here)
        weights = (edges * twice.sign()[:, None, None]) @ pixels  # [F, 3, P], not normalised
        z = ((here[:, :, 2, None] * weights).sum(1) / twice.abs()[:, None]).float()
        inside = (weights >= 0).all(1) & (weights.sum(1) > 0) & (twice != 0)[:, None]
        z = torch.where(inside & (z.abs() <= 1), z, torch.inf)
        best = z.amin(0)
        # amin of the ids, since argmin leaves open which of equals it finds
        ids = torch.arange(len(here), device=z.device)[:, None].expand_as(z)
        winner = torch.where(z == best, ids, len(here)).amin(0)
        closer = (best < nearest).nonzero()[:, 0]
        nearest[closer] = best[closer]
        found[closer] = first + winner[closer] + 1
    return found


def interpolate(attributes: Tensor, buffer: Tensor, faces: Tensor) -> Tensor:
    """[B, H, W, C] from attributes [1 or B, V, C]; gradients to them, and to u and v."""
    b = len(buffer)
    ids = buffer[..., 3].long()
    corners = faces[(ids - 1).clamp(min=0)]  # [B, H, W, 3]
    view = torch.arange(b, device=buffer.device) % len(attributes)
    values = attributes[view[:, None, None, None], corners]  # [B, H, W, 3, C]
    u, v = buffer[..., 0], buffer[..., 1]
    weights = torch.stack([u, v, 1 - u - v], -1) * (ids > 0)[..., None]
    return (weights[..., None] * values).sum(-2)


def derivatives(
    attributes: Tensor, clip: Tensor, buffer: Tensor, faces: Tensor, names: Tensor
) -> Tensor:
    """[B, H, W, 2 C] from attributes [1 or B, V, C]."""
    height, width = buffer.shape[1:3]
    view, row, column = covered = torch.nonzero(buffer[..., 3], as_tuple=True)
    face = buffer[covered][:, 3].long() - 1
    edges, twice = _edges(clip[view[:, None], faces[face]].double())
    edges = edges / twice[:, None, None]
    weights = (edges @ _place(row, column, height, width)[..., None])[..., 0]
    total = weights.sum(1)[:, None, None]
    # weights / total by the quotient rule, over (x, y), then over (column, row)
    slope = (edges - weights[..., None] * edges.sum(1, keepdim=True) / total) / total
    slope = slope[..., :2] * edges.new_tensor([2 / width, -2 / height])
    values = attributes[view[:, None] % len(attributes), names[face]].double()  # [N, 3, C]
    found = (values.mT @ slope).flatten(1).to(buffer.dtype)
    out = buffer.new_zeros(*buffer.shape[:3], found.shape[1])
    return out.index_put(covered, found)


def texture(texels: Tensor, sizes: list[tuple[int, int]], uv: Tensor, level: Tensor) -> Tensor:
    """[B, H, W, C] from texels [1 or B, T, C], level by level; gradients to texels and uv."""
    last = len(sizes) - 1
    level = level.clamp(0, last)
    lower = level.detach().long().clamp(max=max(last - 1, 0))
    share = (level - lower)[..., None]
    sharp = _bilinear(texels, sizes, uv, lower)
    if last == 0:
        return sharp
    return sharp + share * (_bilinear(texels, sizes, uv, lower + 1) - sharp)


def _bilinear(texels: Tensor, sizes: list[tuple[int, int]], uv: Tensor, level: Tensor) -> Tensor:
    """[B, H, W, C] from one level [B, H, W] each."""
    shapes = torch.tensor(sizes, device=uv.device)
    areas = shapes.prod(1)
    (h, w), start = shapes[level].unbind(-1), (areas.cumsum(0) - areas)[level]
    zero = torch.zeros_like(uv[..., 0])
    x = torch.minimum((uv[..., 0] * w - 0.5).clamp(min=0), w + zero - 1)
    y = torch.minimum(((1 - uv[..., 1]) * h - 0.5).clamp(min=0), h + zero - 1)
    x0, y0 = x.detach().long(), y.detach().long()
    x1, y1 = torch.minimum(x0 + 1, w - 1), torch.minimum(y0 + 1, h - 1)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    view = (torch.arange(len(uv), device=uv.device) % len(texels))[:, None, None]

    def at(row: Tensor, column: Tensor) -> Tensor:
        return texels[view, start + row * w + column]

    top = at(y0, x0) * (1 - fx) + at(y0, x1) * fx
    bottom = at(y1, x0) * (1 - fx) + at(y1, x1) * fx
    return top * (1 - fy) + bottom * fy


def twins(faces: Tensor) -> Tensor:
    """[F, 3] int64: the edge 3 * face + vertex that is edge (f, i) seen from beyond, or -1."""
    low_high = torch.stack([faces.roll(-1, 1), faces.roll(-2, 1)], -1).view(-1, 2).sort(-1).values
    _, edge, count = torch.unique(low_high, dim=0, return_inverse=True, return_counts=True)
    order = edge.argsort(stable=True)
    pair = order[count[edge[order]] == 2].view(-1, 2)
    twin = torch.full_like(edge, -1)
    twin[pair] = pair.flip(1)
    return twin.view(-1, 3)


def antialias(
    color: Tensor, buffer: Tensor, clip: Tensor, faces: Tensor, twin: Tensor | None
) -> Tensor:
    """[B, H, W, C] from color of that shape; gradients to it and to clip."""
    out, twin = color, twins(faces) if twin is None else twin
    for axis in (2, 1):  # pairs side by side, pairs one above the other
        n = buffer.shape[axis]
        one, other = buffer.narrow(axis, 0, n - 1), buffer.narrow(axis, 1, n - 1)
        first = torch.nonzero(one[..., 3] != other[..., 3])  # [N, 3] view, row, column
        second = first + torch.tensor([0, axis == 1, axis == 2], device=first.device)
        z = [torch.where(p[:, 3] > 0, p[:, 2], torch.inf)
             for p in (buffer[tuple(first.T)], buffer[tuple(second.T)])]  # fmt: skip
        swap = (z[1] < z[0])[:, None]
        near, far = torch.where(swap, second, first), torch.where(swap, first, second)
        at, found = _crossing(near, far, buffer, clip, faces, twin)
        near, far, at = near[found], far[found], at[:, None].to(color.dtype)
        moved = torch.where(at >= 0.5, far, near).unbind(1)
        difference = color[tuple(near.T)] - color[tuple(far.T)]
        out = out.index_put(moved, (at - 0.5) * difference, accumulate=True)
    return out


def _crossing(
    near: Tensor, far: Tensor, buffer: Tensor, clip: Tensor, faces: Tensor, twin: Tensor
) -> tuple[Tensor, Tensor]:
    """Where outlines cross from pixels near to far, [N, 3]: parts of the way [M], and which [M].

    From triangle to triangle, starting with the one that covers near, until one ends in an outline.
    """
    height, width = buffer.shape[1:3]
    start, end = (_place(p[:, 1], p[:, 2], height, width) for p in (near, far))
    going = torch.arange(len(near), device=near.device)
    face = buffer[tuple(near.T)][:, 3].long() - 1
    entry = torch.full_like(face, -1)
    found, parts = [going[:0]], [start[:0, 0]]
    for _ in range(WALK):
        if len(going) == 0:
            break
        corners = clip[near[going, :1], faces[face]].double()
        edges, twice = _edges(corners)
        edges = edges * twice.detach().sign()[:, None, None]  # not negative inside
        here, there = ((edges @ p[going, :, None])[..., 0] for p in (start, end))
        leaves = (there < 0) & (here > there)
        leaves &= entry[:, None] != torch.arange(3, device=face.device)
        part = torch.where(leaves, here / torch.where(leaves, here - there, 1), torch.inf)
        part, side = part.min(1)
        beyond = twin[face, side]
        mine = edges[torch.arange(len(side), device=side.device), side]
        over = clip[near[going, 0], faces.flatten()[beyond.clamp(min=0)]][:, [0, 1, 3]].double()
        outline = (beyond < 0) | ((mine * over).sum(-1) > 0)
        steep = mine[:, 0].abs() / width >= mine[:, 1].abs() / height
        across = steep == (near[going, 1] == far[going, 1])
        leaves = leaves.any(1)
        kept = leaves & outline & across
        found.append(going[kept])
        parts.append(part[kept])
        on = leaves & ~outline
        going, face, entry = going[on], beyond[on] // 3, beyond[on] % 3
    return torch.cat(parts), torch.cat(found)
