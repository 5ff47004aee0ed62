"""Editing an asset: pictures of it, and what edits them as an instruction says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as changed

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from guidance.distill import draw_noise
from guidance.edits import GOLDEN, Album, DatasetUpdate, Edit, Following
from guidance.patchwork import Painter, Patchwork, surface_of
from renderers.raster import render_mesh
from threed.core import cameras
from threed.core.cameras import Cameras
from threed.core.mesh import Mesh
from threed.core.render import RenderOutput
from threed.diffusion.backbone import Backbone
from threed.diffusion.guide import Guide
from threed.diffusion.paint import Ready
from threed.diffusion.sampler import make_scheduler, sample
from threed.settings.run import Run
from threed.settings.stage import CameraSettings, Stage
from threed.systems.editing import instruct_pix2pix
from threed.systems.system import Request, System
from threed.systems.table import find_system
from threed.systems.tryon.sight import Sight, places_of

# as try-on learns to see them
PERSONS = CameraSettings(elevation_deg=(-4.0, 16.0), zoom=(0.8, 0.8))


def around(stage: Stage, where: CameraSettings) -> Cameras:
    """The cameras of a stage's pictures: evenly around, at all heights, at the middle zoom."""
    count = stage.edit.views
    steps, one = torch.arange(count), torch.ones(count)
    low, high = where.elevation_deg
    elevation = low + (high - low) * ((steps * GOLDEN + 0.5) % 1)
    fov, zoom = (sum(bounds) / 2 for bounds in (where.fov_y_deg, where.zoom))
    distance = cameras.distance_of(one * zoom, one * fov, where.distance_by)
    size = round(stage.resolution(0))
    return cameras.at(steps * (360 / count), elevation, distance, one * fov, size)


def album(mesh: Mesh, views: Cameras) -> Album:
    """Pictures of a mesh in its own colours, without light."""
    return Album(views, torch.cat([seen.rgb for seen in _seen(mesh, views, 2)]))


def _seen(mesh: Mesh, views: Cameras, factor: int) -> list[RenderOutput]:
    with torch.no_grad():
        return [render_mesh(mesh, views[i : i + 1], look="albedo", antialias_factor=factor)
                for i in range(len(views))]  # fmt: skip


def make_edits(
    stage: Stage, mesh: Mesh, backbone: Backbone, run: Run, prompt: str, edit: Edit | None = None
) -> Following:
    """Make the guidance that edits the pictures of a mesh.

    edit: what does, if it is neither the run's system nor InstructPix2Pix. InputError for weights
    that are missing, and for what else only the system or the mesh can tell.
    """
    if edit is None and run.system.name and find_system(run.system.name).dress is not None:
        return dressed(stage, mesh, backbone, run, prompt)
    book = album(mesh, around(stage, stage.cameras))
    edits = [edit or instructed(backbone, prompt, run, stage)] * len(book.cameras)
    when = {"t_min": stage.t_min, "t_max": stage.t_max}
    return DatasetUpdate(book, edits, every=stage.edit.every, **when)


def instructed(backbone: Backbone, instruction: str, run: Run, stage: Stage) -> Edit:
    """A system as an editor of pictures: InstructPix2Pix, if the run names none.

    It is told the picture as it was at first (Instruct-NeRF2NeRF, arXiv:2303.12789). InputError if
    its weights are nowhere.
    """
    system, request, backbone = _asked(backbone, instruction, run, stage)
    weights, change = system.load(backbone, request), system.change
    assert change is not None  # the run has been checked
    return painted(backbone, stage, lambda picture: change(backbone, request, weights, picture))


def dressed(stage: Stage, mesh: Mesh, backbone: Backbone, run: Run, prompt: str) -> Patchwork:
    """A system of try-on paints the views of a person, each what none before it has painted.

    They are of the heights and from as near as the systems learn to see persons.
    InputError, before any step, for what it cannot be told.
    """
    from threed.runs.bodies import sights  # toybox is not needed otherwise

    system, request, backbone = _asked(backbone, prompt, run, stage)
    weights, dress = system.load(backbone, request), system.dress
    assert dress is not None  # `make_edits` sees to it
    book = album(mesh, around(stage, PERSONS))
    views = sights(mesh, book.cameras, backbone.image_size)
    with torch.no_grad():
        dress(backbone, request, weights, views[0])

    def painter(sight: Sight) -> Painter:
        def ready(person: Tensor, only: Tensor) -> Ready:
            return dress(backbone, request, weights, changed(sight, person=person, only=only))

        return anew(backbone, stage, ready)

    where = places_of(request)
    masks = torch.cat([sight.mask(where) for sight in views])
    masks = F.interpolate(masks, book.pictures.shape[1:3])[:, 0] > 0
    surface = surface_of(book.cameras, _seen(mesh, book.cameras, 1))
    return Patchwork(book, surface, masks, [*map(painter, views)], stage.edit.every)


def _asked(
    backbone: Backbone, prompt: str, run: Run, stage: Stage
) -> tuple[System, Request, Backbone]:
    """The system of a run, what it is asked for, and the backbone with what was learned."""
    told = run.system
    system = find_system(told.name or instruct_pix2pix.NAME)
    request = system.of_asset(prompt, told.inputs, told.knobs)
    if system.name == instruct_pix2pix.NAME and not told.knobs:
        knobs = instruct_pix2pix.Knobs(image_scale=stage.edit.image_scale)
        request = changed(request, knobs=knobs)
    guide = Guide(stage.guidance_scale(0), run.negative)
    request = changed(request, guide=guide, size=backbone.image_size)
    return system, request, system.equipped(backbone, request)


def anew(backbone: Backbone, stage: Stage, ready: Callable[[Tensor, Tensor], Ready]) -> Painter:
    """The painter that begins with noise; ready: how [1, 3, H, W] is painted in [1, 1, H, W]."""

    @torch.no_grad()
    def paint(picture: Tensor, where: Tensor, generator: Generator) -> Tensor:
        seen = _fitted(backbone, picture)
        how = ready(seen, F.interpolate(where.to(seen), seen.shape[-2:]))
        noise = draw_noise(backbone.encode_image(seen), generator)
        made = _made(backbone, stage, how, noise, picture)
        return torch.where(where > 0, made.to(picture), picture)

    return paint


def painted(backbone: Backbone, stage: Stage, ready: Callable[[Tensor], Ready]) -> Edit:
    """The editor that noises and denoises; ready: how the picture [1, 3, H, W] is changed."""

    @torch.no_grad()
    def edit(before: Tensor, now: Tensor, level: float, generator: Generator) -> Tensor:
        how = ready(_fitted(backbone, before))
        clean = backbone.encode_image(_fitted(backbone, now))
        return _made(backbone, stage, how, draw_noise(clean, generator), now, clean, level)

    return edit


def _fitted(backbone: Backbone, picture: Tensor) -> Tensor:
    """A picture [1, 3, H, W] in the backbone's size."""
    picture, size = picture.to(backbone.device), (backbone.image_size, backbone.image_size)
    if picture.shape[-2:] == size:
        return picture
    shrink = picture.shape[-1] > size[0]
    return F.interpolate(picture, size, mode="bilinear", antialias=shrink)


def _made(
    backbone: Backbone, stage: Stage, how: Ready, noise: Tensor, like: Tensor,
    clean: Tensor | None = None, level: float = 1.0,
) -> Tensor:  # fmt: skip
    """What is made of noise, or of a clean picture's latents that are noised so far, in a size."""
    scheduler = make_scheduler("ddim", backbone.scheduler_config)
    made = sample(how.score, scheduler, noise, steps=stage.edit.passes, clean=clean,
                  strength=level)  # fmt: skip
    edited = (how.decode or backbone.decode_latents)(made)
    if edited.shape[-2:] == like.shape[-2:]:
        return edited
    return F.interpolate(edited, like.shape[-2:], mode="bilinear", antialias=True)
