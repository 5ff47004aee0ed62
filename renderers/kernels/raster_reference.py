"""The rasterizer's operations in torch: the definition, on any device.

Homogeneous rasterization (Olano and Greer 1997): the edge functions of a triangle are the rows of
the adjugate of its matrix [x y w], so that nothing needs to be clipped. Signatures, shapes and
meanings are those of `renderers.kernels.raster`.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 2**22  # triangle-pixel pairs looked at together


def rasterize(clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """[B, height, width, 4] from clip [B, V, 4] float32 and faces [F, 3]."""
    rows, columns = torch.arange(height).to(clip.device), torch.arange(width).to(clip.device)
    y, x = torch.meshgrid(
        1 - 2 * (rows.double() + 0.5) / height,
        2 * (columns.double() + 0.5) / width - 1,
        indexing="ij",
    )
    pixels = torch.stack([x, y, torch.ones_like(x)]).view(3, -1)
    buffers = [_one(corners, pixels) for corners in clip.double()[:, faces]]
    return torch.stack(buffers).view(len(clip), height, width, 4)


def _one(corners: Tensor, pixels: Tensor) -> Tensor:
    """[P, 4] of one view: corners [F, 3, 4], pixels [3, P] as (x, y, 1) in [-1, 1]."""
    buffer = pixels.new_zeros(pixels.shape[1], 4, dtype=torch.float32)
    nearest = torch.full_like(buffer[:, 0], torch.inf)
    step = max(1, CHUNK // pixels.shape[1])
    for first in range(0, len(corners), step):
        here = corners[first : first + step]
        flat = here[:, :, [0, 1, 3]]
        a, b, c = flat.unbind(1)
        cross = torch.linalg.cross
        edges = torch.stack([cross(b, c), cross(c, a), cross(a, b)], 1)  # [F, 3, 3]
        twice = (edges[:, 0] * a).sum(-1)  # the determinant: which side is seen
        weights = (edges * twice.sign()[:, None, None]) @ pixels  # [F, 3, P], not normalised
        total = weights.sum(1)
        z = ((here[:, :, 2, None] * weights).sum(1) / twice.abs()[:, None]).float()
        inside = (weights >= 0).all(1) & (total > 0) & (twice != 0)[:, None] & (z.abs() <= 1)
        z = torch.where(inside, z, torch.inf)
        best = z.amin(0)
        # amin of the ids, since argmin leaves open which of equals it finds
        ids = torch.arange(len(here), device=z.device)[:, None].expand_as(z)
        winner = torch.where(z == best, ids, len(here)).amin(0)
        closer = (best < nearest).nonzero()[:, 0]
        winner = winner[closer]
        share = weights[winner, :2, closer] / total[winner, closer, None]
        nearest[closer] = best[closer]
        rows = [share.float(), best[closer, None], (first + winner + 1).float()[:, None]]
        buffer[closer] = torch.cat(rows, 1)
    return buffer


def interpolate(attributes: Tensor, buffer: Tensor, faces: Tensor) -> Tensor:
    """[B, H, W, C] from attributes [1 or B, V, C]."""
    b = len(buffer)
    ids = buffer[..., 3].long()
    corners = faces[(ids - 1).clamp(min=0)]  # [B, H, W, 3]
    view = torch.arange(b, device=buffer.device) % len(attributes)
    values = attributes[view[:, None, None, None], corners]  # [B, H, W, 3, C]
    u, v = buffer[..., 0], buffer[..., 1]
    weights = torch.stack([u, v, 1 - u - v], -1) * (ids > 0)[..., None]
    return (weights[..., None] * values).sum(-2)


def texture(image: Tensor, uv: Tensor) -> Tensor:
    """[B, H, W, C] from image [1 or B, h, w, C]."""
    h, w = image.shape[1:3]
    x = (uv[..., 0] * w - 0.5).clamp(0, w - 1)
    y = ((1 - uv[..., 1]) * h - 0.5).clamp(0, h - 1)
    x0, y0 = x.long(), y.long()
    x1, y1 = (x0 + 1).clamp(max=w - 1), (y0 + 1).clamp(max=h - 1)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    view = (torch.arange(len(uv), device=uv.device) % len(image))[:, None, None]
    top = image[view, y0, x0] * (1 - fx) + image[view, y0, x1] * fx
    bottom = image[view, y1, x0] * (1 - fx) + image[view, y1, x1] * fx
    return top * (1 - fy) + bottom * fy
