"""Turn a field into a mesh: the isosurface whose pictures are most like the field's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import mcubes
import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from renderers.raster import render_mesh
from threed.core.cameras import Cameras, orbit
from threed.core.errors import InputError
from threed.core.mesh import Mesh
from threed.core.render import RenderOutput

Array = npt.NDArray[np.float32]

PIECE = 2**18  # points looked up at once
COARSE = 9  # thresholds tried at half the resolution ...
FINE = 5  # ... and around the best of them at the full one
LOWEST = 0.5  # density per world unit below which nothing is a surface: a unit of it is still fog
WANTED_IOU, WANTED_PSNR = 0.95, 24.0  # of a good mesh against its field
ELEVATIONS_DEG = (15.0, 40.0, -15.0)  # of the views compared, in turn
EMPTY = math.log(LOWEST / 2)  # logarithm of density from which less makes no difference
OUTSIDE, INSIDE, LAYERS = 0.015, 0.06, 6  # world units of the surface's skin, and its samples
BEHIND = 0.5  # grey behind the pictures that are compared: neither white nor black toys vanish


class EmptySceneError(InputError):
    """The field holds nothing dense enough to be a surface."""


class Visible(Protocol):
    """Anything that can be looked at."""

    def render(self, cameras: Cameras, *, background: Tensor | None = None) -> RenderOutput:
        """Pictures over a background [3]."""


class Radiance(Visible, Protocol):
    """What is asked of a field."""

    @property
    def occupied(self) -> Tensor:
        """[G, G, G] bool over [-1, 1]³: where its density may not be 0."""

    def density_and_color(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density [N] per world unit and colour [N, 3] sRGB at points [N, 3]."""


@dataclass(frozen=True)
class Likeness:
    """How near two sets of pictures of one thing are."""

    psnr: float  # dB, of the colour over grey
    iou: float  # of the silhouettes, in [0, 1]


@dataclass(frozen=True)
class Isosurface:
    """A mesh found in a field."""

    mesh: Mesh  # with vertex colours
    threshold: float  # density per world unit on the surface
    likeness: Likeness  # of the mesh's pictures to the field's


@dataclass(frozen=True)
class Views:
    """What a field looks like: pictures to compare a mesh's with."""

    cameras: Cameras
    pictures: RenderOutput
    background: Tensor  # [3]

    def compare(self, mesh: Mesh) -> Likeness:
        """Compare pictures of a mesh with the field's."""
        return likeness(self._look(mesh), self.pictures)

    def error(self, mesh: Mesh) -> float:
        """Say how unlike the field a mesh looks: 2 if WANTED_IOU and WANTED_PSNR are just met.

        Of a mesh without colours the opacity is compared instead of the colour.
        """
        seen = self._look(mesh)
        outline = 1 - likeness(seen, self.pictures).iou
        bare = mesh.colors is None and mesh.material.albedo is None
        what = "opacity" if bare else "rgb"
        inside = F.mse_loss(getattr(seen, what), getattr(self.pictures, what))
        return outline / (1 - WANTED_IOU) + float(inside) / 10 ** (-WANTED_PSNR / 10)

    def _look(self, mesh: Mesh) -> RenderOutput:
        return render_mesh(mesh, self.cameras, background=self.background)


def likeness(seen: RenderOutput, truth: RenderOutput) -> Likeness:
    """Compute the PSNR of the colours, and the IoU of what is more than half opaque."""
    error = float(F.mse_loss(seen.rgb, truth.rgb))
    a, b = seen.opacity > 0.5, truth.opacity > 0.5
    union = int((a | b).sum())
    iou = int((a & b).sum()) / union if union else 1.0
    return Likeness(-10 * math.log10(max(error, 1e-10)), iou)


@torch.no_grad()
def views_of(scene: Visible, *, views: int = 9, size: int = 96) -> Views:
    """Render a scene from around it, at the heights of ELEVATIONS_DEG in turn; size² pixels."""
    ring = [
        orbit(views, size, elevation_deg=e, start_deg=360 / views / 3)[i :: len(ELEVATIONS_DEG)]
        for i, e in enumerate(ELEVATIONS_DEG)
    ]
    c2w, fov = torch.cat([r.c2w for r in ring]), torch.cat([r.fov_y for r in ring])
    cameras = replace(ring[0], c2w=c2w, fov_y=fov)
    background = torch.full((3,), BEHIND)
    seen = scene.render(cameras, background=background)
    here = {name: getattr(seen, name).detach().cpu() for name in ("rgb", "opacity")}
    return Views(cameras, replace(seen, **here), background)


@torch.no_grad()
def isosurface(field: Radiance, views: Views, *, resolution: int = 128) -> Isosurface:
    """Find the density at which the field's mesh looks most like its pictures, and that mesh.

    The density is looked up once, at the corners of resolution³ cells (an even number a side) of
    [-1, 1]³, where the field is occupied.
    Thresholds are tried between LOWEST and the field's largest density, first far apart on every
    second point, then closely around the best on all of them. EmptySceneError if no density
    reaches LOWEST; InputError for a resolution below 16.
    """
    if resolution < 16:
        raise InputError(f"the resolution of the isosurface must be at least 16, got {resolution}")
    density = density_grid(field, 2 * math.ceil(resolution / 2) + 1)
    top = float(density.max())
    if not top > LOWEST:
        reached = f"its density nowhere reaches {LOWEST:g} (at most {top:.3g})"
        raise EmptySceneError(f"the field is empty: {reached}; train it longer, or with another "
                              "seed")  # fmt: skip
    grid = smooth_logs(density)
    low, high = math.log(LOWEST), float(grid.max()) - 0.05
    gap = (high - low) / (COARSE - 1)
    coarse = grid[::2, ::2, ::2]
    levels = [low + k * gap for k in range(COARSE)]
    best, _ = _best(field, coarse, levels, views)
    near = [best + (k - FINE // 2) * 2 * gap / (FINE + 1) for k in range(FINE)]
    best, mesh = _best(field, grid, [level for level in near if level <= high], views)
    return Isosurface(mesh, math.exp(best), views.compare(mesh))


@torch.no_grad()
def density_grid(field: Radiance, points: int) -> Tensor:
    """[P, P, P] density at the points of a grid over [-1, 1]³; 0 where unoccupied."""
    axis = torch.linspace(-1, 1, points)
    occupied = F.max_pool3d(field.occupied[None, None].float(), 3, 1, 1)[0, 0] > 0
    cell = ((axis + 1) * (len(occupied) / 2)).long().clamp(max=len(occupied) - 1)
    cell = cell.to(occupied.device)
    wanted = occupied[cell][:, cell][:, :, cell].flatten().nonzero()[:, 0].cpu()
    grid = torch.zeros(points**3)
    for piece in torch.split(wanted, PIECE):
        x, rest = piece // points**2, piece % points**2
        here = axis[torch.stack([x, rest // points, rest % points], 1)]
        grid[piece] = field.density_and_color(here.to(occupied.device))[0].cpu()
    return grid.view((points,) * 3)


@torch.no_grad()
def colors_at(field: Radiance, points: Tensor) -> Tensor:
    """[N, 3] sRGB of the field at points [N, 3], on the CPU."""
    device = field.occupied.device
    pieces = torch.split(points, PIECE)
    return torch.cat([field.density_and_color(p.to(device))[1].cpu() for p in pieces])


def surface_color(field: Radiance) -> Callable[[Tensor, Tensor], Tensor]:
    """Make a function that gives the colours of a field's surface as its pictures show them.

    It maps points and outward unit normals, [N, 3] each, to sRGB [N, 3]. The field's colour is
    composited along the normal from OUTSIDE to INSIDE the surface, as in a picture, instead of
    looked up at the one point where the surface was put.
    """

    @torch.no_grad()
    def color(points: Tensor, normals: Tensor) -> Tensor:
        device = field.occupied.device
        points, normals = points.to(device), normals.to(device)
        total, light = torch.zeros_like(points), torch.ones_like(points[:, :1])
        for depth in torch.linspace(-OUTSIDE, INSIDE, LAYERS).tolist():
            density, seen = field.density_and_color(points - depth * normals)
            through = torch.exp(-density * ((OUTSIDE + INSIDE) / (LAYERS - 1)))[:, None]
            total += light * (1 - through) * seen
            light = light * through
        # where nearly nothing is there, its colour all the same: never a background
        return torch.where(light < 0.999, total / (1 - light).clamp(min=1e-3), seen).cpu()

    return color


def _best(field: Radiance, grid: Tensor, levels: list[float], views: Views) -> tuple[float, Mesh]:
    """Choose the level whose mesh looks most like the field. EmptySceneError if none has a mesh."""
    meshes = ((level, _mesh(field, grid, level)) for level in levels)
    found = [(level, mesh) for level, mesh in meshes if mesh is not None]
    if not found:
        raise EmptySceneError("the field holds no closed surface; train it longer")
    return min(found, key=lambda one: views.error(one[1]))


def _mesh(field: Radiance, grid: Tensor, level: float) -> Mesh | None:
    """Mesh the logarithms of density [P, P, P] at a level; None where there is no surface."""
    vertices, faces = mcubes.marching_cubes(fill(F.pad(grid, (1,) * 6, value=EMPTY), level), level)
    if len(faces) == 0:
        return None
    places = torch.from_numpy(np.ascontiguousarray(vertices, np.float32)) - 1
    places = places * (2 / (len(grid) - 1)) - 1
    triangles = torch.from_numpy(faces.astype(np.int64))
    # the sign of the volume says which way PyMCubes turned the faces
    a, b, c = places[triangles].double().unbind(1)
    if float((a * torch.linalg.cross(b, c)).sum()) < 0:
        triangles = triangles.flip(1)
    return Mesh(places, triangles, colors_at(field, places))


def smooth_logs(density: Tensor) -> Tensor:
    """Take logarithms of densities [P, P, P], at least EMPTY, and blur the grain of single cells.

    Densities are exponentials: between two points their logarithms are the straighter line.
    """
    logs = density.clamp(min=math.exp(EMPTY)).log()[None, None]
    kernel = torch.tensor([0.25, 0.5, 0.25])
    for axis in range(3):
        shape, padding = [1] * 5, [0] * 6  # of the last axis first, before and behind
        shape[2 + axis], padding[4 - 2 * axis : 6 - 2 * axis] = 3, [1, 1]
        logs = F.conv3d(F.pad(logs, padding, mode="replicate"), kernel.view(shape))
    return logs[0, 0]


def fill(logs: Tensor, level: float) -> Array:
    """Make solid what cannot be seen from outside, for marching cubes of logs [P, P, P] at `level`.

    The inside of a field is noise that no picture has ever tested. Everything below the level that
    cannot be reached from outside through gaps of at least two cells becomes solid.
    """
    solid = logs >= level
    label, _ = ndimage.label(~_grown(solid).numpy())
    outside = _grown(torch.from_numpy(label == label[0, 0, 0]))
    return torch.where(outside | solid, logs, level + 1.0).numpy()


def _grown(mask: Tensor) -> Tensor:
    """Mark the neighbours, also the diagonal ones, of what is marked in [X, Y, Z] bool."""
    for axis in range(3):
        whole, size = mask.clone(), mask.shape[axis]
        whole.narrow(axis, 1, size - 1).logical_or_(mask.narrow(axis, 0, size - 1))
        whole.narrow(axis, 0, size - 1).logical_or_(mask.narrow(axis, 1, size - 1))
        mask = whole
    return mask
