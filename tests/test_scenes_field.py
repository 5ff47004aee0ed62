"""The hash-grid field: what it starts as, that it learns, remembers and repeats itself."""

from __future__ import annotations

import io
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from renderers import kernels, volume
from threed.core.cameras import Cameras, orbit, random_views
from threed.core.errors import InputError
from threed.core.render import RenderOutput
from threed.scenes import hashgrid
from threed.scenes.field import Field
from threed.settings.base import replace
from threed.settings.scenes import FieldSettings

SMALL = FieldSettings(
    levels=6, log2_table=12, base_resolution=4, max_resolution=32, hidden=16, occupancy=16,
    samples=48, start_levels=4, level_every=5, occupancy_every=4,
)  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def target(cameras: Cameras) -> RenderOutput:
    """A green ball of radius 0.45 off the middle, blue above z = 0.1."""

    def ball(points: Tensor) -> tuple[Tensor, Tensor]:
        distance = (points - torch.tensor([0.15, 0.0, 0.0])).norm(dim=-1) - 0.45
        color = torch.where(
            points[:, 2:] > 0.1, torch.tensor([0.1, 0.2, 0.9]), torch.tensor([0.1, 0.8, 0.2])
        )
        return 300 * torch.sigmoid(-100 * distance), color

    full = torch.ones(2, 2, 2, dtype=torch.bool)
    return volume.render(volume.Volume(ball, full, 0.02), cameras, background=torch.ones(3))


def train(field: Field, optimizer: torch.optim.Optimizer, first: int, last: int) -> float:
    """Fit the target from step first to last - 1, every step seeded by its number."""
    loss = torch.zeros(())
    for step in range(first, last):
        rng = generator(step)
        field.update_occupancy(step, rng)
        cameras = random_views(4, 20, rng, views=4)
        picture = field.render(cameras, step=step, generator=rng)
        with torch.no_grad():
            truth = target(cameras)
        loss = F.mse_loss(picture.rgb, truth.rgb) + F.mse_loss(picture.opacity, truth.opacity)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def adam(field: Field) -> torch.optim.Optimizer:
    return torch.optim.Adam(field.param_groups(0.02), betas=(0.9, 0.99), eps=1e-15)


def test_it_begins_as_a_soft_blob_of_the_closed_form() -> None:
    field = Field(SMALL)
    radius = torch.tensor([0.0, 0.25, 0.5, 0.75, 0.999])
    points = torch.stack([radius, 0 * radius, 0 * radius], -1)
    blob = SMALL.blob_bias * (1 - radius / SMALL.blob_radius)
    # the networks' random start moves the pre-activation a little
    low, high = (SMALL.density_gain * F.softplus(blob + d) for d in (-0.5, 0.5))
    density = field.density(points)
    assert bool(((low < density) & (density < high)).all())
    assert field.density(torch.tensor([[0.9, 0.9, 0.9], [1.01, 0, 0]])).tolist() == [0, 0]


def test_density_and_color_are_the_two_functions() -> None:
    field = Field(SMALL, seed=3)
    with torch.no_grad():
        field.table.normal_()
    points = torch.rand(100, 3) * 2 - 1
    density, color = field.density_and_color(points)
    assert torch.equal(density, field.density(points))
    assert torch.equal(color, field.color(points))
    assert color.shape == (100, 3)
    assert bool(((color > 0) & (color < 1)).all())


def test_the_seed_decides_the_start_and_leaves_torch_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = Field(SMALL, seed=1), Field(SMALL, seed=1), Field(SMALL, seed=2)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters()))
    assert not torch.equal(one.table, other.table)


def test_it_learns_a_ball_from_its_pictures() -> None:
    field = Field(SMALL)
    train(field, adam(field), 0, 120)
    cameras = orbit(3, 32, elevation_deg=20, start_deg=10)
    with torch.no_grad():
        picture, truth = field.render(cameras, normals=True), target(cameras)
    psnr = -10 * math.log10(F.mse_loss(picture.rgb, truth.rgb).item())
    solid, seen = truth.opacity > 0.5, picture.opacity > 0.5
    iou = ((solid & seen).sum() / (solid | seen).sum()).item()
    assert psnr > 24
    assert iou > 0.95
    inside = truth.opacity[..., 0] > 0.99
    assert (picture.depth - truth.depth)[..., 0][inside].abs().mean() < 0.1
    # space it has found empty is not looked at any more
    assert 0.02 < field.occupied.float().mean().item() < 0.3


def test_a_resumed_field_goes_on_to_the_same_bytes() -> None:
    whole = Field(SMALL)
    train(whole, adam(whole), 0, 14)
    first = Field(SMALL)
    optimizer = adam(first)
    train(first, optimizer, 0, 7)
    file = io.BytesIO()
    torch.save({"field": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    second = Field(SMALL, seed=99)
    second.load_state_dict(state["field"])
    optimizer = adam(second)
    optimizer.load_state_dict(state["optimizer"])
    train(second, optimizer, 7, 14)
    assert whole.state_dict().keys() == second.state_dict().keys()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_occupancy_follows_the_density() -> None:
    field = Field(SMALL)
    assert bool(field.occupied.all())
    field.update_occupancy(0, generator())
    axis = (torch.arange(16) + 0.5) / 8 - 1
    centers = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
    radius = centers.norm(dim=-1)
    assert bool(field.occupied[radius < 0.5].all())
    assert not bool(field.occupied[radius > 0.95].any())
    # nothing there any more: forgotten after a while
    with torch.no_grad():
        field.mlp[2].bias[3] = -20.0
    for step in range(0, 400, 4):
        field.update_occupancy(step, generator(step))
    assert field.remembered.max() < 0.01


def test_between_updates_the_generator_is_left_alone() -> None:
    field, rng = Field(SMALL), generator(5)
    before = rng.get_state()
    field.update_occupancy(3, rng)
    assert torch.equal(before, rng.get_state())
    field.update_occupancy(4, rng)
    assert not torch.equal(before, rng.get_state())


def test_a_fading_scene_keeps_cells_to_come_back_in() -> None:
    field = Field(SMALL)
    with torch.no_grad():
        field.mlp[2].bias[3] = -15.0
    field.update_occupancy(0, generator())
    assert field.remembered.max() < SMALL.occupancy_alpha * SMALL.samples / 2
    assert 0 < field.occupied.float().mean() < 0.5
    cameras = orbit(1, 16)
    field.render(cameras).opacity.sum().backward()
    assert field.mlp[2].bias.grad is not None
    assert field.mlp[2].bias.grad[3] > 0


def test_levels_join_one_by_one() -> None:
    field = Field(SMALL)
    used = []
    for step in (0, 4, 5, 10, 1000):
        field.update_occupancy(step, generator())
        used.append(int(field.active_levels))
    assert used == [4, 4, 5, 6, 6]
    late = Field(replace(SMALL, level_from=20))
    assert [late._levels(step) for step in (0, 20, 24, 25, 30)] == [4, 4, 4, 5, 6]
    with torch.no_grad():
        field.table.normal_()
    cameras = orbit(1, 8)
    few, all_of_them = field.render(cameras, step=0).rgb, field.render(cameras).rgb
    assert not torch.equal(few, all_of_them)
    assert torch.equal(all_of_them, field.render(cameras, step=1000).rgb)
    assert int(field.active_levels) == 6  # looking does not change the field
    field.render(cameras, step=0).rgb.sum().backward()
    assert field.table.grad is not None
    assert bool((field.table.grad[4 * 2**12 :] == 0).all())


def test_empty_space_that_is_skipped_is_not_missed() -> None:
    field = Field(SMALL)
    cameras = orbit(1, 24)
    full = field.render(cameras).rgb
    field.update_occupancy(0, generator())
    assert field.occupied.float().mean() < 0.6
    missed = (field.render(cameras).rgb - full).abs()
    assert missed.max() < 0.07  # thin fog around the blob
    assert missed.mean() < 0.02


def test_pieces_give_the_same_picture_and_gradient() -> None:
    field = Field(SMALL)
    with torch.no_grad():
        field.table.normal_()
    cameras = orbit(2, 16)
    whole = field.render(cameras, normals=True)
    (expected,) = torch.autograd.grad(whole.rgb.square().sum(), field.table)
    parts = field.render(cameras, normals=True, budget=1000)
    (gradient,) = torch.autograd.grad(parts.rgb.square().sum(), field.table)
    torch.testing.assert_close(parts.rgb, whole.rgb, atol=1e-5, rtol=0)
    torch.testing.assert_close(parts.opacity, whole.opacity, atol=1e-5, rtol=0)
    torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-3)


def test_cpu_and_reference_kernels_give_the_same_picture_and_gradient() -> None:
    field = Field(SMALL)
    with torch.no_grad():
        field.table.normal_()
    results = []
    for name in ("cpu", "reference"):
        kernels.set_kernels(name)
        try:
            picture = field.render(orbit(1, 16), generator=generator())
            (gradient,) = torch.autograd.grad(picture.rgb.square().sum(), field.table)
        finally:
            kernels.set_kernels(None)
        results.append((picture.rgb.detach(), gradient))
    (a, ga), (b, gb) = results
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
    torch.testing.assert_close(ga, gb, atol=1e-3, rtol=1e-2)


def test_the_learned_background_learns_a_tenth_as_fast() -> None:
    field = Field(replace(SMALL, background="learned"))
    assert field.background is not None
    for share in (0.1, 1.0):
        field.settings = replace(field.settings, net_rate=share)
        groups = field.param_groups(0.5)
        assert [group["lr"] for group in groups] == [0.5, 0.5 * share, 0.05]
        parts = [[field.table], [*field.mlp.parameters()], [*field.background.parameters()]]
        assert [[*map(id, group["params"])] for group in groups] == [[*map(id, p)] for p in parts]
    picture = field.render(orbit(1, 8)).rgb
    corner = picture[0, 0, 0]
    assert not torch.equal(corner, torch.ones(3))
    corner.sum().backward()
    assert all(p.grad is not None for p in field.background.parameters())
    red = torch.tensor([1.0, 0, 0])
    torch.testing.assert_close(field.render(orbit(1, 8), background=red).rgb[0, 0, 0], red)
    torch.testing.assert_close(Field(SMALL).render(orbit(1, 8)).rgb[0, 0, 0], torch.ones(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": 0}, "levels must be at least 1, got 0"),
        ({"max_resolution": 2}, "max_resolution must be at least base_resolution 4, got 2"),
        ({"log2_table": 30}, r"log2_table must be in 4\.\.24, got 30"),
    ],
)
def test_settings_that_make_no_field(change: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SMALL, **change)  # type: ignore[arg-type]


def test_resolutions_grow_geometrically() -> None:
    settings = FieldSettings(levels=5, base_resolution=8, max_resolution=128)
    assert hashgrid.resolutions(settings).tolist() == [8, 16, 32, 64, 128]
