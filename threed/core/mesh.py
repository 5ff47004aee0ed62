"""Meshes: the assets."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Material:
    """A metallic-roughness material."""

    albedo: Tensor | None = None  # [H, W, 3] sRGB in [0, 1]; row 0 is the top (v = 0)
    metallic: float = 0.0  # times the map's, where there is one
    roughness: float = 0.6  # times the map's, where there is one
    # [H, W, 3] as (n + 1) / 2 of tangent-space normals: x along u, y against v, z outwards
    normal: Tensor | None = None
    # [H, W, 3] linear in [0, 1], as glTF packs it: green is roughness, blue metallic
    metallic_roughness: Tensor | None = None

    def maps(self) -> dict[str, Tensor]:
        """The pictures that the material has, [H, W, 3] each, by the names of their fields."""
        names = ("albedo", "normal", "metallic_roughness")
        found = {name: getattr(self, name) for name in names}
        return {name: image for name, image in found.items() if image is not None}


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh: the asset. Checked when made, so that writers need no checks.

    Texture coordinates count v downwards, as glTF does: (0, 0) is the upper left corner of the
    texture. They are float64, so that turning v over and back again changes no float32 number that
    a file holds: see `flip_v`.
    """

    vertices: Tensor  # [V, 3] float32, world units, z up
    faces: Tensor  # [F, 3] int64, counter-clockwise seen from outside
    colors: Tensor | None = None  # [V, 3] sRGB in [0, 1]
    uv: Tensor | None = None  # [T, 2] float64 in [0, 1]
    uv_faces: Tensor | None = None  # [F, 3] int64 into uv
    material: Material = field(default_factory=Material)
    quads: bool = False  # faces 2k and 2k + 1 are the halves (a, b, c) and (a, c, d) of a quad

    def __post_init__(self) -> None:
        """Refuse what no writer could write; ValueError says which field and why."""
        _check_rows("vertices", self.vertices, 3)
        _check_rows("faces", self.faces, 3)
        _check_range("faces", self.faces, len(self.vertices), "vertex")
        if self.quads and not _are_halves(self.faces):
            raise ValueError("the faces are not the halves of quads, two by two")
        if not bool(torch.isfinite(self.vertices).all()):
            raise ValueError("vertices hold NaN or infinite coordinates")
        if self.colors is not None and self.colors.shape != self.vertices.shape:
            raise ValueError(f"colors must be {list(self.vertices.shape)}, one row a vertex, "
                             f"got {list(self.colors.shape)}")  # fmt: skip
        if (self.uv is None) != (self.uv_faces is None):
            raise ValueError("uv and uv_faces come together, or not at all")
        if self.uv is not None and self.uv_faces is not None:
            _check_rows("uv", self.uv, 2)
            if self.uv_faces.shape != self.faces.shape:
                raise ValueError(f"uv_faces must be {list(self.faces.shape)}, like faces, "
                                 f"got {list(self.uv_faces.shape)}")  # fmt: skip
            _check_range("uv_faces", self.uv_faces, len(self.uv), "uv")

    def opengl_map(self) -> tuple[Tensor, Tensor]:
        """Texture coordinates [T, 2] float32 as OpenGL counts them, and faces [F, 3] into them.

        (0, 0) is the lower left corner of the texture. ValueError for a mesh without.
        """
        if self.uv is None or self.uv_faces is None:
            raise ValueError("the mesh has no texture coordinates: unwrap it first")
        return flip_v(self.uv).float(), self.uv_faces

    def face_normals(self) -> Tensor:
        """[F, 3] normals as long as twice a face's area."""
        a, b, c = self.vertices[self.faces].unbind(1)
        normals: Tensor = torch.linalg.cross(b - a, c - a)
        return normals

    def vertex_normals(self) -> Tensor:
        """[V, 3] unit normals, face normals weighted by area."""
        face, normals = self.face_normals(), torch.zeros_like(self.vertices)
        for corner in range(3):
            normals.index_add_(0, self.faces[:, corner], face)
        return F.normalize(normals, dim=-1)

    def bounds(self) -> Tensor:
        """[2, 3] the lowest and highest coordinates."""
        return torch.stack([self.vertices.amin(0), self.vertices.amax(0)])


def flip_v(uv: Tensor) -> Tensor:
    """Texture coordinates [..., 2] with v counted from the other edge: float64 (u, 1 - v).

    Exact for float32 numbers v from 2**-30 to 1, and for 0; smaller ones are rounded to the next
    multiple of 2**-53, which is nothing of a texture.
    """
    u, v = uv.double().unbind(-1)
    return torch.stack([u, 1 - v], -1)


def _are_halves(faces: Tensor) -> bool:
    one, two = faces[::2], faces[1::2]
    return len(one) == len(two) and torch.equal(one[:, [0, 2]], two[:, :2])


def _check_rows(name: str, value: Tensor, width: int) -> None:
    if value.ndim != 2 or value.shape[1] != width:
        raise ValueError(f"{name} must be [N, {width}], got {list(value.shape)}")
    if len(value) == 0:
        raise ValueError(f"{name} is empty: there is nothing to write")


def _check_range(name: str, value: Tensor, count: int, what: str) -> None:
    if value.dtype != torch.int64:
        raise ValueError(f"{name} must be int64, got {value.dtype}")
    low, high = int(value.min()), int(value.max())
    if low < 0 or high >= count:
        raise ValueError(f"{name} refers to {what} {low if low < 0 else high}, "
                         f"but there are only {count}")  # fmt: skip
