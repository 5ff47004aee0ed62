"""The values that travel between the packages. Nothing here imports the rest of threed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class InputError(ValueError):
    """The user asked for something that cannot be done; the message says what to change.

    The command line prints the message without a traceback and exits with status 2.
    """


@dataclass(frozen=True)
class Cameras:
    """B pinhole cameras.

    World: z up, object in the unit ball, azimuth 0 is the object's front (+x), counter-clockwise
    seen from above. Camera: x right, y up, looks along -z (OpenGL). Images: row 0 is the top.
    """

    c2w: Tensor  # [B, 4, 4] camera to world
    fov_y: Tensor  # [B] radians
    height: int  # pixels
    width: int  # pixels

    def __len__(self) -> int:
        return len(self.c2w)

    def __getitem__(self, index: slice | Tensor) -> Cameras:
        """The cameras of a slice of the batch, or those of indices [N]."""
        return replace(self, c2w=self.c2w[index], fov_y=self.fov_y[index])

    def to(self, device: torch.device | str) -> Cameras:
        """The same cameras on another device."""
        return replace(self, c2w=self.c2w.to(device), fov_y=self.fov_y.to(device))

    def resized(self, height: int, width: int) -> Cameras:
        """The same cameras with another number of pixels."""
        return replace(self, height=height, width=width)

    def rays(self) -> tuple[Tensor, Tensor]:
        """Ray origins and unit directions through the pixel centres, both [B, H, W, 3]."""
        h, w = self.height, self.width
        options: dict[str, Any] = {"device": self.c2w.device, "dtype": self.c2w.dtype}
        y, x = torch.meshgrid(
            1 - 2 * (torch.arange(h, **options) + 0.5) / h,
            2 * (torch.arange(w, **options) + 0.5) / w - 1,
            indexing="ij",
        )
        tan = torch.tan(self.fov_y / 2)[:, None, None]
        local = torch.stack([x * tan * w / h, y * tan, -torch.ones_like(y * tan)], dim=-1)
        directions = torch.einsum("bij,bhwj->bhwi", self.c2w[:, :3, :3], local)
        origins = self.c2w[:, None, None, :3, 3].expand_as(directions)
        return origins, F.normalize(directions, dim=-1)

    def mvp(self, near: float = 0.1, far: float = 100.0) -> Tensor:
        """[B, 4, 4] world to OpenGL clip space (x right, y up, z in [-w, w], near is -w)."""
        f = 1 / torch.tan(self.fov_y / 2)
        projection = torch.zeros_like(self.c2w)
        projection[:, 0, 0] = f * self.height / self.width
        projection[:, 1, 1] = f
        projection[:, 2, 2] = (far + near) / (near - far)
        projection[:, 2, 3] = 2 * far * near / (near - far)
        projection[:, 3, 2] = -1
        mvp: Tensor = projection @ torch.linalg.inv(self.c2w)
        return mvp

    @property
    def position(self) -> Tensor:
        """[B, 3] where the cameras stand, in world units."""
        return self.c2w[:, :3, 3]

    @property
    def distance(self) -> Tensor:
        """[B] world units from the origin."""
        distance: Tensor = self.position.norm(dim=-1)
        return distance

    @property
    def azimuth_deg(self) -> Tensor:
        """[B] degrees around +z in (-180, 180]; 0 looks at the object's front."""
        return torch.rad2deg(torch.atan2(self.position[:, 1], self.position[:, 0]))

    @property
    def elevation_deg(self) -> Tensor:
        """[B] degrees above the horizon, in [-90, 90]."""
        return torch.rad2deg(torch.asin((self.position[:, 2] / self.distance).clamp(-1, 1)))


@dataclass(frozen=True)
class RenderOutput:
    """What a renderer returns. All images are channels-last; colour is sRGB in [0, 1]."""

    rgb: Tensor  # [B, H, W, 3] over the background
    opacity: Tensor  # [B, H, W, 1] in [0, 1]
    depth: Tensor  # [B, H, W, 1] expected distance along the ray, world units; 0 where empty
    normal: Tensor  # [B, H, W, 3] world space, unit length where opaque, 0 where empty
    losses: Mapping[str, Tensor] = field(default_factory=dict)  # scalars only the renderer knows


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


@dataclass(frozen=True)
class Schedule:
    """A number that changes with the step: linear between (step, value) points, flat outside.

    In YAML `1.0`, or `{0: 10, 5000: 1000}`.
    """

    points: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        """Refuse schedules that name no value, or whose steps do not increase."""
        steps = [step for step, _ in self.points]
        if not steps or steps != sorted(set(steps)):
            raise ValueError(f"a schedule needs increasing steps, got {steps}")
        if not all(math.isfinite(value) for _, value in self.points):
            raise ValueError(f"a schedule needs finite values, got {dict(self.points)}")

    def __call__(self, step: int) -> float:
        """The value at a step."""
        (s0, v0), *rest = self.points
        if step <= s0:
            return v0
        for s1, v1 in rest:
            if step <= s1:
                return v0 + (v1 - v0) * (step - s0) / (s1 - s0)
            s0, v0 = s1, v1
        return v0
