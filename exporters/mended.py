"""How whole a mesh is, what a repair changed, and how far apart two surfaces are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from exporters import topology
from exporters.shells import inside_out
from exporters.transfer import weights
from threed.core.mesh import Mesh

SAMPLES = 20_000  # points of a surface that distances are measured at
CANDIDATES = 8  # faces that the nearest one to a point is sought among


@dataclass(frozen=True)
class State:
    """How whole a mesh is; vertices at the same place count as one."""

    vertices: int
    faces: int
    components: int  # pieces that share no vertex
    holes: int  # closed walks along open edges
    open_edges: int  # of one face
    non_manifold_edges: int  # of more than two faces
    self_intersecting_faces: int  # that cut through others, as MeshLab finds them
    inside_out_pieces: int  # of a watertight mesh; those that are walls of cavities do not count
    watertight: bool  # every edge has two faces that look the same way
    volume: float | None  # world units³; only of a watertight mesh
    area: float  # world units²
    low: tuple[float, float, float]  # lower corner of the bounding box, world units
    high: tuple[float, float, float]

    @property
    def whole(self) -> bool:
        """Tell whether it is a solid that nothing is wrong with."""
        return not self.problems

    @property
    def problems(self) -> str:
        """What is wrong with it, in words; empty for a solid."""
        counts = {
            "open edges": self.open_edges,
            "edges of more than two faces": self.non_manifold_edges,
            "faces that cut through others": self.self_intersecting_faces,
            "pieces inside out": self.inside_out_pieces,
        }
        found = [f"{count:,} {name}" for name, count in counts.items() if count]
        if not found and not self.watertight:
            found = ["faces beside each other look to different sides"]
        elif not found and self.volume is not None and self.volume <= 0:
            found = ["it encloses nothing"]
        return ", ".join(found)


@dataclass(frozen=True)
class Mended:
    """A mesh after its repair, and what changed."""

    mesh: Mesh
    before: State
    after: State
    steps: tuple[str, ...]  # what was done, in words; none where nothing was wrong
    moved: float  # mean distance of the new surface from the old, as a share of the diagonal
    farthest: float  # the largest one
    colors: str  # what became of the colours, in words

    @property
    def summary(self) -> str:
        """Say in a line what was done and what changed."""
        old, new = self.before, self.after
        steps = "; ".join(self.steps) or "nothing to repair"
        counts = f"{old.faces:,} faces became {new.faces:,}, {self.moved:.2%} of the diagonal away"
        return f"{steps} ({counts})"

    def to_json(self) -> str:
        """One object, indented."""
        data = {field.name: getattr(self, field.name) for field in fields(self)[1:]}
        data |= {"before": asdict(self.before), "after": asdict(self.after)}
        return json.dumps(data, indent=2, allow_nan=False) + "\n"

    def lines(self) -> list[str]:
        """The same for people."""
        lines = [f"{'; '.join(self.steps) or 'nothing to repair'}"]
        old, new = asdict(self.before), asdict(self.after)
        for name, value in old.items():
            if name in ("low", "high"):
                continue
            label = name.replace("_", " ").replace("non man", "non-man").replace("self i", "self-i")
            lines.append(f"{label}: {_shown(value)} -> {_shown(new[name])}")
        for label, state in (("size before", self.before), ("size after", self.after)):
            size = " × ".join(f"{b - a:.4g}" for a, b in zip(state.low, state.high))
            lines.append(f"{label} (x, y, z): {size}")
        lines.append(f"moved: {self.moved:.3%} of the diagonal on average, {self.farthest:.3%} "
                     "at most")  # fmt: skip
        return [*lines, f"colours: {self.colors}"]


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"


def spread(mesh: Mesh, count: int) -> tuple[Tensor, Tensor]:
    """Spread points [count, 3] over a mesh, always the same ones; give the face [count] of each."""
    area = topology.areas(mesh).numpy()
    rng = np.random.default_rng(0)
    face = torch.from_numpy(rng.choice(len(area), count, p=area / area.sum()))
    weight = torch.from_numpy(rng.dirichlet((1, 1, 1), count))
    return (mesh.vertices.double()[mesh.faces[face]] * weight[..., None]).sum(1), face


def _distances(source: Mesh, target: Mesh) -> Tensor:
    """Measure the distances [SAMPLES] from points of one surface to the other."""
    points, _ = spread(source, SAMPLES)
    spots, owner = spread(target, 4 * SAMPLES)
    corners = target.vertices.double()[target.faces]
    spots = torch.cat([spots, corners.mean(1)])
    owner = torch.cat([owner, torch.arange(len(corners))])
    _, index = cKDTree(spots.numpy()).query(points.numpy(), k=CANDIDATES)
    near = corners[owner[torch.from_numpy(index)]]
    places = (weights(near, points[:, None])[..., None] * near).sum(-2)
    gaps: Tensor = (places - points[:, None]).norm(dim=-1).amin(1)
    return gaps


def usual_gap(source: Mesh, target: Mesh) -> float:
    """Measure the distance within which 95 % of one surface lie to the other, of the diagonal."""
    return float(torch.quantile(_distances(source, target), 0.95)) / diagonal(target)


def moved(before: Mesh, after: Mesh) -> tuple[float, float]:
    """How far a new surface is from the old one, mean and most, as shares of the old diagonal."""
    gaps = _distances(after, before) / diagonal(before)
    return float(gaps.mean()), float(gaps.max())


def diagonal(mesh: Mesh) -> float:
    low, high = mesh.bounds().double()
    return max(float((high - low).norm()), 1e-30)


def state_of(mesh: Mesh, crossing: int) -> State:
    """The counts of a welded mesh."""
    edges = topology.edges(mesh.faces)
    closed = topology.is_watertight(edges)
    count, piece = topology.components(mesh.faces)
    wrong = piece[inside_out(mesh)] if closed else piece[:0]
    low, high = mesh.bounds().tolist()
    return State(
        vertices=len(mesh.vertices),
        faces=len(mesh.faces),
        components=count,
        holes=len(topology.boundary_loops(mesh.faces, edges)),
        open_edges=int(edges.open.sum()),
        non_manifold_edges=int(edges.crowded.sum()),
        self_intersecting_faces=crossing,
        inside_out_pieces=len(torch.unique(wrong)),
        watertight=closed,
        volume=float(topology.volumes(mesh).sum()) if closed else None,
        area=float(topology.areas(mesh).sum()),
        low=tuple(low),
        high=tuple(high),
    )
