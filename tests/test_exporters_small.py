"""Small GLBs: what they keep, how small they are, and that another program unpacks them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import exporters
from exporters import load, topology
from exporters.bake import bake
from exporters.small import NAME, NEEDED
from exporters.unwrap import unwrap
from tests.conftest import Answer
from tests.shapes import cube, sphere
from threed.core.errors import InputError
from threed.core.mesh import Mesh

packs = pytest.mark.skipif(find_spec("meshoptimizer") is None, reason="needs meshoptimizer")
SCRIPT = """
import {NodeIO} from '@gltf-transform/core';
import {ALL_EXTENSIONS} from '@gltf-transform/extensions';
import {MeshoptDecoder} from 'meshoptimizer';
await MeshoptDecoder.ready;
const io = new NodeIO().registerExtensions(ALL_EXTENSIONS)
  .registerDependencies({'meshopt.decoder': MeshoptDecoder});
const root = (await io.read(process.argv[1])).getRoot();
const [node] = root.listNodes(), [part] = node.getMesh().listPrimitives();
const rows = name => {
  const from = part.getAttribute(name), found = [];
  for (const index of part.getIndices().getArray()) found.push(from.getElement(index, []));
  return found;
};
const size = node.getScale(), low = node.getTranslation();
const place = rows('POSITION').map(p => p.map((v, k) => v * size[k] + low[k]));
const images = root.listTextures().map(t => t.getSize());
console.log(JSON.stringify({place, uv: rows('TEXCOORD_0'), normal: rows('NORMAL'), images}));
"""


def transform() -> str | None:
    """A folder whose node_modules holds gltf-transform: THREED_NODE."""
    folder = os.environ.get("THREED_NODE")
    there = folder and (Path(folder) / "node_modules" / "@gltf-transform" / "core").is_dir()
    return folder if there and shutil.which("node") else None


def ball() -> Mesh:
    """A ball with a picture of a few colours."""

    def stripes(points: Tensor, _: Tensor) -> Tensor:
        red = (points[:, 2:] * 12).floor() % 2 > 0
        return torch.where(red, torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.9, 0.9, 0.8]))

    return bake(unwrap(replace(sphere(0.6, 24, 36), colors=None), 64), stripes, 64)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same mesh as a plain and as a small GLB."""
    folder = tmp_path_factory.mktemp("small")
    mesh = ball()
    exporters.save(mesh, folder / "plain.glb")
    exporters.save(mesh, folder / "small.glb", small=True)
    return folder / "plain.glb", folder / "small.glb"


def about(path: Path) -> dict[str, Any]:
    """The description in a GLB."""
    content = path.read_bytes()
    found: dict[str, Any] = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
    return found


@packs
def test_a_small_file_is_small_and_shows_the_same(two: tuple[Path, Path]) -> None:
    plain, small = two
    assert small.stat().st_size < 0.5 * plain.stat().st_size
    assert about(small)["extensionsRequired"] == NEEDED
    before, after = load(plain), load(small)
    assert len(after.faces) == len(before.faces)
    assert topology.is_solid(after)
    step = 1.2 / 65535
    assert float((after.bounds() - before.bounds()).abs().max()) < step
    volumes = [float(topology.volumes(mesh).sum()) for mesh in (before, after)]
    assert volumes[1] == pytest.approx(volumes[0], rel=1e-4)
    image, kept = before.material.albedo, after.material.albedo
    assert image is not None
    assert kept is not None
    assert float((255 * (image - kept)).square().mean()) <= 4
    assert replace(after.material, albedo=None) == replace(before.material, albedo=None)


@packs
def test_the_same_mesh_gives_the_same_bytes(two: tuple[Path, Path], tmp_path: Path) -> None:
    exporters.save(ball(), tmp_path / "small.glb", small=True)
    assert (tmp_path / "small.glb").read_bytes() == two[1].read_bytes()


@packs
@pytest.mark.skipif(
    transform() is None,
    reason="needs node, and THREED_NODE naming a folder where npm installed gltf-transform",
)
def test_gltf_transform_unpacks_it(two: tuple[Path, Path]) -> None:
    done = subprocess.run(
        ["node", "--input-type=module", "-e", SCRIPT, str(two[1])],
        cwd=transform(), capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    seen = {key: np.array(rows) for key, rows in json.loads(done.stdout).items()}
    ours = load(two[1])
    assert ours.uv is not None
    assert ours.uv_faces is not None
    corners = ours.vertices[ours.faces].reshape(-1, 3)[:, [1, 2, 0]].numpy()
    assert np.abs(seen["place"] - corners).max() < 1e-6
    assert np.abs(seen["uv"] - ours.uv[ours.uv_faces].reshape(-1, 2).numpy()).max() < 1e-6
    outward = corners / np.linalg.norm(corners, axis=1, keepdims=True)
    assert (seen["normal"] * outward).sum(1).min() > 0.98
    assert seen["images"].tolist() == [[64, 64]]


@packs
def test_colliders_are_packed_too(tmp_path: Path) -> None:
    path = tmp_path / "mug.glb"
    exporters.save(cube(), path, colliders={"UCX_mug_00": cube(2)}, small=True)
    assert [node["name"] for node in about(path)["nodes"]] == ["mug", "UCX_mug_00"]
    views = about(path)["bufferViews"]
    assert all(NAME in view["extensions"] for view in views)
    torch.testing.assert_close(load(path).bounds(), cube().bounds(), atol=1e-4, rtol=0)


@packs
def test_the_web_gets_a_small_file(threed: Callable[..., Answer], tmp_path: Path) -> None:
    exporters.save(cube(), tmp_path / "box.glb")
    target = tmp_path / "web.glb"
    answer = threed("export", tmp_path / "box.glb", "--to", target, "--profile", "web")
    assert answer == Answer(0, f"{target}\n", "")
    assert about(target)["extensionsUsed"] == NEEDED


def test_a_small_file_needs_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "meshoptimizer", None)
    with pytest.raises(InputError, match=r"small.glb is .* pip install 'threed\[gltf\]'"):
        exporters.save(cube(), tmp_path / "small.glb", small=True)
    assert not (tmp_path / "small.glb").exists()
