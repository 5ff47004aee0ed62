"""What can be said of a mesh in numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from exporters import topology
from exporters.mapping import measure_map
from threed.core.mesh import Mesh

SLIVER = 0.05  # of its longest side: the height below which a face is a sliver


@dataclass(frozen=True)
class Known:
    """What cannot be seen in a mesh, only known from its making; None where it is not."""

    psnr: float | None = None  # dB, pictures of the mesh against pictures of its field
    iou: float | None = None  # of the silhouettes in these pictures
    threshold: float | None = None  # density that was taken for the surface, per world unit
    repairs: Mapping[str, int] | None = None  # see exporters.clean.Repairs
    fronts: int | None = None  # that its scene shows around it, as the run's backbone sees it
    sizes: Mapping[str, int] | None = None  # bytes of the asset's files, by their names


@dataclass(frozen=True, kw_only=True)
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
    uv_coverage: float | None = None  # part of the texture's square that shows on the mesh
    uv_overlap: float | None = None  # part of what shows that shows more than once
    texture: int | None = None  # texels a side, the larger one
    texel_density: float | None = None  # texels a world unit
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
    sizes: Mapping[str, int] | None = None  # bytes of the asset's files, by their names

    def to_json(self) -> str:
        """Write the numbers as one JSON object, indented; not-a-number never appears."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    def table(self, title: str = "") -> Table:
        """Lay the numbers out for people."""
        table = Table("", title, title_justify="left", show_header=bool(title), box=None)
        size = [b - a for a, b in zip(self.low, self.high)]
        rows: list[tuple[str, str | None]] = [
            ("faces", f"{self.faces:,}"),
            ("vertices", f"{self.vertices:,}"),
            ("components", f"{self.components:,}"),
            ("holes", f"{self.holes:,}"),
            ("non-manifold edges", f"{self.non_manifold_edges:,}"),
            ("watertight", "yes" if self.watertight else "no"),
            ("volume", _format(self.volume, ".4g")),
            ("area", f"{self.area:.4g}"),
            ("size (x, y, z)", " × ".join(f"{s:.3g}" for s in size)),
            ("texture", None if self.texture is None else f"{self.texture} texels a side"),
            ("texture coverage", _format(self.uv_coverage, ".1%")),
            ("texture overlap", _format(self.uv_overlap, ".2%")),
            ("texels a world unit", _format(self.texel_density, ".4g")),
            ("texel density, high over low", _format(self.texel_spread, ".2f")),
            ("charts", _format(self.charts, ",")),
            ("seams", _format(self.seam_length, ".3g", " units")),
            ("stretched", _format(self.stretched, ".2%")),
            ("slivers", f"{self.slivers:,}"),
            ("material", self._material()),
            ("repaired", self._repaired()),
            ("PSNR against the field", _format(self.psnr, ".1f", " dB")),
            ("IoU against the field", _format(self.iou, ".3f")),
            ("threshold", _format(self.threshold, ".3g")),
            ("fronts", _format(self.fronts, "d")),
            ("files", self._sizes()),
        ]
        for name, value in rows:
            if value is not None:
                table.add_row(name, value)
        return table

    def _material(self) -> str:
        maps = ", ".join(self.maps) or "no maps"
        return f"{maps}; metallic {self.metallic:g}, roughness {self.roughness:g}"

    def _sizes(self) -> str | None:
        if self.sizes is None:
            return None
        return ", ".join(f"{name} {size / 1000:,.0f} kB" for name, size in self.sizes.items())

    def _repaired(self) -> str | None:
        if self.repairs is None:
            return None
        done = [f"{name} {count:,}" for name, count in self.repairs.items() if count]
        return ", ".join(done) or "nothing"


def read_known(path: Path) -> Known:
    """Read from a report.json what only the mesh's making could tell, as far as it is there.

    Nothing is known of a file that is missing or no report.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
        numbers = {name: values[name] for name in ("psnr", "iou", "threshold")}
        floats = {name: None if v is None else float(v) for name, v in numbers.items()}
        repairs, sizes = (values.get(name) and {str(key): int(count) for key, count in
                          values[name].items()} for name in ("repairs", "sizes"))  # fmt: skip
        fronts = None if values.get("fronts") is None else int(values["fronts"])
        return Known(**floats, repairs=repairs, fronts=fronts, sizes=sizes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Known()


def measure_mesh(mesh: Mesh, known: Known | None = None) -> Report:
    """Measure a mesh; what cannot be measured is passed through."""
    edges = topology.edges(mesh.faces)
    closed = topology.is_watertight(edges)
    areas = topology.areas(mesh)
    corner = mesh.vertices.double()[mesh.faces]
    longest = (corner - corner.roll(1, 1)).norm(dim=-1).amax(1)
    (x0, y0, z0), (x1, y1, z1) = mesh.bounds().tolist()
    return Report(
        faces=len(mesh.faces),
        vertices=len(mesh.vertices),
        components=topology.components(mesh.faces)[0],
        holes=len(topology.boundary_loops(mesh.faces, edges)),
        non_manifold_edges=int(edges.crowded.sum()),
        watertight=closed,
        volume=float(topology.volumes(mesh).sum()) if closed else None,
        area=float(areas.sum()),
        low=(x0, y0, z0),
        high=(x1, y1, z1),
        slivers=int((2 * areas < SLIVER * longest**2).sum()),
        maps=tuple(mesh.material.maps()),
        metallic=mesh.material.metallic,
        roughness=mesh.material.roughness,
        **asdict(known or Known()),
        **({} if mesh.uv is None else asdict(measure_map(mesh))),
    )


def _format(value: float | None, form: str, unit: str = "") -> str | None:
    return None if value is None else f"{value:{form}}{unit}"
