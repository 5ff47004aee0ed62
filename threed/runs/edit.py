"""Editing an asset: pictures of it, and what edits them as an instruction says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace as changed

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from guidance.distill import draw_noise
from guidance.edits import GOLDEN, Album, DatasetUpdate, Edit
from renderers.raster import render_mesh
from threed.core import cameras
from threed.core.cameras import Cameras
from threed.core.mesh import Mesh
from threed.diffusion.backbone import Backbone
from threed.diffusion.guide import Guide
from threed.diffusion.paint import Ready
from threed.diffusion.sampler import make_scheduler, sample
from threed.settings.run import Run
from threed.settings.stage import Stage
from threed.systems.editing import instruct_pix2pix
from threed.systems.system import Request, System
from threed.systems.table import find_system
from threed.systems.tryon.sight import Sight


def around(stage: Stage) -> Cameras:
    """The cameras of a stage's pictures: evenly around, at all its heights, at its middle zoom."""
    count, where = stage.edit.views, stage.cameras
    steps, one = torch.arange(count), torch.ones(count)
    low, high = where.elevation_deg
    elevation = low + (high - low) * ((steps * GOLDEN + 0.5) % 1)
    fov, zoom = (sum(bounds) / 2 for bounds in (where.fov_y_deg, where.zoom))
    distance = cameras.distance_of(one * zoom, one * fov, where.distance_by)
    size = round(stage.resolution(0))
    return cameras.at(steps * (360 / count), elevation, distance, one * fov, size)


def album(mesh: Mesh, stage: Stage) -> Album:
    """Pictures of a mesh in its own colours, without light."""
    views = around(stage)
    with torch.no_grad():
        pictures = [render_mesh(mesh, views[i : i + 1], look="albedo", antialias_factor=2).rgb
                    for i in range(len(views))]  # fmt: skip
    return Album(views, torch.cat(pictures))


def make_edits(
    stage: Stage, mesh: Mesh, backbone: Backbone, run: Run, prompt: str, edit: Edit | None = None
) -> DatasetUpdate:
    """Make the guidance that edits the pictures of a mesh.

    edit: what does, if it is neither the run's system nor InstructPix2Pix. InputError for weights
    that are missing, and for what else only the system or the mesh can tell.
    """
    book = album(mesh, stage)
    if edit is not None:
        edits = [edit] * len(book.cameras)
    elif run.system.name is not None and find_system(run.system.name).dress is not None:
        from threed.runs.bodies import sights  # toybox is not needed otherwise

        views = sights(mesh, book.cameras, backbone.image_size)
        edits = dressed(backbone, prompt, run, stage, views)
    else:
        edits = [instructed(backbone, prompt, run, stage)] * len(book.cameras)
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


def dressed(
    backbone: Backbone, prompt: str, run: Run, stage: Stage, views: Sequence[Sight]
) -> list[Edit]:
    """A system of try-on as an editor of each view of a person.

    InputError, before any step, for what it cannot be told.
    """
    system, request, backbone = _asked(backbone, prompt, run, stage)
    weights, dress = system.load(backbone, request), system.dress
    assert dress is not None  # `make_edits` sees to it
    with torch.no_grad():
        dress(backbone, request, weights, views[0])

    def editor(sight: Sight) -> Edit:
        def ready(picture: Tensor) -> Ready:
            return dress(backbone, request, weights, changed(sight, person=picture))

        return painted(backbone, stage, ready)

    return [editor(sight) for sight in views]


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


def painted(backbone: Backbone, stage: Stage, ready: Callable[[Tensor], Ready]) -> Edit:
    """The editor that noises and denoises; ready: how the picture [1, 3, H, W] is changed."""
    size = (backbone.image_size, backbone.image_size)

    def fitted(picture: Tensor) -> Tensor:
        picture = picture.to(backbone.device)
        if picture.shape[-2:] == size:
            return picture
        shrink = picture.shape[-1] > size[0]
        return F.interpolate(picture, size, mode="bilinear", antialias=shrink)

    @torch.no_grad()
    def edit(before: Tensor, now: Tensor, level: float, generator: Generator) -> Tensor:
        how = ready(fitted(before))
        clean = backbone.encode_image(fitted(now))
        scheduler = make_scheduler("ddim", backbone.scheduler_config)
        made = sample(how.score, scheduler, draw_noise(clean, generator), steps=stage.edit.passes,
                      clean=clean, strength=level)  # fmt: skip
        edited = (how.decode or backbone.decode_latents)(made)
        if edited.shape[-2:] == now.shape[-2:]:
            return edited
        return F.interpolate(edited, now.shape[-2:], mode="bilinear", antialias=True)

    return edit
