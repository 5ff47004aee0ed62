"""What a 3D printer needs: a solid that stands flat, and walls that are not too thin."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from exporters import topology
from exporters.clean import repair
from exporters.ply import vertex_colors
from exporters.simplify import simplify
from threed.core.errors import InputError, MeshWarning
from threed.core.mesh import Mesh

MM = 1000.0  # a world unit is a metre
BASE = 0.01  # of the height: what lies lower is pressed up to one plane
NO_HEIGHT = 1e-6  # of a face, by its longest side
FLIPS = 8  # rounds: one may free the way for another
WALL_MM = 0.8  # two lines of a nozzle of 0.4 mm
THIN = 0.05  # of the surface may be thinner: at sharp edges every wall ends in nothing
LOOKED = 5_000  # faces, at most, whose distance is measured: more tell nothing new of walls
POINTS, RAYS = 500, 10  # of the surface at which its thickness is measured; at once


@dataclass(frozen=True)
class Printed:
    """What a printer would make of a mesh."""

    base: float  # mm² on which it stands
    wall: float  # mm; all but THIN of the surface has at least so much behind it

    def __str__(self) -> str:
        """Say it in a line."""
        return (f"stands on {self.base:.0f} mm²; {1 - THIN:.0%} of its walls are at least "
                f"{self.wall:.1f} mm thick")  # fmt: skip


def make_printable(mesh: Mesh, faces: int) -> Mesh:
    """Make a solid of at most about so many faces, with a flat base and colours of its vertices.

    It is repaired where it is none, and what lies in the lowest hundredth of its height is pressed
    into a plane. InputError where that leaves no solid.
    """
    bare = Mesh(mesh.vertices, mesh.faces, vertex_colors(mesh))
    bare, _ = repair(simplify(bare, faces))
    flat, _ = repair(_press(bare))
    flat = _flip_caps(flat)
    if not topology.is_solid(flat):
        raise InputError("the mesh is no solid, which a printer needs: mend it by threed repair")
    return flat


def _press(mesh: Mesh) -> Mesh:
    """Press what lies in the lowest BASE of a mesh's height into a plane, its faces cut there."""
    low, high = mesh.bounds()[:, 2].tolist()
    floor = torch.tensor(low + BASE * (high - low)).item()  # a number that places can have
    places = mesh.vertices.clone()
    near = (places[:, 2] - floor).abs() < 0.05 * BASE * (high - low)
    places[near, 2] = floor  # else slivers would come
    rows = places if mesh.colors is None else torch.cat([places, mesh.colors], 1)
    edges = topology.edges(mesh.faces)
    cut = rows[:, 2].sub(floor).sign()[edges.ends].prod(1) < 0
    a, b = rows[edges.ends[cut]].unbind(1)
    share = (floor - a[:, 2:3]) / (b[:, 2:3] - a[:, 2:3])
    fresh = torch.full((len(cut),), -1)
    fresh[cut] = len(rows) + torch.arange(len(a))
    rows = torch.cat([rows, a + share * (b - a)])
    rows[len(places) :, 2] = floor
    crossing, level = cut[edges.of_face].any(1), (rows[:, 2] == floor).tolist()
    points = fresh[edges.of_face[crossing]].tolist()
    halves = [torch.tensor(_split(corners, three, level))
              for corners, three in zip(mesh.faces[crossing].tolist(), points)]  # fmt: skip
    rows[:, 2].clamp_(min=floor)
    colors = None if mesh.colors is None else rows[:, 3:]
    faces = torch.cat([mesh.faces[~crossing], *halves])
    return replace(mesh, vertices=rows[:, :3], faces=faces, colors=colors)


def _split(corners: list[int], points: list[int], level: list[bool]) -> list[list[int]]:
    """Cut a face in two, and each half in triangles.

    `points` are new ones on its sides from corner 0 to 1, 1 to 2 and 2 to 0, or -1; `level` says of
    every point whether it lies on the cut: two of the face do.
    """
    ring = [point for pair in zip(corners, points) for point in pair if point >= 0]
    first, last = (place for place, point in enumerate(ring) if level[point])
    halves = ring[first : last + 1], ring[last:] + ring[: first + 1]
    return [[half[0], *half[k : k + 2]] for half in halves for k in range(1, len(half) - 1)]


def _flip_caps(mesh: Mesh) -> Mesh:
    """Give the faces of no area, which pressing leaves on upright walls, some of their neighbours'.

    Such a face has a corner on its longest side, and the face beyond is cut in two there instead.
    """
    for _ in range(FLIPS):
        corner = mesh.vertices.double()[mesh.faces]
        long, side = (corner.roll(-1, 1) - corner).norm(dim=-1).max(1)
        caps = (2 * topology.areas(mesh) <= NO_HEIGHT * long**2).nonzero()[:, 0].tolist()
        if not caps:
            break
        faces: list[list[int]] = mesh.faces.tolist()
        touched: set[int] = set()
        beyond = {(face[k], face[k - 2]): at for at, face in enumerate(faces) for k in range(3)}
        for at in caps:
            k = int(side[at])
            a, b, m = (faces[at][(k + j) % 3] for j in range(3))
            other = beyond.get((b, a))
            if other is None or not touched.isdisjoint((at, other)):
                continue
            (c,) = set(faces[other]) - {a, b}
            if (m, c) not in beyond and (c, m) not in beyond:
                faces[at], faces[other] = [m, a, c], [c, b, m]
                touched |= {at, other}
        mesh = replace(mesh, faces=torch.tensor(faces))
    return mesh


def measure_printed(mesh: Mesh) -> Printed:
    """Measure the base and the walls of a solid, in metres, z up.

    A MeshWarning says where walls are thinner than WALL_MM.
    """
    down = mesh.vertices[mesh.faces][..., 2].amax(1) <= mesh.vertices[:, 2].min()
    base = float(topology.areas(mesh)[down].sum()) * MM**2
    few = simplify(Mesh(mesh.vertices, mesh.faces), LOOKED)
    wall = float(thickness(few).quantile(THIN)) * MM
    if wall < WALL_MM:
        warnings.warn(f"walls of {wall:.2g} mm are thinner than the {WALL_MM} mm that a nozzle of "
                      f"0.4 mm draws in two lines: {WALL_MM / wall:.1f} times as high they were "
                      "not", MeshWarning, stacklevel=2)  # fmt: skip
    return Printed(base, wall)


def thickness(mesh: Mesh, points: int = POINTS) -> Tensor:
    """Measure how far it is from points of a solid's surface, evenly spread, to its other side.

    Along the normal of their faces, inwards: [points], world units.
    """
    corner = mesh.vertices[mesh.faces].double()
    a, sides = corner[:, 0], corner[:, 1:] - corner[:, :1]
    normal = F.normalize(torch.linalg.cross(sides[:, 0], sides[:, 1]), dim=-1)
    generator = torch.Generator().manual_seed(0)
    own = topology.areas(mesh).multinomial(points, True, generator=generator)
    start = corner[own].mean(1)
    found = [_cast(a, sides, *rays) for rays in zip(start.split(RAYS), (-normal[own]).split(RAYS))]
    return torch.cat(found)


def _cast(a: Tensor, sides: Tensor, start: Tensor, along: Tensor) -> Tensor:
    """Find how far rays [N, 3] go to the first of F triangles that lies ahead: [N].

    Möller and Trumbore 1997; a triangle is its corner a [F, 3] and two sides [F, 2, 3].
    """
    u, v = sides.unbind(1)
    across = torch.linalg.cross(along[:, None], v[None])
    det = (across * u).sum(-1)
    safe = torch.where(det.abs() < 1e-30, torch.ones_like(det), det)
    away = start[:, None] - a
    one = (away * across).sum(-1) / safe
    other = torch.linalg.cross(away, u[None].expand_as(away))
    two = (other * along[:, None]).sum(-1) / safe
    far = (other * v).sum(-1) / safe
    size = sides.abs().max()
    hit = (one >= 0) & (two >= 0) & (one + two <= 1) & (det.abs() >= 1e-30)
    first: Tensor = far.masked_fill(~hit | (far < 1e-6 * size), torch.inf).amin(1)
    return first
