"""How the scenes of a run follow one another: field, surface, textured mesh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from exporters.mapping import measure_use
from exporters.simplify import simplify
from threed.core.cameras import Cameras
from threed.core.errors import InputError
from threed.core.mesh import Mesh
from threed.core.render import RenderOutput
from threed.runs.asset import shape
from threed.runs.given import GivenMesh
from threed.scenes.field import Field
from threed.scenes.isosurface import views_of
from threed.scenes.paint import Spots, colors_of
from threed.scenes.surface import Surface
from threed.scenes.textured import Textured
from threed.settings.base import replace
from threed.settings.run import Run
from threed.settings.stage import Stage

Single = Field | Surface | Textured
SHARED = 0.02  # of a map that several faces use, from which it is worth a word
KINDS = {"field": Field, "surface": Surface, "textured": Textured}


class Particles(nn.Module):
    """Several scenes of one kind that take turns, a step each; what learns their looks is shared.

    Each goes through its own steps as if it were alone (ProlificDreamer, arXiv:2305.16213).
    """

    def __init__(self, scenes: Sequence[Single]) -> None:
        super().__init__()
        self.scenes = nn.ModuleList(scenes)
        self.turn = 0

    def __iter__(self) -> Any:
        return iter(self.scenes)

    def update_occupancy(self, step: int, generator: torch.Generator) -> None:
        """Give the turn of a step to the next scene, and let that one look where it is empty."""
        own, self.turn = divmod(step, len(self.scenes))
        self._current.update_occupancy(own, generator)

    def render(self, cameras: Cameras, **options: Any) -> RenderOutput:
        """Pictures of the scene whose turn it is."""
        picture: RenderOutput = self._current.render(cameras, **options)
        return picture

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """Those of each scene, one after the other."""
        return [group for scene in self for group in scene.param_groups(lr)]

    @property
    def _current(self) -> Any:
        return self.scenes[self.turn]


Scene = Single | Particles


def each(scene: Scene) -> list[Single]:
    """The scenes of particles, or the only one."""
    return list(scene) if isinstance(scene, Particles) else [scene]


def _together(scenes: Sequence[Single]) -> Scene:
    return Particles(scenes) if len(scenes) > 1 else scenes[0]


def _seeded(run: Run, number: int) -> Run:
    """The run with the seed of a particle; the first has the run's own."""
    return replace(run, seed=(run.seed + number) % 2**31)


def unknown(run: Run, stage: Stage, given: GivenMesh | None) -> Scene:
    """The scenes of a stage before they know anything: for a checkpoint to be loaded."""
    made = [blank(_seeded(run, i), stage.scene) for i in range(stage.particles)]
    for scene in made:
        _hold(scene, given)
    return _together(made)


def first(run: Run, given: GivenMesh | None, device: torch.device) -> Scene:
    """The scenes that a run begins with. InputError for a mesh that has no shape for them."""
    count = run.stages[0].particles
    return _together([begin(_seeded(run, i), given, device) for i in range(count)])


def following(before: Scene, run: Run, stage: Stage, device: torch.device) -> Scene:
    """The scenes of a later stage: as many as it has of those before, changed in kind if need be.

    The others are let go.
    """
    kept = each(before)[: stage.particles]
    each_run = ((scene, _seeded(run, i)) for i, scene in enumerate(kept))
    return _together([follow(scene, own, stage.scene, device) for scene, own in each_run])


def blank(run: Run, kind: str) -> Single:
    """A scene that knows nothing yet: a blob, a ball, or a mesh still to be given."""
    if kind == "field":
        return Field(run.field, seed=run.seed)
    if kind == "surface":
        return Surface(run.surface, run.paint, seed=run.seed)
    return Textured(run.textured, run.paint, seed=run.seed)


def check_mesh(run: Run, given: GivenMesh) -> tuple[GivenMesh, list[str]]:
    """Return the mesh that a run can begin with, and what the user should know about it.

    One without a shape that the run could use is mended by MeshLab, where that is installed.
    InputError if the run and the mesh do not fit together.
    """
    notes = _check_map(run, given.mesh) if run.textured.keep_uv else []
    if run.part.said or run.textured.keep_uv:
        return given, notes
    try:
        return given, _try_shape(run, given)
    except InputError as refused:
        mended, note = given.mended(refused)
        return mended, [note, *_try_shape(run, mended)]


def _try_shape(run: Run, given: GivenMesh) -> list[str]:
    """What is repaired of a mesh before the run begins with it; InputError if it has no shape."""
    scene = blank(run, run.stages[0].scene)
    whole, done = given.repaired()
    if isinstance(scene, Surface):
        scene.wrap(whole)
    words = ", ".join(f"{name}: {count:,}" for name, count in asdict(done).items() if count)
    return [f"the mesh was repaired ({words})"] if words else []


def _check_map(run: Run, mesh: Mesh) -> list[str]:
    """What the user should know about texture coordinates that are kept; InputError without any."""
    if mesh.uv is None or mesh.uv_faces is None:
        raise InputError("the mesh has no texture coordinates that could be kept: leave "
                         "--keep-uv out, and it gets new ones")  # fmt: skip
    coverage, overlap = measure_use(*mesh.opengl_map(), run.asset.texture)
    if coverage == 0:
        raise InputError("the mesh's texture coordinates cover nothing: leave --keep-uv out, and "
                         "it gets new ones")  # fmt: skip
    if overlap > SHARED:
        return [f"{overlap:.0%} of the mesh's map belongs to several places of its surface, which "
                "will all show the same"]  # fmt: skip
    return []


def begin(run: Run, given: GivenMesh | None, device: torch.device) -> Single:
    """The scene of the first stage. InputError for a mesh that has no shape for it."""
    scene = blank(run, run.stages[0].scene).to(device)
    if given is None or isinstance(scene, Field):
        return scene
    if _hold(scene, given):
        return _painted(scene, given.mesh)
    if run.textured.keep_uv:
        scene.wrap(given.mesh)
    else:
        whole, _ = given.repaired()
        scene.wrap(simplify(whole, run.asset.faces))
    return _painted(scene, given.mesh)


def follow(before: Single, run: Run, kind: str, device: torch.device) -> Single:
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


def _hold(scene: Single, given: GivenMesh | None) -> bool:
    """Let only the part of a given mesh learn that is to change; False if all is."""
    if given is None or given.part is None or not isinstance(scene, Textured):
        return False
    scene.hold(given.mesh, given.part)
    return True


def _painted(scene: Surface | Textured, mesh: Mesh) -> Single:
    spots = Spots.on(mesh)
    colors = colors_of(mesh, spots)
    if colors is not None:
        scene.take_colors(spots, colors)
    return scene
