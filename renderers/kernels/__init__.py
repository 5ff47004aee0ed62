"""The operations under the renderers, and the only place that knows about devices.

Each operation has a definition in pure torch (`reference`, any device) and a fast twin of the same
name and signature in numba (`cpu`, float32 tensors on the CPU). `select` chooses between them:
automatically, or as the environment variable THREED_KERNELS or `set_kernels` says.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from threed.core import InputError

CHOICES = ("auto", "reference", "cpu")
_forced: str | None = None


@dataclass(frozen=True)
class Samples:
    """M samples on N rays, packed: those of a ray lie together, nearest first, rays in order."""

    ray_index: Tensor  # [M] int64, the ray of each sample
    t: Tensor  # [M] distance from the ray's origin, world units
    dt: Tensor  # [M] length of the piece of ray a sample stands for, world units
    packed: Tensor  # [N, 2] int64: index of a ray's first sample, number of its samples

    def __len__(self) -> int:
        return len(self.t)

    def of_rays(self, first: int, last: int) -> Samples:
        """The samples of rays first..last-1, counted from zero again."""
        packed = self.packed[first:last]
        start = int(packed[0, 0])
        end = int(packed[-1].sum())
        return Samples(
            self.ray_index[start:end] - first,
            self.t[start:end],
            self.dt[start:end],
            packed - torch.tensor([start, 0], device=packed.device),
        )

    def where(self, keep: Tensor) -> Samples:
        """Only the samples that `keep` [M] bool marks."""
        before = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.cumsum(0)])
        starts = before[self.packed[:, 0]]
        counts = before[self.packed.sum(1)] - starts
        packed = torch.stack([starts, counts], 1)
        return Samples(self.ray_index[keep], self.t[keep], self.dt[keep], packed)


def set_kernels(name: str | None) -> None:
    """Use "reference" or "cpu" from now on; "auto" chooses; None asks THREED_KERNELS again."""
    global _forced
    if name is not None:
        _check_name(name, "set_kernels")
    _forced = name


def select(device_type: str) -> str:
    """The kernels for tensors on a device: "cpu" or "reference".

    InputError if the ones asked for by name are unknown, fail to load, or cannot serve the device.
    """
    asked = _forced or os.environ.get("THREED_KERNELS", "auto")
    _check_name(asked, "THREED_KERNELS")
    if asked == "reference":
        return "reference"
    problem = _cpu_problem() if device_type == "cpu" else f"they serve the CPU, not {device_type}"
    if problem is None:
        return "cpu"
    if asked == "cpu":
        raise InputError(f"the cpu kernels were asked for, but {problem}; use THREED_KERNELS=auto")
    return "reference"


def why_not() -> dict[str, str]:
    """Why faster kernels are not in use, by name: empty where nothing is missing."""
    reasons = {}
    if (problem := _cpu_problem()) is not None:
        reasons["cpu"] = problem
    if not torch.cuda.is_available():
        reasons["cuda"] = "no CUDA device"
    else:
        reasons["cuda"] = "no CUDA kernels yet: the torch reference runs on the CUDA device"
    return reasons


def implementation(subject: str, device_type: str) -> ModuleType:
    """The module that implements a subject ("field", "raster") for tensors on a device."""
    return importlib.import_module(f"renderers.kernels.{subject}_{select(device_type)}")


def hash_encode(points: Tensor, table: Tensor, resolutions: Tensor, active_levels: int) -> Tensor:
    """Features [N, L * F] of points [N, 3] in [0, 1] from a multi-resolution hash grid.

    table [L * T, F] holds L levels of T rows, T a power of two; level l is a grid of
    resolutions[l] ([L] int64) cells a side, read with trilinear interpolation. A level whose
    (resolution + 1)³ corners fit in T rows is stored densely (x fastest), the others by the hash
    of Instant-NGP (Müller et al. 2022). Points outside are taken at the border. Levels from
    `active_levels` on give zeros and no gradient. Differentiable in the table, and in the points
    where they require it. ValueError on shapes.
    """
    levels = len(resolutions)
    rows = len(table) // max(levels, 1)
    if points.ndim != 2 or points.shape[1] != 3 or table.ndim != 2:
        raise ValueError(f"points must be [N, 3] and table [L * T, F], got {list(points.shape)} "
                         f"and {list(table.shape)}")  # fmt: skip
    if rows * levels != len(table) or rows & (rows - 1) or rows == 0:
        raise ValueError(f"table must hold a power of two of rows for each of {levels} levels, "
                         f"got {len(table)} rows")  # fmt: skip
    # a kernel with a gradient for the points would cost more than the few calls that ask for one
    subject = _field("reference" if points.requires_grad else None, points)
    features: Tensor = subject.hash_encode(points, table, resolutions, active_levels)
    return features


def march(
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    occupancy: Tensor,
    step: float,
    jitter: Tensor,
) -> Samples:
    """Samples of rays (origins, unit directions [N, 3]) at near + (k + jitter) * step < far.

    near, far, jitter: [N]; jitter in [0, 1). Only samples in an occupied cell are kept: occupancy
    [G, G, G] bool (x, y, z) over [-1, 1]³; outside that box nothing is occupied. A ray with
    far <= near has no samples. No gradient.
    """
    n = len(origins)
    for name, value, shape in (
        ("origins", origins, (n, 3)),
        ("directions", directions, (n, 3)),
        ("near", near, (n,)),
        ("far", far, (n,)),
        ("jitter", jitter, (n,)),
    ):
        if value.shape != shape:
            raise ValueError(f"{name} must be {list(shape)}, got {list(value.shape)}")
    if step <= 0:
        raise ValueError(f"step must be positive, got {step}")
    samples: Samples = _field(None, origins).march(
        origins, directions, near, far, occupancy, step, jitter
    )
    return samples


def composite(
    density: Tensor, values: Tensor, samples: Samples, n_rays: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Volume rendering of samples: weights [M], sums [n_rays, C], opacity and depth [n_rays, 1].

    density [M] >= 0 per world unit, values [M, C]. weight = T (1 - exp(-density dt)), T the
    transmittance in front of the sample; sums = Σ weight value, opacity = Σ weight, depth =
    Σ weight t (not divided by the opacity). Samples where T < 1e-4 get weight and gradient zero.
    Differentiable in density and values.
    """
    m = len(samples)
    if density.shape != (m,) or values.ndim != 2 or len(values) != m:
        raise ValueError(f"density must be [{m}] and values [{m}, C], got {list(density.shape)} "
                         f"and {list(values.shape)}")  # fmt: skip
    if len(samples.packed) != n_rays:
        raise ValueError(f"samples belong to {len(samples.packed)} rays, not to {n_rays}")
    weights, sums, opacity, depth = _field(None, density).composite(
        density, values, samples, n_rays
    )
    return weights, sums, opacity, depth


def _field(name: str | None, tensor: Tensor) -> ModuleType:
    if name is not None:
        return importlib.import_module(f"renderers.kernels.field_{name}")
    return implementation("field", tensor.device.type)


def _check_name(name: str, where: str) -> None:
    if name not in CHOICES:
        raise InputError(f"{where}: there are no kernels {name!r}; choose one of "
                         f"{', '.join(CHOICES)}")  # fmt: skip


def _cpu_problem() -> str | None:
    try:
        importlib.import_module("renderers.kernels.jit")
    except Exception as error:  # numba fails in many ways: missing, llvmlite, a numpy too new
        return f"numba does not load ({type(error).__name__}: {error})"
    return None
