"""Meshes that a run could not begin with, mended by MeshLab on the way in."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import exporters
from exporters import meshlab, topology
from tests import broken, shapes
from tests.broken import needs_meshlab
from tests.test_stages import CPU, make_run
from threed.core.errors import InputError
from threed.core.mesh import Mesh
from threed.runs.given import GivenMesh, read_given
from threed.runs.stages import begin, check_mesh
from threed.scenes.surface import Surface
from threed.settings.scenes import SurfaceSettings


@pytest.fixture
def soup(tmp_path: Path) -> Path:
    """A ball of 3 units, red below and blue above, whose triangles touch nowhere."""
    whole = shapes.sphere(3.0, 16, 24)
    assert whole.colors is not None
    loose = broken.soup(whole, 0.02)
    path = tmp_path / "soup.ply"
    exporters.save(replace(loose, colors=whole.colors[whole.faces].view(-1, 3)), path)
    return path


@needs_meshlab
def test_a_soup_is_mended_and_begun_with(soup: Path) -> None:
    run = make_run("surface")
    given = read_given(soup)
    mended, notes = check_mesh(run, given)
    assert mended is not None
    assert mended.mesh is given.mesh, "its colours are the file's"
    assert mended.body is not None
    assert topology.is_solid(mended.body)
    assert notes[0].startswith("the mesh could not be used as it was, and was mended by MeshLab: "
                               "a new surface by screened Poisson, depth 6 (")  # fmt: skip
    kept = soup.with_name("init.pt")
    kept.write_bytes(mended.to_bytes())
    scene = begin(run, GivenMesh.from_file(kept), CPU)
    assert isinstance(scene, Surface)
    solid = scene.solid()
    radius = solid.vertices.norm(dim=-1)
    assert float(radius.median()) == pytest.approx(0.8, abs=0.05)
    assert float(radius.min()) > 0.65
    again, more = check_mesh(run, mended)
    assert again is mended
    assert not any("MeshLab" in note for note in more), "it is mended once"


def test_without_pymeshlab_the_refusal_says_what_would_help(
    soup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meshlab, "installed", lambda: False)
    with pytest.raises(InputError, match=r"encloses nothing.*pip install 'threed\[repair\]'"):
        check_mesh(make_run("surface"), read_given(soup))


@needs_meshlab
def test_what_meshlab_cannot_mend_is_refused_for_both_reasons(
    tmp_path: Path, soup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheet = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]]))
    exporters.save(sheet, tmp_path / "sheet.ply")
    both = r"the mesh encloses nothing that a grid .*; MeshLab could not mend it: the mesh enc"
    with pytest.raises(InputError, match=both):
        check_mesh(make_run("surface"), read_given(tmp_path / "sheet.ply"))
    between = make_run("surface", surface=SurfaceSettings(grid=15))  # no point at 0
    plate = Mesh(shapes.cube().vertices * torch.tensor([1, 1, 0.003]), shapes.cube().faces)
    exporters.save(plate, tmp_path / "plate.ply")
    with pytest.raises(InputError, match=r"encloses nothing that a grid .*raise surface\.grid$"):
        check_mesh(between, read_given(tmp_path / "plate.ply"))
    crash = tmp_path / "crash.py"
    crash.write_text("import os; os.abort()")
    monkeypatch.setattr(meshlab, "SCRIPT", crash)
    with pytest.raises(InputError, match=r"could not mend it: MeshLab crashed.*signal 6"):
        check_mesh(make_run("surface"), read_given(soup))


def test_meshes_that_can_be_used_never_meet_meshlab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meshlab, "work", None)
    exporters.save(broken.ball(), tmp_path / "ball.ply")
    given = read_given(tmp_path / "ball.ply")
    for kind in ("surface", "textured"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert check_mesh(make_run(kind), given) == (given, [])
