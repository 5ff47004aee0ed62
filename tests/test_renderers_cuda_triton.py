"""The Triton kernels against the reference: on a GPU, else in Triton's interpreter on the CPU."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from renderers.kernels import field_reference, raster_reference
from tests.shapes import sphere
from threed.core.cameras import orbit

pytest.importorskip("triton", reason="triton is not installed: it comes with CUDA PyTorch")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    return importlib.import_module("renderers.kernels.triton")


@pytest.mark.parametrize("features", [1, 2])
def test_the_hash_grid_and_its_gradient_equal_the_references(
    kernels: ModuleType, features: int
) -> None:
    points = torch.cat([torch.rand(150, 3) * 1.2 - 0.1, torch.eye(3), torch.zeros(1, 3)])
    resolutions = torch.tensor([3, 6, 17, 40])  # two levels stored densely, two by the hash
    table = torch.randn(4 * 512, features)
    found = []
    for module in (field_reference, kernels):
        leaf = table.clone().to(DEVICE).requires_grad_()
        value = module.hash_encode(points.to(DEVICE), leaf, resolutions, 3)
        cotangent = torch.rand(value.shape, generator=torch.Generator().manual_seed(1))
        value.backward(cotangent.to(DEVICE))
        assert leaf.grad is not None
        found.append((value.detach(), leaf.grad))
    (a, da), (b, db) = found
    assert a.shape == (154, 4 * features)
    assert bool((a[:, 3 * features :] == 0).all())
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(da, db, atol=1e-5, rtol=1e-5)


def scene() -> tuple[Tensor, Tensor]:
    """A ball and two equal triangles that reach behind the camera: clip [2, V, 4], faces."""
    ball = sphere(0.6, 5, 6)
    plane = torch.tensor([[6.0, 0.3, -0.3], [-1.0, -1.5, -0.5], [0.0, 2.0, -0.5]])
    vertices, n = torch.cat([ball.vertices, plane]), len(ball.vertices)
    faces = torch.cat([ball.faces, torch.tensor([[n, n + 1, n + 2], [n, n + 1, n + 2]])])
    clip = F.pad(vertices, (0, 1), value=1.0) @ orbit(2, 8, elevation_deg=20).mvp().mT
    assert bool((clip[0, -3:, 3] < 0).any())
    return clip.to(DEVICE), faces.to(DEVICE)


def test_triangles_cover_what_they_do_for_the_reference(kernels: ModuleType) -> None:
    clip, faces = scene()
    a = raster_reference.rasterize(clip, faces, 15, 18)
    b = kernels.rasterize(clip, faces, 15, 18)
    assert float(a[..., 3].max()) == len(faces) - 1  # of the equal ones the first
    assert len(a[..., 3].unique()) > 20
    assert torch.equal(a[..., 3], b[..., 3])
    torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
