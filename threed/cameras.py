"""Where cameras stand, and what a view from there is called."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from threed.core import Cameras

VIEWS = ("front", "side", "back", "overhead")


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
    views: int = 1,
) -> Cameras:
    """n cameras, in n / views groups of `views` that share all but the azimuth.

    Azimuths of a group are 360 / views degrees apart with a random offset; groups are stratified
    over that range. distance = zoom / sin(fov / 2): at zoom 1 the unit ball just fits the picture.
    Elevation, field of view and zoom are uniform in their (low, high).
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
    distance = uniform(zoom) / torch.sin(torch.deg2rad(fov) / 2)
    return at((azimuth + 180) % 360 - 180, elevation, distance, fov, size)


def view_name(azimuth_deg: float, elevation_deg: float) -> str:
    """One of VIEWS: overhead above 60°, front within 45° of azimuth 0, back within 45° of 180."""
    if elevation_deg > 60:
        return "overhead"
    around = abs(math.remainder(azimuth_deg, 360.0))
    return "front" if around <= 45 else "back" if around >= 135 else "side"
