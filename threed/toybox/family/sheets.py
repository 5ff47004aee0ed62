"""Scenes with their truth as sheets of pictures, for people."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from threed.diffusion.images import grid
from threed.toybox.world.conditions import CONDITIONS, condition_map, palette
from threed.toybox.world.draw import Array
from threed.toybox.world.edits import EDITS, random_edit
from threed.toybox.world.figures import Figure, random_figure_scene
from threed.toybox.world.garments import laid_flat
from threed.toybox.world.pairs import random_pair_scene
from threed.toybox.world.scenes import Scene, View, draw_scene

COLUMNS = 6  # scenes of a sheet


def pair_sheet(seed: int, size: int) -> tuple[Tensor, list[str]]:
    """[3, H, W] pairs: colour, every condition, which toy is where; and what each is called."""
    scenes, views = _drawn(random_pair_scene, seed, size)
    whose = [_picture(np.where(view.instance[..., None] >= 0, palette(2)[view.instance], 0))
             for view in views]  # fmt: skip
    return _sheet(views, [whose]), _captions(scenes)


def figure_sheet(seed: int, size: int) -> tuple[Tensor, list[str]]:
    """[3, H, W] persons: colour, every condition, the upper garment's mask, and it laid flat."""
    scenes, views = _drawn(random_figure_scene, seed, size)
    worn = [_picture(np.repeat(view.mask(0, ("top", "dress"))[..., None], 3, -1)) for view in views]
    subjects = [scene.subject for scene in scenes]
    flat = [
        _picture(draw_scene(laid_flat(one.upper), size).picture.rgb)
        for one in subjects
        if isinstance(one, Figure)
    ]
    return _sheet(views, [worn, flat]), _captions(scenes)


def edit_sheet(seed: int, size: int) -> tuple[Tensor, list[str]]:
    """[3, H, W] an edit of every kind: before, after, where they may differ; the instructions."""
    drawn = [random_edit(np.random.default_rng([seed, i]), kind).draw(size)
             for i, kind in enumerate(EDITS)]  # fmt: skip
    rows = [_picture(one.before.picture.rgb) for one in drawn]
    rows += [_picture(one.after.picture.rgb) for one in drawn]
    rows += [_picture(np.repeat(one.region[..., None], 3, -1)) for one in drawn]
    return grid(torch.stack(rows), columns=len(drawn)), [one.edit.instruction for one in drawn]


SHEETS: dict[str, Callable[[int, int], tuple[Tensor, list[str]]]] = {
    "pair": pair_sheet, "figure": figure_sheet, "edit": edit_sheet,
}  # fmt: skip


def _drawn(
    random_scene: Callable[[np.random.Generator], Scene], seed: int, size: int
) -> tuple[list[Scene], list[View]]:
    scenes = [random_scene(np.random.default_rng([seed, i])) for i in range(COLUMNS)]
    return scenes, [draw_scene(scene, size) for scene in scenes]


def _captions(scenes: list[Scene]) -> list[str]:
    return [scene.caption(np.random.default_rng(i)) for i, scene in enumerate(scenes)]


def _sheet(views: list[View], more: list[list[Tensor]]) -> Tensor:
    rows = [[_picture(view.picture.rgb) for view in views]]
    rows += [[condition_map(kind, view) for view in views] for kind in CONDITIONS]
    return grid(torch.stack([cell for row in rows + more for cell in row]), columns=len(views))


def _picture(pixels: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels, np.float32).clip(0, 1)).permute(2, 0, 1)
