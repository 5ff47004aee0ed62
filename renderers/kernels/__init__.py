"""The operations under the renderers, and the only place that knows about devices.

Each operation has a definition in pure torch (`reference`, any device) and fast twins of the same
name and signature: in numba (`cpu`, float32 tensors on the CPU), in Triton (`triton`, tensors on a
CUDA device) and through libraries made for CUDA (`cuda`). `select` chooses between them:
automatically, or as the environment variable THREED_KERNELS or `set_kernels` says.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from threed.core.errors import InputError

CHOICES = ("auto", "reference", "cpu", "triton", "cuda")
FIELD = ("hash_encode", "march", "composite")
RASTER = ("rasterize", "interpolate", "derivatives", "texture", "twins", "antialias")
# and the modules of their kinds that are named for a subject
OPERATIONS = dict.fromkeys(FIELD, "field") | dict.fromkeys(RASTER, "raster")
Sums = tuple[Tensor, Tensor, Tensor, Tensor]  # weights, sums, opacity and depth of `composite`
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
        here = slice(start, int(packed[-1].sum()))
        packed = packed - torch.tensor([start, 0], device=packed.device)
        return Samples(self.ray_index[here] - first, self.t[here], self.dt[here], packed)

    def where(self, keep: Tensor) -> Samples:
        """Only the samples that `keep` [M] bool marks."""
        before = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.cumsum(0)])
        starts = before[self.packed[:, 0]]
        counts = before[self.packed.sum(1)] - starts
        packed = torch.stack([starts, counts], 1)
        return Samples(self.ray_index[keep], self.t[keep], self.dt[keep], packed)


def set_kernels(name: str | None) -> None:
    """Use one of CHOICES from now on; "auto" chooses; None asks THREED_KERNELS again."""
    global _forced
    if name is not None:
        _check_name(name, "set_kernels")
    _forced = name


def select(device_type: str, operation: str = "hash_encode") -> str:
    """The kernels of an operation for tensors on a device: one of CHOICES, not "auto".

    InputError if the ones asked for by name are unknown, fail to load, or cannot serve the device;
    "triton" and "cuda" speak of CUDA devices only, and leave the others to "auto".
    """
    asked = _forced or os.environ.get("THREED_KERNELS", "auto")
    _check_name(asked, "THREED_KERNELS")
    if asked == "reference":
        return asked
    if asked == "cpu" or device_type != "cuda":
        served = device_type == "cpu"
        problem = _cpu_problem() if served else f"they serve the CPU, not {device_type}"
        order = {"cpu": problem}
    else:
        order = {"cuda": _cuda_problem(operation), "triton": _triton_problem()}
        if operation == "hash_encode":  # one launch for all levels before one for each
            order = dict(reversed(order.items()))
    if asked in order and order[asked] is not None:
        raise InputError(f"the {asked} kernels were asked for, but {order[asked]}; "
                         f"use THREED_KERNELS=auto")  # fmt: skip
    if asked in order:
        return asked
    return next((name for name, problem in order.items() if problem is None), "reference")


def why_not() -> dict[str, str]:
    """Why faster kernels are not in use, by name: empty where nothing is missing."""
    libraries = {name: _cuda().problem(name) for name in _cuda().MODULES}
    reasons = {"cpu": _cpu_problem(), "triton": _triton_problem(), **libraries}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def implementation(operation: str, device_type: str) -> ModuleType:
    """The module that has an operation of OPERATIONS for tensors on a device."""
    name = select(device_type, operation)
    if name in ("reference", "cpu"):
        name = f"{OPERATIONS[operation]}_{name}"
    return importlib.import_module(f"renderers.kernels.{name}")


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
    module = implementation("hash_encode", points.device.type)
    if points.requires_grad:
        # a kernel with a gradient for the points would cost more than the few calls that ask for it
        module = importlib.import_module("renderers.kernels.field_reference")
    features: Tensor = module.hash_encode(points, table, resolutions, active_levels)
    return features


def march(
    origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, occupancy: Tensor,
    step: float, jitter: Tensor,
) -> Samples:  # fmt: skip
    """Samples of rays (origins, unit directions [N, 3]) at near + (k + jitter) * step < far.

    near, far, jitter: [N]; jitter in [0, 1). Only samples in an occupied cell are kept: occupancy
    [G, G, G] bool (x, y, z) over [-1, 1]³; outside that box nothing is occupied. A ray with
    far <= near has no samples. No gradient.
    """
    n = len(origins)
    points, numbers = {"origins": origins, "directions": directions}, {"near": near, "far": far}
    for name, value in (points | numbers | {"jitter": jitter}).items():
        shape = (n, 3) if name in points else (n,)
        if value.shape != shape:
            raise ValueError(f"{name} must be {list(shape)}, got {list(value.shape)}")
    if step <= 0:
        raise ValueError(f"step must be positive, got {step}")
    module = implementation("march", origins.device.type)
    samples: Samples = module.march(origins, directions, near, far, occupancy, step, jitter)
    return samples


def composite(density: Tensor, values: Tensor, samples: Samples, n_rays: int) -> Sums:
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
    module = implementation("composite", density.device.type)
    weights, sums, opacity, depth = module.composite(density, values, samples, n_rays)
    return weights, sums, opacity, depth


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


def _cuda() -> ModuleType:
    return importlib.import_module("renderers.kernels.cuda")


def _cuda_problem(operation: str) -> str | None:
    library = _cuda().LIBRARIES[operation]
    problem: str | None = _cuda().problem(library)
    return None if problem is None else f"{library}: {problem}"


def _triton_problem() -> str | None:
    if not torch.cuda.is_available():
        return "no CUDA device"
    try:
        importlib.import_module("renderers.kernels.triton")
    except Exception as error:  # missing, or of a version that the kernels are not written for
        return f"Triton does not load ({type(error).__name__}: {error})"
    return None
