"""Learned roughness and metallic: what light makes of them, and what pictures teach of them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from exporters import load
from renderers.raster import render
from renderers.shading import lambert, physical, to_linear
from tests import shapes
from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.runs.asset import build_asset
from threed.scenes import shown
from threed.scenes.textured import Textured
from threed.settings.asset import AssetSettings
from threed.settings.base import replace
from threed.settings.scenes import PaintSettings, TexturedSettings
from threed.settings.stage import LampSettings

PAINT = PaintSettings(levels=2, log2_table=10, max_resolution=16, hidden=16)
GLOSSY = TexturedSettings(shading=1.0, gloss=True)


def lit(rough: float, metal: float, normal: Tensor, towards: Tensor, ambient: float) -> Tensor:
    """Linear light of a grey surface under a lamp at z."""
    n = len(normal)
    gloss = torch.tensor([rough, metal]).expand(n, 2)
    lamp = torch.tensor([0.0, 0, 1]).expand(n, 3)
    return to_linear(physical(torch.full((n, 3), 0.5), gloss, normal, towards, lamp, ambient))[:, 0]


def leaning(degrees: Tensor) -> Tensor:
    angle = torch.deg2rad(degrees)
    return torch.stack([angle.sin(), torch.zeros_like(angle), angle.cos()], 1)


def test_a_rough_surface_that_is_no_metal_is_nearly_lamberts() -> None:
    normal = leaning(torch.linspace(0, 60, 7))
    towards = leaning(torch.zeros(7))
    seen = lit(1.0, 0.0, normal, towards, 0.0)
    matt = to_linear(torch.tensor(0.5)) * lambert(normal, towards, 0.0)[:, 0]
    torch.testing.assert_close(seen, matt, atol=0.02, rtol=0)


def test_the_smoother_the_narrower_and_brighter_is_the_reflection() -> None:
    towards, normal = leaning(torch.zeros(31)), leaning(torch.linspace(0, 30, 31))
    widths = []
    for rough in (0.2, 0.4, 0.7):
        seen = lit(rough, 1.0, normal, towards, 0.0)
        widths.append(int((seen > 0.5 * seen[0]).sum()))
    assert widths[0] < widths[1] < widths[2]


@pytest.mark.parametrize("rough", [0.3, 0.6, 1.0])
def test_no_more_light_comes_back_than_came(rough: float) -> None:
    """A white metal: the reflected share, over all directions of the lamp."""
    generator = torch.Generator().manual_seed(0)
    z, turn = torch.rand(2, 20_000, generator=generator)
    flat = (1 - z * z).sqrt()
    lamps = torch.stack([flat * (6.2832 * turn).cos(), flat * (6.2832 * turn).sin(), z], 1)
    n = len(lamps)
    up = torch.tensor([0.0, 0, 1]).expand(n, 3)
    towards = F.normalize(torch.tensor([0.5, 0, 1.0]), dim=0).expand(n, 3)
    gloss = torch.tensor([rough, 1.0]).expand(n, 2)
    # so dim a lamp that nothing is clamped: a tenth of a thousandth of the light is the sky's
    albedo = torch.ones(n, 3)
    dim = 1 - 1e-3
    seen = to_linear(physical(albedo, gloss, up, towards, lamps, dim))[:, 0]
    sky = to_linear(physical(albedo, gloss, up, towards, -up, dim))[:, 0]
    share = float(((seen - sky).clamp(min=0) / 1e-3).mean()) * 2
    assert 0.3 < share < 1.02
    if rough == 1:  # the lobe is even, and the integral has a closed form
        over = float(towards[0, 2])
        assert share == pytest.approx(1 - over * math.log(1 + 1 / over), abs=0.01)


def test_a_known_roughness_is_recovered_from_pictures() -> None:
    mesh, truth = shapes.sphere(0.7, 16, 24), torch.tensor([0.5, 0.45, 0.4, 0.3, 0.9])
    scene = Textured(GLOSSY, PAINT)
    scene.wrap(mesh)
    first = scene.gloss(mesh.vertices, mesh.vertices).mean(0)
    assert float(first[0]) > 0.55
    assert float(first[1]) < 0.2
    optimizer = torch.optim.Adam(scene.parameters(), lr=0.03, betas=(0.9, 0.99))
    for step in range(120):
        cameras = orbit(2, 16, start_deg=37 * step)
        seed = torch.Generator().manual_seed(step)
        lamp = shown.draw_lamp(LampSettings(), 1.0, cameras, step, seed)
        known = shown.glossy(lambda p: truth.expand(len(p), 5), lamp)
        wanted = render(mesh.vertices, mesh.faces, cameras, shade=known).rgb
        optimizer.zero_grad()
        seen = scene.render(cameras, lamp=lamp).rgb
        F.mse_loss(seen, wanted).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    found = torch.cat([scene.color(mesh.vertices, mesh.vertices),
                       scene.gloss(mesh.vertices, mesh.vertices)], 1)  # fmt: skip
    middle = found.median(0).values
    torch.testing.assert_close(middle, truth, atol=0.04, rtol=0)


def test_it_is_baked_into_the_map_that_gltf_has_for_it(tmp_path: Path) -> None:
    scene = Textured(GLOSSY, PAINT)
    scene.wrap(shapes.sphere(0.7, 12, 16))
    settings = AssetSettings(faces=400, texture=64, turntable_frames=2, turntable_size=16,
                             preview_size=16)  # fmt: skip
    with torch.no_grad():
        scene.paint.mlp[-1].weight.zero_()
        scene.paint.mlp[-1].bias.copy_(torch.tensor([0.0, 0, 0, math.log(3), -math.log(3)]))
    asset = build_asset(scene, tmp_path, settings, {})
    back = load(asset.glb).material
    assert (back.metallic, back.roughness) == (1.0, 1.0)
    assert back.metallic_roughness is not None
    packed = back.metallic_roughness.view(-1, 3).median(0).values
    torch.testing.assert_close(packed, torch.tensor([1.0, 0.75, 0.25]), atol=0.02, rtol=0)


def test_without_a_lamp_there_is_nothing_to_learn_from() -> None:
    with pytest.raises(InputError, match=r"gloss shows under a lamp only.*textured\.shading=0\.8"):
        replace(GLOSSY, shading=0.0)
    scene = Textured(GLOSSY, PAINT)
    assert scene.has_gloss
    assert not Textured(TexturedSettings(), PAINT).has_gloss
    again = Textured(GLOSSY, PAINT, seed=5)
    again.load_state_dict(scene.state_dict())
    points = torch.rand(9, 3)
    assert torch.equal(again.gloss(points, points), scene.gloss(points, points))
