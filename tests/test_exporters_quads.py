"""Quads: of a mesh, in files, and what is said where they fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from pxr import Usd, UsdGeom
from torch import Tensor

import exporters
from exporters import blender, quads
from exporters.bake import bake
from exporters.clean import weld
from exporters.corners import polygons
from exporters.quads import check_made, to_quads
from exporters.topology import is_solid
from exporters.transfer import Skin
from exporters.unwrap import unwrap
from tests.broken import ball, inverted, moved, with_fins
from tests.conftest import Answer
from tests.shapes import cube
from tests.test_exporters_blender import real as in_blender
from threed.core.errors import InputError
from threed.core.mesh import Mesh
from threed.runs.asset import export_file
from threed.runs.job import Export

real = pytest.mark.skipif(
    find_spec("pynanoinstantmeshes") is None, reason="needs pynanoinstantmeshes, of [engine]"
)
COUNT = 600


def shade(points: Tensor, _: Tensor) -> Tensor:
    return 0.5 + 0.4 * points


def painted() -> Mesh:
    return bake(unwrap(ball(3), 64), shade, 64)


def box(*, cut: bool = False) -> Mesh:
    """The cube of six quads, each with a square of the map; one of them cut along its diagonal."""
    mesh = cube()
    square = torch.tensor([[0, 0], [0.1, 0], [0.1, 0.9], [0, 0.9]], dtype=torch.float64)
    uv = torch.cat([square + torch.tensor([side / 6, 0]) for side in range(6)])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]]) + 4 * torch.arange(6)[:, None, None]
    faces = faces.view(-1, 3)
    if cut:
        uv, faces = torch.cat([uv, uv[:1]]), faces.clone()
        faces[1, 0] = len(uv) - 1
    return replace(mesh, uv=uv, uv_faces=faces, quads=True)


@pytest.fixture(scope="module")
def made() -> Mesh:
    return to_quads(painted(), COUNT, 64)


@real
def test_quads_are_as_many_as_wished_closed_and_on_the_mesh(made: Mesh) -> None:
    assert made.quads
    assert len(made.faces) / 2 == pytest.approx(COUNT, rel=0.2)
    assert is_solid(made)
    radius = made.vertices.norm(dim=1)
    assert float(radius.min()) > 0.97
    assert float(radius.max()) < 1.03
    threes, fours = polygons(made)
    assert len(threes) < 0.1 * len(fours)


@real
def test_their_texture_is_baked_anew(made: Mesh) -> None:
    assert made.material.albedo is not None
    assert made.material.albedo.shape == (64, 64, 3)
    points = made.vertices[made.faces].mean(1)
    a, b, c = made.vertices[made.faces].unbind(1)
    normals = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
    off = (Skin(made).color(points, normals) - shade(points, normals)).abs()
    assert float(off.mean()) < 0.01
    assert float(off.max()) < 0.1


@real
def test_the_same_mesh_gives_the_same_quads(made: Mesh) -> None:
    again = quads._remesh(weld(painted()), COUNT)
    assert torch.equal(again.vertices, made.vertices)
    assert torch.equal(again.faces, made.faces)


@real
def test_a_command_writes_quads(threed: Callable[..., Answer], tmp_path: Path) -> None:
    exporters.save(painted(), tmp_path / "ball.glb")
    words = ("--to", tmp_path / "q.obj", "--quads", COUNT, "--budget", "texture=64")
    answer = threed("export", tmp_path / "ball.glb", *words)
    assert (answer.status, answer.out.split()) == (0, [str(tmp_path / "q.obj")])
    lines = (tmp_path / "q.obj").read_text().splitlines()
    assert "o q" in lines
    sides = [len(line.split()) - 1 for line in lines if line.startswith("f ")]
    assert sides.count(4) > 0.9 * len(sides)
    assert (tmp_path / "q.png").exists()


@pytest.mark.parametrize("cut", [False, True])
def test_files_have_quads_where_the_map_does_not_cut_them(tmp_path: Path, cut: bool) -> None:
    mesh = box(cut=cut)
    threes, fours = (2, 5) if cut else (0, 6)
    exporters.save(mesh, tmp_path / "box.obj")
    lines = (tmp_path / "box.obj").read_text().splitlines()
    sides = [len(line.split()) - 1 for line in lines if line.startswith("f ")]
    assert sides == [3] * threes + [4] * fours
    back = exporters.load(tmp_path / "box.obj")
    assert back.uv is not None
    assert sorted(back.vertices[back.faces].view(-1, 9).tolist()) == sorted(
        mesh.vertices[mesh.faces].view(-1, 9).tolist()
    )
    exporters.save(mesh, tmp_path / "box.usdz")
    stage = Usd.Stage.Open(str(tmp_path / "box.usdz"))
    shape = UsdGeom.Mesh(stage.GetPrimAtPath("/asset/mesh"))
    assert list(shape.GetFaceVertexCountsAttr().Get()) == sides
    (flat, uv_faces), rows = mesh.opengl_map(), torch.cat([r.flatten() for r in polygons(mesh)])
    assert list(shape.GetFaceVertexIndicesAttr().Get()) == mesh.faces.flatten()[rows].tolist()
    found = torch.tensor(UsdGeom.PrimvarsAPI(shape).GetPrimvar("st").ComputeFlattened())
    assert torch.equal(found, flat[uv_faces.flatten()[rows]])


@in_blender
def test_an_fbx_has_quads_name_and_pictures(tmp_path: Path) -> None:
    lean = torch.tensor([0.5, 0.5, 1.0]).expand(16, 16, 3)
    mesh = box()
    maps = replace(mesh.material, albedo=torch.rand(16, 16, 3), normal=lean, roughness=0.3)
    exporters.save(replace(mesh, material=maps), tmp_path / "toy.fbx", extras={"name": "a-box"})
    assert [path.name for path in tmp_path.iterdir()] == ["toy.fbx"]
    (thing,) = blender.look(tmp_path / "toy.fbx").objects
    assert (thing["name"], thing["faces"], thing["quads"]) == ("a-box", 6, 6)
    (material,) = thing["materials"]
    assert {tuple(image["feeds"]) for image in material["images"]} == {("Base Color",), ("Normal",)}
    assert material["roughness"] == pytest.approx(0.3, abs=0.01)


def test_only_halves_are_quads() -> None:
    with pytest.raises(ValueError, match="not the halves of quads"):
        Mesh(cube().vertices, cube().faces.roll(1, 0), quads=True)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda mesh: Mesh(mesh.vertices, mesh.faces[: len(mesh.faces) // 2]), "are 80, not about"),
        (lambda mesh: Mesh(mesh.vertices, mesh.faces[2:]), "have . open edges, and the mesh is"),
        (inverted, "look the other way"),
        (lambda mesh: moved(mesh, 0.5, 0.0, 0.0), "are off by .* of the mesh's diagonal"),
        (lambda mesh: with_fins(mesh, 2), "have 2 edges of more than two"),
    ],
)  # fmt: skip
def test_what_is_not_as_asked_is_refused(spoil: Callable[[Mesh], Mesh], message: str) -> None:
    mesh = ball(2)
    check_made(mesh, mesh, len(mesh.faces) // 2)
    with pytest.raises(InputError, match=f"the quads {message}.*threed repair"):
        check_made(mesh, spoil(mesh), len(mesh.faces) // 2)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.abort()", r"Instant Meshes crashed on this mesh \(status -6\).*repair"),
        ("import time; time.sleep(60)", r"no quads were found in 0\.2 s"),
    ],
)
def test_a_crash_and_a_hang_are_said_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, message: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(program)
    monkeypatch.setattr(quads, "SCRIPT", script)
    monkeypatch.setattr(quads, "PATIENCE", 0.2 if "sleep" in program else 60.0)
    monkeypatch.setattr(quads, "find_spec", lambda _: True)
    exporters.save(cube(), tmp_path / "box.stl")
    with pytest.raises(InputError, match=message):
        export_file(tmp_path / "box.stl", tmp_path / "out.obj", quads=COUNT)
    assert not (tmp_path / "out.obj").exists()


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quads, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'threed\[engine\]'"):
        to_quads(cube(), COUNT, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file": "a.glb"}, r"quads are written as \.obj, \.usdz, \.fbx, not as \.glb"),
        ({"file": "a.obj", "lods": 1}, "quads=500 says how many faces there are"),
        ({"file": "a.obj", "budget": "faces=9"}, "quads=500 says how many faces there are"),
    ],
)
def test_wishes_that_exclude_each_other(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Export(source=Path("a.glb"), quads=500, **change).check()
