"""From a field to the files of an asset."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import exporters
from exporters import files, preview, video
from exporters.bake import bake
from exporters.clean import clean, smooth
from exporters.load import load
from exporters.report import Report, report
from exporters.simplify import simplify
from exporters.unwrap import unwrap
from renderers.shading import Look
from threed.core import InputError, Mesh
from threed.scenes.isosurface import Radiance, Views, isosurface, surface_color, views_of

Say = Callable[[str], None]
OFFSETS = (0.0, -0.002, 0.002, 0.004, 0.006)  # world units
Provenance = Mapping[str, str | int | float]


@dataclass(frozen=True)
class AssetSettings:
    """How a field becomes an asset."""

    faces: int = 20_000  # at most about so many
    texture: int = 1024  # texels a side
    resolution: int = 128  # cells a side of the grid that the surface is found in
    turntable_frames: int = 120  # of one turn, at 30 a second
    turntable_size: int = 512  # pixels a side
    preview_size: int = 256  # pixels a side of each of its 16 pictures

    def __post_init__(self) -> None:
        """InputError for a number out of its range."""
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"asset: {name} must be in {low}..{high}, got {value}")
        if self.turntable_size % 2:
            raise InputError(f"asset: turntable_size must be even, got {self.turntable_size}")


_RANGES = {
    "faces": (4, 2_000_000),
    "texture": (16, 8192),
    "resolution": (16, 512),
    "turntable_frames": (2, 3600),
    "turntable_size": (16, 4096),
    "preview_size": (16, 2048),
}


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


def build_asset(
    scene: Radiance,
    folder: Path,
    settings: AssetSettings,
    provenance: Provenance,
    progress: Say | None = None,
) -> Asset:
    """Find the surface of a field, map and paint it, and write everything that shows it.

    Every file is written aside and renamed; the GLB comes first, and what is drawn and measured
    afterwards is that file, read back. EmptySceneError if the field holds no surface; InputError,
    naming the path, where a file cannot be written.
    """
    say = progress or (lambda _: None)
    say("looking at the field")
    views = views_of(scene)
    say("finding its surface")
    found = isosurface(scene, views, resolution=settings.resolution)
    mesh = settle(finish(found.mesh, settings.faces), views)
    say(f"mapping {len(mesh.faces):,} faces")
    mesh = unwrap(mesh, settings.texture)
    say("painting the texture")
    mesh = bake(mesh, surface_color(scene), settings.texture)
    say("writing the files")
    for name in ("asset.glb", "asset.obj"):
        exporters.save(mesh, folder / name, extras=provenance)
    return _present(load(folder / "asset.glb"), folder, settings, views, found.threshold, say)


def finish(mesh: Mesh, faces: int) -> Mesh:
    """A raw isosurface repaired, smoothed, and with at most about `faces` faces; no colours."""
    mesh = smooth(clean(replace(mesh, colors=None)))
    return clean(simplify(mesh, faces))


def settle(mesh: Mesh, views: Views) -> Mesh:
    """The mesh moved along its normals by the one of OFFSETS that looks most like its field.

    Blurring, smoothing and fewer faces all take a little off what is thin.
    """
    normals = mesh.vertex_normals()
    moved = [replace(mesh, vertices=mesh.vertices + d * normals) for d in OFFSETS]
    return min(moved, key=views.error)


def _present(
    mesh: Mesh, folder: Path, settings: AssetSettings, views: Views, threshold: float, say: Say
) -> Asset:
    likeness = views.compare(mesh)
    numbers = report(mesh, psnr=likeness.psnr, iou=likeness.iou, threshold=threshold)
    files.write({folder / "report.json": numbers.to_json().encode()})
    say("drawing the preview")
    preview.contact_sheet(mesh, folder / "preview.png", size=settings.preview_size)
    say("turning the table")
    video.turntable(
        mesh, folder / "turntable.mp4",
        frames=settings.turntable_frames, size=settings.turntable_size,
    )  # fmt: skip
    return Asset(folder, mesh, numbers)


def export_file(source: Path, target: Path) -> None:
    """Read a mesh file, or the asset.glb of a run's folder, and write it in another format.

    Geometry, texture and colours go along as far as the format has them. InputError for a source
    that cannot be read, and for a target that cannot be written.
    """
    exporters.writer(target)  # a wrong name is noticed before anything is read
    exporters.save(load_file(source), target, extras={"source": source.name})


def turntable_file(
    source: Path, target: Path, *, frames: int = 120, size: int = 512, textureless: bool = False
) -> None:
    """An MP4 of one turn around the mesh of a file, or of a run's folder.

    InputError as for `exporters.load.load` and `exporters.video.turntable`.
    """
    if target.suffix.lower() != ".mp4":
        raise InputError(f"cannot write {target.name!r}: the name of a turntable ends in .mp4")
    look: Look = "textureless" if textureless else "shaded"
    video.turntable(load_file(source), target, frames=frames, size=size, look=look)


def report_file(source: Path) -> Report:
    """The numbers of the mesh in a file, or of a run's folder.

    What only the field could tell is read from report.json where the source is the asset of a run.
    """
    mesh = load_file(source)
    beside = (source if source.is_dir() else source.parent) / "report.json"
    known = Report.known(beside) if source.is_dir() or source.stem == "asset" else {}
    return report(mesh, **known)


def load_file(source: Path) -> Mesh:
    """The mesh of a file, or of the asset.glb in a run's folder."""
    if source.is_dir():
        if not (source / "asset.glb").is_file():
            raise InputError(f"{source} holds no asset.glb: its run has not ended; "
                             f"'threed resume {source}' goes on with it")  # fmt: skip
        source = source / "asset.glb"
    return load(source)
