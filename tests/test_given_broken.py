"""Meshes that other tools and scanners leave, made small: what a run that is given one works on."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

import exporters
from exporters import topology
from exporters.clean import SPECK, clean
from exporters.shells import agreeing, tidied
from tests.broken import ball, inverted, joined, moved, signed_volume, with_fins
from tests.shapes import cube
from threed.core.mesh import Mesh
from threed.runs.given import NEAR, GivenMesh, read_given

BALL = 4 / 3 * math.pi


def given(mesh: Mesh, folder: Path, name: str = "mesh.ply") -> GivenMesh:
    exporters.save(mesh, folder / name)
    return read_given(folder / name)


def shape_of(mesh: Mesh, folder: Path) -> Mesh:
    """What a run works on, in the mesh's own units."""
    found = given(mesh, folder)
    return found.placement.out(found.repaired()[0])


def torn(mesh: Mesh, by: float) -> Mesh:
    """Each triangle by itself, its corners off by so much."""
    corners = mesh.vertices[mesh.faces].view(-1, 3)
    noise = torch.rand(corners.shape, generator=torch.Generator().manual_seed(0))
    return Mesh(corners + by * (noise - 0.5), torch.arange(len(corners)).view(-1, 3))


def mixed(mesh: Mesh, every: int) -> Mesh:
    faces = mesh.faces.clone()
    faces[::every] = faces[::every].flip(1)
    return Mesh(mesh.vertices, faces)


def scan() -> Mesh:
    """A ball that was not seen from below, nor behind two things."""
    whole = ball(3)
    middle = whole.vertices[whole.faces].mean(1)
    spots = torch.tensor([[0.0, 0, -1], [0.8, 0.6, 0], [-0.6, 0, 0.8]])
    seen = (middle @ spots.T < torch.tensor([0.93, 0.97, 0.98])).all(1)
    return Mesh(whole.vertices, whole.faces[seen])


def walled() -> Mesh:
    """A ball with a wall from one of its poles to the other, and a fin."""
    whole = with_fins(ball(3), 1)
    x, y, z = whole.vertices[: len(ball(3).vertices)].unbind(1)
    rim = (y.abs() < 1e-6).nonzero()[:, 0]
    rim = rim[torch.atan2(z[rim], x[rim]).argsort()]
    middle = torch.full_like(rim, len(whole.vertices))
    wall = torch.stack([rim, rim.roll(-1), middle], 1)
    vertices = torch.cat([whole.vertices, torch.zeros(1, 3)])
    return Mesh(vertices, torch.cat([whole.faces, wall]))


def tree(leaves: int = 60) -> Mesh:
    """A trunk and leaves: sheets, some with a back, thin boxes; no-faces between them."""
    trunk = Mesh(ball(2).vertices * torch.tensor([1.0, 1, 8]), ball(2).faces)
    leaf = Mesh(0.1 * torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]]))
    card = Mesh(leaf.vertices, torch.cat([leaf.faces, leaf.faces.flip(1)]))
    kinds = (leaf, card, inverted(cube(0.05)))
    placed = [moved(kinds[i % 3], 3 * math.cos(i), 3 * math.sin(i), i / 10) for i in range(leaves)]
    whole = joined(trunk, *placed)
    nothing = torch.tensor([[0, 0, 1], [4, 4, 4]])
    return Mesh(whole.vertices, torch.cat([whole.faces, nothing]))


@pytest.mark.parametrize(
    ("mesh", "volume", "within"),
    [
        (scan(), BALL, 0.06),
        (torn(ball(3), 0.0), signed_volume(ball(3)), 1e-5),
        (torn(ball(3), 5e-6), signed_volume(ball(3)), 1e-4),
        (mixed(ball(3), 3), signed_volume(ball(3)), 1e-5),
        (mixed(inverted(ball(3)), 3), signed_volume(ball(3)), 1e-5),
        (joined(ball(3), inverted(moved(ball(2), 3.0, 0, 0)), mixed(moved(cube(), 0, 4.0, 0), 5)),
         signed_volume(ball(3)) + signed_volume(ball(2)) + 6, 1e-5),
        (joined(ball(3), inverted(Mesh(ball(2).vertices / 2, ball(2).faces))),
         signed_volume(ball(3)), 1e-5),
        (walled(), signed_volume(ball(3)), 1e-5),
    ],
    ids=["scan", "torn", "torn apart", "mixed", "mixed, inwards", "shells", "cavity", "walled"],
)  # fmt: skip
def test_what_is_broken_becomes_the_solid_that_was_meant(
    tmp_path: Path, mesh: Mesh, volume: float, within: float
) -> None:
    whole = shape_of(mesh, tmp_path)
    assert topology.is_solid(whole)
    assert signed_volume(whole) == pytest.approx(volume, rel=within)


def test_small_parts_and_leaves_stay(tmp_path: Path) -> None:
    whole = shape_of(tree(60), tmp_path)
    assert topology.components(whole.faces)[0] == 61
    edges = topology.edges(whole.faces)
    assert topology.is_watertight(edges)
    assert topology.components(clean(whole, floater=SPECK).faces)[0] == 61
    boxes = 20 * 6 * 0.05**3
    trunk = 8 * signed_volume(ball(2))
    assert signed_volume(whole) == pytest.approx(trunk + boxes, rel=1e-4)


def test_what_was_done_is_counted(tmp_path: Path) -> None:
    count = len(ball(3).faces)
    _, done = given(mixed(ball(3), 4), tmp_path).repaired()
    assert (done.turned, done.faces, done.holes) == (count // 4, 0, 0)
    _, done = given(torn(ball(3), 5e-6), tmp_path).repaired()
    assert done.welded == 3 * count - len(ball(3).vertices)
    whole = ball(3)
    same, done = tidied(whole, NEAR)
    assert not any(vars(done).values())
    assert len(same.faces) == count


def test_a_strip_with_one_side_stays_as_it_is() -> None:
    turn = torch.arange(12) * (2 * math.pi / 12)
    lean = torch.stack([turn.cos() * (turn / 2).cos(), turn.sin() * (turn / 2).cos(),
                        (turn / 2).sin()], 1)  # fmt: skip
    ring = torch.stack([turn.cos(), turn.sin(), 0 * turn], 1)
    faces = []
    for i in range(12):
        a, b = 2 * i, 2 * i + 1
        c, d = (a + 2, b + 2) if i < 11 else (1, 0)
        faces += [(a, c, b), (b, c, d)]
    strip = Mesh(torch.stack([ring - 0.3 * lean, ring + 0.3 * lean], 1).view(-1, 3),
                 torch.tensor(faces))  # fmt: skip
    assert torch.equal(agreeing(strip).faces, strip.faces)


@pytest.mark.parametrize("suffix", [".glb", ".gltf"])
def test_a_scene_of_two_materials_z_up_and_large_keeps_its_colours(
    tmp_path: Path, suffix: str
) -> None:
    scene = trimesh.Scene()
    for name, place, color in (("red", 0.0, (250, 0, 0)), ("blue", 150.0, (0, 0, 250))):
        box = trimesh.creation.box((100, 100, 300), transform=trimesh.transformations
                                   .translation_matrix((place, 0, 0)))  # fmt: skip
        image = Image.new("RGB", (4, 4), color)
        uv = np.random.default_rng(0).random((len(box.vertices), 2))
        box.visual = trimesh.visual.TextureVisuals(
            uv, material=trimesh.visual.material.PBRMaterial(name=name, baseColorTexture=image)
        )
        scene.add_geometry(box, node_name=name)
    scene.export(tmp_path / f"two{suffix}")
    found = read_given(next(tmp_path.glob(f"*{suffix}")), "z")
    low, high = found.mesh.bounds()
    size = (high - low) / float((high - low).max())
    assert size[2] == 1
    assert sorted(size.tolist()) == pytest.approx([1 / 3, 250 / 300, 1], abs=1e-5)
    assert found.mesh.uv is not None
    assert found.mesh.material.albedo is not None
    assert topology.is_solid(found.repaired()[0])
    out = found.placement.out(found.mesh)
    assert float((out.bounds()[1] - out.bounds()[0]).max()) == pytest.approx(300, rel=1e-5)
