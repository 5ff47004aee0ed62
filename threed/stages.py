"""How the scenes of a run follow one another: field, surface, textured mesh."""

from __future__ import annotations

from dataclasses import asdict, replace

import torch

from exporters.report import uv_use
from exporters.simplify import simplify
from threed.assets import shape
from threed.config import Run
from threed.core import InputError, Mesh
from threed.given import Given
from threed.scenes.field import Field
from threed.scenes.isosurface import views_of
from threed.scenes.paint import Spots, colors_of
from threed.scenes.surface import Surface
from threed.scenes.textured import Textured

Scene = Field | Surface | Textured
SHARED = 0.02  # of a map that several faces use, from which it is worth a word
KINDS = {"field": Field, "surface": Surface, "textured": Textured}


def blank(run: Run, kind: str) -> Scene:
    """A scene that knows nothing yet: a blob, a ball, or a mesh still to be given."""
    if kind == "field":
        return Field(run.field, seed=run.seed)
    if kind == "surface":
        return Surface(run.surface, run.paint, seed=run.seed)
    return Textured(run.textured, run.paint, seed=run.seed)


def for_mesh(run: Run) -> Run:
    """The run without the fields that it would begin with; InputError if nothing is left of it."""
    kinds = [stage.scene for stage in run.stages]
    rest = run.stages[sum(kind == "field" for kind in kinds) :]
    if not rest:
        raise InputError("a field cannot begin with a mesh, and this run has no stage of another "
                         "scene: use --preset toybox-magic3d or magic3d")  # fmt: skip
    return replace(run, stages=rest)


def check_start(run: Run, given: Given | None) -> list[str]:
    """What the user should know about the mesh that a run begins with, if any.

    InputError if the run and the mesh do not fit together.
    """
    if given is None:
        if run.stages[0].scene == "textured":
            raise InputError("a textured stage paints a mesh: give one by --init, or use threed "
                             "texture")  # fmt: skip
        return []
    if not run.textured.keep_uv:
        scene = blank(run, run.stages[0].scene)
        whole, done = given.repaired()
        if isinstance(scene, Surface):
            scene.wrap(whole)
        words = ", ".join(f"{name}: {count:,}" for name, count in asdict(done).items() if count)
        return [f"the mesh was repaired ({words})"] if words else []
    if any(stage.scene != "textured" for stage in run.stages):
        raise InputError("texture coordinates can be kept only where the shape is: keep_uv needs "
                         "a run of textured stages")  # fmt: skip
    mesh = given.mesh
    if mesh.uv is None or mesh.uv_faces is None:
        raise InputError("the mesh has no texture coordinates that could be kept: leave "
                         "--keep-uv out, and it gets new ones")  # fmt: skip
    coverage, overlap = uv_use(mesh.uv, mesh.uv_faces, run.asset.texture)
    if coverage == 0:
        raise InputError("the mesh's texture coordinates cover nothing: leave --keep-uv out, and "
                         "it gets new ones")  # fmt: skip
    if overlap > SHARED:
        return [f"{overlap:.0%} of the mesh's map belongs to several places of its surface, which "
                "will all show the same"]  # fmt: skip
    return []


def begin(run: Run, given: Given | None, device: torch.device) -> Scene:
    """The scene of the first stage. InputError for a mesh that has no shape for it."""
    scene = blank(run, run.stages[0].scene).to(device)
    if given is None or isinstance(scene, Field):
        return scene
    if run.textured.keep_uv:
        scene.wrap(given.mesh)
    else:
        whole, _ = given.repaired()
        scene.wrap(simplify(whole, run.asset.faces))
    return _painted(scene, given.mesh)


def follow(before: Scene, run: Run, kind: str, device: torch.device) -> Scene:
    """The scene of a later stage: the one before, or another kind that begins as it."""
    if isinstance(before, KINDS[kind]):
        return before
    scene = blank(run, kind).to(device)
    assert not isinstance(scene, Field)  # Run sees to it
    found = shape(before, views_of(before), run.asset)
    scene.wrap(found.mesh)
    spots = Spots.on(found.mesh)
    scene.take_colors(spots, found.color(spots.points, spots.normals))
    return scene


def _painted(scene: Surface | Textured, mesh: Mesh) -> Scene:
    spots = Spots.on(mesh)
    colors = colors_of(mesh, spots)
    if colors is not None:
        scene.take_colors(spots, colors)
    return scene
