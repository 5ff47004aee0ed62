"""The field's kernels: the reference against mathematics, the cpu kernels against the reference."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numba
import pytest
import torch
from torch import Tensor

from renderers import kernels
from renderers.kernels import Samples, field_cpu, field_reference, jit
from threed.core.errors import InputError

RESOLUTIONS = torch.tensor([4, 9, 31, 50])  # three that fit 2^15 rows densely, one that is hashed
ROWS = 2**15


@pytest.fixture(autouse=True)
def _automatic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("THREED_KERNELS", raising=False)
    yield
    kernels.set_kernels(None)


def table(features: int = 2, rows: int = ROWS, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(len(RESOLUTIONS) * rows, features, dtype=dtype)


def pack(counts: list[int], dtype: torch.dtype = torch.float32) -> Samples:
    """Samples of rays with so many each, at random ascending distances."""
    count = torch.tensor(counts)
    packed = torch.stack([count.cumsum(0) - count, count], 1)
    t = torch.cat([torch.rand(n, dtype=dtype).sort().values for n in counts])
    dt = torch.rand(len(t), dtype=dtype) * 0.1 + 0.01
    return Samples(torch.arange(len(counts)).repeat_interleave(count), t, dt, packed)


def test_dense_level_interpolates_a_linear_function_exactly() -> None:
    cells = 4
    axis = torch.arange(cells + 1, dtype=torch.float64) / cells
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")  # x fastest in memory
    rows = torch.zeros(128, 1, dtype=torch.float64)
    rows[: (cells + 1) ** 3, 0] = (2 * x - 3 * y + 5 * z + 1).flatten()
    points = torch.rand(50, 3, dtype=torch.float64)
    out = field_reference.hash_encode(points, rows, torch.tensor([cells]), 1)
    expected = points @ torch.tensor([2.0, -3.0, 5.0], dtype=torch.float64) + 1
    torch.testing.assert_close(out[:, 0], expected)


def test_rays_may_be_marched_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    directions = torch.nn.functional.normalize(torch.randn(40, 3), dim=-1)
    rays = (-2 * directions, directions, torch.full((40,), 1.0), 1 + 2 * torch.rand(40),
            torch.rand(8, 8, 8) < 0.5, 0.05, torch.rand(40))  # fmt: skip
    whole = field_reference.march(*rays)
    monkeypatch.setattr(field_reference, "PLACES", 300)
    pieces = field_reference.march(*rays)
    assert len(whole) > 100
    for a, b in zip(vars(whole).values(), vars(pieces).values()):
        assert torch.equal(a, b)


def test_hashed_level_reads_the_rows_of_instant_ngp() -> None:
    corner = torch.tensor([[7, 11, 40]])
    row = (7 ^ (11 * 2654435761) ^ (40 * 805459861)) % 2**32 % 64
    rows = torch.randn(64, 2, dtype=torch.float64)
    out = field_reference.hash_encode(corner / 64, rows, torch.tensor([64]), 1)
    torch.testing.assert_close(out[0], rows[row], atol=1e-5, rtol=0)


def test_reference_hash_encode_gradcheck() -> None:
    # away from cell borders, where the interpolation has a kink
    points = (torch.randint(0, 12, (6, 3)) + 0.2 + 0.6 * torch.rand(6, 3)).double() / 12
    points = points[((points * 5) % 1 > 0.02).all(1) & ((points * 5) % 1 < 0.98).all(1)]
    rows = torch.randn(2 * 256, 2, dtype=torch.float64, requires_grad=True)
    resolutions = torch.tensor([5, 12])
    assert len(points)
    assert torch.autograd.gradcheck(
        lambda p, r: field_reference.hash_encode(p, r, resolutions, 2),
        (points.requires_grad_(), rows),
    )


@pytest.mark.parametrize("features", [1, 2, 4])
@pytest.mark.parametrize("active", [2, 4, 9])
def test_cpu_hash_encode_equals_reference(features: int, active: int) -> None:
    points = torch.rand(1000, 3) * 1.2 - 0.1  # some outside: taken at the border
    points[0], points[1] = 0, 1
    values = table(features)
    cotangent = torch.randn(1000, 4 * features)
    outs, grads = [], []
    for module in (field_cpu, field_reference):
        leaf = values.clone().requires_grad_()
        out = module.hash_encode(points, leaf, RESOLUTIONS, active)
        out.backward(cotangent)
        outs.append(out.detach())
        grads.append(leaf.grad)
    # a point near a cell's border may be located on either side: the same value up to rounding
    torch.testing.assert_close(outs[0], outs[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(grads[0], grads[1], atol=1e-4, rtol=1e-4)
    assert bool((outs[0][:, active * features :] == 0).all())
    assert bool((grads[0][active * ROWS :] == 0).all())


def test_points_that_need_a_gradient_get_the_reference_gradient() -> None:
    points, values = torch.rand(20, 3, requires_grad=True), table()
    kernels.hash_encode(points, values, RESOLUTIONS, 4).sum().backward()
    expected = points.detach().clone().requires_grad_()
    field_reference.hash_encode(expected, values, RESOLUTIONS, 4).sum().backward()
    torch.testing.assert_close(points.grad, expected.grad)


def test_cpu_gradient_does_not_depend_on_the_number_of_threads() -> None:
    points, cotangent = torch.rand(5000, 3), torch.randn(5000, 8)
    samples = pack([40] * 100)
    density, values = torch.rand(4000) * 30, torch.rand(4000, 3)

    def run() -> list[Tensor]:
        leaf = table().zero_().requires_grad_()
        kernels.hash_encode(points, leaf, RESOLUTIONS, 4).backward(cotangent)
        d, v = density.clone().requires_grad_(), values.clone().requires_grad_()
        _, sums, opacity, depth = kernels.composite(d, v, samples, 100)
        (sums.sum() + opacity.square().sum() + depth.sum()).backward()
        return [x for x in (leaf.grad, d.grad, v.grad, sums.detach()) if x is not None]

    before = numba.get_num_threads()
    many = run()
    try:
        numba.set_num_threads(1)
        one = run()
    finally:
        numba.set_num_threads(before)
    assert len(one) == 4
    assert all(torch.equal(a, b) for a, b in zip(many, one))


def rays(n: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    directions = torch.nn.functional.normalize(torch.randn(n, 3, dtype=dtype), dim=-1)
    origins = -2.0 * directions + 0.3 * torch.randn(n, 3, dtype=dtype)
    near = torch.rand(n, dtype=dtype)
    return origins, directions, near, near + 3 * torch.rand(n, dtype=dtype) - 0.3


@pytest.mark.parametrize("module", [field_cpu, field_reference])
def test_march_visits_every_step_of_full_space_and_nothing_outside(module: object) -> None:
    origin = torch.tensor([[-3.0, 0.1, 0.2], [-3.0, 5.0, 0.0], [-3.0, 0.0, 0.0]])
    direction = torch.tensor([[1.0, 0, 0]]).expand(3, 3)
    samples = module.march(  # type: ignore[attr-defined]
        origin, direction, torch.tensor([0.0, 0.0, 4.0]), torch.tensor([9.0, 9.0, 4.0]),
        torch.ones(8, 8, 8, dtype=torch.bool), 0.25, torch.full((3,), 0.5),
    )  # fmt: skip
    assert samples.packed.tolist() == [[0, 8], [8, 0], [8, 0]]
    torch.testing.assert_close(samples.t, 2.125 + 0.25 * torch.arange(8))
    assert samples.ray_index.tolist() == [0] * 8
    assert samples.dt.tolist() == [0.25] * 8


def test_march_takes_samples_in_occupied_cells_only() -> None:
    occupancy = torch.rand(6, 6, 6) < 0.3
    samples = kernels.march(*rays(200), occupancy, 0.07, torch.rand(200))
    assert len(samples) > 100
    empty = kernels.march(*rays(200), torch.zeros_like(occupancy), 0.07, torch.rand(200))
    assert len(empty) == 0
    assert empty.packed.tolist() == [[0, 0]] * 200


def test_cpu_march_equals_reference() -> None:
    # many rays: the march counts and then fills, and once hung where rounding told them apart
    occupancy, jitter, given = torch.rand(32, 32, 32) < 0.3, torch.rand(20_000), rays(20_000)
    ours = field_cpu.march(*given, occupancy, 0.03125, jitter)
    theirs = field_reference.march(*given, occupancy, 0.03125, jitter)
    assert torch.equal(ours.packed, theirs.packed)
    assert torch.equal(ours.ray_index, theirs.ray_index)
    assert torch.equal(ours.t, theirs.t)
    assert torch.equal(ours.packed[:, 0], ours.packed[:, 1].cumsum(0) - ours.packed[:, 1])


def test_constant_density_gives_the_closed_form() -> None:
    n, step, sigma = 400, 0.005, 1.7
    t = (torch.arange(n, dtype=torch.float64) + 0.5) * step
    packed = torch.tensor([[0, n]])
    samples = Samples(torch.zeros(n, dtype=torch.int64), t, torch.full_like(t, step), packed)
    density = torch.full_like(t, sigma)
    weights, sums, opacity, depth = field_reference.composite(density, t[:, None], samples, 1)
    length = n * step
    assert opacity.item() == pytest.approx(1 - math.exp(-sigma * length), abs=1e-12)
    # ∫ t σ exp(-σ t) dt over the ray
    exact = (1 - math.exp(-sigma * length) * (1 + sigma * length)) / sigma
    assert depth.item() == pytest.approx(exact, rel=1e-4)
    assert sums.item() == pytest.approx(depth.item(), abs=1e-12)
    assert weights.sum().item() == pytest.approx(opacity.item(), abs=1e-12)


def test_reference_composite_gradcheck() -> None:
    samples = pack([3, 0, 5, 1], torch.float64)
    density = (torch.rand(9, dtype=torch.float64) * 5).requires_grad_()
    values = torch.rand(9, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda d, v: field_reference.composite(d, v, samples, 4), (density, values)
    )


@pytest.mark.parametrize("densest", [1.0, 50.0, 2000.0])
def test_cpu_composite_equals_reference(densest: float) -> None:
    counts = [0, 30, 1, 0, 64, 7, 0]
    samples = pack(counts)
    density, values = torch.rand(len(samples)) * densest, torch.randn(len(samples), 3)
    cotangents = None
    results = []
    for module in (field_cpu, field_reference):
        d, v = density.clone().requires_grad_(), values.clone().requires_grad_()
        out = module.composite(d, v, samples, len(counts))
        cotangents = cotangents or [torch.randn_like(x) for x in out]
        torch.autograd.backward(out, cotangents)
        results.append([*(x.detach() for x in out), d.grad, v.grad])
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("module", [field_cpu, field_reference])
def test_nothing_behind_a_wall_is_seen(module: object) -> None:
    samples = pack([10])
    density = torch.full((10,), 1e4, requires_grad=True)
    values = torch.rand(10, 3, requires_grad=True)
    weights, sums, _, _ = module.composite(density, values, samples, 1)  # type: ignore[attr-defined]
    sums.sum().backward()
    assert weights.tolist() == pytest.approx([1.0] + [0.0] * 9)
    assert density.grad is not None
    assert values.grad is not None
    assert bool((density.grad[1:] == 0).all())
    assert bool((values.grad[1:] == 0).all())
    torch.testing.assert_close(sums[0], values[0])


def test_samples_of_some_rays_and_some_samples() -> None:
    samples = pack([2, 0, 3, 1])
    part = samples.of_rays(1, 3)
    assert part.ray_index.tolist() == [1, 1, 1]
    assert part.packed.tolist() == [[0, 0], [0, 3]]
    assert torch.equal(part.t, samples.t[2:5])
    kept = samples.where(torch.tensor([True, False, False, True, True, False]))
    assert kept.ray_index.tolist() == [0, 2, 2]
    assert kept.packed.tolist() == [[0, 1], [1, 0], [1, 2], [3, 0]]


def test_the_choice_of_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.select("cpu") == "cpu"
    assert kernels.select("cuda") == "reference"
    monkeypatch.setenv("THREED_KERNELS", "reference")
    assert kernels.select("cpu") == "reference"
    kernels.set_kernels("cpu")  # stronger than the environment
    assert kernels.implementation("hash_encode", "cpu") is field_cpu
    with pytest.raises(InputError, match="they serve the CPU, not cuda"):
        kernels.select("cuda")
    with pytest.raises(InputError, match=r"set_kernels: .*'fast'.* auto, reference, cpu"):
        kernels.set_kernels("fast")
    kernels.set_kernels(None)
    monkeypatch.setenv("THREED_KERNELS", "quick")
    with pytest.raises(InputError, match="THREED_KERNELS: there are no kernels 'quick'"):
        kernels.select("cpu")


def test_without_numba_the_reference_serves_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "renderers.kernels.jit", None)
    assert kernels.select("cpu") == "reference"
    assert "numba does not load (ModuleNotFoundError" in kernels.why_not()["cpu"]
    kernels.set_kernels("cpu")
    with pytest.raises(InputError, match="cpu kernels were asked for, but numba does not load"):
        kernels.select("cpu")


def test_shapes_and_types_are_checked() -> None:
    values, points = table(), torch.rand(5, 3)
    with pytest.raises(ValueError, match=r"points must be \[N, 3\].* got \[5, 2\]"):
        kernels.hash_encode(points[:, :2], values, RESOLUTIONS, 4)
    with pytest.raises(ValueError, match="a power of two of rows for each of 4 levels"):
        kernels.hash_encode(points, values[:-4], RESOLUTIONS, 4)
    with pytest.raises(TypeError, match=r"take float32, got torch.float64.*reference"):
        kernels.hash_encode(points.double(), values.double(), RESOLUTIONS, 4)
    samples = pack([2, 3])
    with pytest.raises(ValueError, match=r"density must be \[5\].* got \[4\]"):
        kernels.composite(torch.rand(4), torch.rand(5, 3), samples, 2)
    with pytest.raises(ValueError, match="belong to 2 rays, not to 3"):
        kernels.composite(torch.rand(5), torch.rand(5, 3), samples, 3)
    o, d, near, far = rays(4)
    occupancy = torch.ones(2, 2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"jitter must be \[4\], got \[3\]"):
        kernels.march(o, d, near, far, occupancy, 0.1, torch.zeros(3))
    with pytest.raises(ValueError, match=r"step must be positive, got 0.0"):
        kernels.march(o, d, near, far, occupancy, 0.0, torch.zeros(4))


def test_a_function_is_compiled_where_no_cache_can_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, asked = numba.njit, []

    def njit(**options: object) -> object:
        asked.append(options.get("cache", False))
        if options.get("cache"):
            raise RuntimeError("cannot cache function 'f': no locator available for file")
        return real(**{**options, "parallel": False})

    monkeypatch.setattr(numba, "njit", njit)
    assert jit.compiled(lambda x: x + 1)(1) == 2
    assert asked == [True, False]


def test_compiled_code_is_kept_between_processes(tmp_path: Path) -> None:
    code = (
        "import torch; from renderers.kernels import field_cpu as f;"
        "p = torch.rand(9, 3); t = torch.zeros(64, 2);"
        "f.hash_encode(p, t, torch.tensor([4]), 1);"
        "k = f._encode(2); print(len(k.stats.cache_hits), len(k.stats.cache_misses))"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    root = str(Path(__file__).parents[1])
    environment["PYTHONPATH"] = root
    said = [
        subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=root, check=True,
            capture_output=True, text=True,
        ).stdout.split()
        for _ in range(2)
    ]  # fmt: skip
    assert said == [["0", "1"], ["1", "0"]]
