"""Cameras: where they stand, the rays they cast, and what a view from there is called."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

VIEWS = ("front", "side", "back", "overhead")
DistanceBy = Literal["sin", "tan", "none"]


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


def at(
    azimuth_deg: Tensor, elevation_deg: Tensor, distance: Tensor, fov_y_deg: Tensor, size: int
) -> Cameras:
    """Cameras at spherical positions, all [B], looking at the origin with z up; size² pixels."""
    azimuth, elevation = torch.deg2rad(azimuth_deg), torch.deg2rad(elevation_deg)
    back = torch.stack(
        [elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()], -1
    )
    # from the azimuth, not from cross(up, back): defined at the poles too
    right = torch.stack([-azimuth.sin(), azimuth.cos(), torch.zeros_like(azimuth)], -1)
    up = F.normalize(torch.linalg.cross(back, right), dim=-1)
    c2w = torch.eye(4, dtype=back.dtype, device=back.device).repeat(len(back), 1, 1)
    c2w[:, :3] = torch.stack([right, up, back, back * distance[:, None]], -1)
    return Cameras(c2w, torch.deg2rad(fov_y_deg), size, size)


def looking(eye: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """[B, 4, 4] camera to world at `eye`, looking at `target`, `up` upwards; all [B, 3]."""
    back = F.normalize(eye - target, dim=-1)
    right = F.normalize(torch.linalg.cross(up, back), dim=-1)
    c2w = torch.eye(4, dtype=eye.dtype, device=eye.device).repeat(len(eye), 1, 1)
    c2w[:, :3] = torch.stack([right, torch.linalg.cross(back, right), back, eye], -1)
    return c2w


def distance_of(zoom: Tensor, fov_y_deg: Tensor, by: DistanceBy) -> Tensor:
    """World units [B] that a zoom [B] means at a field of view [B].

    By "sin" the unit ball just fits at zoom 1, by "tan" a disc of radius 1 that faces the camera
    (MVDream); by "none" the zoom is the distance.
    """
    half = torch.deg2rad(fov_y_deg) / 2
    return zoom if by == "none" else zoom / (half.tan() if by == "tan" else half.sin())


def orbit(
    n: int,
    size: int,
    *,
    elevation_deg: float = 15.0,
    distance: float = 2.9,
    fov_y_deg: float = 40.0,
    start_deg: float = 0.0,
) -> Cameras:
    """n cameras evenly around the object, the first at start_deg, no position twice."""
    azimuth = start_deg + torch.arange(n) * (360.0 / n)
    one = torch.ones(n)
    return at(azimuth, one * elevation_deg, one * distance, one * fov_y_deg, size)


def random_views(
    n: int,
    size: int,
    generator: torch.Generator,
    *,
    elevation_deg: Sequence[float] = (-10.0, 45.0),
    fov_y_deg: Sequence[float] = (35.0, 45.0),
    zoom: Sequence[float] = (0.9, 1.1),
    distance_by: DistanceBy = "sin",
    views: int = 1,
) -> Cameras:
    """n cameras, in n / views groups of `views` that share all but the azimuth.

    Azimuths of a group are 360 / views degrees apart with a random offset; groups are stratified
    over that range. Elevation, field of view and zoom (`distance_of`) are uniform in their (low,
    high).
    """
    if n % views:
        raise ValueError(f"n must be a multiple of views, got n={n}, views={views}")
    groups = n // views

    def uniform(bounds: Sequence[float]) -> Tensor:
        low, high = bounds
        value = low + (high - low) * torch.rand(groups, generator=generator)
        return value.repeat_interleave(views)

    offset = (torch.arange(groups) + torch.rand(groups, generator=generator)) / groups
    offset = offset[torch.randperm(groups, generator=generator)] * (360.0 / views)
    azimuth = (offset[:, None] + torch.arange(views) * (360.0 / views)).flatten()
    elevation, fov = uniform(elevation_deg), uniform(fov_y_deg)
    distance = distance_of(uniform(zoom), fov, distance_by)
    return at((azimuth + 180) % 360 - 180, elevation, distance, fov, size)


def shaken(
    cameras: Cameras,
    generator: torch.Generator,
    *,
    jitter: float,
    aim: float,
    up: float,
    views: int = 1,
) -> Cameras:
    """Move cameras a little, every `views` neighbours alike (DreamFusion, arXiv:2209.14988, A.2).

    jitter is the furthest along each axis, in world units; aim and up are standard deviations, of
    the point that they look at and of the direction that is up. All 0 change and draw nothing.
    """
    if not (jitter or aim or up):
        return cameras
    groups = len(cameras) // views

    def normal(spread: float) -> Tensor:
        return spread * torch.randn(groups, 3, generator=generator).repeat_interleave(views, 0)

    move = jitter * (2 * torch.rand(groups, 3, generator=generator) - 1)
    eye = cameras.position + move.repeat_interleave(views, 0)
    return replace(cameras, c2w=looking(eye, normal(aim), torch.eye(3)[2] + normal(up)))


def view_name(azimuth_deg: float, elevation_deg: float, front_deg: float = 45.0) -> str:
    """One of VIEWS: overhead above 60°, front and back within front_deg of azimuth 0 and 180."""
    if elevation_deg > 60:
        return "overhead"
    around = abs(math.remainder(azimuth_deg, 360.0))
    return "front" if around <= front_deg else "back" if around >= 180 - front_deg else "side"
