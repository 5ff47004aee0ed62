"""From a scene to the files of an asset."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

import exporters
from exporters import load, preview, splats, video, viewer
from exporters.bake import SurfaceColor, bake, bake_gloss, bake_part
from exporters.budget import fit_budget
from exporters.clean import FLOATER, SPECK, Repairs, clean, repair, smooth
from exporters.colliders import convex_parts
from exporters.fair import fair
from exporters.glb import name_of
from exporters.mended import Mended
from exporters.normals import bake_normals
from exporters.printing import make_printable, measure_printed
from exporters.quads import to_quads
from exporters.remesh import Mending, mend
from exporters.report import Known, Report, measure_mesh, read_known
from exporters.simplify import simplify
from exporters.transfer import Skin
from exporters.unwrap import unwrap
from renderers.shading import Look
from threed.core import files
from threed.core.budget import Budget, check_quads, levels
from threed.core.cameras import Cameras
from threed.core.errors import InputError
from threed.core.files import slug
from threed.core.mesh import Mesh
from threed.core.profile import PROFILES, Target, check_tools
from threed.core.render import RenderOutput
from threed.scenes.isosurface import Radiance, Views, isosurface, surface_color, views_of
from threed.scenes.placement import Placement
from threed.scenes.textured import Textured
from threed.settings.asset import AssetSettings

Say = Callable[[str], None]
OFFSETS = (0.0, -0.002, 0.002, 0.004, 0.006)  # world units
Provenance = Mapping[str, str | int | float]


@dataclass(frozen=True)
class Asset:
    """What a run ends with."""

    folder: Path  # holds asset.glb, .obj, .mtl, .png, turntable.mp4, preview.png, report.json
    mesh: Mesh  # as read back from asset.glb
    report: Report

    @property
    def glb(self) -> Path:
        """The file to open."""
        return self.folder / "asset.glb"

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        """Show it in a notebook: a viewer in which it turns, or eight views of it."""
        picture, title = (self.folder / "preview.png").read_bytes(), self.folder.name
        shown = viewer.frame(self.glb.read_bytes(), picture, title)
        return {"text/plain": str(self.folder), "text/html": shown,
                "image/png": b64encode(picture).decode()}  # fmt: skip


@runtime_checkable
class Solid(Protocol):
    """A scene that is a surface already."""

    def solid(self) -> Mesh:
        """It, without colours; with uv if these are to be kept as they are."""

    def color(self, points: Tensor, normals: Tensor) -> Tensor:
        """sRGB [N, 3] at points of it [N, 3]."""

    def render(self, cameras: Cameras, *, background: Tensor | None = None) -> RenderOutput:
        """Pictures over a background [3]."""


@runtime_checkable
class Glossy(Protocol):
    """A scene that may know more of its surface than the colour."""

    @property
    def has_gloss(self) -> bool:
        """Whether it does."""

    def gloss(self, points: Tensor, normals: Tensor) -> Tensor:
        """Roughness and metallic [N, 2] in [0, 1] at points of it [N, 3]."""


@dataclass(frozen=True)
class Shape:
    """What an asset is made of, before it is mapped and painted."""

    mesh: Mesh  # no colours; with uv if these are to be kept as they are
    color: SurfaceColor
    dense: Skin  # what the mesh was made from, before it lost faces
    repairs: Repairs  # that it took
    threshold: float | None = None  # density per world unit, if it was cut from a field
    gloss: SurfaceColor | None = None  # roughness and metallic [N, 2], if they were learned
    part: Tensor | None = None  # [H, W] of the map, 0..1: what of it is painted anew, if not all
    debris: float = FLOATER  # of the largest piece's area: what is smaller goes

    def fewer(self, faces: int, views: Views) -> Mesh:
        """The dense surface with at most about so many faces, whole."""
        mesh = clean(simplify(self.dense.mesh, faces), floater=self.debris)
        return mesh if self.threshold is None else settle(fair(mesh), views)


def build_asset(
    scene: Radiance | Solid,
    folder: Path,
    settings: AssetSettings,
    provenance: Provenance,
    progress: Say | None = None,
    placement: Placement | None = None,
) -> Asset:
    """Find the surface of a scene, map and paint it, and write everything that shows it.

    Every file is written aside and renamed; the GLB comes first, and what is drawn and measured
    afterwards is that file, read back. A placement puts the asset where a given mesh stood.
    EmptySceneError if a field holds no surface; InputError, naming the path, where a file cannot be
    written.
    """
    say = progress or (lambda _: None)
    say("looking at the scene")
    views = views_of(scene)
    say("finding its surface")
    found = shape(scene, views, settings)
    place = placement or Placement()
    if settings.height is not None:
        place = Placement.standing(found.mesh, settings.height)
    finest: Mesh | None = None
    for number, level in enumerate(levels(settings.faces, settings.texture, settings.lods)):
        if finest is not None and found.mesh.uv is not None:  # whose map the finest alone can keep
            (mesh,) = fit_budget(finest, Budget(level.faces, level.texture))
        else:
            mesh = found.fewer(level.faces, views) if number else found.mesh
            say(f"mapping and painting {len(mesh.faces):,} faces")
            mesh = place.out(_mapped(mesh, found, settings, level.texture))
        finest = finest or mesh
        say("writing the files")
        name = slug(str(provenance.get("prompt", "")))
        about = {**provenance, "name": f"{name}_LOD{number}" if settings.lods else name}
        exporters.save(mesh, folder / lod_name("asset.glb", number), extras=about)
        if number == 0:
            exporters.save(mesh, folder / "asset.obj", extras=about)
            _add_special(mesh, folder, settings, about, say)
    if settings.splats is not None:
        _scatter(found, place, settings.splats, folder / "asset.spz")
    mesh = load(folder / "asset.glb")
    likeness = views.compare(place.into(mesh))
    sizes = {path.name: path.stat().st_size for path in sorted(folder.glob("asset*.*"))}
    known = Known(likeness.psnr, likeness.iou, found.threshold, asdict(found.repairs), sizes=sizes)
    return _present(mesh, folder, settings, known, say)


def shape(scene: Radiance | Solid, views: Views, settings: AssetSettings) -> Shape:
    """The surface of a scene, repaired and with at most about settings.faces faces.

    One that comes with uv stays as it is. EmptySceneError if a field holds no surface.
    """
    if isinstance(scene, Solid):
        mesh = scene.solid()
        gloss = scene.gloss if isinstance(scene, Glossy) and scene.has_gloss else None
        if mesh.uv is not None:
            part = scene.part if isinstance(scene, Textured) else None
            return Shape(mesh, scene.color, Skin(mesh), Repairs(), gloss=gloss, part=part)
        debris = SPECK if isinstance(scene, Textured) else FLOATER
        mesh, repairs = repair(mesh, floater=debris)
        found = Shape(mesh, scene.color, Skin(mesh), repairs, gloss=gloss, debris=debris)
    else:
        cut = isosurface(scene, views, resolution=settings.resolution)
        mesh, repairs = repair(replace(cut.mesh, colors=None))
        dense = Skin(fair(smooth(mesh)))
        found = Shape(mesh, surface_color(scene), dense, repairs, cut.threshold)
    return replace(found, mesh=found.fewer(settings.faces, views))


def _mapped(mesh: Mesh, found: Shape, settings: AssetSettings, texture: int) -> Mesh:
    """A mesh with a map, unless it has one, painted like the shape that it was made from."""
    if found.part is not None:
        return bake_part(mesh, found.color, found.part)
    kept = mesh.uv is not None
    mesh = bake(mesh if kept else unwrap(mesh, texture), found.color, texture)
    if found.gloss is not None:
        mesh = bake_gloss(mesh, found.gloss, texture)
    if kept or not settings.normal_map:
        return mesh
    return bake_normals(mesh, found.dense, texture)


def lod_name(name: str, level: int) -> str:
    """The name of a file's copy at a level: asset.glb, asset_lod1.glb, asset_lod2.glb."""
    suffix = len(exporters.find_suffix(name))
    return f"{name[:-suffix]}_lod{level}{name[-suffix:]}" if level else name


def settle(mesh: Mesh, views: Views) -> Mesh:
    """The mesh moved along its normals by the one of OFFSETS that looks most like its field.

    Blurring, smoothing and fewer faces all take a little off what is thin.
    """
    normals = mesh.vertex_normals()
    moved = [replace(mesh, vertices=mesh.vertices + d * normals) for d in OFFSETS]
    return min(moved, key=views.error)


def _present(mesh: Mesh, folder: Path, settings: AssetSettings, known: Known, say: Say) -> Asset:
    numbers = measure_mesh(mesh, known)
    files.write(folder / "report.json", numbers.to_json().encode())
    say("drawing the preview")
    preview.save_contact_sheet(mesh, folder / "preview.png", size=settings.preview_size)
    say("turning the table")
    frames, size = settings.turntable_frames, settings.turntable_size
    video.save_turntable(mesh, folder / "turntable.mp4", frames=frames, size=size)
    return Asset(folder, mesh, numbers)


def export_file(
    source: Path,
    target: Path,
    *,
    budget: Budget | None = None,
    lods: int = 0,
    height: float | None = None,
    profile: Target | None = None,
    quads: int | None = None,
    say: Say | None = None,
) -> list[Path]:
    """Read a mesh file, or the asset.glb of a run's folder, and write it in another format.

    Geometry, textures and colours go along as far as the format has them; within a budget, and with
    coarser copies beside it, where asked: see `exporters.budget.fit_budget`. With a height, in
    metres, it stands on the origin, the centre of its base at 0. A profile adds colliders, or makes
    a solid, of which `say` is told; its budget is the caller's matter. `quads` asks for about so
    many instead of triangles (`exporters.quads`). Returns the files.
    InputError for a source that cannot be read, and for a target that cannot be written.
    """
    exporters.find_writer(target)  # a wrong name is noticed before anything is read
    check_tools(profile)
    check_quads(quads, target.suffix, budget, lods)
    mesh = load_file(source)
    if profile == "print":
        about, faces = {"source": source.name}, (budget or Budget()).faces or len(mesh.faces)
        _print(mesh, target, about, faces, height, say or (lambda _: None))
        return [target]
    if height is not None:
        mesh = Placement.standing(mesh, height).out(mesh)
    if quads is not None:
        made = to_quads(mesh, quads, None if budget is None else budget.texture)
        exporters.save(made, target, extras={"source": source.name, "name": target.stem})
        return [target]
    plain = budget is None and lods == 0
    written = []
    for level, copy in enumerate([mesh] if plain else fit_budget(mesh, budget, lods)):
        written.append(target.with_name(lod_name(target.name, level)))
        name = f"{target.stem}_LOD{level}" if lods else target.stem
        about = {"source": source.name, "name": name}
        _save_for(copy, written[-1], about, None if level else profile)
    return written


def _add_special(
    mesh: Mesh, folder: Path, settings: AssetSettings, about: Provenance, say: Say
) -> None:
    """Write what the profile asks for beside the asset, which stays what every program reads."""
    profile = settings.profile
    if profile is None:
        return
    path = folder / f"asset_{profile}{PROFILES[profile].suffix}"
    if profile == "print":
        _print(mesh, path, about, settings.faces, settings.height, say)
    else:
        _save_for(mesh, path, about, profile)


def _save_for(mesh: Mesh, path: Path, about: Provenance, profile: Target | None) -> None:
    """Write a mesh as a profile asks: with colliders of its own names, or small."""
    if profile is None:
        exporters.save(mesh, path, extras=about)
        return
    asked, name, parts = PROFILES[profile], name_of(path, about), {}
    if asked.collider is not None:
        parts = {asked.collider.format(name=name, number=number): part
                 for number, part in enumerate(convex_parts(mesh))}  # fmt: skip
    exporters.save(mesh, path, extras=about, colliders=parts, small=asked.small)


def _scatter(found: Shape, place: Placement, count: int, path: Path) -> None:
    """Write splats of an asset's surface, of its scene's own colours."""
    colors = splats.scatter(found.mesh, found.color, count).colors
    splats.write(splats.scatter(place.out(found.mesh), lambda *_: colors, count), path)


def _print(
    mesh: Mesh, path: Path, about: Provenance, faces: int, height: float | None, say: Say
) -> None:
    """Write a solid for a printer, and say what it would make of it."""
    solid = make_printable(mesh, faces)
    if height is not None:
        solid = Placement.standing(solid, height).out(solid)
    exporters.save(solid, path, extras=about)
    say(f"{path.name} {measure_printed(solid)}")


def repair_file(source: Path, target: Path, wish: Mending) -> Mended:
    """Repair the mesh of a file, or of a run's folder, and write it: see `exporters.remesh.mend`.

    A mesh that nothing is wrong with is written as it is. InputError for files as in `export_file`.
    """
    exporters.find_writer(target)
    done = mend(load_file(source), wish)
    exporters.save(done.mesh, target, extras={"source": source.name})
    return done


def turntable_file(
    source: Path, target: Path, *, frames: int = 120, size: int = 512, textureless: bool = False
) -> None:
    """An MP4 of one turn around the mesh of a file, or of a run's folder.

    InputError as for `exporters.load` and `exporters.video.save_turntable`.
    """
    files.check_out(target, [".mp4"])
    look: Look = "textureless" if textureless else "shaded"
    video.save_turntable(load_file(source), target, frames=frames, size=size, look=look)


def report_file(source: Path) -> Report:
    """The numbers of the mesh in a file, or of a run's folder.

    What only the field could tell is read from report.json where the source is the asset of a run.
    """
    mesh = load_file(source)
    beside = (source if os.path.isdir(source) else source.parent) / "report.json"
    own = os.path.isdir(source) or source.stem == "asset"
    if own:
        return measure_mesh(mesh, read_known(beside))
    return measure_mesh(mesh, Known(sizes={source.name: source.stat().st_size}))


def load_file(source: Path) -> Mesh:
    """The mesh of a file, or of the asset.glb in a run's folder."""
    if os.path.isdir(source):
        if not (source / "asset.glb").is_file():
            raise InputError(f"{source} holds no asset.glb: its run has not ended; "
                             f"'threed resume {source}' goes on with it")  # fmt: skip
        source = source / "asset.glb"
    return load(source)
