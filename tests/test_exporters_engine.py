"""Assets for engines: profiles, colliders and their names."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
import trimesh

import exporters
from exporters import load
from exporters.colliders import CORNERS, convex_parts
from tests.conftest import Answer
from tests.shapes import cube, lopsided, sphere
from threed.core import profile
from threed.core.budget import Budget
from threed.core.errors import InputError
from threed.core.mesh import Mesh
from threed.core.profile import COLLIDERS, PROFILES, Target, limits, stature
from threed.runs import asset as assets
from threed.runs.job import Export, Generate

real = pytest.mark.skipif(profile.find_spec("coacd") is None, reason="needs coacd, of [engine]")
TARGETS = get_args(Target)


def corner() -> Mesh:
    """Two bars that make an L, closed; of each side 1, its arms 2 long."""
    outline = torch.tensor([[0.0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2]])
    count = len(outline)
    low, high = (torch.cat([outline, torch.full((count, 1), z)], 1) for z in (0.0, 1.0))
    top = [(0, 1, 2), (0, 2, 3), (0, 3, 4), (0, 4, 5)]
    faces = [(c, b, a) for a, b, c in top]
    faces += [(a + count, b + count, c + count) for a, b, c in top]
    for a in range(count):
        b = (a + 1) % count
        faces += [(a, b, b + count), (a, b + count, a + count)]
    return Mesh(torch.cat([low, high]), torch.tensor(faces))


def nodes(path: Path) -> list[str]:
    """The names of a GLB's nodes."""
    content = path.read_bytes()
    text = content[20 : 20 + int.from_bytes(content[12:16], "little")]
    return [node["name"] for node in json.loads(text)["nodes"]]


def test_there_is_a_profile_for_every_target() -> None:
    assert tuple(PROFILES) == TARGETS
    for one in PROFILES.values():
        if one.collider is not None:
            assert COLLIDERS.fullmatch(one.collider.format(name="a-mug_LOD0", number=3))
    for name in ("a-mug", "ucx", "a-collider", "UCX_", "wall-col", "wall-convcol", "mug_LOD0"):
        assert not COLLIDERS.fullmatch(name)


@pytest.mark.parametrize("target", TARGETS)
def test_a_profile_is_a_beginning_and_what_is_said_counts(target: Target) -> None:
    wanted = PROFILES[target]
    made = Generate(prompt="a red mug", profile=target).run().asset
    assert (made.profile, made.faces, made.texture, made.lods) == (
        target, wanted.faces, wanted.texture, wanted.lods
    )  # fmt: skip
    job = Generate(prompt="a red mug", profile=target, settings=("asset.faces=700",),
                   budget="texture=64", lods=1)  # fmt: skip
    made = job.run().asset
    assert (made.faces, made.texture, made.lods) == (700, 64, 1)
    source = Path("a.glb")
    assert limits(target, None, None) == (Budget(wanted.faces, wanted.texture), wanted.lods)
    assert limits(target, "faces=9", 0) == (Budget(9, wanted.texture), 0)
    assert (stature(target, None), stature(target, "12cm")) == (wanted.height, 0.12)
    with pytest.raises(InputError, match=f"={target} is written as {wanted.suffix}, not as .obj"):
        Export(source=source, profile=target, file="a.obj").check()


def test_without_a_profile_all_is_as_it_was() -> None:
    assert limits(None, None, None) == (None, 0)
    assert stature(None, None) is None
    assert Generate(prompt="a red mug").run().asset.profile is None


def test_colliders_are_nodes_that_are_not_read_back(tmp_path: Path) -> None:
    path = tmp_path / "my mug.glb"
    exporters.save(lopsided(), path, colliders={"UCX_my_mug_00": cube(2), "UCX_my_mug_01": cube(3)})
    assert nodes(path) == ["my_mug", "UCX_my_mug_00", "UCX_my_mug_01"]
    parts = trimesh.load_scene(path).geometry
    assert [len(part.faces) for part in parts.values()] == [12] * 3
    assert parts["UCX_my_mug_01"].extents.tolist() == pytest.approx([6, 9, 3])  # our y, z, x
    back = load(path)
    torch.testing.assert_close(back.bounds(), lopsided().bounds())
    exporters.save(cube(), tmp_path / "UCX_wall.glb")
    assert len(load(tmp_path / "UCX_wall.glb").faces) == 12  # nothing else is there


@pytest.mark.parametrize("target", ["unity", "unreal", "godot"])
def test_an_export_names_colliders_as_its_engine_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Target
) -> None:
    monkeypatch.setattr(assets, "convex_parts", lambda mesh: [mesh, mesh])
    monkeypatch.setattr(assets, "check_tools", lambda target: None)
    exporters.save(replace(sphere(), colors=None), tmp_path / "box.glb")
    first, second = assets.export_file(
        tmp_path / "box.glb", tmp_path / "a box.glb", budget=Budget(), lods=1, profile=target
    )
    form = PROFILES[target].collider
    assert form is not None
    parts = [form.format(name="a_box_LOD0", number=number) for number in (0, 1)]
    assert nodes(first) == ["a_box_LOD0", *parts]
    assert nodes(second) == ["a_box_LOD1"]


@real
def test_convex_parts_fill_what_the_mesh_does() -> None:
    parts = [trimesh.Trimesh(p.vertices.numpy(), p.faces.numpy()) for p in convex_parts(corner())]
    assert len(parts) == 2
    for part in parts:
        assert part.is_watertight
        assert len(part.vertices) <= CORNERS
        assert part.volume == pytest.approx(part.convex_hull.volume, rel=1e-3)
    assert sum(part.volume for part in parts) == pytest.approx(3, rel=0.03)
    (one,) = convex_parts(cube())
    torch.testing.assert_close(one.bounds(), cube().bounds(), atol=1e-2, rtol=0)


def test_what_is_not_installed_is_said(
    threed: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "find_spec", lambda name: None)
    exporters.save(cube(), tmp_path / "box.glb")
    target, need = tmp_path / "out.glb", "needs coacd: pip install 'threed[engine]'"
    answer = threed("export", tmp_path / "box.glb", "--to", target, "--profile", "unreal")
    assert (answer.status, answer.out) == (2, "")
    assert f"profile=unreal {need}" in answer.err
    assert not target.exists()
    answer = threed("generate", "a red mug", "--profile", "godot", "--out", tmp_path / "mug")
    assert answer.status == 2
    assert f"profile=godot {need}" in answer.err
    answer = threed("export", tmp_path / "box.glb", "--to", target, "--profile", "web")
    assert "profile=web needs meshoptimizer: pip install 'threed[gltf]'" in answer.err
