"""What can be said of a mesh in numbers."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from exporters import topology
from exporters.bake import rasterize_uv
from threed.core import Mesh

GRID = 1024  # texels a side that the map is judged at when it has no texture
OFFSET = (0.1379, 0.2713)  # texels: so that no edge of a map runs through the points looked at


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
    psnr: float | None = None  # dB, pictures of the mesh against pictures of its field
    iou: float | None = None  # of the silhouettes in these pictures
    threshold: float | None = None  # density that was taken for the surface, per world unit

    def to_json(self) -> str:
        """One object, indented; not-a-number never appears."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    @staticmethod
    def known(path: Path) -> dict[str, float]:
        """Of a report.json written before: what only the field could tell; empty if unreadable."""
        try:
            values = json.loads(path.read_text("utf-8"))
            return {name: float(values[name]) for name in ("psnr", "iou", "threshold")}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

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
            ("PSNR against the field", _shown(self.psnr, ".1f", " dB")),
            ("IoU against the field", _shown(self.iou, ".3f")),
            ("threshold", _shown(self.threshold, ".3g")),
        ]
        for name, value in rows:
            if value is not None:
                table.add_row(name, value)
        return table


def report(
    mesh: Mesh,
    *,
    psnr: float | None = None,
    iou: float | None = None,
    threshold: float | None = None,
) -> Report:
    """Measure a mesh; what only its field can tell is passed through."""
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
        psnr=psnr,
        iou=iou,
        threshold=threshold,
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


def _flat_areas(triangles: Tensor) -> Tensor:
    """[F] areas of triangles [F, 3, 2]."""
    (ax, ay), (bx, by) = ((triangles[:, k] - triangles[:, 0]).double().unbind(1) for k in (1, 2))
    return (ax * by - ay * bx).abs() / 2


def _shown(value: float | None, form: str, unit: str = "") -> str | None:
    return None if value is None else f"{value:{form}}{unit}"
