"""What can be said of a mesh in numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from exporters import mapping, topology
from exporters.bake import rasterize_uv
from threed.core.mesh import Mesh

GRID = 1024  # texels a side that the map is judged at when it has no texture
SLIVER = 0.05  # of its longest side: the height below which a face is a sliver
MAPS = ("albedo", "normal", "metallic_roughness")
OFFSET = (0.1379, 0.2713)  # texels: so that no edge of a map runs through the points looked at


@dataclass(frozen=True)
class Known:
    """What cannot be seen in a mesh, only known from its making; None where it is not."""

    psnr: float | None = None  # dB, pictures of the mesh against pictures of its field
    iou: float | None = None  # of the silhouettes in these pictures
    threshold: float | None = None  # density that was taken for the surface, per world unit
    repairs: Mapping[str, int] | None = None  # see exporters.clean.Repairs
    fronts: int | None = None  # that its scene shows around it, as the run's backbone sees it


@dataclass(frozen=True)
class Report:
    """The numbers of one mesh; None where a number does not exist or is not known."""

    faces: int
    vertices: int
    components: int  # pieces that share no vertex
    holes: int  # closed walks along open edges
    non_manifold_edges: int  # shared by more than two faces
    watertight: bool  # every edge has two faces, all of them looking outwards, or all inwards
    volume: float | None  # world units³; only of a watertight mesh
    area: float  # world units²
    low: tuple[float, float, float]  # lower corner of the bounding box, world units
    high: tuple[float, float, float]
    uv_coverage: float | None  # part of the texture's square that shows on the mesh
    uv_overlap: float | None  # part of what shows that shows more than once
    texture: int | None  # texels a side, the larger one
    texel_density: float | None  # texels a world unit
    slivers: int  # faces less than a twentieth as high as they are long
    charts: int | None = None  # pieces of the texture map
    seam_length: float | None = None  # world units along which neighbours are apart in the map
    stretched: float | None = None  # part of the surface whose map is 4 times longer one way
    texel_spread: float | None = None  # texel density where it is high over where it is low
    maps: tuple[str, ...] = ()  # the pictures of the material
    metallic: float = 0.0  # the material's factors
    roughness: float = 0.0
    repairs: Mapping[str, int] | None = None  # what was done to what the mesh was made from
    psnr: float | None = None  # dB, pictures of the mesh against pictures of its field
    iou: float | None = None  # of the silhouettes in these pictures
    threshold: float | None = None  # density that was taken for the surface, per world unit
    fronts: int | None = None  # that its scene shows around it, as the run's backbone sees it

    def to_json(self) -> str:
        """One object, indented; not-a-number never appears."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    @staticmethod
    def known(path: Path) -> Known:
        """Of a report.json written before: what only its making could tell, as far as it is there.

        Nothing of one that is missing or no report.
        """
        try:
            values = json.loads(path.read_text("utf-8"))
            numbers = {name: None if values[name] is None else float(values[name])
                       for name in ("psnr", "iou", "threshold")}  # fmt: skip
            repairs = values["repairs"]
            counts = repairs and {str(name): int(count) for name, count in repairs.items()}
            fronts = values.get("fronts")
            return Known(**numbers, repairs=counts, fronts=None if fronts is None else int(fronts))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return Known()

    def table(self, title: str = "") -> Table:
        """The same for people."""
        table = Table("", title, title_justify="left", show_header=bool(title), box=None)
        size = [b - a for a, b in zip(self.low, self.high)]
        rows: list[tuple[str, str | None]] = [
            ("faces", f"{self.faces:,}"),
            ("vertices", f"{self.vertices:,}"),
            ("components", f"{self.components:,}"),
            ("holes", f"{self.holes:,}"),
            ("non-manifold edges", f"{self.non_manifold_edges:,}"),
            ("watertight", "yes" if self.watertight else "no"),
            ("volume", _shown(self.volume, ".4g")),
            ("area", f"{self.area:.4g}"),
            ("size (x, y, z)", " × ".join(f"{s:.3g}" for s in size)),
            ("texture", None if self.texture is None else f"{self.texture} texels a side"),
            ("texture coverage", _shown(self.uv_coverage, ".1%")),
            ("texture overlap", _shown(self.uv_overlap, ".2%")),
            ("texels a world unit", _shown(self.texel_density, ".4g")),
            ("texel density, high over low", _shown(self.texel_spread, ".2f")),
            ("charts", _shown(self.charts, ",")),
            ("seams", _shown(self.seam_length, ".3g", " units")),
            ("stretched", _shown(self.stretched, ".2%")),
            ("slivers", f"{self.slivers:,}"),
            ("material", self._material()),
            ("repaired", self._repaired()),
            ("PSNR against the field", _shown(self.psnr, ".1f", " dB")),
            ("IoU against the field", _shown(self.iou, ".3f")),
            ("threshold", _shown(self.threshold, ".3g")),
            ("fronts", _shown(self.fronts, "d")),
        ]
        for name, value in rows:
            if value is not None:
                table.add_row(name, value)
        return table

    def _material(self) -> str:
        maps = ", ".join(self.maps) or "no maps"
        return f"{maps}; metallic {self.metallic:g}, roughness {self.roughness:g}"

    def _repaired(self) -> str | None:
        if self.repairs is None:
            return None
        done = [f"{name} {count:,}" for name, count in self.repairs.items() if count]
        return ", ".join(done) or "nothing"


def report(mesh: Mesh, known: Known | None = None) -> Report:
    """Measure a mesh; what cannot be measured is passed through."""
    known, material = known or Known(), mesh.material
    edges = topology.edges(mesh.faces)
    closed = topology.is_watertight(edges)
    area = float(topology.areas(mesh).sum())
    low, high = mesh.bounds().tolist()
    plain = Report(
        faces=len(mesh.faces),
        vertices=len(mesh.vertices),
        components=topology.components(mesh.faces)[0],
        holes=len(topology.boundary_loops(mesh.faces, edges)),
        non_manifold_edges=int(edges.crowded.sum()),
        watertight=closed,
        volume=float(topology.volumes(mesh).sum()) if closed else None,
        area=area,
        low=tuple(low),
        high=tuple(high),
        uv_coverage=None,
        uv_overlap=None,
        texture=None,
        texel_density=None,
        slivers=_slivers(mesh),
        maps=tuple(name for name in MAPS if getattr(material, name) is not None),
        metallic=material.metallic,
        roughness=material.roughness,
        repairs=known.repairs,
        psnr=known.psnr,
        iou=known.iou,
        threshold=known.threshold,
        fronts=known.fronts,
    )
    if mesh.uv is None or mesh.uv_faces is None:
        return plain
    image = mesh.material.albedo
    size = GRID if image is None else max(image.shape[:2])
    coverage, overlap = uv_use(mesh.uv, mesh.uv_faces, size)
    texels = None if image is None else image.shape[0] * image.shape[1]
    density = None
    if texels is not None and area > 0:
        density = math.sqrt(float(_flat_areas(mesh.uv[mesh.uv_faces]).sum()) * texels / area)
    return replace(
        plain,
        uv_coverage=coverage,
        uv_overlap=overlap,
        texture=None if image is None else size,
        texel_density=density,
        **asdict(mapping.measure(mesh)),
    )


def uv_use(uv: Tensor, uv_faces: Tensor, size: int) -> tuple[float, float]:
    """Part of size² texels that the map covers, and part of these that it covers more than once."""
    first, last = doubles(uv, uv_faces, size)
    covered = int((first >= 0).sum())
    return covered / size**2, int((first != last).sum()) / max(covered, 1)


def doubles(uv: Tensor, uv_faces: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The first and the last face [size, size] over each texel, -1 where none; equal if one."""
    moved = uv + torch.tensor(OFFSET) / size
    first = rasterize_uv(moved, uv_faces, size)[0, ..., 3].long() - 1
    last = rasterize_uv(moved, uv_faces.flip(0), size)[0, ..., 3].long() - 1
    return first, torch.where(last >= 0, len(uv_faces) - 1 - last, last)


def _slivers(mesh: Mesh) -> int:
    corner = mesh.vertices.double()[mesh.faces]
    longest = (corner - corner.roll(1, 1)).norm(dim=-1).amax(1)
    return int((2 * topology.areas(mesh) < SLIVER * longest**2).sum())


def _flat_areas(triangles: Tensor) -> Tensor:
    """[F] areas of triangles [F, 3, 2]."""
    (ax, ay), (bx, by) = ((triangles[:, k] - triangles[:, 0]).double().unbind(1) for k in (1, 2))
    return (ax * by - ay * bx).abs() / 2


def _shown(value: float | None, form: str, unit: str = "") -> str | None:
    return None if value is None else f"{value:{form}}{unit}"
