"""A mesh that a run begins with: read from a file, repaired, put into the unit ball."""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exporters import axes, load, meshlab, topology
from exporters.clean import SPECK, Repairs, repair
from exporters.remesh import mend
from exporters.shells import tidied
from threed.core.errors import InputError
from threed.core.mesh import Material, Mesh
from threed.core.saved import read_saved
from threed.runs.start import Up
from threed.scenes.placement import Placement

MAX_FACES = 1_000_000
FORMAT = 2  # of `Given.to_bytes`
FLAT = 1e-9  # area of a mesh in the unit ball, world units², up to which it has none
NEAR = 1e-5  # world units between vertices that other tools have torn apart
FILLED = 0.8  # of the unit ball: room for a surface to grow
PLAIN = {"y": axes.from_y_up, "z": axes.from_z_up}
BACK = {"y": axes.to_y_up, "z": axes.to_z_up}


@dataclass(frozen=True)
class GivenMesh:
    """A mesh in the unit ball, z up, with whatever colours it has, and where it stood."""

    mesh: Mesh
    placement: Placement
    body: Mesh | None = None  # its shape made anew, bare, where its own is of no use
    part: Tensor | None = None  # [H, W] on its map, 0..1: what of it is to change, if not all

    def repaired(self) -> tuple[Mesh, Repairs]:
        """The shape alone, closed and outside out, and what had to be done for it.

        InputError if it has no shape.
        """
        tidy, done = tidied(self.body or Mesh(self.mesh.vertices, self.mesh.faces), NEAR)
        whole, more = repair(tidy, floater=SPECK)
        if float(topology.volumes(whole).sum()) < 0:
            whole = replace(whole, faces=whole.faces.flip(1))
        return whole, done + more

    def mended(self, refused: InputError) -> tuple[GivenMesh, str]:
        """The same with a shape by MeshLab, and what was done; its colours are what they were.

        `refused` says why its own shape cannot be used. InputError, which says so too, where
        pymeshlab is not installed or cannot help.
        """
        if not meshlab.installed():
            raise InputError(f"{refused}; to have it mended: {meshlab.INSTALL}") from refused
        try:
            done = mend(Mesh(self.mesh.vertices, self.mesh.faces))
        except InputError as error:
            raise InputError(f"{refused}; MeshLab could not mend it: {error}") from error
        if not done.steps:
            raise refused
        note = f"the mesh could not be used as it was, and was mended by MeshLab: {done.summary}"
        return replace(self, body=done.mesh), note

    def to_bytes(self) -> bytes:
        """All of it; `from_bytes` gives exactly the same."""
        mesh = self.mesh
        data: dict[str, Any] = {"format": FORMAT, "placement": asdict(self.placement)}
        data |= {name: getattr(mesh, name) for name in _PARTS}
        data["material"] = dict(vars(mesh.material))
        data["part"] = self.part
        if self.body is not None:
            data["body"] = (self.body.vertices, self.body.faces)
        file = io.BytesIO()
        torch.save(data, file)
        return file.getvalue()

    @staticmethod
    def from_file(path: Path) -> GivenMesh:
        """One that was written before; InputError if it is damaged."""
        data = read_saved(path)
        try:
            if data["format"] != FORMAT:
                raise ValueError("unknown format")
            placement = Placement(**data["placement"])
            mesh = Mesh(**{name: data[name] for name in _PARTS})
            body = Mesh(*data["body"]) if "body" in data else None
            material = Material(**data.get("material", {"albedo": data.get("albedo")}))
            mesh = replace(mesh, material=material)
            return GivenMesh(mesh, placement, body, data.get("part"))
        except Exception as error:  # it may hold anything
            raise InputError(f"{path} is damaged, or of another version of threed") from error


_PARTS = ("vertices", "faces", "colors", "uv", "uv_faces")


def read_given(path: Path, up: Up | None = None, front: float = 0.0) -> GivenMesh:
    """The mesh of a GLB, OBJ, PLY or STL file, at the scale and place where a run works.

    Formats say which axis points up: y in glTF and OBJ, z in PLY and STL; `up` says it for a file
    that does otherwise. `front` says where the mesh faces: degrees around the upward axis, seen
    from above against the clock, from where its format faces. InputError, with the path and the
    reason, for what cannot be read or has no extent, and for more than MAX_FACES faces.
    """
    mesh = load(path)
    if len(mesh.faces) > MAX_FACES:
        raise InputError(f"{path} has {len(mesh.faces):,} faces; at most {MAX_FACES:,} can be "
                         f"worked on: simplify it first, such as by threed export --budget "
                         f"faces={MAX_FACES}")  # fmt: skip
    own: Up = "y" if path.suffix.lower() in (".glb", ".gltf", ".obj") else "z"
    turn = torch.eye(3)
    if up is not None and up != own:
        turn = PLAIN[up](BACK[own](turn)).T
    turn = _around(-front) @ turn
    used = mesh.vertices[mesh.faces].view(-1, 3).double() @ turn.double().T
    low, high = used.amin(0), used.amax(0)
    center = (low + high) / 2
    radius = float((used - center).norm(dim=-1).max())
    if not radius > 0:
        raise InputError(f"{path} has no extent: all its vertices lie at one point")
    placement = Placement(_rows(turn), _row(center), FILLED / radius)
    given = GivenMesh(placement.into(mesh), placement)
    if not float(topology.areas(given.mesh).sum()) > FLAT:
        raise InputError(f"{path} has no surface: none of its faces has an area")
    return given


def _around(angle_deg: float) -> Tensor:
    """[3, 3] a turn around z, against the clock from above; InputError for what is no angle."""
    if not math.isfinite(angle_deg):
        raise InputError(f"front must be an angle in degrees, got {angle_deg}")
    turn = torch.eye(3)
    if angle_deg % 360:
        cos, sin = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
        turn[:2, :2] = torch.tensor([[cos, -sin], [sin, cos]])
    return turn


def _rows(matrix: Tensor) -> Any:
    return tuple(_row(row) for row in matrix)


def _row(values: Tensor) -> Any:
    return tuple(float(value) for value in values)
