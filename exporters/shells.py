"""The shells of a broken mesh: doubled walls, fins, pieces inside out, pieces that only touch."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from exporters import topology
from exporters.clean import Repairs, compact, drop_collapsed, drop_degenerate, weld
from threed.core.mesh import Mesh

FIN = 0.1  # of the area: more is no fin where it cannot be told from a torn body
MANY = 64  # pieces, the largest ones, that may be walls of cavities
LOOKED = 16  # vertices of a piece that are asked whether they lie inside the others
BAR = 0.0005  # of the diagonal: half the width of what joins two pieces along an edge


def without_doubles(mesh: Mesh) -> Mesh:
    """Keep every face of a bare mesh once, and none that names a vertex twice.

    A wall of two faces back to back encloses nothing and goes, unless most of the mesh is like
    that, which is then a surface written from both sides.
    """
    mesh = drop_collapsed(mesh)
    turns = mesh.faces.argsort(1)
    upwards = ((turns.roll(-1, 1) - turns) % 3 == 1).all(1)  # an even turn of the sorted corners
    rows, index = torch.unique(mesh.faces.sort(1).values, dim=0, return_inverse=True)
    side = torch.where(upwards, 1, -1)
    net = torch.zeros(len(rows), dtype=torch.int64).index_add_(0, index, side)
    area = topology.areas(mesh)
    cancelled = net[index] == 0
    both = float(area[cancelled].sum()) > 0.5 * float(area.sum())
    wanted = cancelled if both else torch.zeros_like(cancelled)
    wanted = wanted | (side * net[index] > 0)
    order = torch.where(wanted, torch.arange(len(side)), len(side))
    first = torch.full((len(rows),), len(side)).scatter_reduce(0, index, order, "amin")
    return compact(mesh, first[index] == torch.arange(len(side)))


def without_fins(mesh: Mesh) -> Mesh:
    """Remove the sheets of a bare mesh that stick out of a surface or divide what it encloses.

    The mesh is cut apart at all edges of more than two faces; of the sheets, the smaller first,
    those go that make an edge have an odd number of faces, and small ones that end openly.
    """
    edges = topology.edges(mesh.faces)
    sheet = torch.from_numpy(topology.label_joined(_neighbours(edges)[0].numpy(), len(mesh.faces)))
    area = torch.zeros(int(sheet.max()) + 1, dtype=torch.float64)
    area.index_add_(0, sheet, topology.areas(mesh))
    left, total = edges.faces.clone(), float(area.sum())
    keep = torch.ones(len(mesh.faces), dtype=torch.bool)
    order = sheet.argsort(stable=True)
    groups = torch.split(order, torch.bincount(sheet, minlength=len(area)).tolist())
    suspects = torch.unique(sheet[edges.crowded[edges.of_face].any(1)])
    for number in suspects[area[suspects].argsort(stable=True)].tolist():
        sides = edges.of_face[groups[number]].flatten()
        crowd = left[sides] > 2
        odd = crowd & (left[sides] % 2 == 1)
        loose = bool((left[sides] == 1).any()) and float(area[number]) < FIN * total
        if bool(odd.any()) or (loose and bool(crowd.any())):
            keep[groups[number]] = False
            left.index_add_(0, sides, torch.full_like(sides, -1))
    return compact(mesh, keep)


def _neighbours(edges: topology.Edges) -> tuple[Tensor, Tensor]:
    """Find the faces [P, 2] on the two sides of the edges [P] that have exactly two."""
    pairs = (edges.faces == 2)[edges.of_face]
    face = torch.arange(len(pairs))[:, None].expand(-1, 3)[pairs]
    shared, order = edges.of_face[pairs].sort(stable=True)
    return face[order].view(-1, 2), shared[::2]


def tidied(mesh: Mesh, near: float) -> tuple[Mesh, Repairs]:
    """Weld a bare mesh, take fins and inner walls out, turn faces outwards; count what was done.

    Vertices within `near` world units are one where the mesh is open otherwise.
    """
    whole = weld(mesh)
    if bool(topology.edges(whole.faces).open.any()):
        whole = weld(whole, near)
    done = Repairs(welded=len(mesh.vertices) - len(whole.vertices))
    if topology.is_solid(whole):
        return whole, done
    trimmed = _trimmed(whole)
    turned = outwards(agreeing(trimmed))
    count = int((turned.faces != trimmed.faces).any(1).sum())
    return turned, done + Repairs(faces=len(whole.faces) - len(trimmed.faces), turned=count)


def _trimmed(mesh: Mesh) -> Mesh:
    """Take doubled faces out, and fins and walls from the pieces that have crowded edges.

    A leaf of two faces back to back, which is a piece by itself, stays as one of them.
    """
    mesh = drop_collapsed(mesh)
    edges, (count, piece) = topology.edges(mesh.faces), topology.components(mesh.faces)
    crowded = torch.zeros(count, dtype=torch.bool)
    crowded[piece[edges.crowded[edges.of_face].any(1)]] = True
    if not bool(crowded.any()):
        return drop_degenerate(mesh)
    body = without_fins(without_doubles(compact(mesh, crowded[piece])))
    if bool(crowded.all()):
        return body
    rest = drop_degenerate(compact(mesh, ~crowded[piece]))
    faces = torch.cat([body.faces, rest.faces + len(body.vertices)])
    return Mesh(torch.cat([body.vertices, rest.vertices]), faces)


def agreeing(mesh: Mesh) -> Mesh:
    """Turn faces of a bare mesh so that neighbours look to the same side: the lesser part of them.

    Sheets with only one side, such as a Möbius strip, stay as they are.
    """
    edges, count = topology.edges(mesh.faces), len(mesh.faces)
    both, shared = _neighbours(edges)
    other = (edges.balance[shared] != 0).long() * count
    # every face twice, as it is and, `count` further on, turned
    one, two = both.unbind(1)
    pairs = torch.stack([torch.cat([one, one + count]),
                         torch.cat([two + other, two + count - other])], 1)  # fmt: skip
    label = torch.from_numpy(topology.label_joined(pairs.numpy(), 2 * count))
    kept, turned = label.split(count)
    area = torch.zeros(int(label.max()) + 1, dtype=torch.float64)
    area.index_add_(0, kept, topology.areas(mesh))
    less = (area[kept] < area[turned]) | ((area[kept] == area[turned]) & (turned < kept))
    return replace(mesh, faces=torch.where(less[:, None], mesh.faces.flip(1), mesh.faces))


def outwards(mesh: Mesh) -> Mesh:
    """Turn the pieces of a bare mesh outwards, save those that are walls of cavities."""
    wrong = inside_out(mesh)[:, None]
    return replace(mesh, faces=torch.where(wrong, mesh.faces.flip(1), mesh.faces))


def inside_out(mesh: Mesh) -> Tensor:
    """[F] bool which faces belong to pieces that look inwards, and are no walls of cavities."""
    count, piece = topology.components(mesh.faces)
    volume = topology.piece_volumes(mesh, count, piece)
    # the largest piece is no cavity: one is smaller than what it is in
    over = float(volume[volume.abs().argmax()]) < 0
    faces, volume = (mesh.faces.flip(1), -volume) if over else (mesh.faces, volume)
    around = mesh.vertices[faces[volume[piece] > 0]]
    wrong = torch.where(volume < 0, not over, over)
    inwards = (volume < 0).nonzero()[:, 0]
    for number in inwards[volume[inwards].argsort(stable=True)][:MANY].tolist():
        ends = torch.unique(faces[piece == number])
        places = mesh.vertices[ends[:: max(len(ends) // LOOKED, 1)]]
        if bool((winding(around, places) > 0.5).all()):
            wrong[number] = over
    return wrong[piece]


def winding(corners: Tensor, points: Tensor) -> Tensor:
    """[N] how often triangles [F, 3, 3] go around points [N, 3] (Van Oosterom, Strackee 1983)."""
    turns = []
    for point in points.double():
        a, b, c = (corners.double() - point).unbind(1)
        la, lb, lc = (side.norm(dim=-1) for side in (a, b, c))
        top = (a * torch.linalg.cross(b, c)).sum(-1)
        below = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
        turns.append(torch.atan2(top, below).sum() / (2 * math.pi))
    return torch.stack(turns)


def with_bars(mesh: Mesh) -> Mesh:
    """Add a thin bar along every edge of a bare mesh that has more than two faces.

    Pieces that touch in an edge are one solid once these are united with them.
    """
    edges = topology.edges(mesh.faces)
    low, high = mesh.bounds()
    width = BAR * float((high - low).norm())
    start, end = mesh.vertices.double()[edges.ends[edges.crowded]].unbind(1)
    along = F.normalize(end - start, dim=-1)
    # directions that no side of the mesh is likely to have
    across = F.normalize(torch.linalg.cross(along, _odd(along)), dim=-1)
    third = torch.linalg.cross(along, across)
    angles = torch.arange(3) * (2 * math.pi / 3)
    ring = width * (
        angles.cos()[:, None] * across[:, None] + angles.sin()[:, None] * third[:, None]
    )
    caps = [(start - width * along)[:, None] + ring, (end + width * along)[:, None] + ring]
    places = torch.cat(caps, 1)  # [E, 6, 3]
    faces = [(0, 2, 1), (3, 4, 5)]
    for i, j in ((0, 1), (1, 2), (2, 0)):
        faces += [(i, j, j + 3), (i, j + 3, i + 3)]
    first = len(mesh.vertices) + 6 * torch.arange(len(places))
    bars = (first[:, None, None] + torch.tensor(faces)).view(-1, 3)
    vertices = torch.cat([mesh.vertices, places.view(-1, 3).float()])
    return Mesh(vertices, torch.cat([mesh.faces, bars]))


def _odd(along: Tensor) -> Tensor:
    """Choose directions [N, 3] that are far from parallel to `along` [N, 3]."""
    first, second = along.new_tensor([0.31, 0.74, 0.6]), along.new_tensor([0.83, -0.29, 0.47])
    near = (along * first).sum(-1, keepdim=True).abs() > 0.8
    return torch.where(near, second, first)
