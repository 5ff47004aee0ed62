"""Gaussian splats of a surface: flat discs on it, in files of splat viewers.

The PLY of 3D Gaussian Splatting (Kerbl et al. 2023, arXiv:2308.04079), x right, y down, z ahead;
and version 2 of Niantic's SPZ, x right, y up, z back.
"""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from exporters import axes, topology
from exporters.glb import Extras
from exporters.transfer import Skin
from threed.core import files
from threed.core.mesh import Mesh

COUNT = 50_000  # where no other is asked for
SPREAD = 0.7  # of a disc: its sigma by how far apart they are; between four of them 97 % is covered
FLAT = 0.1  # how thick a disc is, by its sigma
OPACITY = 0.98
SH0 = 0.28209479177387814  # the constant spherical harmonic
SPZ_MAGIC, SPZ_VERSION, SPZ_COLOR = 0x5053474E, 2, 0.15
FIELDS = ("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity",
          "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3")  # fmt: skip
Color = Callable[[Tensor, Tensor], Tensor]
"""(points [N, 3], unit normals [N, 3]) -> sRGB [N, 3]."""


@dataclass(frozen=True)
class Splats:
    """N discs on a surface, all of one size, in our axes."""

    places: Tensor  # [N, 3] world units
    normals: Tensor  # [N, 3] unit
    colors: Tensor  # [N, 3] sRGB
    sigma: float  # world units

    def log_scales(self) -> Tensor:
        """[3] natural logarithms of the sigmas along x, y and the normal."""
        return torch.tensor([self.sigma, self.sigma, FLAT * self.sigma]).log()


def scatter(mesh: Mesh, color: Color, count: int = COUNT) -> Splats:
    """Lay discs evenly over a mesh; the same mesh gives the same ones.

    One in each of `count` equal parts of its area, by the sequence of Roberts (2018) on each face.
    """
    area = topology.areas(mesh)
    total = area.cumsum(0)
    part = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    face = torch.searchsorted(total, part * total[-1]).clamp(max=len(area) - 1)
    plastic = 1.32471795724474602596
    u, v = ((torch.arange(count, dtype=torch.float64) / plastic**k) % 1 for k in (1, 2))
    over = u + v > 1
    u, v = torch.where(over, 1 - u, u), torch.where(over, 1 - v, v)
    share = torch.stack([1 - u - v, u, v], 1).float()[..., None]
    places = (mesh.vertices[mesh.faces[face]] * share).sum(1)
    normals = F.normalize((mesh.vertex_normals()[mesh.faces[face]] * share).sum(1), dim=-1)
    sigma = SPREAD * math.sqrt(float(total[-1]) / count)
    return Splats(places, normals, color(places, normals).clamp(0, 1), sigma)


def save(mesh: Mesh, path: Path, extras: Extras) -> None:
    """Write COUNT splats of a mesh, coloured as it is; neither format has room for `extras`."""
    write(scatter(mesh, Skin(mesh).color), path)


def write(splats: Splats, path: Path) -> None:
    """Write splats as .spz or .ply, as the path's suffix says."""
    encode = encode_spz if path.suffix.lower() == ".spz" else encode_ply
    files.write(path, encode(splats))


def encode_ply(splats: Splats) -> bytes:
    """Make the bytes of a PLY: floats, logarithms of scales, logits of opacities."""
    turn = torch.tensor([1.0, -1.0, -1.0])
    place, normal = (axes.to_y_up(rows) * turn for rows in (splats.places, splats.normals))
    count = len(place)
    dc = (splats.colors - 0.5) / SH0
    logit = torch.full((count, 1), math.log(OPACITY / (1 - OPACITY)))
    scale = splats.log_scales().expand(count, 3)
    rows = torch.cat([place, normal, dc, logit, scale, _turns(normal)], 1)
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    head += [f"property float {name}" for name in FIELDS]
    return "\n".join([*head, "end_header\n"]).encode() + rows.numpy().astype("<f4").tobytes()


def encode_spz(splats: Splats) -> bytes:
    """Make the bytes of an SPZ: places in 24 bits, the rest in 8."""
    place, normal = axes.to_y_up(splats.places), axes.to_y_up(splats.normals)
    far = max(float(place.abs().max()), 1e-6)
    bits = min(max(22 - math.floor(math.log2(far)), 0), 23)  # as fine as 24 bits with a sign can
    fixed = (place.double() * 2**bits).round().clamp(-(2**23), 2**23 - 1).numpy().astype("<i4")
    turn = _turns(normal)  # w is at least 0, and not kept
    count = len(place)
    parts = [
        fixed[..., None].view(np.uint8)[..., :3],
        _bytes(torch.full((count,), 255 * OPACITY)),
        _bytes((splats.colors - 0.5) / SH0 * SPZ_COLOR * 255 + 127.5),
        np.tile(_bytes((splats.log_scales() + 10) * 16), count),
        _bytes(turn[:, 1:] * 127.5 + 127.5),
    ]
    head = struct.pack("<IIIBBBB", SPZ_MAGIC, SPZ_VERSION, count, 0, bits, 0, 0)
    return gzip.compress(head + b"".join(part.tobytes() for part in parts), mtime=0)


def _bytes(values: Tensor) -> npt.NDArray[np.uint8]:
    return values.round().clamp(0, 255).to(torch.uint8).numpy()


def _turns(normal: Tensor) -> Tensor:
    """[N, 4] quaternions (w, x, y, z), w not negative, that turn the z axis to normals [N, 3]."""
    x, y, z = normal.unbind(1)
    turn = torch.stack([1 + z, -y, x, torch.zeros_like(x)], 1)
    turn[1 + z < 1e-6] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    return F.normalize(turn, dim=1)
