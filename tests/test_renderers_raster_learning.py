"""What a picture teaches a mesh: outlines, positions and colours recovered by descent."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from renderers import kernels
from renderers.kernels.raster import antialias, rasterize
from renderers.raster import render
from tests.shapes import sphere
from threed.core.cameras import orbit


@pytest.fixture(params=["reference", "cpu"])
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    kernels.set_kernels(request.param)
    yield request.param
    kernels.set_kernels(None)


def descend(value: Tensor, picture: Callable[[Tensor], Tensor], target: Tensor, lr: float) -> None:
    """Sixty steps of Adam on the squared difference of the pictures, ever shorter."""
    optimizer = torch.optim.Adam([value], lr=lr)
    for step in range(60):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / 60)
        optimizer.zero_grad()
        (picture(value) - target).square().mean().backward()
        optimizer.step()


def test_the_offset_of_a_triangle_is_found_from_a_picture(kernel: str) -> None:
    corners = torch.tensor([[[-0.5, -0.4, 0, 1], [0.5, -0.3, 0, 1], [0.1, 0.6, 0, 1]]])
    faces = torch.tensor([[0, 1, 2]])

    def picture(offset: Tensor) -> Tensor:
        clip = corners + F.pad(offset, (0, 2))
        buffer = rasterize(clip, faces, (32, 40))
        white = (buffer[..., 3:] > 0).float()
        return antialias(white, buffer, clip, faces)

    true = torch.tensor([0.183, -0.117])
    offset = torch.zeros(2, requires_grad=True)
    descend(offset, picture, picture(true), lr=0.02)
    # a tenth of a pixel
    torch.testing.assert_close(offset.detach(), true, atol=5e-3, rtol=0)


def test_the_radius_of_a_sphere_is_found_from_its_outline(kernel: str) -> None:
    ball, cameras = sphere(1.0, 10, 14), orbit(1, 32)

    def picture(radius: Tensor) -> Tensor:
        return render(radius * ball.vertices, ball.faces, cameras, shade=lambda p, n, *_: n).opacity

    radius = torch.tensor(0.45, requires_grad=True)
    descend(radius, picture, picture(torch.tensor(0.6)), lr=0.02)
    assert radius.item() == pytest.approx(0.6, abs=4e-3)


@pytest.mark.parametrize("rows", [10, 60])
def test_the_gradient_of_what_is_covered_is_how_it_grows(rows: int) -> None:
    """Also of triangles far smaller than a pixel, whose outlines no pixel's own triangle has."""
    ball = sphere(1.0, rows, 3 * rows // 2)

    def covered(radius: Tensor, size: int) -> Tensor:
        cameras = orbit(2, size, elevation_deg=20)
        vertices = radius * ball.vertices
        return render(vertices, ball.faces, cameras, shade=lambda p, n, *_: n).opacity.mean()

    radius = torch.tensor(0.6, requires_grad=True)
    (slope,) = torch.autograd.grad(covered(radius, 48), radius)
    with torch.no_grad():
        grown = (covered(radius + 0.02, 384) - covered(radius - 0.02, 384)) / 0.04
    torch.testing.assert_close(slope, grown, rtol=0.025, atol=0)
