"""Repairs that need MeshLab: what crosses itself, edges of many faces, soups, even triangles."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch.nn import functional as F

from exporters import meshlab, topology
from exporters.budget import painted
from exporters.clean import fill_holes, weld
from exporters.mended import Mended, diagonal, moved, spread, state_of, usual_gap
from exporters.meshlab import Clock, RefusedError, Step
from exporters.shells import outwards, with_bars, without_doubles, without_fins
from exporters.transfer import Skin
from exporters.unwrap import unwrap
from threed.core.budget import SIZES
from threed.core.errors import InputError
from threed.core.mesh import Material, Mesh

Solid = Literal["auto", "never", "poisson", "wrap"]
MAX_FACES = 1_000_000  # of a mesh that is repaired
MOST = 4_000_000  # faces that even triangles may come to
DEPTHS = (5, 10)  # of Poisson's tree: 32 to 1,024 cells a side
SOUP = 0.6  # of the area: where closing holes flat would add more, there is no surface to close
NEAR = 0.01  # of the diagonal: a surface that lies farther from most of the mesh is another one
ALPHAS = (1.0, 4.0, 16.0)  # percent of the diagonal: gaps that a wrap does not enter
OFFSET = 0.1  # percent of the diagonal that a wrap stays away
FLAT = 1e-6  # of the largest spread of the vertices: a third spread below that is none
NOTHING = (
    "the mesh encloses nothing, and cannot be made a solid: it is flat, or open on too many sides"
)
ROUNDS = 3  # of unions: a bar may touch something in its turn


@dataclass(frozen=True)
class Mending:
    """What is to be done to a mesh.

    `solid` says how it becomes a solid: `auto`, as gently as it can be; `never`, holes and
    crossings stay; `poisson` and `wrap` make a new surface. `remesh` is the length of the edges
    that all triangles get, in the mesh's units, or as a share of its diagonal: "2%".
    """

    solid: Solid = "auto"
    remesh: str | None = None
    depth: int | None = None  # of Poisson's tree; None is as fine as the mesh
    timeout: float = 600.0  # seconds for all of it

    def __post_init__(self) -> None:
        """InputError for numbers out of their ranges."""
        if self.depth is not None and not DEPTHS[0] <= self.depth <= DEPTHS[1]:
            raise InputError(f"depth must be in {DEPTHS[0]}..{DEPTHS[1]}, got {self.depth}")
        if not 0 < self.timeout < math.inf:
            raise InputError(f"timeout must be above 0 seconds, got {self.timeout:g}")
        self.edge(1.0)

    def edge(self, diagonal: float) -> float | None:
        """The length of edges asked for, in a mesh of that diagonal."""
        if self.remesh is None:
            return None
        word = self.remesh.strip()
        try:
            value = float(word.removesuffix("%"))
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise InputError("remesh must be a length above 0 in the mesh's units, or a share of "
                             f"its diagonal such as 2%, got {self.remesh!r}")  # fmt: skip
        return value / 100 * diagonal if word.endswith("%") else value


def mend(mesh: Mesh, wish: Mending | None = None) -> Mended:
    """Repair a mesh as far as it is broken, and make its triangles even where that is asked for.

    A mesh that is whole stays as it is. Otherwise its shape is closed, its crossings resolved, and
    its colours carried over. InputError for too many faces, for a mesh that has no area or encloses
    nothing, and as from `meshlab.work`.
    """
    wish = wish or Mending()
    if len(mesh.faces) > MAX_FACES:
        raise InputError(f"the mesh has {len(mesh.faces):,} faces; at most {MAX_FACES:,} are "
                         f"repaired: threed export --budget faces={MAX_FACES}")  # fmt: skip
    clock = Clock.of(wish.timeout)
    bare = weld(Mesh(mesh.vertices, mesh.faces))
    if not float(topology.areas(bare).sum()) > 0:
        raise InputError("the mesh has no surface: none of its faces has an area")
    before = state_of(bare, meshlab.work(bare, [], clock).crossing)
    body = bare
    steps: list[str] = []
    if wish.solid in ("poisson", "wrap") or not before.whole:
        body, steps = _Repair(wish, clock).solid(bare)
    edge = wish.edge(diagonal(bare))
    if edge is not None:
        body = _even(body, edge, clock)
        steps = [*steps, f"triangles made even, with edges of {edge:.3g}"]
    if not steps:
        return Mended(mesh, before, before, (), 0.0, 0.0, "as they were")
    after = state_of(body, meshlab.work(body, [], clock).crossing)
    dressed, colors = _dressed(mesh, body)
    return Mended(dressed, before, after, tuple(steps), *moved(bare, body), colors)


class _Repair:
    """The way from a broken mesh to a solid: what a step needs to know, and what was done."""

    def __init__(self, wish: Mending, clock: Clock) -> None:
        self.wish, self.clock = wish, clock
        self.steps: list[str] = []

    def solid(self, mesh: Mesh) -> tuple[Mesh, list[str]]:
        """The mesh as a solid, as gently as it can be done, and what was done."""
        kind, given = self.wish.solid, mesh
        mesh = without_doubles(given)
        if len(mesh.faces) < len(given.faces):
            self.steps.append("doubled faces and walls of two taken out")
        if kind == "never":
            return self._tidy(mesh), self.steps
        if kind == "auto" and not _is_soup(mesh):
            closed = self._closed(mesh)
            closed = self._noted(outwards(closed), "pieces turned outside out", closed)
            closed = self._united(closed)
            if topology.is_solid(closed) or _encloses(closed):
                return closed, self.steps
            self.steps = []
        return self._rebuilt(mesh), self.steps

    def _tidy(self, mesh: Mesh) -> Mesh:
        """Remove fins and turn neighbours the same way; what is open stays open."""
        if bool(topology.edges(mesh.faces).crowded.any()):
            mesh = self._noted(without_fins(mesh), "fins and inner walls taken out", mesh)
        if bool(topology.edges(mesh.faces).crowded.any()):
            mesh = self._try(mesh, ("trim", {}), "faces at crowded edges taken out")
        edges = topology.edges(mesh.faces)
        if bool(((edges.faces == 2) & (edges.balance != 0)).any()):
            mesh = self._try(mesh, ("orient", {}), "faces turned to one side")
        return mesh

    def _closed(self, mesh: Mesh) -> Mesh:
        """Close all holes that have a surface around them."""
        if bool((topology.edges(mesh.faces).balance == 0).all()):
            return mesh
        mesh = self._tidy(mesh)
        if bool(topology.edges(mesh.faces).open.any()):
            mesh = self._try(mesh, ("close", {}), "holes closed")
            mesh = fill_holes(mesh)
        return mesh

    def _united(self, mesh: Mesh) -> Mesh:
        """Remove crossings, inner walls and edges of more than two faces."""
        for attempt in range(ROUNDS):
            crowded = bool(topology.edges(mesh.faces).crowded.any())
            if not crowded and meshlab.work(mesh, [], self.clock).crossing == 0:
                break
            if attempt and crowded:
                mesh = with_bars(mesh)
                self.steps.append("pieces that touch along an edge joined by thin bars")
            united = self._try(mesh, ("unite", {}), "crossings and inner walls resolved")
            if united is mesh:
                break
            mesh = united
        return mesh

    def _rebuilt(self, mesh: Mesh) -> Mesh:
        """Make a new surface: Poisson's, or if that fails one that is wrapped around the mesh."""
        if _is_flat(mesh):
            raise InputError(NOTHING)
        if self.wish.solid != "wrap":
            found = self._poisson(mesh)
            if found is not None:
                return found
            if self.wish.solid == "poisson":
                raise InputError("Poisson's surface does not follow this mesh: it is flat, or its "
                                 "faces do not agree on what is outside; --solid wrap needs "
                                 "neither")  # fmt: skip
        for alpha in ALPHAS:
            step: Step = ("wrap", {"alpha": alpha, "offset": OFFSET})
            found = meshlab.work(mesh, [step], self.clock).mesh
            if found is not None and topology.is_solid(found) and _encloses(found):
                self.steps.append(f"wrapped in a new surface, gaps up to {alpha:g}% closed")
                return found
        raise InputError(NOTHING)

    def _poisson(self, mesh: Mesh) -> Mesh | None:
        """Make Poisson's surface of points of the mesh; None if it does not follow the mesh."""
        low, high = mesh.bounds()
        depth = self.wish.depth or _depth(mesh, float((high - low).max()))
        cell = 1.1 * float((high - low).max()) / 2**depth
        area = float(topology.areas(mesh).sum())
        count = min(max(int(4 * area / cell**2), 20_000), 2_000_000)
        points, face = spread(mesh, count)
        a, b, c = mesh.vertices.double()[mesh.faces].unbind(1)
        normals = F.normalize(torch.linalg.cross(b - a, c - a), dim=-1)[face]
        arrays = {"points": points.numpy(), "normals": normals.numpy()}
        try:
            step: Step = ("poisson", {"depth": depth})
            found = meshlab.work(mesh, [step], self.clock, arrays).mesh
        except RefusedError:
            return None
        if found is None or not topology.is_watertight(topology.edges(found.faces)):
            return None
        found = outwards(found)
        if not _encloses(found) or usual_gap(mesh, found) > NEAR or usual_gap(found, mesh) > NEAR:
            return None
        self.steps.append(f"a new surface by screened Poisson, depth {depth}")
        return found

    def _try(self, mesh: Mesh, step: Step, words: str) -> Mesh:
        """Run a step of MeshLab's; give back the same mesh if MeshLab refuses it."""
        try:
            found = meshlab.work(mesh, [step], self.clock).mesh
        except RefusedError:
            return mesh
        return mesh if found is None else self._noted(found, words, mesh)

    def _noted(self, after: Mesh, words: str, before: Mesh) -> Mesh:
        same = torch.equal(after.vertices, before.vertices) and torch.equal(
            after.faces, before.faces
        )
        if not same and words not in self.steps:
            self.steps.append(words)
        return after


def _even(mesh: Mesh, edge: float, clock: Clock) -> Mesh:
    """Give a mesh edges of about this length."""
    area = float(topology.areas(mesh).sum())
    faces = area / (math.sqrt(3) / 4 * edge**2)
    if faces > MOST:
        raise InputError(f"edges of {edge:.3g} would make about {faces:,.0f} triangles; at most "
                         f"{MOST:,} are made: remesh with longer edges")  # fmt: skip
    try:
        found = meshlab.work(mesh, [("remesh", {"edge": edge})], clock).mesh
    except RefusedError as error:
        raise InputError(f"the mesh cannot be made even: {error}; let it become a solid "
                         "first (--solid auto)") from error  # fmt: skip
    if found is None:
        raise InputError(f"edges of {edge:.3g} leave nothing of the mesh: take shorter ones")
    return found


def _is_soup(mesh: Mesh) -> bool:
    """Tell whether a mesh has no surface to close: flat lids would be most of the result."""
    area = float(topology.areas(mesh).sum())
    return float(topology.areas(fill_holes(mesh)).sum()) - area > SOUP * area


def _is_flat(mesh: Mesh) -> bool:
    """Tell whether a mesh lies in one plane."""
    places = mesh.vertices[torch.unique(mesh.faces)].double()
    spread_out = torch.linalg.svdvals(places - places.mean(0))
    return bool(spread_out[-1] <= FLAT * spread_out[0]) or len(places) < 4


def _encloses(mesh: Mesh) -> bool:
    """Whether there is more inside than a wrap's offset on both sides of a sheet."""
    if not topology.is_watertight(topology.edges(mesh.faces)):
        return False
    low, high = mesh.bounds()
    thickness = 2 * float(topology.volumes(mesh).sum()) / float(topology.areas(mesh).sum())
    return thickness > 4 * OFFSET / 100 * float((high - low).norm())


def _depth(mesh: Mesh, extent: float) -> int:
    """Choose the depth of an octree whose cells are half as wide as the triangles are long."""
    area = float(topology.areas(mesh).sum()) / len(mesh.faces)
    edge = math.sqrt(4 / math.sqrt(3) * max(area, 1e-30))
    return min(max(math.ceil(math.log2(2.2 * extent / edge)), 6), 9)


def _dressed(source: Mesh, body: Mesh) -> tuple[Mesh, str]:
    """Carry the old mesh's colours over to the repaired shape; say what became of them."""
    own = source.material
    plain = replace(body, material=Material(metallic=own.metallic, roughness=own.roughness))
    pictures = [image for image in (own.albedo, own.metallic_roughness) if image is not None]
    if pictures and source.uv is not None:
        size = max(side for image in pictures for side in image.shape[:2])
        size = min(max(size, SIZES[0]), SIZES[1])
        lost = "; the normal map is left out" if own.normal is not None else ""
        return painted(unwrap(plain, size), Skin(source), size), f"painted on a new map{lost}"
    if source.colors is not None:
        colors = Skin(source).color(body.vertices, body.vertex_normals())
        return replace(plain, colors=colors), "carried over, a colour a vertex"
    return plain, "it had none"
