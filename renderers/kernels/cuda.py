"""The operations through libraries made for CUDA, each of them optional and loaded at first use.

nvdiffrast for the rasterizer, nerfacc for marching and compositing, tiny-cuda-nn for the hash grid.
Signatures, shapes and meanings are those of `renderers.kernels` and `renderers.kernels.raster`.
`docs/install-gpu.md` says how to install them and under which licences they are.
"""

from __future__ import annotations

import functools
import importlib
import shutil
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from renderers.kernels import RASTER, Samples, Sums
from renderers.kernels.field_reference import STOP
from renderers.kernels.raster_reference import derivatives, twins

__all__ = ["antialias", "composite", "derivatives", "hash_encode", "interpolate", "march",
           "rasterize", "texture", "twins"]  # fmt: skip

MODULES = {
    "nvdiffrast": "nvdiffrast.torch",
    "nerfacc": "nerfacc",
    "tinycudann": "tinycudann",
    "kaolin": "kaolin.ops.conversions",  # FlexiCubes, for scenes; no operation here needs it
}
# of each operation; derivatives and twins are the reference's
LIBRARIES = dict.fromkeys(RASTER, "nvdiffrast")
LIBRARIES |= {"march": "nerfacc", "composite": "nerfacc", "hash_encode": "tinycudann"}


@functools.cache
def problem(library: str) -> str | None:
    """Why a library of MODULES cannot be used, or None if it can."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    if find_spec(library) is None:
        return "not installed; docs/install-gpu.md says how"
    try:
        importlib.import_module(MODULES[library])
    except Exception as error:  # extensions fail in as many ways as there are compilers
        return f"does not load ({type(error).__name__}: {error})"
    if library == "nerfacc" and find_spec("nerfacc.csrc") is None and shutil.which("nvcc") is None:
        return "is not built, and would build itself at its first use, but there is no nvcc"
    return None


def _library(library: str) -> Any:
    return importlib.import_module(MODULES[library])


@functools.cache
def _context(device: torch.device) -> Any:
    """nvdiffrast's memory on a device: made once, since making one is slow."""
    return _library("nvdiffrast").RasterizeCudaContext(device=device)


def _upside_down(clip: Tensor) -> Tensor:
    """Clip coordinates with y down: nvdiffrast's row 0 is the bottom, ours the top."""
    return (clip * clip.new_tensor([1, -1, 1, 1])).contiguous()


def rasterize(clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """[B, height, width, 4] from clip [B, V, 4] float32 and faces [F, 3]."""
    buffer: Tensor = _library("nvdiffrast").rasterize(
        _context(clip.device), _upside_down(clip), faces.int(), (height, width), grad_db=False
    )[0]
    return buffer


def interpolate(attributes: Tensor, buffer: Tensor, faces: Tensor) -> Tensor:
    """[B, H, W, C] from attributes [1 or B, V, C]."""
    b, h, w = buffer.shape[:3]
    # pixels in one row: a grid of threads may be wider than it may be high
    row = buffer.reshape(b, 1, h * w, 4)
    values: Tensor = _library("nvdiffrast").interpolate(attributes, row, faces.int())[0]
    return values.view(b, h, w, attributes.shape[2])


def texture(texels: Tensor, sizes: list[tuple[int, int]], uv: Tensor, level: Tensor) -> Tensor:
    """[B, H, W, C] from texels [1 or B, T, C], level by level."""
    b, h, w = uv.shape[:3]
    areas = [height * width for height, width in sizes]
    levels = [part.reshape(len(texels), *size, texels.shape[2]).contiguous()
              for part, size in zip(torch.split(texels, areas, 1), sizes)]  # fmt: skip
    # v = 0 is the first row there
    place = torch.stack([uv[..., 0], 1 - uv[..., 1]], -1).view(b, 1, h * w, 2)
    options: dict[str, Any] = {"filter_mode": "linear"}
    if len(levels) > 1:
        options = {"filter_mode": "linear-mipmap-linear", "mip": levels[1:],
                   "mip_level_bias": level.reshape(b, 1, h * w)}  # fmt: skip
    look_up = _library("nvdiffrast").texture
    values: Tensor = look_up(levels[0], place, boundary_mode="clamp", **options)
    return values.view(b, h, w, texels.shape[2])


def antialias(
    color: Tensor, buffer: Tensor, clip: Tensor, faces: Tensor, twin: Tensor | None
) -> Tensor:
    """[B, H, W, C] from color of that shape; looks up itself which edges are one."""
    blend = _library("nvdiffrast").antialias
    blended: Tensor = blend(color, buffer, _upside_down(clip), faces.int())
    return blended


@torch.no_grad()
def march(
    origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, occupancy: Tensor,
    step: float, jitter: Tensor,
) -> Samples:  # fmt: skip
    """Find the samples of R rays [R, 3], near and far [R], that lie in an occupied cell.

    They are at near + (k + jitter) * step < far; occupancy [N, N, N], jitter [R].
    """
    box = origins.new_tensor([[-1, -1, -1, 1, 1, 1]])
    # its samples are the middles of intervals that begin at the near plane
    _, samples, _ = _library("nerfacc").traverse_grids(
        origins.contiguous(), directions.contiguous(), occupancy[None].contiguous(), box,
        near_planes=near + (jitter - 0.5) * step, far_planes=far, step_size=step, cone_angle=0.0,
    )  # fmt: skip
    t = samples.vals
    return Samples(samples.ray_indices.long(), t, torch.full_like(t, step),
                   samples.packed_info.long())  # fmt: skip


def composite(density: Tensor, values: Tensor, samples: Samples, n_rays: int) -> Sums:
    """weights [M], sums [n_rays, C], opacity and depth [n_rays, 1]."""
    nerfacc, ray = _library("nerfacc"), samples.ray_index
    half = samples.dt / 2
    weights, light, _ = nerfacc.render_weight_from_density(
        samples.t - half, samples.t + half, density, ray_indices=ray, n_rays=n_rays
    )
    weights = weights * (light.detach() >= STOP)

    total = partial(nerfacc.accumulate_along_rays, weights, ray_indices=ray, n_rays=n_rays)
    return weights, total(values), total(None), total(samples.t[:, None])


@functools.cache
def _grid(cells: int, rows: int, features: int) -> Any:
    """tiny-cuda-nn's encoding for one level. Its corners are one fewer than its resolution."""
    config = {"otype": "HashGrid", "n_levels": 1, "n_features_per_level": features,
              "log2_hashmap_size": rows.bit_length() - 1, "base_resolution": cells + 1,
              "per_level_scale": 1.0, "interpolation": "Linear"}  # fmt: skip
    return _library("tinycudann").Encoding(3, config, dtype=torch.float32)


def hash_encode(points: Tensor, table: Tensor, resolutions: Tensor, active_levels: int) -> Tensor:
    """Features [N, L * F] of points [N, 3] in [0, 1]; differentiable in the table.

    Level by level, since its levels in one follow a fixed ratio and begin half a cell aside.
    """
    levels, features = len(resolutions), table.shape[1]
    rows = len(table) // levels
    inside, out = points.clamp(0, 1), []
    for level, cells in enumerate(resolutions.tolist()[:active_levels]):
        used = min(-(-((cells + 1) ** 3) // 8) * 8, rows)  # dense levels hold less, in eights
        part = table[level * rows : level * rows + used].reshape(-1)
        grid = _grid(cells, rows, features)
        out.append(functional_call(grid, {"params": part}, (inside - 0.5 / cells,)))
    rest = points.new_zeros(len(points), (levels - active_levels) * features)
    return torch.cat([*out, rest], 1)
