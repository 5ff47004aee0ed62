"""Pictures of a painted surface for a stage of a run: in pieces, and under a lamp if asked."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from renderers.raster import Shade, render
from renderers.shading import lambert, physical
from threed.core.cameras import Cameras
from threed.core.render import RenderOutput

BUDGET = 2**21  # pixels drawn at once, with everything their gradient needs
CONE = math.pi / 3  # widest angle between a lamp and where the cameras stand (Magic3D)


def show(
    vertices: Tensor,
    faces: Tensor,
    cameras: Cameras,
    shade: Shade,
    background: Tensor | None,
    budget: int,
) -> RenderOutput:
    """Call `renderers.raster.render` on pieces of at most `budget` pixels, or of one view.

    vertices [V, 3], faces [F, 3], background [3] or [B, 3].

    More pieces than one compute a gradient's intermediate values twice instead of keeping them.
    The pieces do not change the picture.
    """
    size = max(1, budget // (cameras.height * cameras.width))
    if size >= len(cameras):
        return render(vertices, faces, cameras, shade=shade, background=background)

    def piece(first: int, places: Tensor) -> tuple[Tensor, ...]:
        behind = background
        if behind is not None and behind.ndim > 1:
            behind = behind[first : first + size]
        views = cameras[first : first + size]
        seen = render(places, faces, views, shade=shade, background=behind)
        return seen.rgb, seen.opacity, seen.depth, seen.normal

    parts = []
    for first in range(0, len(cameras), size):
        if torch.is_grad_enabled():
            parts.append(checkpoint(piece, first, vertices, use_reentrant=False))
        else:
            parts.append(piece(first, vertices))
    rgb, opacity, depth, normal = (torch.cat(images) for images in zip(*parts))
    return RenderOutput(rgb, opacity, depth, normal)


def lit(
    paint: Callable[[Tensor], Tensor],
    shading: float,
    cameras: Cameras,
    generator: torch.Generator | None,
) -> Shade:
    """Make a shade that shows the paint, with a generator under a lamp.

    The lamp is new at each call: its direction lies within CONE of the cameras' mean position, and
    the share of the brightness that it decides is uniform in [0, shading] (soft shading). So a
    shape learns from all of its pictures, not from their outlines alone.
    """
    if generator is None or shading == 0:
        return lambda points, normals, towards: paint(points)
    strength, lamp = _light(shading, cameras, generator)

    def shade(points: Tensor, normals: Tensor, towards: Tensor) -> Tensor:
        light = lambert(normals, lamp.to(normals.device), 1 - strength)
        return paint(points) * light

    return shade


def glossy(
    paint: Callable[[Tensor], Tensor],
    shading: float,
    cameras: Cameras,
    generator: torch.Generator | None,
) -> Shade:
    """Make a shade as `lit` does, for a paint [N, 5] of colour, roughness and metallic."""
    if generator is None:
        return lambda points, normals, towards: paint(points)[:, :3]
    strength, lamp = _light(shading, cameras, generator)

    def shade(points: Tensor, normals: Tensor, towards: Tensor) -> Tensor:
        own, light = paint(points), lamp.to(normals.device).expand_as(normals)
        return physical(own[:, :3], own[:, 3:], normals, towards, light, 1 - strength)

    return shade


def _light(shading: float, cameras: Cameras, generator: torch.Generator) -> tuple[float, Tensor]:
    """Draw how strong a lamp is, up to `shading`, and the unit direction [3] towards it."""
    strength = shading * float(torch.rand((), generator=generator))
    return strength, _near(cameras.position.mean(0), generator)


def _near(direction: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a unit vector within CONE of a direction [3], evenly on that part of the sphere."""
    height, turn = torch.rand(2, generator=generator).tolist()
    z = 1 - height * (1 - math.cos(CONE))
    side = math.sqrt(max(0.0, 1 - z * z))
    axis = F.normalize(direction.cpu() + 1e-6, dim=0)
    across = F.normalize(torch.linalg.cross(axis, torch.eye(3)[axis.abs().argmin()]), dim=0)
    third = torch.linalg.cross(axis, across)
    angle = 2 * math.pi * turn
    lamp: Tensor = z * axis + side * (math.cos(angle) * across + math.sin(angle) * third)
    return lamp
