"""Pictures for films against those of render_mesh."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from renderers import film as films
from renderers.kernels import set_kernels
from renderers.raster import render_mesh
from renderers.shading import LOOKS, Look
from tests.shapes import cube, sphere
from threed.core.cameras import Cameras, orbit
from threed.core.mesh import Material, Mesh


def film(
    mesh: Mesh, cameras: Cameras, *, background: Tensor, look: Look = "albedo", solid: bool = False,
    relief: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """[B, H, W, 3] all pictures of a film."""
    seen = films.film(mesh, cameras, background=background, look=look, solid=solid, relief=relief)
    return torch.stack(list(seen))


GREY = torch.tensor([0.9, 0.5, 0.1])


def textured() -> Mesh:
    """A ball whose map is its azimuth and height, with noise for a picture."""
    mesh = sphere(0.7, 20, 30)
    uv = torch.stack([torch.atan2(mesh.vertices[:, 1], mesh.vertices[:, 0]) / 6.4 + 0.5,
                      mesh.vertices[:, 2] / 1.4 + 0.5], 1)  # fmt: skip
    return replace(mesh, uv=uv, uv_faces=mesh.faces, material=Material(torch.rand(24, 32, 3)))


def bowl() -> Mesh:
    """Half a ball, open to the front: its inside shows."""
    mesh = sphere(0.8, 20, 30)
    keep = (mesh.vertices[mesh.faces][..., 0] < 0.3).all(1)
    return replace(mesh, faces=mesh.faces[keep])


def box() -> Mesh:
    return replace(cube(0.4), vertices=cube(0.4).vertices - torch.tensor([0.2, 0.4, 0.6]))


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("make", [textured, bowl, box])
def test_it_shows_what_render_mesh_shows(make: type[Mesh], look: str) -> None:
    mesh, cameras = make(), orbit(3, 64, start_deg=10)
    seen = film(mesh, cameras, background=GREY, look=look)  # type: ignore[arg-type]
    wanted = render_mesh(mesh, cameras, background=GREY, look=look).rgb  # type: ignore[arg-type]
    off = (seen - wanted).abs().amax(-1)
    assert off.mean() < 1e-4
    # rounding decides now and then whether an outline runs through a pixel
    assert (off > 2e-3).float().mean() < 1e-3


def test_a_mesh_beside_the_picture_and_one_behind_the_camera() -> None:
    mesh = box()
    for move in (torch.tensor([0.0, 9, 0]), torch.tensor([4.0, 0, 0])):
        moved, cameras = replace(mesh, vertices=mesh.vertices + move), orbit(1, 32)
        wanted = render_mesh(moved, cameras, background=GREY).rgb
        torch.testing.assert_close(film(moved, cameras, background=GREY), wanted)


def test_of_a_solid_the_faces_that_look_away_are_never_missed() -> None:
    mesh, cameras = textured(), orbit(3, 64, start_deg=10)
    all_faces = film(mesh, cameras, background=GREY, look="shaded")
    ahead = film(mesh, cameras, background=GREY, look="shaded", solid=True)
    assert (all_faces - ahead).abs().mean() < 1e-4
    # and they are left out: inside out, it shows its far side
    turned = replace(mesh, faces=mesh.faces.flip(1), uv_faces=mesh.faces.flip(1))
    assert (film(turned, cameras, background=GREY, solid=True) - all_faces).abs().mean() > 0.01


def test_the_reference_kernels_show_the_same() -> None:
    mesh, cameras = box(), orbit(1, 32)
    fast = film(mesh, cameras, background=GREY, look="shaded")
    set_kernels("reference")
    try:
        slow = film(mesh, cameras, background=GREY, look="shaded")
    finally:
        set_kernels(None)
    assert (fast - slow).abs().mean() < 1e-3


def test_pictures_need_not_be_square() -> None:
    one = orbit(2, 32)
    cameras = Cameras(one.c2w, one.fov_y, 24, 40)
    mesh = textured()
    seen = film(mesh, cameras, background=GREY)
    wanted = render_mesh(mesh, cameras, background=GREY).rgb
    assert seen.shape == (2, 24, 40, 3)
    assert (seen - wanted).abs().mean() < 1e-4


@pytest.mark.parametrize("look", ["shaded", "normal"])
def test_relief_is_shown_as_render_mesh_shows_it(look: Look) -> None:
    mesh, cameras = textured(), orbit(2, 48, start_deg=10)
    wild = torch.nn.functional.normalize(torch.randn(8, 12, 3), dim=-1)
    seen = film(mesh, cameras, background=GREY, look=look, relief=wild)
    wanted = render_mesh(mesh, cameras, background=GREY, look=look, relief=wild).rgb
    assert ((seen - wanted).abs().amax(-1) > 2e-3).float().mean() < 2e-3
    assert (film(mesh, cameras, background=GREY, look=look) - seen).abs().mean() > 0.02


def test_a_texture_finer_than_the_pixels_is_taken_smaller() -> None:
    """Against the mean of many pixels in each one."""
    fine = replace(textured(), material=Material(torch.rand(512, 512, 3)))
    cameras = orbit(1, 24)
    many = films.texels_a_pixel(fine, cameras)
    assert 8 < many < 32
    assert films.texels_a_pixel(fine, orbit(1, 96)) == pytest.approx(many / 4, rel=1e-4)
    large = film(fine, orbit(1, 24 * 16), background=GREY)
    truth = torch.nn.functional.avg_pool2d(large.permute(0, 3, 1, 2), 16).permute(0, 2, 3, 1)
    seen = film(fine, cameras, background=GREY)
    bare = render_mesh(fine, cameras, background=GREY).rgb
    assert (seen - truth).square().mean() < 0.25 * (bare - truth).square().mean()
