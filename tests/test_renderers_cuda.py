"""Kernels on a CUDA device: which are chosen, how libraries are called, and that they agree.

Without a device the libraries are stood in for by the reference, held the way they hold it.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from renderers import kernels
from renderers.kernels import Samples, cuda, field_reference, raster_reference
from tests.shapes import sphere
from threed.core.cameras import orbit
from threed.core.errors import InputError


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """A machine with a CUDA device and the libraries in the set; Triton is one of them."""
    there: set[str] = set()
    monkeypatch.delenv("THREED_KERNELS", raising=False)
    monkeypatch.setattr(cuda, "problem", lambda name: None if name in there else "not installed")
    monkeypatch.setattr(
        kernels, "_triton_problem", lambda: None if "triton" in there else "no Triton"
    )
    return there


def test_each_operation_takes_the_fastest_kernels_that_load(device: set[str]) -> None:
    def chosen() -> dict[str, str]:
        return {name: kernels.select("cuda", name) for name in kernels.OPERATIONS}

    assert set(chosen().values()) == {"reference"}
    device.add("triton")
    assert set(chosen().values()) == {"triton"}
    device |= {"nvdiffrast", "tinycudann"}
    found = chosen()
    assert {name for name, kind in found.items() if kind == "cuda"} == {
        name for name, library in cuda.LIBRARIES.items() if library == "nvdiffrast"
    }
    assert found["hash_encode"] == found["march"] == "triton"
    device.remove("triton")
    assert kernels.select("cuda", "hash_encode") == "cuda"
    assert kernels.select("cpu", "rasterize") == "cpu"


def test_what_is_asked_for_by_name_has_to_load(device: set[str]) -> None:
    device.add("nvdiffrast")
    try:
        kernels.set_kernels("cuda")
        assert kernels.implementation("rasterize", "cuda") is cuda
        assert kernels.select("cpu", "rasterize") == "cpu"
        with pytest.raises(InputError, match=r"the cuda kernels .* nerfacc: not installed; use"):
            kernels.select("cuda", "march")
        kernels.set_kernels("triton")
        with pytest.raises(InputError, match="the triton kernels were asked for, but no Triton"):
            kernels.select("cuda", "rasterize")
    finally:
        kernels.set_kernels(None)


def test_every_operation_has_a_library_and_all_kinds_have_every_operation() -> None:
    assert cuda.LIBRARIES.keys() == kernels.OPERATIONS.keys()
    assert {*cuda.LIBRARIES.values(), "kaolin"} == cuda.MODULES.keys()
    for operation in kernels.OPERATIONS:
        assert callable(getattr(cuda, operation))
        assert operation in cuda.__all__


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_device_every_library_says_so() -> None:
    assert {cuda.problem(name) for name in cuda.MODULES} == {"no CUDA device"}
    reasons = kernels.why_not()
    assert reasons.keys() == {"triton", *cuda.MODULES}


def nvdiffrast() -> SimpleNamespace:
    """The library's operations as its documentation has them, from the reference: row 0 below."""

    def rasterize(
        context: object, pos: Tensor, tri: Tensor, resolution: tuple[int, int], grad_db: bool
    ) -> tuple[Tensor, None]:
        assert tri.dtype == torch.int32
        assert pos.is_contiguous()
        return raster_reference.rasterize(pos, tri.long(), *resolution).flip(1), None

    def antialias(color: Tensor, rast: Tensor, pos: Tensor, tri: Tensor) -> Tensor:
        below = (color.flip(1), rast.flip(1), pos, tri.long(), None)
        return raster_reference.antialias(*below).flip(1)

    def texture(tex: Tensor, uv: Tensor, boundary_mode: str, **options: Any) -> Tensor:
        assert boundary_mode == "clamp"
        levels = [tex, *options.get("mip", [])]
        texels = torch.cat([level.flip(1).flatten(1, 2) for level in levels], 1)
        sizes = [(level.shape[1], level.shape[2]) for level in levels]
        level = options.get("mip_level_bias", uv.new_zeros(uv.shape[:3]))
        return raster_reference.texture(texels, sizes, uv, level)

    return SimpleNamespace(
        RasterizeCudaContext=lambda device: object(),
        rasterize=rasterize,
        interpolate=lambda attr, rast, tri: (
            raster_reference.interpolate(attr, rast, tri.long()), None
        ),
        texture=texture,
        antialias=antialias,
    )  # fmt: skip


def test_the_rasterizers_library_is_called_as_it_wants_to_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    library = nvdiffrast()
    monkeypatch.setattr(cuda, "_library", lambda name: library)
    ball = sphere(0.6, 6, 8)
    clip = F.pad(ball.vertices, (0, 1), value=1.0) @ orbit(2, 8).mvp().mT
    buffer = raster_reference.rasterize(clip, ball.faces, 12, 9)
    torch.testing.assert_close(cuda.rasterize(clip, ball.faces, 12, 9), buffer)
    color = torch.rand(2, 12, 9, 3)
    torch.testing.assert_close(
        cuda.antialias(color, buffer, clip, ball.faces, None),
        raster_reference.antialias(color, buffer, clip, ball.faces, None),
    )
    values = torch.rand(1, len(ball.vertices), 2)
    torch.testing.assert_close(
        cuda.interpolate(values, buffer, ball.faces),
        raster_reference.interpolate(values, buffer, ball.faces),
    )
    uv, level = torch.rand(2, 12, 9, 2), torch.rand(2, 12, 9)
    for sizes in ([(8, 6)], [(8, 6), (4, 3)]):
        texels = torch.rand(1, sum(h * w for h, w in sizes), 3)
        torch.testing.assert_close(
            cuda.texture(texels, sizes, uv, level * (len(sizes) - 1)),
            raster_reference.texture(texels, sizes, uv, level * (len(sizes) - 1)),
        )


class Encoding(nn.Module):
    """tiny-cuda-nn's encoding of one level as its documentation has it, from the reference."""

    def __init__(self, n_input_dims: int, config: dict[str, Any], dtype: torch.dtype) -> None:
        super().__init__()
        assert (n_input_dims, config["n_levels"], dtype) == (3, 1, torch.float32)
        self.cells, self.features = config["base_resolution"] - 1, config["n_features_per_level"]
        self.rows = 2 ** config["log2_hashmap_size"]
        used = min(-(-((self.cells + 1) ** 3) // 8) * 8, self.rows)
        self.params = nn.Parameter(torch.zeros(used * self.features))

    def forward(self, x: Tensor) -> Tensor:
        """Positions are x * (resolution - 1) + 0.5 there."""
        table = F.pad(self.params, (0, self.rows * self.features - len(self.params)))
        return field_reference.hash_encode(
            x + 0.5 / self.cells, table.view(self.rows, self.features),
            torch.tensor([self.cells]), 1,
        )  # fmt: skip


def test_the_hash_grids_library_is_called_as_it_wants_to_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda, "_library", lambda name: SimpleNamespace(Encoding=Encoding))
    cuda._grid.cache_clear()
    points, table = torch.rand(50, 3), torch.randn(4 * 512, 2)
    resolutions = torch.tensor([3, 6, 17, 40])
    values = []
    for module in (field_reference, cuda):
        leaf = table.clone().requires_grad_()
        value = module.hash_encode(points, leaf, resolutions, 3)
        value.square().sum().backward()
        assert leaf.grad is not None
        values.append((value.detach(), leaf.grad))
    cuda._grid.cache_clear()
    torch.testing.assert_close(values[0], values[1], atol=1e-4, rtol=1e-4)


def need(library: str) -> None:
    """Skip where a library is missing."""
    if (problem := cuda.problem(library)) is not None:
        pytest.skip(f"{library}: {problem}")


@pytest.mark.gpu
def test_nvdiffrast_equals_the_reference_on_a_device() -> None:
    need("nvdiffrast")
    ball = sphere(0.6, 5, 6)  # triangles larger than pixels: its outlines are found by both
    faces = ball.faces.cuda()
    corners = F.pad(ball.vertices, (0, 1), value=1.0) @ orbit(2, 8).mvp().mT
    found = []
    for module in (raster_reference, cuda):
        clip = corners.cuda().requires_grad_()
        values = torch.rand(1, len(ball.vertices), 3, generator=torch.Generator().manual_seed(0))
        values = values.cuda().requires_grad_()
        buffer = module.rasterize(clip, faces, 96, 96)
        color = module.interpolate(values, buffer, faces)
        picture = module.antialias(color, buffer, clip, faces, None)
        cotangent = torch.rand(picture.shape, generator=torch.Generator().manual_seed(1)).cuda()
        found.append((buffer, picture, *torch.autograd.grad(picture, (clip, values), cotangent)))
    a, b = found
    same = a[0][..., 3] == b[0][..., 3]
    assert float(same.float().mean()) > 0.999
    torch.testing.assert_close(a[0][same], b[0][same], atol=1e-4, rtol=0)
    assert float((a[1] - b[1]).abs().mean()) < 2e-3
    for one, other in zip(a[2:], b[2:]):
        assert float(F.cosine_similarity(one.flatten(), other.flatten(), 0)) > 0.99


@pytest.mark.gpu
def test_nerfacc_equals_the_reference_on_a_device() -> None:
    need("nerfacc")
    origins, directions = (v.reshape(-1, 3).cuda() for v in orbit(1, 32).rays())
    n = len(origins)
    occupancy = torch.rand(16, 16, 16, device="cuda") < 0.3
    near, far = torch.full((n,), 1.0, device="cuda"), torch.full((n,), 5.0, device="cuda")
    rays = (origins, directions, near, far, occupancy, 0.02, torch.rand(n, device="cuda"))
    a, b = field_reference.march(*rays), cuda.march(*rays)
    # samples on the border of a cell may fall on either side of it
    assert abs(len(a) - len(b)) < 0.002 * len(a)
    assert float((a.packed[:, 1] == b.packed[:, 1]).float().mean()) > 0.9
    density, color = torch.rand(len(a), device="cuda") * 9, torch.rand(len(a), 3, device="cuda")
    check(a, density, color, n)


def check(samples: Samples, density: Tensor, color: Tensor, n: int) -> None:
    """The composites of samples and their gradients are equal."""
    found = []
    for module in (field_reference, cuda):
        inputs = (density.clone().requires_grad_(), color.clone().requires_grad_())
        weights, sums, opacity, depth = module.composite(*inputs, samples, n)
        total = (sums * torch.arange(3, device="cuda")).sum() + depth.sum() + opacity.sum()
        found.append((weights, sums, opacity, depth, *torch.autograd.grad(total, inputs)))
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


@pytest.mark.gpu
def test_tinycudann_equals_the_reference_on_a_device() -> None:
    need("tinycudann")
    points, table = torch.rand(1000, 3).cuda(), torch.randn(4 * 4096, 2).cuda()
    found = []
    for module in (field_reference, cuda):
        leaf = table.clone().requires_grad_()
        value = module.hash_encode(points, leaf, torch.tensor([8, 15, 40, 200]), 4)
        found.append((value, *torch.autograd.grad(value.square().sum(), leaf)))
    for one, other in zip(*found):
        torch.testing.assert_close(one.float(), other.float(), atol=1e-3, rtol=1e-3)
