"""Surfaces and textured meshes: what they begin as, what pictures teach them, what they keep."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from exporters import topology
from renderers.shading import Lamp
from tests import shapes
from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.core.mesh import Material, Mesh
from threed.core.schedule import Schedule
from threed.scenes.paint import Spots, colors_of
from threed.scenes.placement import Placement
from threed.scenes.shown import draw_lamp
from threed.scenes.surface import Surface
from threed.scenes.textured import Textured
from threed.settings.base import replace
from threed.settings.scenes import SURFACE_LOSSES, PaintSettings, SurfaceSettings, TexturedSettings
from threed.settings.stage import LampSettings

PAINT = PaintSettings(levels=4, log2_table=12, max_resolution=32, hidden=16, copy_steps=80)
SMALL = SurfaceSettings(grid=16)
LAMP = Lamp(torch.tensor([0.6, 0.0, 0.8]), 0.3)


def ball(**changes: float) -> Surface:
    return Surface(replace(SMALL, **changes), PAINT)  # type: ignore[arg-type]


def test_it_begins_as_a_grey_ball() -> None:
    scene = ball()
    mesh = scene.solid()
    assert topology.is_watertight(topology.edges(mesh.faces))
    assert (mesh.vertices.norm(dim=-1) - 0.5).abs().max() < 0.02
    colors = scene.color(mesh.vertices, mesh.vertices)
    assert (colors - 0.5).abs().max() < 0.2


def test_it_takes_the_shape_and_colours_of_a_mesh() -> None:
    mesh = shapes.sphere(0.6, 24, 32)
    scene = ball()
    scene.wrap(mesh)
    assert (scene.solid().vertices.norm(dim=-1) - 0.6).abs().max() < 0.02
    spots = Spots.on(mesh, 4096)
    colors = colors_of(mesh, spots)
    assert colors is not None
    scene.take_colors(spots, colors)
    assert (scene.color(spots.points, spots.normals) - colors).abs().mean() < 0.04


def test_what_encloses_nothing_is_refused() -> None:
    sheet = Mesh(torch.tensor([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0, 0.5, 0]]),
                 torch.tensor([[0, 1, 2]]))  # fmt: skip
    with pytest.raises(InputError, match=r"encloses nothing that a grid of 16 cells .* too thin"):
        ball().wrap(sheet)


def test_outlines_teach_it_a_radius() -> None:
    cameras = orbit(2, 24)
    with torch.no_grad():
        target = ball(radius=0.6).render(cameras, background=torch.zeros(3)).opacity
    scene = ball()
    scene.paint.requires_grad_(False)
    optimizer = torch.optim.Adam(scene.param_groups(0.04)[2:])
    errors = []
    for _ in range(40):
        seen = scene.render(cameras, background=torch.zeros(3))
        optimizer.zero_grad()
        loss = (seen.opacity - target).square().mean()
        loss.backward()
        optimizer.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.2 * errors[0]
    # where a camera sees it in outline
    radius = scene.solid().vertices.norm(dim=-1)
    assert float(radius.quantile(0.9)) == pytest.approx(0.6, abs=0.03)


def test_a_lamp_teaches_the_shape_where_there_is_no_outline() -> None:
    cameras = orbit(1, 24, fov_y_deg=12.0)  # so near that the ball fills the picture
    taught = []
    for lamp in (None, LAMP):
        scene = ball()
        seen = scene.render(cameras, lamp=lamp)
        assert float(seen.opacity.detach().min()) == 1.0
        seen.rgb.sum().backward()
        assert scene.distance.grad is not None
        taught.append(float(scene.distance.grad.abs().sum()))
    assert taught[0] < 1e-3 * taught[1]


def drawn(settings: LampSettings, shading: float = 1.0, step: int = 0) -> list[Lamp | None]:
    generator, view = torch.Generator().manual_seed(0), orbit(1, 8)
    return [draw_lamp(settings, shading, view, step, generator) for _ in range(600)]


def test_lamps_are_drawn_as_often_and_as_the_settings_say() -> None:
    late = Schedule(((0, 0.0), (2000, 0.0), (2001, 0.75)))
    settings = LampSettings(share=late, textureless=0.5, soft=False, place="normal")
    assert drawn(settings, step=2000) == [None] * 600
    on = [lamp for lamp in drawn(settings, 0.9, 2001) if lamp]
    assert len(on) == pytest.approx(450, abs=40)
    assert sum(lamp.textureless for lamp in on) == pytest.approx(len(on) / 2, abs=40)
    assert {round(lamp.ambient, 6) for lamp in on} == {0.1}
    soft = [lamp.ambient for lamp in drawn(LampSettings(), 0.8) if lamp]
    assert len(soft) == 600
    assert 0.2 <= min(soft) < 0.25 < 0.95 < max(soft) < 1
    assert sum(soft) / 600 == pytest.approx(0.6, abs=0.03)


@pytest.mark.parametrize(("place", "widest"), [("cone", 60.0), ("normal", 180.0)])
def test_lamps_stand_around_the_camera(place: str, widest: float) -> None:
    towards = torch.nn.functional.normalize(orbit(1, 8).position[0], dim=0)
    directions = [lamp.direction for lamp in drawn(LampSettings(place=place)) if lamp]
    torch.testing.assert_close(torch.stack(directions).norm(dim=1), torch.ones(600))
    angles = torch.rad2deg((torch.stack(directions) @ towards).clamp(-1, 1).acos())
    assert float(angles.max()) <= widest + 1e-3
    # 2.9 away from the origin, a noise of 1 along each axis turns by 25 degrees on the average
    mean = 39.2 if place == "cone" else 25.0
    assert float(angles.mean()) == pytest.approx(mean, abs=2)


def test_an_even_light_dims_all_alike() -> None:
    settings, normals = LampSettings(place="even", soft=False), torch.randn(50, 3)
    lamp = drawn(settings, 0.3)[0]
    assert lamp is not None
    assert settings.still
    assert not replace(settings, soft=True).still
    assert not LampSettings(soft=False).still
    albedo = torch.rand(50, 3)
    torch.testing.assert_close(lamp.light(albedo, normals), 0.7 * albedo)


def test_without_shading_no_chance_is_taken() -> None:
    generator = torch.Generator().manual_seed(0)
    assert draw_lamp(LampSettings(), 0.0, orbit(1, 8), 0, generator) is None
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(0).get_state())


def test_losses_are_there_while_it_learns_only() -> None:
    scene, cameras = ball(), orbit(1, 16)
    seen = scene.render(cameras)
    assert tuple(seen.losses) == SURFACE_LOSSES
    total = torch.stack(list(seen.losses.values())).sum()
    total.backward()
    for parameter in (scene.distance, scene.move):
        assert parameter.grad is not None
        assert bool((parameter.grad != 0).any())
    with torch.no_grad():
        assert scene.render(cameras).losses == {}


@pytest.mark.parametrize("kind", ["surface", "textured"])
def test_pieces_change_neither_picture_nor_gradient(kind: str) -> None:
    scene: Surface | Textured = ball()
    if kind == "textured":
        scene = Textured(None, PAINT)
        scene.wrap(shapes.sphere())
    behind = torch.rand(3, 3)
    found = []
    for budget in (10**6, 16 * 16):
        scene.zero_grad()
        seen = scene.render(orbit(3, 16), background=behind, lamp=LAMP, budget=budget)
        (seen.rgb * torch.linspace(0, 1, 16)[:, None]).sum().backward()
        grads = [p.grad.clone() for p in scene.parameters() if p.grad is not None]
        found.append((seen.rgb.detach(), seen.normal.detach(), grads))
    (rgb, normal, grads), (rgb2, normal2, grads2) = found
    assert torch.allclose(rgb, rgb2, atol=1e-5)
    assert torch.allclose(normal, normal2, atol=1e-5)
    assert len(grads) == len(grads2) > 4
    for one, other in zip(grads, grads2):
        assert torch.allclose(one, other, atol=1e-4)


def test_a_textured_mesh_keeps_its_shape_and_map_and_learns_a_picture() -> None:
    uv = torch.rand(30, 2)
    mesh = shapes.sphere(0.6, 12, 16)
    mesh = dataclasses.replace(mesh, uv=uv, uv_faces=torch.randint(30, mesh.faces.shape))
    scene = Textured(TexturedSettings(keep_uv=True), PAINT)
    scene.wrap(mesh)
    cameras, red = orbit(3, 24), torch.tensor([0.9, 0.1, 0.1])
    optimizer = torch.optim.Adam(scene.param_groups(0.02))
    for _ in range(60):
        seen = scene.render(cameras, background=torch.zeros(3))
        optimizer.zero_grad()
        ((seen.rgb - red * seen.opacity) ** 2).mean().backward()
        optimizer.step()
    solid = scene.solid()
    assert torch.equal(solid.vertices, mesh.vertices)
    assert solid.uv is not None
    assert torch.equal(solid.uv, uv)
    assert (scene.color(mesh.vertices, mesh.vertices) - red).abs().median() < 0.05
    again = Textured(TexturedSettings(), PAINT, seed=9)
    again.load_state_dict(scene.state_dict())
    assert torch.equal(again.render(cameras).rgb, scene.render(cameras).rgb)
    assert again.solid().uv is None, "only kept where asked for"


def test_spots_lie_evenly_on_a_mesh_and_see_its_texture() -> None:
    quad = Mesh(
        torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]),
        torch.tensor([[0, 1, 2], [0, 2, 3]]),
        uv=torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]]),
        uv_faces=torch.tensor([[0, 1, 2], [0, 2, 3]]),
    )
    ramp = torch.linspace(0, 1, 64)[None, :, None].expand(64, 64, 3).contiguous()
    quad = dataclasses.replace(quad, material=Material(ramp))
    spots = Spots.on(quad, 8192)
    assert float(spots.points.mean(0)[:2].sub(0.5).abs().max()) < 0.02
    assert torch.equal(spots.normals, torch.tensor([0.0, 0, 1]).expand(8192, 3))
    seen = colors_of(quad, spots)
    assert seen is not None
    assert (seen[:, 0] - spots.points[:, 0]).abs().max() < 0.02
    assert colors_of(dataclasses.replace(quad, material=Material()), spots) is None


def test_a_placement_comes_back() -> None:
    mesh = shapes.sphere()
    turn = ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0))
    placement = Placement(turn, (3.0, -2.0, 100.0), 0.01)
    moved = placement.into(mesh)
    expected = 0.01 * (mesh.vertices[:, [1, 2, 0]] - torch.tensor([3.0, -2.0, 100.0]))
    assert torch.allclose(moved.vertices, expected, atol=1e-6)
    assert torch.allclose(placement.out(moved).vertices, mesh.vertices, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SurfaceSettings(grid=2), "grid must be in 4..256, got 2"),
        (lambda: SurfaceSettings(radius=1.0), "radius must be above 0 and below 1, got 1"),
        (lambda: SurfaceSettings(shape_lr=-1.0), "shape_lr must be at least 0, got -1"),
        (lambda: TexturedSettings(shading=2.0), "shading must be in 0..1, got 2"),
        (lambda: PaintSettings(levels=0), "levels must be at least 1, got 0"),
        (lambda: PaintSettings(max_resolution=4), "max_resolution must be at least"),
        (lambda: PaintSettings(log2_table=30), "log2_table must be in 4..24, got 30"),
        (lambda: PaintSettings(copy_steps=-1), "copy_steps must be at least 0, got -1"),
    ],
)
def test_settings_that_make_nothing_are_refused(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]
