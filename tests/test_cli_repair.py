"""`threed repair` as a person meets it: what it says, what it writes, mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import exporters
from exporters import load, meshlab, topology
from tests import broken
from tests.broken import ball, crossings, joined, moved, needs_meshlab
from tests.conftest import Answer
from tests.test_cli import assert_refused


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two balls that run into each other."""
    path = tmp_path_factory.mktemp("meshes") / "two.stl"
    exporters.save(joined(ball(2), moved(ball(2), 1.0, 0.1, 0.05)), path)
    return path


@needs_meshlab
def test_a_mesh_is_repaired_and_what_changed_is_said(
    threed: Callable[..., Answer], two: Path, tmp_path: Path
) -> None:
    out = tmp_path / "whole.glb"
    answer = threed("repair", two, "--out", out)
    assert (answer.status, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert lines[0] == "crossings and inner walls resolved"
    assert lines[-1] == str(out)
    assert "components: 2 -> 1" in lines
    assert "watertight: yes -> yes" in lines
    assert any(line.startswith("self-intersecting faces: ") and line.endswith("-> 0")
               for line in lines)  # fmt: skip
    mesh = load(out)
    assert topology.is_solid(mesh)
    assert crossings(mesh) == 0
    answer = threed("repair", out, "--out", tmp_path / "again.ply", "--remesh", "4%", "--json")
    assert answer.status == 0
    data = json.loads(answer.out)
    assert data["steps"][0].startswith("triangles made even, with edges of ")
    assert data["after"]["faces"] == len(load(tmp_path / "again.ply").faces)


@needs_meshlab
def test_what_is_left_is_warned_of(threed: Callable[..., Answer], tmp_path: Path) -> None:
    exporters.save(broken.eight(), tmp_path / "eight.ply")
    answer = threed("repair", tmp_path / "eight.ply", "--out", tmp_path / "a.ply", "--solid",
                    "never", "--remesh", "3%")  # fmt: skip
    assert (answer.status, answer.err) == (0, ""), "it was asked for"
    assert crossings(load(tmp_path / "a.ply")) > 0
    exporters.save(ball(1), tmp_path / "ball.ply")
    answer = threed("repair", tmp_path / "ball.ply", "--out", tmp_path / "b.ply", "--remesh", 1.2)
    assert answer.status == 0


@needs_meshlab
def test_a_mesh_that_is_whole_is_only_copied(threed: Callable[..., Answer], tmp_path: Path) -> None:
    exporters.save(ball(2), tmp_path / "ball.ply")
    answer = threed("repair", tmp_path / "ball.ply", "--out", tmp_path / "b.ply")
    assert answer.out.startswith("nothing to repair\n")
    assert "colours: as they were" in answer.out
    before, after = load(tmp_path / "ball.ply"), load(tmp_path / "b.ply")
    assert before.vertices.equal(after.vertices)
    assert before.faces.equal(after.faces)


def test_mistakes_are_refused(
    threed: Callable[..., Answer], two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.glb"
    assert_refused(threed("repair", two, "--out", tmp_path / "a.blend"), "must end in one of")
    assert_refused(threed("repair", tmp_path / "none.stl", "--out", out), "no such file")
    answer = threed("repair", two, "--out", out, "--remesh", "wide")
    assert_refused(answer, "remesh must be a length above 0", "such as 2%, got 'wide'")
    assert_refused(threed("repair", two, "--out", out, "--timeout", 0), "timeout must be above 0")
    answer = threed("repair", two, "--out", out, "--solid", "perhaps")
    assert answer.status == 2
    assert "solid must be one of auto, never, poisson, wrap, got 'perhaps'" in answer.err
    monkeypatch.setattr(meshlab, "installed", lambda: False)
    assert_refused(threed("repair", two, "--out", out), "pip install 'threed[repair]'")
    assert not out.exists()
