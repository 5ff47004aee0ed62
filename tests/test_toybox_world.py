"""The world: what is drawn agrees with its own truth, and a seed decides everything."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from threed.core.cameras import Cameras, at, orbit
from threed.settings.presets import load_run
from threed.toybox.world import draw
from threed.toybox.world.draw import Light
from threed.toybox.world.kinds import FRONTED
from threed.toybox.world.sheets import passes
from threed.toybox.world.toys import (
    CLAY,
    COLORS,
    FINISHES,
    KINDS,
    draw_set,
    random_light,
    random_set,
    random_toy,
)

WHITE = np.ones((2, 3), np.float32)


def test_there_is_enough_to_learn() -> None:
    assert len(KINDS) >= 24
    assert len(COLORS) == 10
    assert len(FINISHES) == 4
    assert len(FRONTED) >= 10
    assert set(FRONTED) <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_toy_fits_the_unit_ball(kind: str) -> None:
    for seed in range(3):
        toy = random_toy(np.random.default_rng(seed), kind=kind)
        drawn = draw_set(toy, orbit(4, 32), Light(), WHITE)
        points = surface_points(drawn.cameras, [p.depth for p in drawn.pictures])
        radius = points.norm(dim=-1)
        assert 0.5 < float(radius.max()) < 0.98


def surface_points(cameras: Cameras, depth: list[np.ndarray]) -> torch.Tensor:
    origins, directions = cameras.rays()
    t = torch.from_numpy(np.stack(depth))[..., None]
    return (origins + t * directions)[t[..., 0] > 0]


def test_depth_and_parts_lie_on_the_solids() -> None:
    toy = random_toy(np.random.default_rng(5), kind="snowman")
    cameras = orbit(2, 48)
    rows = toy.packed()
    for index in range(2):
        picture = draw.draw(
            rows, cameras.c2w[index].numpy(), float(cameras.fov_y[index]), 48, Light(), WHITE,
            samples=1,
        )  # fmt: skip
        one = cameras[slice(index, index + 1)]
        points = surface_points(one, [picture.depth])
        parts = picture.part[picture.depth > 0]
        distances = [draw._solid(rows[i], *p) for i, p in zip(parts, points.double().numpy())]
        assert np.abs(distances).max() < 4e-3


def test_normals_are_unit_and_face_the_camera() -> None:
    drawn = random_set(np.random.default_rng(2), 48)
    _, directions = drawn.cameras.rays()
    for picture, ray in zip(drawn.pictures, directions.numpy()):
        inside = picture.alpha == 1
        assert np.allclose(np.linalg.norm(picture.normal[inside], axis=-1), 1, atol=1e-4)
        assert ((picture.normal * ray).sum(-1)[inside] < 0.15).mean() > 0.98
        assert not picture.normal[picture.alpha == 0].any()


def test_the_background_shows_where_the_toy_does_not() -> None:
    toy = random_toy(np.random.default_rng(0), kind="ball", color="red")
    ground = np.array([[0.2, 0.4, 0.6], [0.2, 0.4, 0.6]], np.float32)
    picture = draw_set(toy, orbit(1, 32), Light(), ground).pictures[0]
    assert np.allclose(picture.rgb[picture.alpha == 0], ground[0])
    assert picture.alpha[0, 0] == 0
    assert picture.alpha[16, 16] == 1


def test_a_seed_decides_everything() -> None:
    one, two, other = (random_set(np.random.default_rng(seed), 32) for seed in (7, 7, 8))
    assert one.toy == two.toy
    assert all(np.array_equal(a.rgb, b.rgb) for a, b in zip(one.pictures, two.pictures))
    assert not np.array_equal(one.pictures[0].rgb, other.pictures[0].rgb)


@pytest.mark.parametrize("kind", FRONTED)
def test_fronts_cannot_be_mistaken_for_backs(kind: str) -> None:
    toy = random_toy(np.random.default_rng(1), kind=kind, color="red", finish="plain")
    angle = torch.tensor([0.0, 180.0])
    one = torch.ones(2)
    cameras = at(angle, one * 15, one * 2.9, one * 40, 64)
    front, back = draw_set(toy, cameras, Light((0, 0, 1)), WHITE).pictures
    toy_pixels = max((front.alpha > 0).sum(), 1)
    changed = (np.abs(front.rgb - back.rgb).max(-1) > 0.1).sum()
    assert changed > 0.04 * toy_pixels


def test_colours_are_what_they_are_called() -> None:
    for name, value in COLORS.items():
        toy = random_toy(np.random.default_rng(3), kind="ball", color=name, finish="plain")
        picture = draw_set(toy, orbit(1, 32), Light(ambient=1.0), WHITE).pictures[0]
        mean = picture.rgb[picture.alpha == 1].mean(0)
        nearest = min(COLORS, key=lambda other: float(np.abs(mean - COLORS[other]).sum()))
        assert nearest == name
        assert np.abs(mean - value).max() < 0.1


def test_views_of_a_set_share_all_but_the_azimuth() -> None:
    drawn = random_set(np.random.default_rng(11), 16)
    cameras = drawn.cameras
    assert torch.allclose(cameras.elevation_deg, cameras.elevation_deg[0].expand(4), atol=1e-3)
    assert torch.allclose(cameras.distance, cameras.distance[0].expand(4))
    steps = (cameras.azimuth_deg.roll(-1) - cameras.azimuth_deg) % 360
    assert torch.allclose(steps, torch.full((4,), 90.0), atol=1e-2)


def test_clay_has_one_colour() -> None:
    drawn = random_set(np.random.default_rng(4), 32, clay=True)
    assert {part.color for part in drawn.toy.parts} == {CLAY}
    picture = drawn.pictures[0]
    inside = picture.rgb[picture.alpha == 1]
    assert np.allclose(inside.max(-1), inside.min(-1), atol=1e-6)


def test_passes_show_five_rows_of_truth() -> None:
    drawn = random_set(np.random.default_rng(3), 24)
    shown = passes(drawn)
    assert shown.shape == (20, 3, 24, 24)
    assert float(shown.min()) >= 0
    assert float(shown.max()) <= 1
    alpha = torch.from_numpy(np.stack([p.alpha for p in drawn.pictures]))
    assert torch.equal(shown[4:8, 0], alpha)


def test_presets_are_as_dim_as_pictures_of_toys_are() -> None:
    shown = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        kind = ("mug", "apple", "cube", "ball", "teapot", "bear")[seed % 6]
        toy = random_toy(rng, kind, "white", "plain")
        made = draw_set(toy, orbit(4, 64), random_light(rng), 0 * WHITE).pictures
        rgb = np.stack([picture.rgb for picture in made])
        white = (np.ptp(rgb, axis=-1) < 0.06) & (rgb.min(-1) > 0.35)
        shown.append(np.median(rgb[white]) / np.mean(COLORS["white"]))
    run = load_run("toybox-mvdream")
    assert 1 - run.textured.shading == pytest.approx(float(np.median(shown)), abs=0.02)
    assert all(stage.lamp.still for stage in run.stages if stage.scene == "textured")
