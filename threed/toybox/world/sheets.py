"""Toys and scenes with their truth as sheets of pictures, for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from threed.core.cameras import orbit
from threed.diffusion.images import grid
from threed.toybox.world.captions import a
from threed.toybox.world.chance import Rng
from threed.toybox.world.conditions import CONDITIONS, bright_where_near, grey, palette, where
from threed.toybox.world.dressed import correspondence, fitting_pictures, random_fitting, said
from threed.toybox.world.edits import EDITS, random_edit
from threed.toybox.world.faces import random_face
from threed.toybox.world.figures import Figure, random_figure_scene
from threed.toybox.world.garments import laid_flat
from threed.toybox.world.grounds import random_ground
from threed.toybox.world.mix import random_scene
from threed.toybox.world.pairs import random_pair_scene
from threed.toybox.world.portraits import portrait_scene, random_portrait
from threed.toybox.world.scenes import Scene, View, draw_scene
from threed.toybox.world.styles import STYLES, random_style
from threed.toybox.world.subjects import random_subject
from threed.toybox.world.toys import Set, random_light, random_set

COLUMNS = 6  # scenes of a sheet
Sheet = tuple[Tensor, list[str]]  # [3, H, W], and what its columns or its toys are called


def toy_sheet(seed: int, size: int, kind: str | None = None) -> Sheet:
    """Show a toy from four sides, with its `passes`."""
    drawn = random_set(np.random.default_rng(seed), size, kind=kind)
    picture, toy = grid(passes(drawn), columns=len(drawn.pictures)), drawn.toy
    return picture, [f"a {toy.finish} {toy.color} {toy.kind}"]


def passes(drawn: Set) -> Tensor:
    """[5 * V, 3, H, W] in [0, 1]: rgb of all V views, then alpha, depth, normals and parts.

    Depth is bright where near, over the set's own range; a normal n has the colour (n + 1) / 2.
    """
    rgb, alpha, depth, normal, part = (
        np.stack([getattr(picture, name) for picture in drawn.pictures])
        for name in ("rgb", "alpha", "depth", "normal", "part")
    )
    normals = where(depth > 0, (normal + 1) / 2)
    parts = where(part >= 0, palette(part.max() + 1)[part])
    rows = [rgb, grey(alpha), grey(bright_where_near(depth)), normals, parts]
    return torch.from_numpy(np.concatenate(rows)).float().permute(0, 3, 1, 2)


def pair_sheet(seed: int, size: int) -> Sheet:
    """Show pairs: colour, every condition, which toy is where."""
    scenes, views = _draw(random_pair_scene, seed, size)
    whose = [where(view.instance >= 0, palette(2)[view.instance]) for view in views]
    return _sheet(views, [whose]), _captions(scenes)


def figure_sheet(seed: int, size: int) -> Sheet:
    """Show persons: colour, every condition, the upper garment's mask, and it laid flat."""
    scenes, views = _draw(random_figure_scene, seed, size)
    worn = [grey(view.mask(0, ("top", "dress"))) for view in views]
    worn_by = [scene.subject for scene in scenes if isinstance(scene.subject, Figure)]
    flat = [draw_scene(laid_flat(person.upper), size).picture.rgb for person in worn_by]
    return _sheet(views, [worn, flat]), _captions(scenes)


def edit_sheet(seed: int, size: int) -> Sheet:
    """Show an edit of every kind: before, after, where they may differ; the instructions."""
    drawn = [random_edit(np.random.default_rng([seed, i]), kind).draw(size)
             for i, kind in enumerate(EDITS)]  # fmt: skip
    rows = [one.before.picture.rgb for one in drawn] + [one.after.picture.rgb for one in drawn]
    rows += [grey(one.region) for one in drawn]
    return _grid(rows, len(drawn)), [one.edit.instruction for one in drawn]


def subject_sheet(seed: int, size: int) -> Sheet:
    """Show subjects, a row each, from COLUMNS sides; the first is the side with the emblem."""
    cells, names = [], []
    for i in range(COLUMNS):
        rng = np.random.default_rng([seed, i])
        subject, light, ground = random_subject(rng), random_light(rng), random_ground(rng)
        around = orbit(COLUMNS, size, elevation_deg=20.0, start_deg=subject.emblem.azimuth_deg)
        cells += [draw_scene(Scene(subject, light, ground, camera), size).picture.rgb
                  for camera in (around[k : k + 1] for k in range(COLUMNS))]  # fmt: skip
        names.append(f"{a(subject.kind)} with {a(subject.emblem.name)}")
    return _grid(cells, COLUMNS), names


def portrait_sheet(seed: int, size: int) -> Sheet:
    """Show persons, a row each: another expression, turn, light and other clothes each time."""
    faces = [random_face(np.random.default_rng([seed, i])) for i in range(COLUMNS)]
    cells = []
    for i, face in enumerate(faces):
        rng = np.random.default_rng([seed, i, 1])
        scenes = [portrait_scene(rng, random_portrait(rng, face)) for _ in range(COLUMNS)]
        cells += [draw_scene(scene, size).picture.rgb for scene in scenes]
    return _grid(cells, COLUMNS), [", ".join(face.identity.words()) or "bald" for face in faces]


def style_sheet(seed: int, size: int) -> Sheet:
    """Show the same scenes in one instance of every style, a row each."""
    scenes = [random_scene(np.random.default_rng([seed, i])) for i in range(COLUMNS)]
    views = [draw_scene(scene, size) for scene in scenes]
    styles = [random_style(np.random.default_rng([seed, i]), name) for i, name in enumerate(STYLES)]
    return _grid([style.paint(view) for style in styles for view in views], COLUMNS), list(STYLES)


def fitting_sheet(seed: int, size: int) -> Sheet:
    """Show persons for try-on: each role's picture, and each person in another garment.

    After these come the flat garment as it is worn, by the truth of correspondence, the other
    garment, and the same person in that.
    """
    made = [random_fitting(np.random.default_rng([seed, i])) for i in range(COLUMNS)]
    rows: list[list[NDArray[np.generic]]] = []
    for one in made:
        view, flat = draw_scene(one.scene, size), draw_scene(laid_flat(one.garment), size)
        places = correspondence(view, one.garment, flat)
        x, y = places.transpose(2, 0, 1)
        there = np.isfinite(x)
        worn = np.ones_like(view.picture.rgb)
        worn[there] = flat.picture.rgb[y[there].astype(int), x[there].astype(int)]
        other = [draw_scene(laid_flat(one.other), size), draw_scene(one.changed(), size)]
        rows.append([*fitting_pictures(view, one.garment, flat).values(), worn,
                     *(v.picture.rgb for v in other)])  # fmt: skip
    cells = [cell for column in zip(*rows) for cell in column]
    return _grid(cells, COLUMNS), [f"{said(one.garment)}, then {said(one.other)}" for one in made]


SHEETS: dict[str, Callable[[int, int], Sheet]] = {
    "toy": toy_sheet, "pair": pair_sheet, "figure": figure_sheet, "edit": edit_sheet,
    "subject": subject_sheet, "portrait": portrait_sheet, "style": style_sheet,
    "fitting": fitting_sheet,
}  # fmt: skip


def _draw(
    random_scene: Callable[[Rng], Scene], seed: int, size: int
) -> tuple[list[Scene], list[View]]:
    scenes = [random_scene(np.random.default_rng([seed, i])) for i in range(COLUMNS)]
    return scenes, [draw_scene(scene, size) for scene in scenes]


def _captions(scenes: list[Scene]) -> list[str]:
    return [scene.caption(np.random.default_rng(i)) for i, scene in enumerate(scenes)]


def _sheet(views: list[View], more: Sequence[Sequence[NDArray[np.generic]]]) -> Tensor:
    rows = [view.picture.rgb for view in views]
    rows += [CONDITIONS[kind](view) for kind in CONDITIONS for view in views]
    return _grid([*rows, *(cell for row in more for cell in row)], len(views))


def _grid(cells: Sequence[NDArray[np.generic]], columns: int) -> Tensor:
    pixels = np.stack([np.asarray(cell, np.float32) for cell in cells]).clip(0, 1)
    return grid(torch.from_numpy(pixels).permute(0, 3, 1, 2), columns=columns)
