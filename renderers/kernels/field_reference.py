"""The field's operations in pure torch: the definition. Any device, any float dtype.

Signatures, shapes and meanings are those of `renderers.kernels`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.kernels import Samples, Sums

PRIMES = (1, 2654435761, 805459861)  # Instant-NGP, equation 4
PLACES = 2**24  # on rays looked at together: some 80 bytes each
STOP = 1e-4  # transmittance below which nothing behind is seen


def hash_encode(points: Tensor, table: Tensor, resolutions: Tensor, active_levels: int) -> Tensor:
    """Features [N, L * F] of points [N, 3] in [0, 1]; differentiable in points and table."""
    levels, features = len(resolutions), table.shape[1]
    rows = len(table) // levels
    cells = resolutions.to(points.device)[:active_levels]  # [A]
    scaled = points.clamp(0, 1)[:, None] * cells[..., None]  # [N, A, 3]
    low = torch.minimum(scaled.detach().long(), cells[..., None] - 1)
    fraction = scaled - low
    out = points.new_zeros(len(points), levels, features)
    total = torch.zeros_like(out[:, :active_levels])
    base = torch.arange(len(cells), device=points.device) * rows
    for corner in range(8):
        bits = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2], device=points.device)
        weight = torch.where(bits == 1, fraction, 1 - fraction).prod(-1)
        total = total + weight[..., None] * table[_rows(low + bits, cells + 1, rows) + base]
    return torch.cat([total, out[:, active_levels:]], 1).flatten(1)


def _rows(corner: Tensor, side: Tensor, rows: int) -> Tensor:
    """Row [N, A] within its level, of `side` [A] corners an edge, of corners [N, A, 3]."""
    x, y, z = corner.unbind(-1)
    dense = x + side * (y + side * z)
    # 32-bit wrap-around in 64-bit integers: the low bits are all that the mask keeps
    hashed = (x * PRIMES[0]) ^ (y * PRIMES[1]) ^ (z * PRIMES[2])
    return torch.where(side**3 <= rows, dense, hashed & (rows - 1))


def march(
    origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, occupancy: Tensor,
    step: float, jitter: Tensor,
) -> Samples:  # fmt: skip
    """Find the samples of R rays [R, 3], near and far [R], that lie in an occupied cell.

    They are at near + (k + jitter) * step < far; occupancy [N, N, N], jitter [R].
    """
    longest = float((far - near).max()) if len(near) else 0.0
    k = torch.arange(max(int(longest / step) + 1, 1), device=near.device)
    rays = (origins, directions, near, far, jitter)
    pieces = zip(*(torch.split(value, max(1, PLACES // len(k))) for value in rays))
    found = [_occupied(occupancy, step, k, *piece) for piece in pieces]
    counts, t = (torch.cat(part) for part in zip(*found))
    ray_index = torch.arange(len(near), device=near.device).repeat_interleave(counts)
    packed = torch.stack([counts.cumsum(0) - counts, counts], 1)
    return Samples(ray_index, t, torch.full_like(t, step), packed)


def _occupied(
    occupancy: Tensor, step: float, k: Tensor, origins: Tensor, directions: Tensor, near: Tensor,
    far: Tensor, jitter: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Of each ray how many samples are kept, and where those are."""
    t = near[:, None] + (k + jitter[:, None]) * step  # [N, K]
    points = origins[:, None] + t[..., None] * directions[:, None]
    size = occupancy.shape[0]
    cell = ((points + 1) * (size / 2)).floor().long()
    inside = ((cell >= 0) & (cell < size)).all(-1)
    x, y, z = cell.clamp(0, size - 1).unbind(-1)
    keep = occupancy[x, y, z] & inside & (t < far[:, None])
    return keep.sum(1), t[keep]


def composite(density: Tensor, values: Tensor, samples: Samples, n_rays: int) -> Sums:
    """weights [M], sums [n_rays, C], opacity and depth [n_rays, 1]."""
    starts, counts = samples.packed.unbind(1)
    width = int(counts.max()) if n_rays else 0
    place = torch.arange(len(density), device=density.device) - starts[samples.ray_index]
    optical = density.new_zeros(n_rays, width)
    optical = optical.index_put((samples.ray_index, place), density * samples.dt)
    before = optical.cumsum(1) - optical
    transmittance = torch.exp(-before)
    seen = transmittance.detach() >= STOP
    dense = transmittance * -torch.expm1(-optical) * seen
    weights = dense[samples.ray_index, place]

    def total(value: Tensor) -> Tensor:
        zero = value.new_zeros(n_rays, value.shape[1])
        return zero.index_add(0, samples.ray_index, weights[:, None] * value)

    opacity = total(torch.ones_like(density)[:, None])
    return weights, total(values), opacity, total(samples.t[:, None])
