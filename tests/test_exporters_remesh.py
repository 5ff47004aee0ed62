"""Repairs by MeshLab, judged by trimesh, by our topology and by a count of crossings of our own."""

from __future__ import annotations

import ast
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trimesh

import exporters
from exporters import load, meshlab, remesh, topology
from exporters.meshlab import Clock, RefusedError, work
from exporters.remesh import Mending, mend
from exporters.transfer import Skin
from tests import broken
from tests.broken import (
    ball,
    crossings,
    edge_lengths,
    inverted,
    joined,
    moved,
    needs_meshlab,
    signed_volume,
)
from tests.shapes import cube, sphere
from tests.toys import toy
from threed.core.errors import InputError
from threed.core.mesh import Mesh

ROOT = Path(__file__).resolve().parent.parent


def assert_solid(mesh: Mesh) -> None:
    """Closed and outside out as our topology and trimesh see it, with nothing that crosses."""
    assert topology.is_solid(mesh)
    theirs = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=True)
    assert theirs.is_watertight
    assert theirs.is_winding_consistent
    assert theirs.volume > 0
    assert crossings(mesh) == 0


def euler(mesh: Mesh) -> int:
    """Vertices that are used, less edges, more faces: 2 - 2 holes through it, for one piece."""
    edges = topology.edges(mesh.faces)
    return len(torch.unique(mesh.faces)) - len(edges.ends) + len(mesh.faces)


@needs_meshlab
def test_solids_that_run_into_each_other_become_their_union() -> None:
    gap = math.sqrt(1 + 0.1**2 + 0.05**2)
    lens = math.pi * (4 + gap) * (2 - gap) ** 2 / 12
    two = joined(ball(), moved(ball(), 1.0, 0.1, 0.05))
    done = mend(two)
    assert_solid(done.mesh)
    assert topology.components(done.mesh.faces)[0] == 1
    assert signed_volume(done.mesh) == pytest.approx(8 / 3 * math.pi - lens, rel=0.01)
    torch.testing.assert_close(done.mesh.bounds(), two.bounds(), atol=1e-6, rtol=0)
    near = torch.stack([done.mesh.vertices, done.mesh.vertices - torch.tensor([1, 0.1, 0.05])])
    assert float((near.norm(dim=-1) - 1).abs().amin(0).max()) < 0.02, "all of it is on a sphere"
    assert done.before.self_intersecting_faces == pytest.approx(crossings(two), rel=0.05)
    assert (done.before.components, done.after.components) == (2, 1)
    assert done.steps == ("crossings and inner walls resolved",)
    assert "pymeshlab" not in sys.modules, "it runs elsewhere"


@needs_meshlab
def test_a_piece_that_runs_through_itself_is_resolved() -> None:
    mesh = broken.eight()
    assert crossings(mesh) > 50
    done = mend(mesh)
    assert_solid(done.mesh)
    assert topology.components(done.mesh.faces)[0] == 1
    assert euler(mesh) == 0
    assert euler(done.mesh) == -2, "a figure of eight has two holes"
    assert 0.9 * signed_volume(mesh) < signed_volume(done.mesh) < signed_volume(mesh)


@needs_meshlab
def test_edges_of_many_faces_are_resolved_and_stay_so_in_files(tmp_path: Path) -> None:
    mesh, count = broken.cells()
    assert int(topology.edges(mesh.faces).crowded.sum()) > 80
    done = mend(mesh)
    assert done.before.non_manifold_edges == int(topology.edges(mesh.faces).crowded.sum())
    assert done.after.non_manifold_edges == 0
    for suffix in (".stl", ".ply", ".glb", ".obj"):
        exporters.save(done.mesh, tmp_path / f"cells{suffix}")
        again = load(tmp_path / f"cells{suffix}")
        assert topology.is_watertight(topology.edges(again.faces)), suffix
    assert_solid(done.mesh)
    assert signed_volume(done.mesh) == pytest.approx(count, rel=1e-3)
    middle = mesh.vertices.view(-1, 3)
    bounds = torch.stack([middle.amin(0), middle.amax(0)])
    torch.testing.assert_close(done.mesh.bounds(), bounds, atol=0.01, rtol=0)


@needs_meshlab
def test_fins_go_and_the_body_stays() -> None:
    whole = ball()
    done = mend(broken.with_fins(whole, 40))
    assert_solid(done.mesh)
    assert len(done.mesh.faces) == len(whole.faces)
    assert signed_volume(done.mesh) == pytest.approx(signed_volume(whole), rel=1e-6)
    assert done.moved < 1e-5
    assert done.before.non_manifold_edges == 40
    done = mend(Mesh(whole.vertices, torch.cat([whole.faces, whole.faces[:1].roll(1, 1)])))
    assert torch.equal(done.mesh.vertices[done.mesh.faces], whole.vertices[whole.faces])
    assert done.steps == ("doubled faces and walls of two taken out",)


@needs_meshlab
def test_faces_that_look_to_the_wrong_side_are_turned() -> None:
    whole = ball()
    faces = whole.faces.clone()
    faces[::3] = faces[::3].flip(1)
    done = mend(Mesh(whole.vertices, faces))
    assert_solid(done.mesh)
    assert signed_volume(done.mesh) == pytest.approx(signed_volume(whole), rel=1e-6)
    two = joined(ball(), inverted(moved(ball(), 3, 0, 0)))
    done = mend(two)
    assert_solid(done.mesh)
    assert (done.before.inside_out_pieces, done.after.inside_out_pieces) == (1, 0)
    assert done.steps == ("pieces turned outside out",)


@needs_meshlab
def test_holes_are_closed_and_crossings_behind_them_resolved() -> None:
    two = joined(ball(), moved(ball(), 1.0, 0.1, 0.05))
    torn = Mesh(two.vertices, two.faces[40:])
    done = mend(torn)
    assert_solid(done.mesh)
    assert signed_volume(done.mesh) == pytest.approx(signed_volume(mend(two).mesh), rel=0.01)
    assert (done.before.watertight, done.after.watertight) == (False, True)
    assert done.before.open_edges > 0 == done.after.open_edges


@needs_meshlab
def test_a_soup_becomes_a_solid_and_the_same_one_every_time() -> None:
    mesh = broken.soup(ball(), 0.01)
    assert topology.components(mesh.faces)[0] == len(mesh.faces)
    done = mend(mesh)
    assert_solid(done.mesh)
    assert topology.components(done.mesh.faces)[0] == 1
    assert euler(done.mesh) == 2
    radius = done.mesh.vertices.norm(dim=-1)
    assert float((radius - 1).abs().max()) < 0.03
    assert float(radius.mean()) == pytest.approx(1, abs=0.01)
    assert signed_volume(done.mesh) == pytest.approx(4 / 3 * math.pi, rel=0.02)
    assert done.steps == ("a new surface by screened Poisson, depth 6",)
    again = mend(mesh)
    assert torch.equal(again.mesh.vertices, done.mesh.vertices)
    assert torch.equal(again.mesh.faces, done.mesh.faces)


@needs_meshlab
def test_a_soup_whose_faces_do_not_agree_is_wrapped() -> None:
    mesh = broken.soup(ball(), 0.005, turned=0.5)
    with pytest.raises(InputError, match="Poisson's surface does not follow this mesh"):
        mend(mesh, Mending(solid="poisson"))
    done = mend(mesh)
    assert done.steps == ("wrapped in a new surface, gaps up to 1% closed",)
    assert_solid(done.mesh)
    radius = done.mesh.vertices.norm(dim=-1)
    offset = remesh.OFFSET / 100 * math.sqrt(12)
    assert 0.97 < float(radius.min())
    assert float(radius.max()) < 1.02 + offset
    assert signed_volume(done.mesh) == pytest.approx(4 / 3 * math.pi, rel=0.04)


@needs_meshlab
def test_triangles_are_made_even_and_creases_stay() -> None:
    box = Mesh(cube().vertices, cube().faces)
    done = mend(box, Mending(remesh="0.25"))
    lengths = edge_lengths(done.mesh)
    assert lengths.mean() == pytest.approx(0.25, rel=0.15)
    assert lengths.std() < 0.2 * lengths.mean() < 0.5 * edge_lengths(box).std()
    assert 0.4 * 0.25 < lengths.min() < lengths.max() < 2 * 0.25
    assert_solid(done.mesh)
    assert signed_volume(done.mesh) == pytest.approx(6, rel=1e-6), "no corner is rounded"
    torch.testing.assert_close(done.mesh.bounds(), box.bounds(), atol=1e-6, rtol=0)
    assert done.moved < 1e-3
    share = mend(box, Mending(remesh=f"{25 / math.sqrt(14)}%"))
    assert len(share.mesh.faces) == pytest.approx(len(done.mesh.faces), rel=0.02)


@needs_meshlab
def test_what_is_open_may_stay_open() -> None:
    whole = ball()
    above = whole.vertices[whole.faces].mean(1)[:, 2] > 0
    bowl = Mesh(whole.vertices, whole.faces[above])
    done = mend(bowl, Mending(solid="never", remesh="0.1"))
    edges = topology.edges(done.mesh.faces)
    assert bool((edges.faces <= 2).all())
    loops = topology.boundary_loops(done.mesh.faces, edges)
    assert len(loops) == 1
    rim = done.mesh.vertices[torch.tensor(loops[0])]
    assert float(rim[:, 2].abs().max()) < 0.15
    lengths = edge_lengths(done.mesh)
    assert lengths.std() < 0.25 * lengths.mean()
    closed = mend(bowl)
    assert_solid(closed.mesh)
    assert signed_volume(closed.mesh) == pytest.approx(2 / 3 * math.pi, rel=0.06)


@needs_meshlab
def test_a_mesh_that_is_whole_stays_as_it_is_with_its_map() -> None:
    mug = toy("mug", "red", resolution=40, texture=64)
    before = Mesh(mug.vertices, mug.faces)
    assert topology.is_solid(before)
    assert crossings(before) == 0
    done = mend(mug)
    assert done.mesh is mug
    assert (done.steps, done.moved, done.colors) == ((), 0.0, "as they were")
    assert done.before == done.after
    hollow = joined(ball(), inverted(ball(2, 0.4)))
    assert mend(hollow).mesh is hollow, "a cavity is no mistake"


@needs_meshlab
def test_a_texture_is_painted_on_the_new_map() -> None:
    mug = toy("mug", "red", resolution=40, texture=128)
    assert mug.uv_faces is not None
    lean = torch.full((32, 32, 3), 0.5)
    gloss = torch.tensor([1.0, 0.25, 0.75]).expand(32, 32, 3)
    maps = replace(mug.material, normal=lean, metallic_roughness=gloss, metallic=1.0, roughness=1.0)
    torn = replace(mug, faces=mug.faces[30:], uv_faces=mug.uv_faces[30:], material=maps)
    done = mend(torn)
    assert_solid(Mesh(done.mesh.vertices, done.mesh.faces))
    assert done.colors == "painted on a new map; the normal map is left out"
    assert done.mesh.uv is not None
    assert done.mesh.material.albedo is not None
    assert done.mesh.material.albedo.shape == (128, 128, 3)
    assert done.mesh.material.normal is None
    assert done.mesh.material.metallic_roughness is not None
    torch.testing.assert_close(done.mesh.material.metallic_roughness.mean((0, 1)), gloss[0, 0],
                               atol=1e-3, rtol=0)  # fmt: skip
    places, normals = mug.vertices[::7], mug.vertex_normals()[::7]
    off = Skin(done.mesh).color(places, normals) - Skin(mug).color(places, normals)
    assert float(off.abs().mean()) < 0.02


@needs_meshlab
def test_colours_of_vertices_are_carried_over() -> None:
    whole = sphere(1.0, 24, 36)
    assert whole.colors is not None
    rows = broken.soup(whole, 0.004)
    painted = replace(rows, colors=whole.colors[whole.faces].view(-1, 3))
    done = mend(painted, Mending(depth=5))
    assert done.colors == "carried over, a colour a vertex"
    assert done.mesh.colors is not None
    height = (done.mesh.vertices[:, 2] + 1) / 2
    assert float((done.mesh.colors[:, 2] - height).abs().max()) < 0.05
    assert mend(rows, Mending(depth=5)).colors == "it had none"


@needs_meshlab
def test_the_report_says_what_changed() -> None:
    torn = Mesh(ball().vertices, torch.cat([ball().faces[5:], ball().faces[7:8]]))
    done = mend(torn)
    data = json.loads(done.to_json())
    assert set(data) == {"before", "after", "steps", "moved", "farthest", "colors"}
    assert data["before"]["faces"] == len(torn.faces)
    assert data["before"]["volume"] is None
    assert data["after"] == {
        "vertices": len(done.mesh.vertices), "faces": len(done.mesh.faces), "components": 1,
        "holes": 0, "open_edges": 0, "non_manifold_edges": 0, "self_intersecting_faces": 0,
        "inside_out_pieces": 0,
        "watertight": True, "volume": pytest.approx(signed_volume(done.mesh), rel=1e-6),
        "area": pytest.approx(float(topology.areas(done.mesh).sum()), rel=1e-6),
        "low": done.mesh.bounds()[0].tolist(), "high": done.mesh.bounds()[1].tolist(),
    }  # fmt: skip
    assert 0 < data["moved"] < data["farthest"] < 0.1
    lines = done.lines()
    assert lines[0] == "; ".join(done.steps)
    assert "watertight: no -> yes" in lines
    assert f"faces: {len(torn.faces):,} -> {len(done.mesh.faces):,}" in lines
    assert "5 " not in done.after.problems
    assert done.after.whole
    assert "open edges" in done.before.problems


@needs_meshlab
def test_the_distance_to_the_old_surface_is_measured() -> None:
    mesh = broken.soup(ball(), 0.0)
    done = mend(mesh, Mending(solid="wrap"))
    assert done.moved * math.sqrt(12) == pytest.approx(
        float((done.mesh.vertices.norm(dim=-1) - 1).abs().mean()), abs=0.005
    )


@needs_meshlab
def test_sheets_and_what_encloses_nothing_are_refused() -> None:
    sheet = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]]))
    with pytest.raises(InputError, match="encloses nothing, and cannot be made a solid: it is fla"):
        mend(sheet)
    with pytest.raises(InputError, match=r"edges of 1e-05 would make about .* triangles; at most"):
        mend(sheet, Mending(solid="never", remesh="1e-5"))


@needs_meshlab
def test_a_filter_that_refuses_a_mesh_is_told_from_a_crash() -> None:
    torn = Mesh(ball().vertices, ball().faces[1:])
    with pytest.raises(RefusedError, match=r"unite: .*watertight"):
        work(torn, [("unite", {})], Clock.of(60))
    found = work(torn, [], Clock.of(60))
    assert found.mesh is not None
    assert torch.equal(found.mesh.faces, torn.faces)
    assert torch.equal(found.mesh.vertices, torn.vertices)


def test_only_the_script_imports_pymeshlab() -> None:
    """It is GPL-3: whatever loads it must be a program of its own."""
    users = set()
    for path in (path for name in ("threed", "guidance", "renderers", "exporters")
                 for path in (ROOT / name).rglob("*.py")):  # fmt: skip
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] == "pymeshlab" for name in names):
                users.add(path.name)
            assert "meshlab_script" not in " ".join(names), f"{path} imports the script"
    assert users == {"meshlab_script.py"}


def test_without_pymeshlab_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meshlab.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"not installed: pip install 'threed\[repair\]'"):
        mend(ball(1))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
         r"MeshLab crashed on this mesh \(at: count\): signal 11, Segmentation fault"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
         r"\(at: count\): signal 9, Killed; perhaps the memory ran out"),
        ("raise ValueError('nonsense')", r"MeshLab crashed .*: ValueError: nonsense"),
        ("pass", r"MeshLab crashed .*: it ended with status 0"),
        ("import sys; print('libGL.so.1: cannot open', file=sys.stderr); sys.exit(3)",
         r"cannot be loaded: libGL\.so\.1: cannot open; .*apt install libgl1 libopengl0"),
        ("import time; time.sleep(600)", "was stopped: the repair took longer than 3 s"),
    ],
)  # fmt: skip
def test_a_worker_that_crashes_or_hangs_is_an_error_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    path = tmp_path / "script.py"
    path.write_text(script)
    monkeypatch.setattr(meshlab, "SCRIPT", path)
    monkeypatch.setattr(meshlab, "installed", lambda: True)
    monkeypatch.setattr(meshlab.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(InputError, match=message):
        mend(ball(1), Mending(timeout=3 if "sleep" in script else 60))
    assert [p.name for p in tmp_path.iterdir()] == ["script.py"], "nothing is left behind"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"depth": 3}, r"depth must be in 5\.\.10, got 3"),
        ({"timeout": 0.0}, "timeout must be above 0 seconds, got 0"),
        ({"timeout": math.nan}, "timeout must be above 0 seconds, got nan"),
        *(({"remesh": word}, f"remesh must be a length above 0 .* such as 2%, got '{word}'")
          for word in ("wide", "0", "-1%", "nan", "")),
    ],
)  # fmt: skip
def test_repairs_that_cannot_be(words: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Mending(**words)  # type: ignore[arg-type]


def test_too_many_faces_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remesh, "MAX_FACES", 10)
    with pytest.raises(InputError, match="has 80 faces; at most 10 are repaired: threed export"):
        mend(ball(1))


def test_a_mesh_without_area_is_refused() -> None:
    line = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]), torch.tensor([[0, 1, 2]]))
    with pytest.raises(InputError, match="has no surface: none of its faces has an area"):
        mend(line)


def test_lengths_of_edges_are_read() -> None:
    assert Mending(remesh="0.5").edge(8.0) == 0.5
    assert Mending(remesh=" 2% ").edge(8.0) == pytest.approx(0.16)
    assert Mending().edge(8.0) is None
