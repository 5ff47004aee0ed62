"""The rasterizer's gradients: the reference against differences, the fast kernels against it."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from renderers import kernels
from renderers.kernels import raster_reference as reference
from renderers.kernels.raster import (
    antialias,
    derivatives,
    interpolate,
    rasterize,
    texture,
    twins,
)
from tests.shapes import sphere
from threed.core.cameras import orbit

FACES = torch.tensor([[0, 1, 2], [2, 1, 3]])  # a square folded along its diagonal


def crossing() -> tuple[Tensor, Tensor]:
    """A triangle with one vertex behind the camera before a sphere, from two sides: clip, faces."""
    ball = sphere(0.6, 12, 16)
    plane = torch.tensor([[6.0, 0.3, -0.3], [-1.0, -1.5, -0.5], [0.0, 2.0, -0.5]])
    vertices = torch.cat([ball.vertices, plane])
    faces = torch.cat([ball.faces, torch.arange(3)[None] + len(ball.vertices)])
    clip = F.pad(vertices, (0, 1), value=1.0) @ orbit(2, 8, elevation_deg=20).mvp().mT
    assert bool((clip[0, -3:, 3] < 0).any())
    return clip, faces


def folded() -> Tensor:
    """[1, 4, 4] float64 corners with a w of their own each."""
    corners = torch.tensor(
        [[-0.7, -0.6, 0.1, 1], [0.8, -0.5, 0.3, 1.2], [-0.5, 0.7, 0.2, 0.9], [0.6, 0.7, 0.5, 1.1]]
    )
    return corners.double()[None]


def test_the_weights_gradient_is_their_difference_quotient() -> None:
    ids = reference.rasterize(folded(), FACES, 6, 7)[..., 3].long()
    assert set(ids.unique().tolist()) == {0, 1, 2}

    def weights(clip: Tensor) -> Tensor:
        return reference.weigh(clip, FACES, ids)[..., :2]

    assert torch.autograd.gradcheck(weights, folded().requires_grad_())


def test_the_outlines_gradient_is_its_difference_quotient() -> None:
    clip, color = folded().requires_grad_(), torch.rand(1, 6, 7, 2, dtype=torch.float64)
    buffer = reference.rasterize(folded(), FACES, 6, 7)
    twin = reference.twins(FACES)

    def blended(clip: Tensor, color: Tensor) -> Tensor:
        return reference.antialias(color, buffer, clip, FACES, twin)

    changed = blended(clip.detach(), color) != color
    assert 5 < int(changed.any(-1).sum()) < 25
    assert torch.autograd.gradcheck(blended, (clip, color.requires_grad_()))


def test_gradients_of_look_ups_are_difference_quotients() -> None:
    values = torch.rand(1, 4, 2, dtype=torch.float64, requires_grad=True)
    buffer = reference.rasterize(folded(), FACES, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, uv: reference.interpolate(
            a, torch.cat([uv, buffer[..., 2:].detach()], -1), FACES
        ),
        (values, buffer[..., :2].detach().requires_grad_()),
    )
    texels = torch.rand(1, 4 * 4 + 2 * 2, 2, dtype=torch.float64, requires_grad=True)
    uv = torch.rand(1, 3, 4, 2, dtype=torch.float64).requires_grad_()
    level = torch.rand(1, 3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda t, at: reference.texture(t, [(4, 4), (2, 2)], at, level), (texels, uv)
    )


def both(call: object, *inputs: Tensor) -> list[tuple[Tensor, ...]]:
    """(value, gradients of the inputs that are float) with the reference, then the cpu kernels."""
    assert callable(call)
    found = []
    for name in ("reference", "cpu"):
        kernels.set_kernels(name)
        leaves = [value.clone().requires_grad_(value.is_floating_point()) for value in inputs]
        value = call(*leaves)
        cotangent = torch.rand(value.shape, generator=torch.Generator().manual_seed(3))
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        gradients: tuple[Tensor, ...] = ()
        if value.requires_grad:
            gradients = torch.autograd.grad(value, wanted, cotangent)
        found.append((value.detach(), *gradients))
    kernels.set_kernels(None)
    return found


def test_cpu_gradients_of_the_weights_equal_the_references() -> None:
    clip, faces = crossing()
    (a, da), (b, db) = both(lambda clip: rasterize(clip, faces, (40, 48)), clip)
    assert float(a[..., 3].max()) == len(faces)  # the cut triangle shows
    assert float((a[..., 3] == b[..., 3]).float().mean()) == 1
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    assert float(da[:, -3:].abs().max()) > 0
    torch.testing.assert_close(da, db, atol=1e-4 * float(da.abs().max()), rtol=1e-3)


def test_cpu_gradients_of_interpolation_equal_the_references() -> None:
    clip, faces = crossing()
    buffer = rasterize(clip, faces, (24, 20))
    for values in (torch.rand(clip.shape[1], 3), torch.rand(2, clip.shape[1], 5)):
        (a, *da), (b, *db) = both(lambda v, r: interpolate(v, r, faces), values, buffer)
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
        for one, other in zip(da, db):
            torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(40, 48), (7, 9)])
def test_cpu_outlines_and_their_gradients_equal_the_references(size: tuple[int, int]) -> None:
    clip, faces = crossing()
    buffer = rasterize(clip, faces, size)
    color = torch.rand(2, *size, 4)
    (a, *da), (b, *db) = both(
        lambda color, clip: antialias(color, buffer, clip, faces), color, clip
    )
    assert int((a != color).any(-1).sum()) > 20
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    for one, other in zip(da, db):
        torch.testing.assert_close(one, other, atol=1e-4 * float(one.abs().max()), rtol=1e-3)
    assert float(da[1].abs().max()) > 0


def test_cpu_textures_and_their_gradients_equal_the_references() -> None:
    uv = torch.rand(2, 5, 6, 2) * 1.2 - 0.1
    slopes = torch.randn(2, 5, 6, 4) * 0.2
    blurred = functools.partial(texture, slopes=slopes)
    for image in (torch.rand(16, 8, 3), torch.rand(2, 8, 6, 1)):
        for call in (texture, blurred):
            (a, *da), (b, *db) = both(call, image, uv)
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
            for one, other in zip(da, db):
                torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


def test_cpu_derivatives_and_twins_equal_the_references() -> None:
    clip, faces = crossing()
    buffer = rasterize(clip, faces, (24, 20))
    uv, names = torch.rand(90, 2), torch.randint(90, faces.shape)
    (a,), (b,) = both(lambda clip: derivatives(uv, clip, buffer, faces, names), clip)
    assert float(a.abs().max()) > 0
    torch.testing.assert_close(a, b, atol=1e-4 * float(a.abs().max()), rtol=1e-3)
    (a,), (b,) = both(twins, torch.cat([faces, faces[:1]]))
    assert torch.equal(a, b)


def test_twins_are_the_same_edge_from_beyond() -> None:
    faces = torch.tensor([[0, 1, 2], [2, 1, 3], [4, 5, 6], [4, 5, 7], [4, 5, 8]])
    # 1-2 lies across from vertex 0 of the first and 3 of the second; 4-5 belongs to three
    assert twins(faces).tolist() == [[5, -1, -1], [-1, -1, 0], *[[-1] * 3] * 3]
    ball = sphere(0.6, 5, 6).faces
    twin = twins(ball).flatten()
    assert torch.equal(twin[twin], torch.arange(ball.numel()))
    ends = torch.stack([ball.roll(-1, 1), ball.roll(-2, 1)], -1).view(-1, 2)
    assert torch.equal(ends[twin], ends.flip(1))  # closed and wound alike


@pytest.mark.parametrize("kernel", ["reference", "cpu"])
def test_derivatives_are_differences_of_neighbours(kernel: str) -> None:
    kernels.set_kernels(kernel)
    clip = folded().float()
    clip[..., :2] *= 3  # the screen is full of the first triangle's plane
    buffer = rasterize(clip, FACES[:1], (200, 300))
    values = torch.rand(4, 2)
    slopes = derivatives(values, clip, buffer, FACES[:1])
    here = interpolate(values, buffer, FACES[:1])
    inside = (buffer[..., 3] > 0)[:, 1:-1, 1:-1]
    for side in (
        buffer[:, 2:, 1:-1],
        buffer[:, :-2, 1:-1],
        buffer[:, 1:-1, 2:],
        buffer[:, 1:-1, :-2],
    ):
        inside = inside & (side[..., 3] > 0)
    right = (here[:, 1:-1, 2:] - here[:, 1:-1, :-2]) / 2
    down = (here[:, 2:, 1:-1] - here[:, :-2, 1:-1]) / 2
    assert int(inside.sum()) > 5000
    expected = torch.stack([right, down], -1).flatten(3)[inside]
    torch.testing.assert_close(slopes[:, 1:-1, 1:-1][inside], expected, atol=2e-5, rtol=1e-2)
    kernels.set_kernels(None)


@pytest.mark.parametrize("kernel", ["reference", "cpu"])
def test_a_far_texture_is_its_mean_and_a_near_one_itself(kernel: str) -> None:
    kernels.set_kernels(kernel)
    image, uv = torch.rand(8, 4, 3), torch.rand(1, 4, 5, 2)
    steps = [torch.full((1, 4, 5, 4), 0.0) for _ in range(3)]
    steps[0][..., 0] = 0.2  # less than a texel
    steps[1][..., 3] = 0.25  # two texels down
    steps[2][..., 0] = 5.0
    near, middle, far = (texture(image, uv, step) for step in steps)
    torch.testing.assert_close(near, texture(image, uv))
    half = (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4
    torch.testing.assert_close(middle, texture(half, uv))
    torch.testing.assert_close(far, image.mean((0, 1)).expand_as(far))
    kernels.set_kernels(None)
