"""Pictures of a density and a colour in space: rays, samples, volume rendering, regularisers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from renderers import kernels
from renderers.kernels import Samples
from renderers.shading import Lamp
from threed.core.cameras import Cameras
from threed.core.render import RenderOutput

RAYS = 2**17  # marched at once: what bounds the memory of the samples' positions
BUDGET = 2**20  # samples whose colours are held at once, with everything their gradient needs
SEEN = 0.02  # weight from which a sample's normal is worth its four density look-ups
LIT = 0.001  # the same where a lamp needs it for the sample's brightness
GREY = 0.5  # sRGB: dark and bright things both stand out before it
TETRAHEDRON = ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
Density = Callable[[Tensor], Tensor]  # points [M, 3] to [M]
Background = Tensor | Callable[[Tensor], Tensor]  # [3], [B, 3], or unit directions [N, 3] to [N, 3]


@dataclass(frozen=True)
class Volume:
    """What is looked at: functions of points [M, 3] in the unit ball, and where they are not 0."""

    # [M, 3] -> density [M] >= 0 per world unit, colour [M, 3] sRGB
    density_and_color: Callable[[Tensor], tuple[Tensor, Tensor]]
    occupancy: Tensor  # [G, G, G] bool over [-1, 1]³: where samples are worth taking
    step: float  # world units between samples
    normal_step: float = 0.01  # world units, of the finite difference

    def density(self, points: Tensor) -> Tensor:
        """[M, 3] -> [M]"""
        return self.density_and_color(points)[0]


def render(
    volume: Volume,
    cameras: Cameras,
    *,
    background: Background,
    generator: torch.Generator | None = None,
    normals: bool = False,
    lamp: Lamp | None = None,
    budget: int = BUDGET,
) -> RenderOutput:
    """Render the volume through the cameras; differentiable in what its functions depend on.

    The generator moves each ray's samples by a random part of a step; without one they stand at the
    middles. `losses` holds `sparsity` and `opaque`, and with normals (or a lamp, which lights each
    sample and so needs them) also `orientation` and `smoothness`. Without normals the normal image
    is 0. Rays are rendered in pieces of at most `budget` samples (or one ray), which do not change
    the picture. Where there is more than one piece, a gradient's intermediate values are computed
    twice instead of kept.
    """
    normals = normals or lamp is not None
    shape = (len(cameras), cameras.height, cameras.width)
    origins, directions = (v.reshape(-1, 3) for v in cameras.rays())
    jitter = origins.new_full((len(origins),), 0.5)
    if generator is not None:
        jitter = torch.rand(len(origins), generator=generator, device=generator.device)
        jitter = jitter.to(origins.device)
    parts = []
    for first in range(0, len(origins), RAYS):
        block = slice(first, first + RAYS)
        rays = (origins[block], directions[block])
        samples = kernels.march(*rays, *ball(*rays), volume.occupancy, volume.step, jitter[block])
        pieces = list(_pieces(samples, budget))
        again = torch.is_grad_enabled() and len(pieces) + (len(origins) > RAYS) > 1
        look = partial(checkpoint, _look, use_reentrant=False) if again else _look
        for start, end in pieces:
            here = (rays[1][start:end], rays[0][start:end], samples.of_rays(start, end))
            parts.append(look(volume, *here, normals, lamp))
    color, opacity, depth, normal, facing = (torch.cat(part) for part in zip(*parts))
    behind = _background(background, directions, shape)
    rgb = color + (1 - opacity) * behind
    depth = torch.where(opacity > 1e-3, depth / opacity.clamp(min=1e-3), torch.zeros_like(depth))
    normal = F.normalize(normal, dim=-1) * (opacity > 1e-3)
    opacity, normal = opacity.view(*shape, 1), normal.view(*shape, 3)
    losses = {"sparsity": sparsity(opacity), "opaque": opaque(opacity)}
    if normals:
        losses["orientation"] = facing.sum() / (opacity > 0).sum().clamp(min=1)
        losses["smoothness"] = smoothness(normal, opacity)
    return RenderOutput(rgb.view(*shape, 3), opacity, depth.view(*shape, 1), normal, losses)


def ball(origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Distances [N] at which rays enter and leave the unit ball, from 0 on; equal if they miss."""
    middle = -(origins * directions).sum(-1)
    half = (middle.square() - origins.square().sum(-1) + 1).clamp(min=0).sqrt()
    return (middle - half).clamp(min=0), (middle + half).clamp(min=0)


def sparsity(opacity: Tensor) -> Tensor:
    """Mean of sqrt(opacity² + 0.01), opacity [B, H, W, 1]: pulls to nothing (DreamFusion)."""
    return (opacity.square() + 0.01).sqrt().mean()


def opaque(opacity: Tensor) -> Tensor:
    """Mean binary entropy of opacity [B, H, W, 1], in nats: fog becomes nothing, or a surface."""
    p = opacity.clamp(1e-3, 1 - 1e-3)
    return -(p * p.log() + (1 - p) * (1 - p).log()).mean()


def smoothness(normal: Tensor, opacity: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels' normals [B, H, W, 3] where both are opaque.

    opacity [B, H, W, 1] only weighs, without gradient.
    """
    solid = opacity.detach()
    down = (normal[:, 1:] - normal[:, :-1]).square().sum(-1, keepdim=True)
    right = (normal[:, :, 1:] - normal[:, :, :-1]).square().sum(-1, keepdim=True)
    vertical = (down * solid[:, 1:] * solid[:, :-1]).sum()
    horizontal = (right * solid[:, :, 1:] * solid[:, :, :-1]).sum()
    return (vertical + horizontal) / (2 * solid.sum().clamp(min=1))


def random_background(n: int, generator: torch.Generator, *, shared: bool = True) -> Tensor:
    """[n, 3] random solid colours, one for all views, or one for each."""
    color = torch.rand(1 if shared else n, 3, generator=generator, device=generator.device)
    return color.expand(n, 3)


def _look(
    volume: Volume,
    directions: Tensor,
    origins: Tensor,
    samples: Samples,
    normals: bool,
    lamp: Lamp | None,
) -> tuple[Tensor, ...]:
    """Render n rays: colour [n, 3], opacity and depth * opacity [n, 1], and with normals their sum.

    Last comes the penalty [n, 1] for normals that look away from the camera, squared cosines by
    weight (Ref-NeRF's orientation loss, Verbin et al. 2022).
    """
    n = len(origins)
    ray = samples.ray_index
    points = torch.addcmul(origins[ray], directions[ray], samples.t[:, None])
    density, albedo = volume.density_and_color(points)
    weights, color, opacity, depth = kernels.composite(density, albedo, samples, n)
    normal, facing = torch.zeros_like(color), torch.zeros_like(opacity)
    if normals:
        seen = (weights.detach() > (LIT if lamp else SEEN)).nonzero()[:, 0]
        ray = samples.ray_index[seen]
        odd = (seen - samples.packed[ray, 0]) % 2 == 1
        here = normals_at(volume.density, points[seen], volume.normal_step, odd)
        weight = weights[seen, None]
        away = (here * directions[ray]).sum(-1, keepdim=True).clamp(min=0).square()
        normal = normal.index_add(0, ray, weight * here)
        facing = facing.index_add(0, ray, weight.detach() * away)
        if lamp:
            lit = lamp.light(albedo, torch.zeros_like(albedo).index_copy(0, seen, here))
            color = torch.zeros_like(color).index_add(0, samples.ray_index, weights[:, None] * lit)
    return color, opacity, depth, normal, facing


def normals_at(density: Density, points: Tensor, step: float, mirrored: Tensor) -> Tensor:
    """Unit normals [M, 3] at points [M, 3]: against the density's finite difference, or 0.

    The difference is taken over the corners of a tetrahedron `step` away: four look-ups, where
    central differences take six. What curvature adds to it has the other sign for the mirrored
    tetrahedron: where `mirrored` [M] bool alternates along a ray, it cancels.
    """
    sign = 1 - 2 * mirrored.to(points.dtype)
    offsets = sign[:, None, None] * points.new_tensor(TETRAHEDRON)  # [M, 4, 3]
    around = points[:, None] + offsets * (step / 3**0.5)
    values = density(around.reshape(-1, 3)).view(-1, 4, 1)
    return F.normalize((-values * offsets).sum(1), dim=-1)


def _pieces(samples: Samples, budget: int) -> Iterator[tuple[int, int]]:
    """Cut rays into ranges (first, end) of at most `budget` samples each, or of one ray."""
    ends = samples.packed.sum(1)
    start, n = 0, len(ends)
    while start < n:
        limit = samples.packed[start, 0] + budget
        end = max(int(torch.searchsorted(ends, limit, right=True)), start + 1)
        yield start, end
        start = end


def _background(background: Background, directions: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """[B * H * W, 3] the colour behind each ray."""
    if not isinstance(background, Tensor):
        return background(directions)
    b, h, w = shape
    if background.shape not in ((3,), (b, 3)):
        raise ValueError(f"background must be [3] or [{b}, 3], got {list(background.shape)}")
    return background.expand(b, 3)[:, None].expand(b, h * w, 3).reshape(-1, 3)
