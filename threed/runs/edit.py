"""Editing an asset: pictures of it, and what edits them as an instruction says."""

from __future__ import annotations

from pathlib import Path

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
from threed.diffusion.sampler import make_scheduler, sample
from threed.settings.run import Run
from threed.settings.stage import Stage
from threed.systems.editing import instruct_pix2pix


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


def instructed(backbone: Backbone, instruction: str, run: Run, stage: Stage) -> Edit:
    """InstructPix2Pix as an editor: the picture noised, and denoised as the instruction says.

    It is told the picture as it was at first (Instruct-NeRF2NeRF, arXiv:2303.12789). InputError if
    its weights are nowhere.
    """
    weights = run.system.inputs.get("weights")
    unet = instruct_pix2pix.find_unet(backbone, Path(weights[0]) if weights else None)
    size = (backbone.image_size, backbone.image_size)
    guide = Guide(stage.guidance_scale, run.negative)
    knobs = instruct_pix2pix.Knobs(image_scale=stage.edit.image_scale)

    def fitted(picture: Tensor) -> Tensor:
        picture = picture.to(backbone.device)
        if picture.shape[-2:] == size:
            return picture
        shrink = picture.shape[-1] > size[0]
        return F.interpolate(picture, size, mode="bilinear", antialias=shrink)

    @torch.no_grad()
    def edit(before: Tensor, now: Tensor, level: float, generator: Generator) -> Tensor:
        picture = fitted(before)
        score = instruct_pix2pix.build(
            backbone, instruction, picture, unet, guide=guide, knobs=knobs
        )
        clean = backbone.encode_image(fitted(now))
        scheduler = make_scheduler("ddim", backbone.scheduler_config)
        made = sample(score, scheduler, draw_noise(clean, generator), steps=stage.edit.passes,
                      clean=clean, strength=level)  # fmt: skip
        edited = backbone.decode_latents(made)
        if edited.shape[-2:] == now.shape[-2:]:
            return edited
        return F.interpolate(edited, now.shape[-2:], mode="bilinear", antialias=True)

    return edit


def make_edits(stage: Stage, mesh: Mesh, edit: Edit) -> DatasetUpdate:
    """Make the guidance that edits the pictures of a mesh."""
    when = {"t_min": stage.t_min, "t_max": stage.t_max}
    return DatasetUpdate(album(mesh, stage), edit, every=stage.edit.every, **when)
