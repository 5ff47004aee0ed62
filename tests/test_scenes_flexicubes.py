"""How our grid is told to kaolin: a stand-in that keeps to FlexiCubes' documented interface."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from torch import Tensor

from renderers.kernels import cuda
from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.runs.check import check_run
from threed.scenes import flexicubes, tetrahedra
from threed.scenes.surface import Surface
from threed.settings.base import replace
from threed.settings.presets import load_run
from threed.settings.scenes import SURFACE_LOSSES, PaintSettings, SurfaceSettings

PAINT = PaintSettings(levels=2, log2_table=10, max_resolution=16, hidden=16)
SETTINGS = SurfaceSettings(grid=12, mesher="flexicubes")


class FlexiCubes:
    """Checks what it is given, and answers with marching tetrahedra, their faces turned inwards."""

    def __init__(self, device: str = "cuda") -> None:
        self.device = device

    def __call__(
        self, voxelgrid_vertices: Tensor, scalar_field: Tensor, cube_idx: Tensor, resolution: int,
        *, beta: Tensor, alpha: Tensor, gamma_f: Tensor, training: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        cubes = resolution**3
        assert cube_idx.shape == (cubes, 8)
        assert (beta.shape, alpha.shape, gamma_f.shape) == ((cubes, 12), (cubes, 8), (cubes,))
        # corner k of its cubes lies k & 1, k >> 1 & 1, k >> 2 steps along x, y and z
        corner = (
            voxelgrid_vertices.detach()[cube_idx] - voxelgrid_vertices.detach()[cube_idx[:, :1]]
        )
        bits = torch.tensor([[k & 1, k >> 1 & 1, k >> 2] for k in range(8)])
        assert torch.allclose(corner * resolution / 2, bits.float(), atol=0.4)
        # its cubes are numbered with z running fastest
        assert cube_idx[1, 0] - cube_idx[0, 0] == 1
        if not bool((scalar_field < 0).any()):
            return torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0)
        found = tetrahedra.march(scalar_field, voxelgrid_vertices)
        apart = beta.sum() + alpha.sum() + gamma_f.sum() + 2.0 * training
        return found.vertices, found.faces.flip(1), apart.expand(7)


@pytest.fixture
def _kaolin(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = types.ModuleType("kaolin.ops.conversions")
    module.FlexiCubes = FlexiCubes  # type: ignore[attr-defined]
    for name in ("kaolin", "kaolin.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "kaolin.ops.conversions", module)
    monkeypatch.setattr(cuda, "problem", lambda library: None)
    flexicubes._extractor.cache_clear()
    yield
    flexicubes._extractor.cache_clear()


@pytest.mark.usefixtures("_kaolin")
def test_a_surface_is_meshed_by_it_and_everything_learns() -> None:
    scene = Surface(SETTINGS, PAINT)
    mesh = scene.solid()
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    assert float((a * torch.linalg.cross(b, c)).sum()) > 0, "outwards"
    assert (mesh.vertices.norm(dim=-1) - 0.5).abs().max() < 0.03
    seen = scene.render(orbit(1, 16))
    assert tuple(seen.losses) == SURFACE_LOSSES
    assert float(seen.losses["deviation"].detach()) == 2.0, "told that it learns"
    (seen.rgb.sum() + sum(seen.losses.values())).backward()
    assert scene.weights is not None
    for parameter in (scene.distance, scene.move, scene.weights):
        assert parameter.grad is not None
        assert bool((parameter.grad != 0).any())
    learns = [p for group in scene.param_groups(0.1) for p in group["params"]]
    assert {id(p) for p in learns} == {id(p) for p in scene.parameters()}
    again = Surface(SETTINGS, PAINT, seed=4)
    again.load_state_dict(scene.state_dict())


@pytest.mark.usefixtures("_kaolin")
def test_a_surface_that_is_gone_is_said() -> None:
    scene = Surface(SETTINGS, PAINT)
    with torch.no_grad():
        scene.distance.fill_(1.0)
    with pytest.raises(tetrahedra.NoSurfaceError):
        scene.march()


def test_crossed_edges_are_those_whose_ends_have_different_signs() -> None:
    distance = torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.5
    ends = flexicubes.crossed(distance.flatten(), 3)
    expected = {
        tuple(sorted((x * 16 + y * 4 + z, p * 16 + q * 4 + r)))
        for x in range(4) for y in range(4) for z in range(4)
        for p, q, r in ((x + 1, y, z), (x, y + 1, z), (x, y, z + 1))
        if max(p, q, r) < 4 and (distance[x, y, z] < 0) != (distance[p, q, r] < 0)
    }  # fmt: skip
    assert {tuple(pair) for pair in ends.tolist()} == expected
    assert len(ends) == len(expected)


def test_without_kaolin_the_reason_is_said() -> None:
    if cuda.problem("kaolin") is None:
        pytest.skip("kaolin is there")
    with pytest.raises(InputError, match=r"mesher=flexicubes needs kaolin: .*mesher=tetrahedra"):
        Surface(SETTINGS, PAINT)
    with pytest.raises(
        InputError, match="mesher must be one of tetrahedra, flexicubes, got 'cubes'"
    ):
        replace(SETTINGS, mesher="cubes")  # type: ignore[arg-type]


@pytest.mark.gpu
def test_kaolin_meshes_a_ball() -> None:
    if cuda.problem("kaolin") is not None:
        pytest.skip(f"kaolin: {cuda.problem('kaolin')}")
    scene = Surface(replace(SETTINGS, grid=32), PAINT).cuda()
    mesh = scene.solid()
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    volume = float((a * torch.linalg.cross(b, c)).sum()) / 6
    assert volume == pytest.approx(4 / 3 * torch.pi * 0.5**3, rel=0.02)
    seen = scene.render(orbit(1, 32))
    (seen.rgb.sum() + seen.losses["deviation"]).backward()
    assert scene.weights is not None
    assert scene.weights.grad is not None
    assert bool((scene.weights.grad != 0).any())


def test_a_run_that_asks_for_it_is_refused_before_it_begins() -> None:
    if cuda.problem("kaolin") is None:
        pytest.skip("kaolin is there")
    run = load_run("toybox-magic3d", ["surface.mesher=flexicubes"])
    with pytest.raises(InputError, match="needs kaolin"):
        check_run(run)
