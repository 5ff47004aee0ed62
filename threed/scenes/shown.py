"""Pictures of a painted surface for a stage of a run: in pieces, and under a lamp if asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from renderers.raster import Shade, render
from renderers.shading import Lamp, physical
from threed.core.cameras import Cameras
from threed.core.render import RenderOutput
from threed.settings.stage import LampSettings

BUDGET = 2**21  # pixels drawn at once, with everything their gradient needs
CONE = math.pi / 3  # widest angle between a lamp and where the cameras stand (Magic3D)
Look = Callable[[Tensor], Tensor]  # of points [N, 3]


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
        here, behind = slice(first, first + size), background
        if behind is not None and behind.ndim > 1:
            behind = behind[here]
        seen = render(places, faces, cameras[here], shade=shade, background=behind)
        return seen.rgb, seen.opacity, seen.depth, seen.normal

    again = torch.is_grad_enabled()
    look = partial(checkpoint, piece, use_reentrant=False) if again else piece
    parts = [look(first, vertices) for first in range(0, len(cameras), size)]
    rgb, opacity, depth, normal = (torch.cat(images) for images in zip(*parts))
    return RenderOutput(rgb, opacity, depth, normal)


def lit(paint: Look, lamp: Lamp | None) -> Shade:
    """Make a shade that shows a paint, sRGB [N, 3], under a lamp if there is one."""

    def shade(points: Tensor, normals: Tensor, towards: Tensor, hits: Tensor) -> Tensor:
        return lamp.light(paint(points), normals) if lamp else paint(points)

    return shade


def glossy(paint: Look, lamp: Lamp | None) -> Shade:
    """Make a shade as `lit` does, for a paint [N, 5] of colour, roughness and metallic."""

    def shade(points: Tensor, normals: Tensor, towards: Tensor, hits: Tensor) -> Tensor:
        own = paint(points)
        albedo, gloss = own[:, :3], own[:, 3:]
        if lamp is None or lamp.textureless:
            return lamp.light(albedo, normals) if lamp else albedo
        light = lamp.direction.to(normals.device).expand_as(normals)
        return physical(albedo, gloss, normals, towards, light, lamp.ambient)

    return shade


def draw_lamp(
    settings: LampSettings, shading: float, cameras: Cameras, step: int, generator: Generator
) -> Lamp | None:
    """Draw the lamp of a step, or None if it is off.

    Its direction is as the settings say of the cameras' mean position, and the part of the
    brightness that it decides is shading, or with soft uniform up to that. So a shape learns from
    all of its pictures, not from their outlines alone. A light that is even has no direction: all
    is as dim as the pictures of a model, whose lamps reach a part of what they show, so that
    colours become no darker than they are. Without shading nothing is drawn.
    """

    def chance() -> float:
        return float(torch.rand((), generator=generator))

    if shading == 0 or chance() >= settings.share(step):
        return None
    strength = shading * (chance() if settings.soft else 1.0)
    middle = cameras.position.mean(0).cpu()
    if settings.place == "even":
        direction = torch.zeros(3)
    elif settings.place == "cone":
        direction = _near(middle, generator)
    else:
        direction = F.normalize(middle + torch.randn(3, generator=generator), dim=0)
    return Lamp(direction, 1 - strength, chance() < settings.textureless)


def _near(direction: Tensor, generator: Generator) -> Tensor:
    """Draw a unit vector within CONE of a direction [3], evenly on that part of the sphere."""
    height, turn = torch.rand(2, generator=generator).tolist()
    z = 1 - height * (1 - math.cos(CONE))
    side = math.sqrt(max(0.0, 1 - z * z))
    axis = F.normalize(direction + 1e-6, dim=0)
    across = F.normalize(torch.linalg.cross(axis, torch.eye(3)[axis.abs().argmin()]), dim=0)
    third = torch.linalg.cross(axis, across)
    angle = 2 * math.pi * turn
    lamp: Tensor = z * axis + side * (math.cos(angle) * across + math.sin(angle) * third)
    return lamp
