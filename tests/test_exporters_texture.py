"""Texture maps and what is painted on them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from exporters.bake import bake, rasterize_uv, spread
from exporters.charts import FACING, Charts
from exporters.mapping import measure_use
from exporters.unwrap import unwrap
from renderers.kernels.raster import texture
from renderers.raster import render_mesh
from tests.shapes import Ball, cube, sphere
from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.core.mesh import Mesh


def rough() -> Mesh:
    """A sphere with noise: what made xatlas's own charts too many."""
    mesh = sphere(0.6, 40, 60)
    noise = torch.randn(mesh.vertices.shape, generator=torch.Generator().manual_seed(0))
    return replace(mesh, vertices=mesh.vertices + 0.006 * noise)


def spiral() -> Mesh:
    """A ramp that winds over itself twice: flat pieces of it lie above each other."""
    turn = torch.linspace(0, 4 * torch.pi, 121)
    inner, outer = (
        torch.stack([r * turn.cos(), r * turn.sin(), 0.02 * turn], 1) for r in (0.3, 0.6)
    )
    a = torch.arange(120)
    b, c, d = a + 1, a + 121, a + 122
    faces = torch.cat([torch.stack([a, c, d], 1), torch.stack([a, d, b], 1)])
    return Mesh(torch.cat([inner, outer]), faces)


@pytest.mark.parametrize("make", [cube, sphere, rough, spiral])
def test_a_map_covers_without_overlap_within_the_square(make: type[Mesh]) -> None:
    mesh = unwrap(make(), 512)
    uv, uv_faces = mesh.opengl_map()
    assert 0 <= float(uv.min()) <= float(uv.max()) <= 1
    coverage, overlap = measure_use(uv, uv_faces, 512)
    assert overlap == 0
    assert coverage > 0.25
    assert torch.equal(mesh.faces, make().faces)
    # the winding is kept: nothing is mirrored
    a, b, c = uv[uv_faces].double().unbind(1)
    assert bool((((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) > -1e-9).all())


def test_the_scale_is_even() -> None:
    """A face has about the area that it has in space: no less than its slope makes of it."""
    mesh = unwrap(sphere(0.6, 40, 60), 512)
    assert mesh.uv is not None
    assert mesh.uv_faces is not None
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=-1)
    u, v, w = mesh.uv[mesh.uv_faces].unbind(1)
    flat = ((v - u)[:, 0] * (w - u)[:, 1] - (v - u)[:, 1] * (w - u)[:, 0]).abs()
    ratio = flat / area
    assert ratio.min() > 0.9 * FACING * ratio.max()
    assert ratio.median() > 0.6 * ratio.max()


def test_charts_stay_apart() -> None:
    """No texel within two of a chart's belongs to another one."""
    made = sphere(0.6, 40, 60)
    mesh = unwrap(made, 512)
    uv, uv_faces = mesh.opengl_map()
    label = torch.from_numpy(Charts(made).label)
    face = rasterize_uv(uv, uv_faces, 512)[0, ..., 3].long() - 1
    chart = torch.where(face >= 0, label[face.clamp(min=0)] + 1, 0).float()[None]
    high = F.max_pool2d(chart, 5, 1, 2)
    low = -F.max_pool2d(torch.where(chart > 0, -chart, -1e6), 5, 1, 2)
    assert bool((high == low)[chart > 0].all())


def test_a_map_is_the_same_every_time() -> None:
    one, two = unwrap(rough(), 256), unwrap(rough(), 256)
    assert one.uv is not None
    assert two.uv is not None
    assert torch.equal(one.uv, two.uv)


def test_noise_makes_no_dust_of_charts() -> None:
    assert Charts(cube()).label.max() + 1 == 6
    assert Charts(sphere(0.6, 40, 60)).label.max() + 1 <= 8
    assert Charts(rough()).label.max() + 1 < 300


def wave(points: Tensor, _: Tensor) -> Tensor:
    return 0.5 + 0.4 * torch.sin(3 * points)


def test_the_texture_shows_the_colour_of_the_place() -> None:
    mesh = bake(unwrap(sphere(0.6, 40, 60), 512), wave, 512)
    assert mesh.material.albedo is not None
    flat, uv_faces = mesh.opengl_map()
    # at random points of the faces, also close to the seams: what the texture says is the colour
    weight = torch.rand(len(mesh.faces), 3, generator=torch.Generator().manual_seed(0)) ** 3
    weight = (weight / weight.sum(1, keepdim=True))[..., None]
    place = (mesh.vertices[mesh.faces] * weight).sum(1)
    uv = (flat[uv_faces] * weight).sum(1)
    found = texture(mesh.material.albedo, uv[None, None])[0, 0]
    error = (found - wave(place, place)).abs()
    assert error.max() < 0.02
    assert error.mean() < 0.002


def test_normals_reach_the_colour_function() -> None:
    mesh = bake(unwrap(sphere(0.6, 40, 60), 256), lambda p, n: (n + 1) / 2, 256)
    seen = render_mesh(mesh, orbit(2, 32))
    inside = seen.opacity[..., 0] == 1
    torch.testing.assert_close(seen.rgb[inside], (seen.normal[inside] + 1) / 2, atol=0.03, rtol=0)


def test_no_background_shows_at_any_mip_level() -> None:
    """Black is nowhere on the surface: so it is nowhere in the texture, however it is shrunk."""
    mesh = bake(unwrap(sphere(0.6, 40, 60), 256), lambda p, n: 0.6 + 0.4 * p.abs(), 256)
    assert mesh.material.albedo is not None
    image = mesh.material.albedo.permute(2, 0, 1)[None]
    while image.shape[-1] > 1:
        assert image.min() >= 0.6
        image = F.avg_pool2d(image, 2)


def test_spread_takes_the_nearest() -> None:
    image, known = torch.zeros(3, 5, 1), torch.zeros(3, 5, dtype=torch.bool)
    image[1, 0], image[1, 4] = 0.25, 0.75
    known[1, 0] = known[1, 4] = True
    full = spread(image, known)
    assert torch.equal(full[:, [0, 1], 0], torch.full((3, 2), 0.25))
    assert torch.equal(full[:, [3, 4], 0], torch.full((3, 2), 0.75))
    assert torch.equal(spread(image, known & False), image)


def test_errors() -> None:
    with pytest.raises(ValueError, match="no texture coordinates: unwrap it first"):
        bake(cube(), Ball().density_and_color, 64)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="16 to 8192 texels a side, got 4"):
        bake(unwrap(cube(), 64), wave, 4)
