"""The surface of a field whose surface is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from exporters import topology
from exporters.clean import clean
from renderers.raster import render_mesh
from tests.shapes import Ball
from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.scenes.isosurface import (
    EMPTY,
    EmptySceneError,
    colors_at,
    density_grid,
    fill,
    isosurface,
    likeness,
    smooth_logs,
    surface_color,
    views_of,
)


@pytest.fixture(scope="module")
def field() -> Ball:
    return Ball()


def test_the_ball_is_found(field: Ball) -> None:
    views = views_of(field, views=6, size=64)
    found = isosurface(field, views, resolution=48)
    radius = found.mesh.vertices.norm(dim=-1)
    # one unbroken sphere: the hollow inside is not there
    assert radius.min() > 0.9 * Ball.RADIUS
    assert radius.std() < 0.005
    assert radius.mean().item() == pytest.approx(Ball.RADIUS, abs=0.03)
    mesh = clean(found.mesh)
    assert topology.is_watertight(topology.edges(mesh.faces))
    assert topology.components(mesh.faces)[0] == 1
    exact = 4 / 3 * math.pi * float(radius.mean()) ** 3
    assert float(topology.volumes(mesh).sum()) == pytest.approx(exact, rel=0.02)
    assert found.likeness.iou > 0.97
    assert found.likeness.psnr > 30
    assert 0.5 < found.threshold < 150
    assert found.mesh.colors is not None
    torch.testing.assert_close(found.mesh.colors, field.color(found.mesh.vertices))


def test_the_threshold_is_the_best_there_is(field: Ball) -> None:
    """No sphere of another radius is clearly more like the field."""
    views = views_of(field, views=6, size=64)
    found = isosurface(field, views, resolution=48).mesh
    error = views.error(found)
    radius = found.vertices.norm(dim=-1, keepdim=True)
    for factor in (0.93, 0.96, 1.04, 1.07):
        other = type(found)(found.vertices / radius * radius.mean() * factor, found.faces,
                            found.colors)  # fmt: skip
        assert views.error(other) > error


def test_densities_are_looked_up_where_something_is(field: Ball) -> None:
    asked = 0

    class Corner(Ball):
        def density_and_color(self, points: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal asked
            asked += len(points)
            return super().density_and_color(points)

    corner = Corner()
    corner.occupied = torch.zeros(8, 8, 8, dtype=torch.bool)
    corner.occupied[3:5, 3:5, 3:5] = True
    grid = density_grid(corner, 33)
    assert asked == 16**3  # four cells a side, one more than occupied all around
    axis = torch.linspace(-1, 1, 33)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)[8:24, 8:24, 8:24]
    expected = field.density_and_color(points.reshape(-1, 3))[0].view(16, 16, 16)
    torch.testing.assert_close(grid[8:24, 8:24, 8:24], expected)
    assert float(grid.sum()) == pytest.approx(float(expected.sum()), rel=1e-5)


def test_what_cannot_be_seen_is_filled() -> None:
    level = 1.0
    logs = torch.full((20, 20, 20), EMPTY)
    logs[4:16, 4:16, 4:16] = 2.0
    logs[7:13, 7:13, 7:13] = EMPTY  # a hollow
    logs[9, 9, 12:16] = EMPTY  # behind a pinhole
    logs[10:14, 4:6, 10:14] = 0.0  # and a wide dent, which is shape
    full = torch.from_numpy(fill(logs, level))
    assert bool((full[7:13, 7:13, 7:13] > level).all())
    assert bool((full[10:14, 4, 10:14] < level).all())
    assert bool((full[0] == EMPTY).all())
    solid = logs >= level
    assert torch.equal(full[solid], logs[solid])


def test_blurred_logarithms() -> None:
    density = torch.full((9, 9, 9), 100.0)
    torch.testing.assert_close(smooth_logs(density), torch.full((9, 9, 9), math.log(100)))
    assert torch.equal(smooth_logs(torch.zeros(5, 5, 5)), torch.full((5, 5, 5), EMPTY))
    ramp = torch.exp(torch.arange(9.0))[:, None, None].expand(9, 9, 9)
    torch.testing.assert_close(smooth_logs(ramp)[1:-1], ramp.log()[1:-1], atol=1e-4, rtol=1e-5)


def test_the_skin_has_the_colour_that_is_seen(field: Ball) -> None:
    normal = torch.nn.functional.normalize(torch.randn(200, 3), dim=-1)
    color = surface_color(field)(Ball.RADIUS * normal, normal)
    assert (color - field.color(Ball.RADIUS * normal)).abs().max() < 0.06

    class Shell(Ball):
        """Red where its density begins, blue where it is full."""

        def color(self, points: Tensor) -> Tensor:
            deep = (points.norm(dim=-1, keepdim=True) < self.RADIUS + 0.004).float()
            return torch.cat([1 - deep, 0 * deep, deep], 1)

    shell = Shell()
    place = Ball.RADIUS * normal
    front = shell.render(orbit(1, 33)).rgb[0, 16, 16]
    skin = surface_color(shell)(place, normal).mean(0)
    assert 0.1 < float(front[2]) < 0.95
    assert (skin - front).abs().max() < 0.25
    # where nothing is, it is the field's colour there and not black
    air = surface_color(shell)(5 * normal, normal)
    assert torch.equal(air, colors_at(shell, torch.ones(1, 3)).expand(200, 3))


def test_likeness_of_equals_and_of_strangers(field: Ball) -> None:
    seen = field.render(orbit(2, 24))
    same = likeness(seen, seen)
    assert same.iou == 1
    assert same.psnr == pytest.approx(100)
    views = views_of(field, views=3, size=32)
    found = isosurface(field, views, resolution=32).mesh
    away = type(found)(found.vertices + torch.tensor([0, 0, 0.4]), found.faces, found.colors)
    assert views.compare(away).iou < 0.7
    assert views.compare(away).psnr < views.compare(found).psnr - 8
    assert torch.equal(
        render_mesh(found, views.cameras, background=views.background).rgb,
        render_mesh(found, views.cameras, background=torch.full((3,), 0.5)).rgb,
    )


def test_fog_and_nothing_have_no_surface() -> None:
    fog = Ball(peak=0.3)
    with pytest.raises(EmptySceneError, match=r"the field is empty: .* 0\.5 \(at most 0\.3"):
        isosurface(fog, views_of(fog, views=3, size=16), resolution=16)
    nothing = Ball(peak=0.0)
    with pytest.raises(InputError, match="train it longer, or with another seed"):
        isosurface(nothing, views_of(nothing, views=3, size=16), resolution=16)
    with pytest.raises(InputError, match="must be at least 16, got 8"):
        isosurface(nothing, views_of(nothing, views=3, size=16), resolution=8)
