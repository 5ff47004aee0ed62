"""Meshes for printers: solids on flat bases, how thin their walls are, and 3MF files."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import trimesh

import exporters
from exporters import topology
from exporters.printing import BASE, Printed, make_printable, measure_printed, thickness
from tests.conftest import Answer
from tests.shapes import cube, lopsided, sphere
from threed.core.errors import InputError, MeshWarning
from threed.core.mesh import Mesh
from threed.runs.job import Export


def small(radius: float = 0.05) -> Mesh:
    """A ball of a few centimetres."""
    return sphere(radius, 24, 36)


def test_a_wall_is_as_thick_as_it_is() -> None:
    """A box of 1 by 2 by 3: the half, a third and a sixth of its surface."""
    found = thickness(cube(), 400)
    assert sorted(set(found.round(decimals=5).tolist())) == [1, 2, 3]
    assert float((found < 1.5).float().mean()) == pytest.approx(6 / 11, abs=0.1)
    ball = thickness(small(), 200)
    assert float(ball.median()) == pytest.approx(0.1, rel=0.02)


def test_a_printable_mesh_is_a_solid_that_stands_flat() -> None:
    ball = small()
    broken = Mesh(ball.vertices, ball.faces[20:], ball.colors)
    solid = make_printable(broken, 600)
    assert topology.is_solid(solid)
    assert 600 <= len(solid.faces) <= 660  # and what the cut added
    height = float(solid.bounds()[:, 2].diff())
    assert height == pytest.approx(0.1 * (1 - BASE), rel=0.02)
    made = measure_printed(solid)
    # a cap of a ball that is a hundredth of its height, pressed flat
    assert made.base == pytest.approx(torch.pi * (100 * 100 - 98 * 98) / 4, rel=0.25)
    assert made.wall > 10
    assert solid.colors is not None
    blue = solid.colors[:, 2] > 0.5  # above, as the ball has it
    assert float((blue == (solid.vertices[:, 2] > 0)).float().mean()) > 0.9
    assert str(Printed(31.2, 1.26)) == (
        "stands on 31 mm²; 95% of its walls are at least 1.3 mm thick"
    )


def test_admesh_would_have_nothing_to_mend() -> None:
    """What its report counts: facets of no area, open edges, normals that disagree."""
    solid = make_printable(lopsided(), 600)
    found = trimesh.Trimesh(solid.vertices.numpy(), solid.faces.numpy(), process=False)
    assert found.is_volume
    assert found.is_winding_consistent
    assert found.body_count == 1
    assert len(found.faces) == len(found.unique_faces().nonzero()[0])
    assert float(found.area_faces.min()) > 0
    assert len(torch.unique(solid.vertices, dim=0)) == len(solid.vertices)


def test_thin_walls_are_said() -> None:
    slab = cube()
    slab = replace(slab, vertices=slab.vertices * torch.tensor([0.0005, 0.05, 0.05]))
    with pytest.warns(MeshWarning, match=r"walls of 0.5 mm are thinner .*: 1.6 times as high"):
        assert measure_printed(slab).wall == pytest.approx(0.5, rel=1e-3)


def test_what_is_no_solid_is_refused() -> None:
    flat = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
    with pytest.raises(InputError, match="no solid, which a printer needs: mend it by threed"):
        make_printable(flat, 100)


def model(path: Path) -> ElementTree.Element:
    """The description in a 3MF file."""
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["[Content_Types].xml", "_rels/.rels", "3D/3dmodel.model"]
        return ElementTree.fromstring(archive.read("3D/3dmodel.model"))


def rows(root: ElementTree.Element, name: str, *keys: str) -> list[list[str]]:
    """The values of all elements of a name."""
    found = (one for one in root.iter() if one.tag.rpartition("}")[2] == name)
    return [[one.attrib[key] for key in keys] for one in found]


def test_a_3mf_by_the_book(tmp_path: Path) -> None:
    mesh, path = lopsided(), tmp_path / "a <toy>.3mf"
    exporters.save(mesh, path, extras={"prompt": 'a "red" & <blue> mug'})
    root = model(path)
    assert root.attrib["unit"] == "millimeter"
    about = {one.attrib["name"]: one.text for one in root if one.tag.endswith("}metadata")}
    assert about["Title"] == "a_<toy>"
    assert about["Description"] == 'a "red" & <blue> mug'
    places = [[float(v) for v in row] for row in rows(root, "vertex", "x", "y", "z")]
    turned = torch.stack([mesh.vertices[:, 1], -mesh.vertices[:, 0], mesh.vertices[:, 2]], 1)
    torch.testing.assert_close(torch.tensor(places), 1000 * turned)
    faces = [[int(v) for v in row] for row in rows(root, "triangle", "v1", "v2", "v3")]
    assert faces == mesh.faces.tolist()
    shades = [row[0] for row in rows(root, "color", "color")]
    assert all(re.fullmatch(r"#[0-9A-F]{6}FF", shade) for shade in shades)
    assert mesh.colors is not None
    wanted = (mesh.colors[mesh.faces] * 255).round().int().tolist()
    painted = rows(root, "triangle", "p1", "p2", "p3")
    read = [[[*bytes.fromhex(shades[int(p)][1:7])] for p in row] for row in painted]
    assert read == wanted
    exporters.save(replace(mesh, colors=None), tmp_path / "bare.3mf")
    assert rows(model(tmp_path / "bare.3mf"), "color", "color") == []


def test_the_consortiums_own_library_reads_a_3mf(tmp_path: Path) -> None:
    lib3mf: Any = pytest.importorskip("lib3mf")
    solid = make_printable(small(), 600)
    exporters.save(solid, tmp_path / "ball.3mf")
    found = lib3mf.get_wrapper().CreateModel()
    reader = found.QueryReader("3mf")
    reader.SetStrictModeActive(True)
    reader.ReadFromFile(str(tmp_path / "ball.3mf"))
    assert reader.GetWarningCount() == 0
    things = found.GetMeshObjects()
    assert things.MoveNext()
    thing = things.GetCurrentMeshObject()
    assert thing.IsManifoldAndOriented()
    assert thing.GetTriangleCount() == len(solid.faces)
    assert thing.GetVertexCount() == len(solid.vertices)
    groups = found.GetColorGroups()
    assert groups.MoveNext()
    assert not things.MoveNext()


def test_a_print_is_exported_and_said(threed: Callable[..., Answer], tmp_path: Path) -> None:
    exporters.save(small(), tmp_path / "ball.ply")
    target = tmp_path / "ball.3mf"
    answer = threed("export", tmp_path / "ball.ply", "--to", target, "--profile", "print")
    assert (answer.status, answer.out) == (0, f"{target}\n")
    assert re.fullmatch(r"note: ball.3mf stands on \d+ mm²; 95% of .* mm thick\n", answer.err)
    heights = [float(z) for (z,) in rows(model(target), "vertex", "z")]
    assert (min(heights), max(heights)) == pytest.approx((0, 100), abs=1e-3)
    with pytest.raises(InputError, match="print has no coarser copies, got lods=1"):
        Export(source=target, profile="print", file="a.3mf", lods=1).check()
