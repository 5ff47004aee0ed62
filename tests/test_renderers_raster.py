"""The rasterizer against mathematics, its fast kernels against the reference, and mesh pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from renderers import kernels
from renderers.kernels import raster_cpu_triangles
from renderers.kernels.raster import interpolate, rasterize, texture
from renderers.raster import render_mesh
from renderers.shading import CLAY, Light
from tests import shapes
from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.core.mesh import Material, Mesh


@pytest.fixture(params=["reference", "cpu"])
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    kernels.set_kernels(request.param)
    yield request.param
    kernels.set_kernels(None)


def sphere(rows: int = 24, columns: int = 32, radius: float = 0.6) -> tuple[Tensor, Tensor]:
    """A closed sphere: vertices [V, 3] and outward faces [F, 3]."""
    mesh = shapes.sphere(radius, rows, columns)
    return mesh.vertices, mesh.faces


def centers(height: int, width: int) -> tuple[Tensor, Tensor]:
    """x and y of the pixels' centres in [-1, 1], row 0 the top, both [height, width]."""
    y = 1 - 2 * (torch.arange(height) + 0.5) / height
    x = 2 * (torch.arange(width) + 0.5) / width - 1
    return x.expand(height, width), y[:, None].expand(height, width)


def test_a_triangle_covers_what_it_should_with_its_weights(kernel: str) -> None:
    clip = torch.tensor([[[-0.8, -0.7, 0.1, 1], [0.9, -0.3, 0.3, 1], [0.1, 0.8, -0.2, 1]]])
    buffer = rasterize(clip, torch.tensor([[0, 1, 2]]), (40, 60))[0]
    x, y = centers(40, 60)
    matrix = torch.linalg.inv(clip[0][:, [0, 1, 3]].T.double())
    weights = torch.stack([x, y, torch.ones_like(x)], -1).double() @ matrix.T
    inside = (weights >= 0).all(-1)
    assert 500 < int(inside.sum()) < 1500
    assert torch.equal(buffer[..., 3] > 0, inside)
    torch.testing.assert_close(
        buffer[..., :2][inside], weights[..., :2][inside].float(), atol=1e-6, rtol=0
    )
    z = (weights @ clip[0, :, 2].double()).float()
    torch.testing.assert_close(buffer[..., 2][inside], z[inside], atol=1e-6, rtol=0)
    assert bool((buffer[~inside] == 0).all())


def test_weights_are_perspective_correct(kernel: str) -> None:
    """A plane seen at an angle: the interpolated position lies on the ray, not its screen mean."""
    cameras = orbit(1, 32, elevation_deg=20)
    vertices = torch.tensor([[-5.0, -5, -0.3], [5, -5, -0.3], [5, 5, -0.3], [-5, 5, -0.3]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    buffer = rasterize(F.pad(vertices, (0, 1), value=1.0) @ cameras.mvp().mT, faces, (32, 32))
    origins, directions = cameras.rays()
    t = (-0.3 - origins[..., 2:]) / directions[..., 2:]
    exact = origins + t * directions
    hit = (t[..., 0] > 0) & (exact[..., :2].abs() < 4.9).all(-1)
    found = interpolate(vertices, buffer, faces)
    assert int(hit.sum()) > 300
    assert bool((buffer[..., 3][hit] > 0).all())
    torch.testing.assert_close(found[hit], exact[hit], atol=2e-4, rtol=0)


def test_what_lies_behind_the_camera_is_cut_away_exactly(kernel: str) -> None:
    """Two vertices ahead and one behind: the plane goes on to the horizon and no further."""
    cameras = orbit(1, 48, elevation_deg=10, distance=2.0)
    # a huge triangle under the camera, one corner far behind it (w < 0 there)
    vertices = torch.tensor([[-60.0, -60, -1], [-60, 60, -1], [40, 0.0, -1]])
    clip = F.pad(vertices, (0, 1), value=1.0) @ cameras.mvp(0.1, 1000).mT
    assert bool((clip[0, :, 3] < 0).any())
    assert bool((clip[0, :, 3] > 0).any())
    faces = torch.tensor([[0, 1, 2]])
    buffer = rasterize(clip, faces, (48, 48))
    origins, directions = cameras.rays()
    t = (-1 - origins[..., 2]) / directions[..., 2]
    point = origins + t[..., None] * directions
    a, b, c = vertices[:, :2]

    def side(p: Tensor, q: Tensor) -> Tensor:
        return (q - p)[0] * (point[..., 1] - p[1]) - (q - p)[1] * (point[..., 0] - p[0])

    sides = torch.stack([side(a, b), side(b, c), side(c, a)])
    margin = sides.abs().amin(0) > 1e-2
    expected = (t > 0.2) & ((sides > 0).all(0) | (sides < 0).all(0))
    assert 0.2 < expected.float().mean() < 0.8
    assert torch.equal((buffer[..., 3] > 0)[margin], expected[margin])
    torch.testing.assert_close(
        interpolate(vertices, buffer, faces)[expected & margin], point[expected & margin],
        atol=5e-3, rtol=1e-3,
    )  # fmt: skip
    everything_behind = clip * -1
    assert not bool(rasterize(everything_behind, faces, (48, 48))[..., 3].any())


def test_near_and_far_cut(kernel: str) -> None:
    clip = torch.tensor([[-1.0, -1, 0, 1], [1, -1, 0, 1], [1, 1, 0, 1], [-1, 1, 0, 1]])
    clip[:, 2] = clip[:, 0] * 2
    buffer = rasterize(clip[None], torch.tensor([[0, 1, 2], [0, 2, 3]]), (8, 64))[0]
    x, _ = centers(8, 64)
    assert torch.equal(buffer[..., 3] > 0, (2 * x).abs() <= 1)


def test_the_nearest_wins_and_of_equals_the_first(kernel: str) -> None:
    corners = torch.tensor([[-3.0, -3], [3, -3], [0, 3]])
    clip = torch.cat([F.pad(corners, (0, 2), value=1.0)] * 3)
    clip[:3, 2], clip[3:6, 2], clip[6:, 2] = 0.5, -0.25, -0.25
    faces = torch.arange(9).view(3, 3)
    buffer = rasterize(clip[None], faces, (5, 5))[0]
    assert buffer[2, 2, 3] == 2
    assert buffer[2, 2, 2] == -0.25
    swapped = rasterize(clip[None], faces[[2, 1, 0]], (5, 5))[0]
    assert swapped[2, 2, 3] == 1


def test_shared_edges_leave_no_hole(kernel: str) -> None:
    """A grid of triangles with random inner vertices covers every pixel of the screen."""
    n = 12
    axis = torch.linspace(-1.05, 1.05, n + 1)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    grid[1:-1, 1:-1] += 0.05 * (torch.rand(n - 1, n - 1, 2) - 0.5)
    # perspective: a different w at every vertex
    w = 0.5 + torch.rand(n + 1, n + 1, 1)
    clip = torch.cat([grid * w, torch.zeros_like(w), w], -1).view(1, -1, 4)
    index = torch.arange((n + 1) ** 2).view(n + 1, n + 1)
    a, b, c, d = (v.reshape(-1) for v in
                  (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]))  # fmt: skip
    faces = torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)])
    buffer = rasterize(clip, faces, (64, 64))
    assert bool((buffer[..., 3] > 0).all())
    assert len(buffer[..., 3].unique()) == 2 * n * n


def test_cpu_equals_reference_on_a_sphere() -> None:
    vertices, faces = sphere()
    cameras = orbit(2, 40, elevation_deg=30)
    clip = F.pad(vertices, (0, 1), value=1.0) @ cameras.mvp().mT
    values = {}
    for name in ("reference", "cpu"):
        kernels.set_kernels(name)
        buffer = rasterize(clip, faces, (40, 48))
        image = torch.rand(9, 7, 3, generator=torch.Generator().manual_seed(1))
        uv = torch.rand(2, 5, 6, 2, generator=torch.Generator().manual_seed(2)) * 1.4 - 0.2
        values[name] = (buffer, interpolate(vertices, buffer, faces), texture(image, uv))
    kernels.set_kernels(None)
    (a, pa, ta), (b, pb, tb) = values["reference"], values["cpu"]
    assert int((a[..., 3] > 0).sum()) > 600
    same = a[..., 3] == b[..., 3]
    assert same.float().mean() > 0.999
    torch.testing.assert_close(a[same], b[same], atol=1e-5, rtol=0)
    torch.testing.assert_close(pa, pb, atol=1e-4, rtol=0)
    torch.testing.assert_close(ta, tb, atol=1e-6, rtol=0)


def test_the_number_of_views_does_not_change_a_view(kernel: str) -> None:
    vertices, faces = sphere(8, 10)
    clip = F.pad(vertices, (0, 1), value=1.0) @ orbit(3, 16).mvp().mT
    together = rasterize(clip, faces, (16, 16))
    for i in range(3):
        assert torch.equal(together[i : i + 1], rasterize(clip[i : i + 1], faces, (16, 16)))


def test_texture_is_bilinear_with_the_top_row_at_v_1(kernel: str) -> None:
    image = torch.rand(4, 6, 3)
    y, x = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    at_centers = torch.stack([(x + 0.5) / 6, 1 - (y + 0.5) / 4], -1)[None]
    torch.testing.assert_close(texture(image, at_centers)[0], image, atol=1e-5, rtol=0)
    between = torch.tensor([[[[2 / 6, 1 - 1.25 / 4]]]])
    row = image[:, 1:3].mean(1)
    torch.testing.assert_close(
        texture(image, between)[0, 0, 0], 0.25 * row[0] + 0.75 * row[1], atol=1e-5, rtol=0
    )
    outside = torch.tensor([[[[-1.0, 2.0], [3.0, -4.0]]]])
    torch.testing.assert_close(texture(image, outside)[0, 0], image[[0, 3], [0, 5]])


def test_interpolation_follows_faces_of_its_own(kernel: str) -> None:
    clip = torch.tensor([[[-2.0, -2, 0, 1], [2, -2, 0, 1], [0, 2, 0, 1]]])
    buffer = rasterize(clip, torch.tensor([[0, 1, 2]]), (4, 4))
    values = torch.tensor([[9.0], [1.0], [2.0], [3.0]])
    found = interpolate(values, buffer, torch.tensor([[3, 1, 2]]))[..., 0]
    u, v = buffer[..., 0], buffer[..., 1]
    expected = (3 * u + 1 * v + 2 * (1 - u - v)) * (buffer[..., 3] > 0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rasterize(torch.zeros(1, 3, 3), torch.zeros(1, 3, dtype=torch.int64), (2, 2)),
         r"clip must be \[B, V, 4\], got \[1, 3, 3\]"),
        (lambda: rasterize(torch.zeros(1, 3, 4), torch.zeros(1, 3), (2, 2)),
         r"faces must be \[F, 3\] int64, got \[1, 3\] torch.float32"),
        (lambda: rasterize(torch.zeros(1, 3, 4), torch.zeros(1, 3, dtype=torch.int64), (0, 2)),
         "size must be at least one pixel, got 0 x 2"),
        (lambda: texture(torch.zeros(2, 2, 3), torch.zeros(1, 2, 2, 3)),
         r"uv must be \[B, H, W, 2\], got \[1, 2, 2, 3\]"),
    ],
)  # fmt: skip
def test_wrong_shapes_are_named(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call()


def test_a_sphere_has_its_outline_depth_and_normals() -> None:
    vertices, faces = sphere(64, 96)
    cameras = orbit(3, 48, elevation_deg=25)
    seen = render_mesh(Mesh(vertices, faces), cameras, look="normal")
    origins, directions = cameras.rays()
    middle = -(origins * directions).sum(-1)
    root = middle.square() - origins.square().sum(-1) + 0.6**2
    exact = middle - root.clamp(min=0).sqrt()
    inside = root > 0.02
    outside = root < -0.03
    assert bool((seen.opacity[..., 0][inside] == 1).all())
    assert bool((seen.opacity[..., 0][outside] == 0).all())
    partly = (seen.opacity > 0) & (seen.opacity < 1)
    assert bool(partly.any())  # antialiased
    assert (seen.depth[..., 0] - exact)[inside].abs().max() < 0.02
    surface = (origins + exact[..., None] * directions)[inside] / 0.6
    cosine = (seen.normal[inside] * surface).sum(-1)
    assert cosine.min() > math.cos(math.radians(4))
    torch.testing.assert_close(seen.rgb[inside], (seen.normal[inside] + 1) / 2, atol=0.02, rtol=0)


def test_the_other_side_shows_with_its_own_normal() -> None:
    vertices, faces = sphere()
    cameras = orbit(1, 24)
    outward = render_mesh(Mesh(vertices, faces), cameras)
    inward = render_mesh(Mesh(vertices, faces.flip(1)), cameras)
    torch.testing.assert_close(outward.normal, inward.normal, atol=1e-4, rtol=0)


def test_looks_and_backgrounds() -> None:
    vertices, faces = sphere()
    colors = torch.tensor([0.9, 0.2, 0.1]).expand(len(vertices), 3)
    mesh, cameras = Mesh(vertices, faces, colors), orbit(2, 24)
    behind = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    plain = render_mesh(mesh, cameras, background=behind)
    solid = plain.opacity[..., 0] == 1
    torch.testing.assert_close(plain.rgb[solid], colors[:1].expand(int(solid.sum()), 3))
    assert torch.equal(plain.rgb[:, 0, 0], behind)
    light = Light(ambient=0.5)
    shaded = render_mesh(mesh, cameras, look="shaded", light=light).rgb[solid]
    brightness = shaded / colors[0]
    assert 0.5 - 1e-5 <= brightness.min() < 0.6
    assert 0.95 < brightness.max() <= 1 + 1e-5
    clay = render_mesh(mesh, cameras, look="textureless", light=light).rgb[solid]
    torch.testing.assert_close(clay, CLAY * brightness[:, :1].expand(-1, 3), atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="there is no look 'shiny'; choose one of albedo"):
        render_mesh(mesh, cameras, look="shiny")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"background must be \[3\] or \[2, 3\], got \[4\]"):
        render_mesh(mesh, cameras, background=torch.ones(4))


def test_the_texture_lies_upright_on_a_square() -> None:
    # seen by the front camera at +x, +y is to the right
    vertices = torch.tensor([[0, -0.5, -0.5], [0, 0.5, -0.5], [0, 0.5, 0.5], [0, -0.5, 0.5]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    uv = torch.tensor([[0.0, 1], [1, 1], [1, 0], [0, 0]])
    image = torch.zeros(2, 2, 3)
    image[0, 0, 0], image[0, 1, 1], image[1, 0, 2] = 1, 1, 1  # red, green / blue, black
    mesh = Mesh(vertices, faces, uv=uv, uv_faces=faces, material=Material(image))
    seen = render_mesh(mesh, orbit(1, 64, elevation_deg=0), background=torch.ones(3)).rgb[0]
    rows = (seen.mean(-1) < 0.99).nonzero()
    (top, left), (bottom, right) = rows.amin(0).tolist(), rows.amax(0).tolist()
    corners = seen[[top + 2, top + 2, bottom - 2, bottom - 2],
                   [left + 2, right - 2, left + 2, right - 2]]  # fmt: skip
    torch.testing.assert_close(corners, image.view(4, 3), atol=0.02, rtol=0)


def test_samples_within_a_pixel_converge() -> None:
    vertices, faces = sphere()
    cameras = orbit(1, 32)
    mesh = Mesh(vertices, faces)
    once, twice, often = (render_mesh(mesh, cameras, antialias_factor=k).opacity for k in (1, 2, 8))
    assert set(once.unique().tolist()) == {0.0, 1.0}
    assert (twice - often).abs().mean() < 0.6 * (once - often).abs().mean()
    with pytest.raises(ValueError, match="antialias_factor must be at least 1, got 0"):
        render_mesh(mesh, cameras, antialias_factor=0)


def test_bands_of_rows_are_drawn_as_the_whole() -> None:
    """What threads share: each draws the rows of a band."""
    vertices, faces = sphere(8, 10)
    clip = F.pad(vertices, (0, 1), value=1.0) @ orbit(2, 16).mvp().mT
    found = []
    for shift in (5, 2, 0):
        out = np.full((2, 17, 16, 4), np.nan, np.float32)
        raster_cpu_triangles.draw(clip.numpy(), faces.numpy(), shift, out)
        found.append(out)
    assert np.count_nonzero(found[0][..., 3]) > 100
    assert all(np.array_equal(out, found[0]) for out in found[1:])


def test_what_is_hidden_is_left_out_and_nothing_else() -> None:
    """Many small triangles, equally near ones among them, behind, before and through large ones."""
    small, faces = sphere(40, 60)
    large, few = sphere(4, 6, radius=0.5)
    twice = torch.cat([small, small, large, large * 1.4])
    n = len(small)
    faces = torch.cat([faces, faces.flip(1) + n, few + 2 * n, few + 2 * n + len(large)])
    for order in (faces, faces.flip(0)):
        clip = F.pad(twice, (0, 1), value=1.0) @ orbit(2, 48, elevation_deg=20).mvp().mT
        found = {}
        for name in ("reference", "cpu"):
            kernels.set_kernels(name)
            found[name] = rasterize(clip, order, (48, 70))
        kernels.set_kernels(None)
        same = found["cpu"][..., 3] == found["reference"][..., 3]
        # float32 rounds equal depths of the doubled sphere, and of faces that meet at an edge
        assert float(same.float().mean()) > 0.995
        off = (found["cpu"][..., 2] - found["reference"][..., 2]).abs()
        assert float(off.max()) < 1e-6


def test_triangles_of_all_sizes_and_before_and_behind_are_those_of_the_reference() -> None:
    """Specks, slivers across the screen, and what reaches behind the camera or through it."""
    generator = torch.Generator().manual_seed(3)
    middle = 2 * torch.rand(1, 600, 1, 4, generator=generator) - 1
    reach = 10 ** (1 - 3 * torch.rand(1, 600, 1, 4, generator=generator))
    corners = middle + reach * torch.randn(1, 600, 3, 4, generator=generator)
    corners[..., 3] += 0.5
    clip, faces = corners.reshape(1, 1800, 4), torch.arange(1800).view(600, 3)
    assert 300 < int((clip[..., 3] < 0).sum()) < 1500
    found = {}
    for name in ("reference", "cpu"):
        kernels.set_kernels(name)
        found[name] = rasterize(clip, faces, (75, 101))
    kernels.set_kernels(None)
    assert len(found["cpu"][..., 3].unique()) > 50
    same = found["cpu"][..., 3] == found["reference"][..., 3]
    assert float(same.float().mean()) > 0.999
    torch.testing.assert_close(found["cpu"][same], found["reference"][same], atol=1e-5, rtol=0)


def test_coordinates_that_are_not_numbers_harm_nothing_else() -> None:
    vertices, faces = sphere(8, 10)
    clip = F.pad(vertices, (0, 1), value=1.0) @ orbit(1, 32).mvp().mT
    whole = rasterize(clip, faces, (32, 32))
    broken = torch.cat([clip, torch.full((1, 3, 4), torch.nan)], 1)
    more = torch.cat([faces, torch.tensor([[0, 1, 2]]) + len(vertices)])
    assert torch.equal(rasterize(broken, more, (32, 32)), whole)
