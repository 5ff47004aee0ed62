"""Where random cameras stand: distances, small moves, and what their views are called."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from threed.core.cameras import (
    DistanceBy,
    distance_of,
    looking,
    orbit,
    random_views,
    shaken,
    view_name,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("by", "expected"), [("sin", 4.0), ("tan", 2 * math.sqrt(3)), ("none", 2.0)]
)
def test_a_zoom_of_2_at_60_degrees_is_so_far(by: DistanceBy, expected: float) -> None:
    found = distance_of(torch.tensor([2.0]), torch.tensor([60.0]), by)
    assert float(found) == pytest.approx(expected)
    views = random_views(3, 8, seeded(), fov_y_deg=(60, 60), zoom=(2, 2), distance_by=by)
    torch.testing.assert_close(views.distance, torch.full((3,), expected))


def test_looking_at_the_origin_is_what_an_orbit_does() -> None:
    around = orbit(5, 8, elevation_deg=30)
    found = looking(around.position, torch.zeros(5, 3), torch.tensor([[0.0, 0, 1]]).expand(5, 3))
    torch.testing.assert_close(found, around.c2w)


def test_still_cameras_draw_nothing() -> None:
    generator, around = seeded(), orbit(4, 8)
    assert shaken(around, generator, jitter=0, aim=0, up=0) is around
    assert torch.equal(generator.get_state(), seeded().get_state())


def test_cameras_are_shaken_by_as_much_as_was_asked() -> None:
    around = orbit(4000, 8)
    moved = shaken(around, seeded(), jitter=0.1, aim=0, up=0)
    step = moved.position - around.position
    assert 0.095 < float(step.abs().max()) <= 0.1
    assert float(step.std()) == pytest.approx(0.1 / math.sqrt(3), rel=0.03)
    turned = shaken(around, seeded(), jitter=0, aim=0.2, up=0)
    assert torch.equal(turned.position, around.position)
    # how far the axis passes the origin: two of the three numbers of the point
    assert float(_missed(turned.c2w).square().mean()) == pytest.approx(2 * 0.2**2, rel=0.1)
    rolled = shaken(around, seeded(), jitter=0, aim=0, up=0.02)
    torch.testing.assert_close(rolled.c2w[:, :3, 2], around.c2w[:, :3, 2])
    # right was level; its height is now what up leans to that side
    lean = rolled.c2w[:, 2, 0]
    assert float(lean.std()) == pytest.approx(0.02 * math.cos(math.radians(15)), rel=0.06)
    axes = rolled.c2w[:, :3, :3]
    torch.testing.assert_close(axes @ axes.mT, torch.eye(3).expand(4000, 3, 3))


def _missed(c2w: Tensor) -> Tensor:
    """[B] the distance of the cameras' axes from the origin."""
    eye, axis = c2w[:, :3, 3], c2w[:, :3, 2]
    return torch.linalg.cross(eye, axis).norm(dim=-1)


def test_a_group_is_shaken_together() -> None:
    around = random_views(8, 8, seeded(), views=4)
    step = shaken(around, seeded(), jitter=0.1, aim=0.2, up=0.02, views=4).position
    step = (step - around.position).view(2, 4, 3)
    torch.testing.assert_close(step, step[:, :1].expand_as(step))
    assert not torch.allclose(step[0], step[1])


@pytest.mark.parametrize(
    ("azimuth", "wide", "narrow"),
    [(0, "front", "front"), (-31, "front", "side"), (46, "side", "side"), (149, "back", "side"),
     (-151, "back", "back"), (390, "front", "front")],
)  # fmt: skip
def test_fronts_and_backs_are_as_wide_as_asked(azimuth: float, wide: str, narrow: str) -> None:
    assert (view_name(azimuth, 20), view_name(azimuth, 20, 30)) == (wide, narrow)
    assert view_name(azimuth, 61, 30) == "overhead"
