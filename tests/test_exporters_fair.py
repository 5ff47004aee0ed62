"""Fairing: lumps go, edges and sizes stay, and what has no lumps is left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import trimesh
from torch.nn import functional as F

from exporters import topology
from exporters.clean import smooth
from exporters.fair import fair
from tests.shapes import sphere
from threed.core.mesh import Mesh

NOISE = 0.003  # world units


def box(times: int) -> Mesh:
    """A cube of side 1 around the origin, each face cut into 2 · 4^times triangles."""
    made = trimesh.creation.box()
    for _ in range(times):
        made = made.subdivide()
    made.merge_vertices()
    return Mesh(torch.tensor(made.vertices).float(), torch.tensor(made.faces).long())


def rough(mesh: Mesh) -> Mesh:
    chance = torch.Generator().manual_seed(0)
    noise = NOISE * torch.randn(mesh.vertices.shape, generator=chance)
    return replace(mesh, vertices=mesh.vertices + noise, colors=None)


def off_deg(mesh: Mesh, like: Mesh) -> float:
    """The mean angle between the faces of two meshes."""
    one, other = (F.normalize(each.face_normals(), dim=-1) for each in (mesh, like))
    cosine = (one * other).sum(-1).clamp(-1, 1)
    return float(cosine.arccos().rad2deg().mean())


def test_lumps_of_a_ball_go_and_its_size_stays() -> None:
    exact = sphere(0.6, 80, 120)
    lumpy = smooth(rough(exact))
    even = fair(lumpy)
    assert off_deg(even, exact) < 0.5 * off_deg(lumpy, exact)
    volume = float(topology.volumes(even).sum())
    assert volume == pytest.approx(float(topology.volumes(exact).sum()), rel=0.005)
    assert torch.equal(even.faces, lumpy.faces)
    assert topology.is_watertight(topology.edges(even.faces))


def test_edges_stay_where_plain_smoothing_rounds_them() -> None:
    exact = box(5)
    lumpy = rough(exact)
    even, rounded = fair(lumpy), smooth(lumpy, 60)
    assert off_deg(even, exact) < 0.25 * off_deg(lumpy, exact)
    assert off_deg(even, exact) < 0.5 * off_deg(rounded, exact)

    def from_surface(mesh: Mesh) -> float:
        return float((mesh.vertices.abs().amax(-1) - 0.5).abs().mean())

    assert from_surface(even) < 0.5 * from_surface(lumpy)
    edge = (exact.vertices.abs() > 0.499).sum(-1) >= 2
    assert float((even.vertices - exact.vertices)[edge].norm(dim=-1).max()) < 6 * NOISE


def test_faces_larger_than_lumps_stay_as_they_are() -> None:
    mesh = rough(box(2))
    assert fair(mesh) is mesh


def test_holes_and_fins_do_no_harm() -> None:
    mesh = rough(box(5))
    opened = replace(mesh, faces=torch.cat([mesh.faces[500:], mesh.faces[:1], mesh.faces[900:901]]))
    even = fair(opened)
    assert bool(torch.isfinite(even.vertices).all())
    assert float((even.vertices - opened.vertices).norm(dim=-1).max()) < 10 * NOISE
