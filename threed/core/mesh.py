"""Meshes: the assets."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Material:
    """A metallic-roughness material."""

    albedo: Tensor | None = None  # [H, W, 3] sRGB in [0, 1]; row 0 is the top (v = 1)
    metallic: float = 0.0  # times the map's, where there is one
    roughness: float = 0.6  # times the map's, where there is one
    # [H, W, 3] as (n + 1) / 2 of tangent-space normals: x along u, y along v, z out of the surface
    normal: Tensor | None = None
    # [H, W, 3] linear in [0, 1], as glTF packs it: green is roughness, blue metallic
    metallic_roughness: Tensor | None = None


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh: the asset. Checked when made, so that writers need no checks.

    UVs follow OpenGL: (0, 0) is the lower left corner of the texture.
    """

    vertices: Tensor  # [V, 3] float32, world units, z up
    faces: Tensor  # [F, 3] int64, counter-clockwise seen from outside
    colors: Tensor | None = None  # [V, 3] sRGB in [0, 1]
    uv: Tensor | None = None  # [T, 2] in [0, 1]
    uv_faces: Tensor | None = None  # [F, 3] int64 into uv
    # [T] 1 - v, where a file counts v from the top: 1 - v rounds, and what is kept must not change
    v_down: Tensor | None = None
    material: Material = field(default_factory=Material)

    def __post_init__(self) -> None:
        """Refuse what no writer could write; ValueError says which field and why."""
        _check_rows("vertices", self.vertices, 3)
        _check_rows("faces", self.faces, 3)
        _check_range("faces", self.faces, len(self.vertices), "vertex")
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
        _check_flipped(self.uv, self.v_down)

    def vertex_normals(self) -> Tensor:
        """[V, 3] unit normals, face normals weighted by area."""
        a, b, c = self.vertices[self.faces].unbind(1)
        face = torch.linalg.cross(b - a, c - a)
        normals = torch.zeros_like(self.vertices)
        for corner in range(3):
            normals.index_add_(0, self.faces[:, corner], face)
        return F.normalize(normals, dim=-1)

    def bounds(self) -> Tensor:
        """[2, 3] the lowest and highest coordinates."""
        return torch.stack([self.vertices.amin(0), self.vertices.amax(0)])


def _check_rows(name: str, value: Tensor, width: int) -> None:
    if value.ndim != 2 or value.shape[1] != width:
        raise ValueError(f"{name} must be [N, {width}], got {list(value.shape)}")
    if len(value) == 0:
        raise ValueError(f"{name} is empty: there is nothing to write")


def _check_flipped(uv: Tensor | None, v_down: Tensor | None) -> None:
    if v_down is None:
        return
    if uv is None or v_down.shape != (len(uv),):
        raise ValueError(f"v_down must be one number for each row of uv, got {list(v_down.shape)}")
    if not bool(((v_down + uv[:, 1] - 1).abs() < 1e-5).all()):
        raise ValueError("v_down is not 1 - v of uv: give both, or neither")


def _check_range(name: str, value: Tensor, count: int, what: str) -> None:
    if value.dtype != torch.int64:
        raise ValueError(f"{name} must be int64, got {value.dtype}")
    low, high = int(value.min()), int(value.max())
    if low < 0 or high >= count:
        raise ValueError(f"{name} refers to {what} {low if low < 0 else high}, "
                         f"but there are only {count}")  # fmt: skip
