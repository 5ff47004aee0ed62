"""Volume rendering of known bodies: pictures, normals, regularisers, pieces."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from renderers import volume
from renderers.shading import Lamp
from renderers.volume import Volume
from threed.core.cameras import Cameras, orbit, random_views

RADIUS = 0.6
WHITE = torch.ones(3)


def ball(points: Tensor) -> tuple[Tensor, Tensor]:
    """A dense ball that fades over about 0.02, orange."""
    density = 400 * torch.sigmoid((RADIUS - points.norm(dim=-1)) * 200)
    return density, torch.tensor([1.0, 0.5, 0.0]).expand(len(points), 3)


def everywhere(size: int = 4) -> Tensor:
    return torch.ones(size, size, size, dtype=torch.bool)


def distance_to_ball(cameras: Cameras) -> Tensor:
    """[B, H, W] along each ray to the sphere of RADIUS, NaN where it misses."""
    origins, directions = cameras.rays()
    middle = -(origins * directions).sum(-1)
    return middle - (middle.square() - origins.square().sum(-1) + RADIUS**2).sqrt()


def test_a_ball_has_its_colour_depth_and_normals() -> None:
    cameras = orbit(2, 24)
    picture = volume.render(
        Volume(ball, everywhere(), 0.01), cameras, background=WHITE, normals=True
    )
    exact = distance_to_ball(cameras)
    origins, directions = cameras.rays()
    surface = origins + exact[..., None] * directions
    # where the ray meets the ball squarely; at the rim the soft edge shows
    facing = (surface * directions).sum(-1) < -0.4 * RADIUS
    missed = exact.isnan()
    assert 100 < int(facing.sum()) < int((~missed).sum())
    assert bool((picture.opacity[..., 0][facing] > 0.999).all())
    torch.testing.assert_close(
        picture.rgb[facing], torch.tensor([1.0, 0.5, 0.0]).expand(int(facing.sum()), 3),
        atol=1e-3, rtol=0,
    )  # fmt: skip
    assert (picture.depth[..., 0] - exact)[facing].abs().max() < 0.025
    cosine = (picture.normal * surface / RADIUS).sum(-1)
    # its edge is thinner than the difference is wide
    assert cosine[facing].min() > math.cos(math.radians(7))
    assert cosine[facing].mean() > math.cos(math.radians(3))
    far = missed & (picture.opacity[..., 0] < 1e-3)
    assert int(far.sum()) > 100
    assert bool((picture.depth[..., 0][far] == 0).all())
    assert bool((picture.normal[far] == 0).all())
    torch.testing.assert_close(picture.rgb[far], torch.ones(int(far.sum()), 3), atol=1e-3, rtol=0)


def test_constant_fog_has_the_closed_form_of_its_chord() -> None:
    cameras = orbit(1, 16)
    sigma, step = 0.8, 0.002
    fog = Volume(
        lambda p: (torch.full((len(p),), sigma), torch.zeros(len(p), 3)), everywhere(), step
    )
    opacity = volume.render(fog, cameras, background=WHITE).opacity[0, ..., 0]
    origins, directions = cameras.rays()
    near, far = volume.ball(origins.reshape(-1, 3), directions.reshape(-1, 3))
    exact = 1 - torch.exp(-sigma * (far - near)).view(16, 16)
    assert exact.max() > 0.75
    torch.testing.assert_close(opacity, exact, atol=sigma * step, rtol=0)


def test_rays_enter_the_unit_ball_ahead_of_the_camera_only() -> None:
    origins = torch.tensor([[-3.0, 0, 0], [0.5, 0, 0], [3.0, 0, 0], [-3.0, 2, 0], [-2.0, 0, 0.6]])
    near, far = volume.ball(origins, torch.tensor([[1.0, 0, 0]]).expand(5, 3))
    torch.testing.assert_close(near, torch.tensor([2.0, 0.0, 0.0, 3.0, 1.2]))
    torch.testing.assert_close(far, torch.tensor([4.0, 0.5, 0.0, 3.0, 2.8]))


def test_backgrounds() -> None:
    nothing = Volume(lambda p: (p.new_zeros(len(p)), torch.zeros_like(p)), everywhere(), 0.1)
    cameras = orbit(2, 4)
    two = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])
    rgb = volume.render(nothing, cameras, background=two).rgb
    assert torch.equal(rgb, two[:, None, None].expand(2, 4, 4, 3))
    _, directions = cameras.rays()
    sky = volume.render(nothing, cameras, background=lambda d: d.abs()).rgb
    torch.testing.assert_close(sky, directions.abs())
    with pytest.raises(ValueError, match=r"background must be \[3\] or \[2, 3\], got \[4, 3\]"):
        volume.render(nothing, cameras, background=torch.ones(4, 3))
    generator = torch.Generator().manual_seed(0)
    shared = volume.random_background(3, generator)
    assert shared.shape == (3, 3)
    assert len(shared.unique(dim=0)) == 1
    assert len(volume.random_background(3, generator, shared=False).unique(dim=0)) == 3


@pytest.mark.parametrize("textureless", [False, True])
def test_a_lamp_lights_a_ball_as_lambert_says(textureless: bool) -> None:
    cameras, behind = orbit(2, 24), torch.zeros(3)
    lamp = Lamp(torch.tensor([0.6, 0.0, 0.8]), 0.1, textureless)
    lit = volume.render(Volume(ball, everywhere(), 0.01), cameras, background=behind, lamp=lamp)
    exact = distance_to_ball(cameras)
    origins, directions = cameras.rays()
    normal = (origins + exact[..., None] * directions) / RADIUS
    facing = (normal * directions).sum(-1) < -0.6
    cosine = (normal @ lamp.direction).clamp(min=0)[facing]
    color = torch.ones(3) if textureless else torch.tensor([1.0, 0.5, 0.0])
    expected = (0.1 + 0.9 * cosine)[:, None] * color
    torch.testing.assert_close(lit.rgb[facing], expected, atol=0.06, rtol=0)
    assert float((lit.rgb[facing] - expected).abs().mean()) < 0.02
    even = volume.render(
        Volume(ball, everywhere(), 0.01), cameras, background=behind,
        lamp=Lamp(lamp.direction, 1.0),
    )  # fmt: skip
    plain = volume.render(Volume(ball, everywhere(), 0.01), cameras, background=behind)
    torch.testing.assert_close(even.rgb, plain.rgb)
    assert {"orientation", "smoothness"} <= lit.losses.keys()


@pytest.mark.parametrize("budget", [1, 500])
def test_pieces_do_not_change_the_picture_nor_the_gradient(budget: int) -> None:
    cameras = random_views(4, 8, torch.Generator().manual_seed(1))
    gain = torch.tensor(5.0, requires_grad=True)

    def soft(points: Tensor) -> tuple[Tensor, Tensor]:
        return gain * torch.sigmoid((RADIUS - points.norm(dim=-1)) * 20), points * gain * 0.1

    def look(budget: int) -> tuple[list[Tensor], Tensor]:
        picture = volume.render(
            Volume(soft, everywhere(), 0.05), cameras, background=WHITE, normals=True,
            generator=torch.Generator().manual_seed(2), budget=budget,
        )  # fmt: skip
        images = [picture.rgb, picture.opacity, picture.depth, picture.normal]
        total = sum(picture.losses.values()) + sum(image.square().sum() for image in images)
        assert isinstance(total, Tensor)
        return [i.detach() for i in images], torch.autograd.grad(total, gain)[0]

    whole, whole_gradient = look(2**20)
    parts, parts_gradient = look(budget)
    for a, b in zip(whole, parts):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    torch.testing.assert_close(whole_gradient, parts_gradient, rtol=1e-5, atol=0)
    with torch.no_grad():
        seen, _ = (look_without := volume.render(
            Volume(soft, everywhere(), 0.05), cameras, background=WHITE, normals=True,
            generator=torch.Generator().manual_seed(2), budget=budget,
        )).rgb, None  # fmt: skip
    torch.testing.assert_close(seen, whole[0], atol=1e-6, rtol=0)
    assert not look_without.rgb.requires_grad


def test_pieces_bound_the_samples_looked_up_at_once() -> None:
    largest = 0

    def watched(points: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal largest
        largest = max(largest, len(points))
        return ball(points)

    volume.render(Volume(watched, everywhere(), 0.02), orbit(1, 32), background=WHITE, budget=2000)
    assert 1000 < largest <= 2000


def test_jitter_is_decided_by_the_generator() -> None:
    cameras = orbit(1, 12)

    def look(generator: torch.Generator | None) -> Tensor:
        return volume.render(
            Volume(ball, everywhere(), 0.1), cameras, background=WHITE, generator=generator
        ).rgb

    first, second = (look(torch.Generator().manual_seed(s)) for s in (1, 2))
    assert torch.equal(first, look(torch.Generator().manual_seed(1)))
    assert not torch.equal(first, second)
    assert torch.equal(look(None), look(None))


def test_sparsity_and_opaque_have_their_values_and_signs() -> None:
    assert volume.sparsity(torch.zeros(2, 3)).item() == pytest.approx(0.1)
    assert volume.sparsity(torch.ones(2, 3)).item() == pytest.approx(math.sqrt(1.01))
    assert volume.opaque(torch.full((4,), 0.5)).item() == pytest.approx(math.log(2))
    assert volume.opaque(torch.tensor([0.0, 1.0])).item() < 0.01
    opacity = torch.tensor([0.3, 0.7], requires_grad=True)
    volume.opaque(opacity).backward()
    assert opacity.grad is not None
    assert opacity.grad[0] > 0 > opacity.grad[1]  # a step down the gradient polarises


def test_orientation_counts_normals_that_face_away() -> None:
    cameras = orbit(1, 16)

    def facing(sign: float) -> float:
        # thin fog whose density grows towards (or away from) the camera: normals point against it
        direction = sign * cameras.position[0] / cameras.distance[0]

        def fog(points: Tensor) -> tuple[Tensor, Tensor]:
            return 5 * torch.exp(2 * points @ direction), torch.zeros_like(points)

        picture = volume.render(
            Volume(fog, everywhere(), 0.05), cameras, background=WHITE, normals=True
        )
        return picture.losses["orientation"].item()

    assert facing(1.0) > 0.5  # denser towards the camera: normals look away from it
    assert facing(-1.0) < 1e-3


def test_smoothness_is_zero_for_a_plane_and_exact_for_an_edge() -> None:
    normal = torch.zeros(1, 4, 4, 3)
    normal[..., 0] = 1
    opacity = torch.ones(1, 4, 4, 1)
    assert volume.smoothness(normal, opacity).item() == 0
    normal[:, :, 2:] = torch.tensor([0.0, 1, 0])
    # 4 horizontal neighbours differ by |(1, -1, 0)|² = 2; 16 pixels, 2 directions
    assert volume.smoothness(normal, opacity).item() == pytest.approx(4 * 2 / 32)
    opacity[:, :, 2:] = 0
    assert volume.smoothness(normal, opacity).item() == 0


def test_normals_of_a_quadratic_are_exact() -> None:
    points = torch.rand(30, 3) - 0.5
    mirrored = torch.arange(30) % 2 == 0
    found = volume.normals_at(lambda p: 3 - p.square().sum(-1), points, 0.05, mirrored)
    torch.testing.assert_close(found, points / points.norm(dim=-1, keepdim=True), atol=1e-4, rtol=0)


def test_no_ray_meets_the_ball() -> None:
    cameras = orbit(1, 6, distance=3.0)
    away = Cameras(cameras.c2w @ torch.diag(torch.tensor([-1.0, 1, -1, 1])), cameras.fov_y, 6, 6)
    picture = volume.render(Volume(ball, everywhere(), 0.1), away, background=WHITE, normals=True)
    assert torch.equal(picture.rgb, torch.ones(1, 6, 6, 3))
    assert picture.losses["orientation"].item() == 0
