"""The torch reference of every kernel, and what is built on it, on a CUDA device as on the CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from renderers import kernels
from renderers.kernels import Samples, field_reference, raster_reference
from renderers.raster import render_mesh
from renderers.shading import Lamp
from tests.shapes import sphere
from threed.core.cameras import orbit
from threed.core.render import RenderOutput
from threed.runs.stages import Single
from threed.scenes.field import Field
from threed.scenes.surface import Surface
from threed.scenes.textured import Textured
from threed.settings.base import replace
from threed.settings.scenes import FieldSettings, PaintSettings, SurfaceSettings

pytestmark = pytest.mark.gpu
DEVICES = ("cpu", "cuda")
PAINT = PaintSettings(levels=4, log2_table=12, max_resolution=32)


@pytest.fixture(params=["reference", "auto"])
def chosen(request: pytest.FixtureRequest) -> Iterator[Callable[[str], None]]:
    """Chooses kernels for a device: the reference on the CPU, each kind in turn on the other."""
    yield lambda device: kernels.set_kernels("reference" if device == "cpu" else request.param)
    kernels.set_kernels(None)


def on_both(work: Callable[[str], Sequence[Tensor]], *, atol: float = 1e-5) -> None:
    """What some work returns is the same on the CPU and on a device."""
    one, other = work("cpu"), work("cuda")
    assert len(one) == len(other)
    for a, b in zip(one, other):
        assert b.device.type == "cuda"
        assert bool(a.isfinite().all())
        torch.testing.assert_close(b.cpu(), a, atol=atol, rtol=1e-4)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_hash_grid_is_the_same() -> None:
    points, rows = random(500, 3) * 1.2 - 0.1, random(4 * 512, 2, seed=1) - 0.5
    cells = torch.tensor([3, 6, 17, 40])

    def work(device: str) -> list[Tensor]:
        table = rows.clone().to(device).requires_grad_()
        where = points.clone().to(device).requires_grad_()
        value = field_reference.hash_encode(where, table, cells, 3)
        cotangent = random(*value.shape, seed=2).to(device)
        return [value.detach(), *torch.autograd.grad(value, (where, table), cotangent)]

    on_both(work, atol=1e-4)


def marched(device: str) -> Samples:
    origins, directions = (v.reshape(-1, 3).to(device) for v in orbit(2, 12).rays())
    n = len(origins)
    occupancy = random(8, 8, 8) < 0.4
    return field_reference.march(
        origins, directions, torch.full((n,), 1.9, device=device),
        torch.full((n,), 3.9, device=device), occupancy.to(device), 0.05,
        random(n, seed=1).to(device),
    )  # fmt: skip


def test_rays_are_marched_and_composited_the_same() -> None:
    samples = marched("cpu")
    assert len(samples) > 1000
    on_both(lambda device: astuple(marched(device)))
    density, values = 20 * random(len(samples)), random(len(samples), 3, seed=1)

    def work(device: str) -> list[Tensor]:
        leaves = [v.clone().to(device).requires_grad_() for v in (density, values)]
        here = Samples(*(value.to(device) for value in astuple(samples)))
        out = field_reference.composite(*leaves, here, len(here.packed))
        cotangents = [random(*v.shape, seed=2).to(device) for v in out]
        return [*(v.detach() for v in out), *torch.autograd.grad(out, leaves, cotangents)]

    on_both(work, atol=1e-4)


def test_triangles_are_drawn_the_same() -> None:
    ball = sphere(0.6, 7, 9)
    place = F.pad(ball.vertices, (0, 1), value=1.0) @ orbit(2, 8, elevation_deg=20).mvp().mT
    texels = random(1, 64 + 16, 3)
    assert ball.colors is not None
    colors = ball.colors

    def work(device: str) -> list[Tensor]:
        faces, clip = ball.faces.to(device), place.clone().to(device).requires_grad_()
        vertex = colors.clone().to(device)[None].requires_grad_()
        image = texels.clone().to(device).requires_grad_()
        buffer = raster_reference.rasterize(clip, faces, 31, 33)
        slopes = raster_reference.derivatives(vertex, clip, buffer, faces, faces)
        seen = raster_reference.interpolate(vertex, buffer, faces)
        level = random(*buffer.shape[:3], seed=3).to(device)
        looked = raster_reference.texture(image, [(8, 8), (4, 4)], seen[..., :2], level)
        twin = raster_reference.twins(faces)
        out = raster_reference.antialias(torch.cat([seen, looked], -1), buffer, clip, faces, twin)
        cotangent = random(*out.shape, seed=4).to(device)
        gradients = torch.autograd.grad(out, (clip, vertex, image), cotangent)
        return [twin, buffer.detach(), slopes.detach(), out.detach(), *gradients]

    on_both(work, atol=1e-3)


def looked_at(
    scene: Single, device: str, chosen: Callable[[str], None]
) -> tuple[RenderOutput, list[Tensor]]:
    """A picture of a scene on a device, and the gradients that it leaves."""
    chosen(device)
    scene = scene.to(device)
    generator = torch.Generator().manual_seed(0)
    scene.update_occupancy(0, generator)
    options = {"background": torch.tensor([0.2, 0.4, 0.6]), "generator": generator}
    lamp = Lamp(torch.tensor([0.6, 0.0, 0.8]), 0.3)
    seen = scene.render(orbit(2, 40), normals=True, lamp=lamp, **options)
    (seen.rgb.square().mean() + sum(seen.losses.values())).backward()
    found = [p.grad.clone() for p in scene.parameters() if p.grad is not None]
    detached = dataclasses.replace(seen, rgb=seen.rgb.detach(), opacity=seen.opacity.detach())
    return detached, found


@pytest.mark.parametrize("kind", ["field", "surface", "textured"])
def test_scenes_look_the_same_and_learn_the_same(kind: str, chosen: Callable[[str], None]) -> None:
    ball = sphere(0.6)

    def make() -> Single:
        if kind == "field":
            settings = FieldSettings(levels=4, log2_table=12, max_resolution=32, samples=48)
            return Field(replace(settings, background="learned"))
        if kind == "surface":
            return Surface(SurfaceSettings(grid=12), PAINT)
        scene = Textured(None, PAINT)
        scene.wrap(ball)
        return scene

    (a, da), (b, db) = (looked_at(make(), device, chosen) for device in DEVICES)
    assert b.rgb.device.type == "cuda"
    assert float((a.rgb - b.rgb.cpu()).abs().mean()) < 1e-3
    assert float((a.opacity - b.opacity.cpu()).abs().mean()) < 2e-3
    assert len(da) == len(db) > 0
    for one, other in zip(da, db):
        assert bool(other.isfinite().all())
        if float(one.norm()) > 1e-6:
            alike = F.cosine_similarity(one.flatten(), other.cpu().flatten(), 0)
            assert float(alike) > 0.98


def test_a_mesh_is_drawn_the_same(chosen: Callable[[str], None]) -> None:
    ball = sphere(0.6)
    moved = dataclasses.replace(ball, vertices=ball.vertices.cuda(), faces=ball.faces.cuda())
    assert ball.colors is not None
    moved = dataclasses.replace(moved, colors=ball.colors.cuda())
    pictures = []
    for device, mesh in zip(DEVICES, (ball, moved)):
        chosen(device)
        pictures.append(render_mesh(mesh, orbit(3, 48)))
    one, other = pictures
    assert float((one.rgb - other.rgb.cpu()).abs().mean()) < 1e-3
    assert float((one.depth - other.depth.cpu()).abs().mean()) < 1e-2


def test_triton_is_what_serves_a_device() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    assert kernels.select("cuda", "hash_encode") == "triton"
    assert kernels.select("cuda", "rasterize") in ("triton", "cuda")
