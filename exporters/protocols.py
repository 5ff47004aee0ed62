"""What published benchmarks of text to 3D look at: how an asset is placed, and every picture of it.

Ours is z up with the front at +x, and so are threestudio's worlds, whose meshes the benchmarks were
made for. docs/evaluation.md gives the source of every number here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from exporters.pictures import fit_ball
from renderers.film import shrink_texture
from renderers.raster import Subject
from renderers.shading import Look
from threed.core.cameras import Cameras, at, looking
from threed.core.errors import InputError
from threed.core.mesh import Mesh
from threed.core.words import did_you_mean

SIZE = 512  # pixels a side, in all of them


@dataclass(frozen=True)
class Series:
    """Pictures that differ in where the camera stands."""

    names: str  # of the files; {} becomes the number of the view
    cameras: Cameras
    look: Look = "albedo"
    ground: float = 1.0  # grey of the background
    light: float = 1.0  # even, on all of the surface
    factor: int = 2  # samples along each side of a pixel
    fine: bool = False  # the texture is looked up as it is, however small it is seen
    culled: bool = False  # faces that look away are left out, on open meshes too

    def file(self, view: int) -> str:
        """Name the file of a view, by its folder and name."""
        return self.names.format(view)

    def draw(self, mesh: Mesh, views: Sequence[int]) -> Iterator[Tensor]:
        """Draw a placed mesh from some of the views: pictures [SIZE, SIZE, 3] sRGB in [0, 1]."""
        shown = mesh if self.fine else shrink_texture(mesh, self.cameras)
        subject = Subject(shown, self.look, factor=self.factor)
        for view in views:
            camera = self.cameras[view : view + 1]
            seen = subject.draw(camera, solid=self.culled, rgb_only=True)
            yield self.light * seen[..., :3] + (1 - seen[..., 3:]) * self.ground


@dataclass(frozen=True)
class Protocol:
    """How a benchmark looks at an asset."""

    about: str  # its paper and its code
    place: Callable[[Mesh], Mesh]  # centre and scale
    series: Callable[[], tuple[Series, ...]]
    judged: int = 0  # the series that CLIP is shown


def find_protocol(name: str) -> Protocol:
    """Look a protocol up; InputError for a name that there is not."""
    if name not in PROTOCOLS:
        raise InputError(f"there is no protocol {name!r}{did_you_mean(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def place_t3bench(mesh: Mesh) -> Mesh:
    """Put the mean of the corners at the origin and the furthest coordinate at 1.

    A vertex counts once for each of its texture coordinates, as trimesh has it.
    """
    vertices = mesh.vertices
    if mesh.uv_faces is not None:
        corners = torch.stack([mesh.faces.flatten(), mesh.uv_faces.flatten()], 1).unique(dim=0)
        vertices = vertices[corners[:, 0]]
    middle = vertices.mean(0)
    return _placed(mesh, middle, (vertices - middle).abs().max())


def place_mate3d(mesh: Mesh) -> Mesh:
    """Put the mean of the vertices at the origin and the furthest of them at 1 from it."""
    middle = mesh.vertices.mean(0)
    return _placed(mesh, middle, (mesh.vertices - middle).norm(dim=-1).max())


def _placed(mesh: Mesh, middle: Tensor, radius: Tensor) -> Mesh:
    return replace(mesh, vertices=(mesh.vertices - middle) / radius.clamp(min=1e-9))


def sphere_cameras(subdivisions: int, fov_y: float) -> Cameras:
    """Cameras at the vertices of trimesh's icosphere of radius 2.2; fov_y in radians.

    z is up, but for a camera whose direction is nearly z: there y is.
    """
    import trimesh

    points: Any = trimesh.creation.icosphere(subdivisions=subdivisions).vertices
    back = torch.tensor(points, dtype=torch.float64)
    steep = back[:, 2:].abs() >= 0.99
    _, y, z = torch.eye(3, dtype=torch.float64)
    c2w = looking(2.2 * back, torch.zeros_like(back), torch.where(steep, y, z))
    return Cameras(c2w.float(), torch.full((len(back),), fov_y), SIZE, SIZE)


def face_cameras() -> Cameras:
    """PyTorch3D's cameras, 2 away, at six sides of a world whose y is up.

    At the poles its float32 cosine of 90 degrees is below 0: the cameras stand behind them, and
    their pictures are turned by half a turn.
    """
    eyes = torch.tensor([[0, 0, 2.0], [2, 0, 0], [0, 0, -2], [-2, 0, 0], [0, 2, 0], [0, -2, 0]])
    ups = torch.tensor([[0, 1.0, 0]] * 4 + [[0, 0, 1], [0, 0, -1]])
    fov = torch.full((6,), math.radians(60))
    return Cameras(looking(eyes, torch.zeros(6, 3), ups), fov, SIZE, SIZE)


def ring_cameras(n: int) -> Cameras:
    """threestudio's cameras of a test: the last one stands where the first does."""
    one = torch.ones(n)
    return at(torch.linspace(0, 360, n), 15 * one, 2 * one, 70 * one, SIZE)


def t3bench_series() -> tuple[Series, ...]:
    """12 views of which captions are written, then 162 views by five lenses for the quality."""
    captions = Series("caption/{:03d}.png", sphere_cameras(0, math.pi / 3), ground=0, culled=True)
    quality = (
        Series(f"quality/{{:03d}}_{lens}.png", sphere_cameras(2, math.pi / part), ground=0,
               culled=True)
        for lens, part in enumerate((3, 4, 5, 6, 7.5))
    )  # fmt: skip
    return (captions, *quality)


def mate3d_series() -> tuple[Series, ...]:
    """Six sides, one sample a pixel."""
    cameras = face_cameras()
    return (Series("rendered_view_{}.png", cameras, light=0.8, factor=1, fine=True),)


def gpteval3d_series() -> tuple[Series, ...]:
    """A ring in colours, and the same in normals of the world."""
    cameras = ring_cameras(120)
    return (Series("rgb_{}.png", cameras),
            Series("normal_{}.png", cameras, look="normal", ground=0))  # fmt: skip


def sdi43_series() -> tuple[Series, ...]:
    """A ring in colours."""
    return (Series("{}.png", ring_cameras(50)),)


PROTOCOLS = {
    "t3bench": Protocol(
        "T3Bench, arXiv:2310.02977; github.com/THU-LYJ-Lab/T3Bench 6367462",
        place_t3bench, t3bench_series,
    ),
    "mate3d": Protocol(
        "MATE-3D and HyperScore, arXiv:2412.11170; github.com/zhangyujie-1998/HyperScore adfd115",
        place_mate3d, mate3d_series,
    ),
    "gpteval3d": Protocol(
        "GPTEval3D, arXiv:2401.04092; github.com/3DTopia/GPTEval3D 2382bdd",
        fit_ball, gpteval3d_series,
    ),
    "sdi43": Protocol(
        "SDI, arXiv:2405.15891; github.com/threestudio-project/threestudio 28d9d80",
        fit_ball, sdi43_series,
    ),
}  # fmt: skip
