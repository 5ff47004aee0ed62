"""`threed generate --init` and `threed texture` as a person meets them: what works, mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import trimesh

from tests import tiny
from tests.conftest import Answer
from tests.test_cli import SMALL, assert_refused
from threed.runs.folder import RunFolder

PAINT = "paint: {levels: 3, log2_table: 10, max_resolution: 24, copy_steps: 3}\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_folder(tmp_path_factory.mktemp("models") / "tiny", "multiview")


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    path = tmp_path_factory.mktemp("presets") / "small.yaml"
    stages = ", ".join(
        f"{{scene: {kind}, steps: 2, batch: 4, resolution: 12}}" for kind in ("field", "surface")
    )
    lines = [line for line in SMALL.splitlines() if not line.startswith("stages")]
    path.write_text("\n".join([f"backbone: {model}", *lines, f"stages: [{stages}]"]) + "\n" + PAINT
                    + "surface: {grid: 12}\n")  # fmt: skip
    return path


@pytest.fixture(scope="module")
def painting(tmp_path_factory: pytest.TempPathFactory, preset: Path) -> Path:
    path = tmp_path_factory.mktemp("presets") / "paint.yaml"
    lines = [line for line in preset.read_text().splitlines() if not line.startswith("stages")]
    path.write_text("\n".join([*lines, "stages: [{scene: textured, steps: 2, resolution: 12}]"]))
    return path


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("meshes") / "box.stl"
    trimesh.creation.box((30, 20, 10)).export(path)
    return path


def test_a_mesh_is_painted_with_the_files_of_generate(
    threed: Callable[..., Answer], tmp_path: Path, painting: Path, box: Path
) -> None:
    out = tmp_path / "a"
    answer = threed("texture", box, "a red mug", "--preset", painting, "--seed", 4, "--out", out,
                    "--json")  # fmt: skip
    assert answer.status == 0
    assert answer.err == ""
    said = json.loads(answer.out)
    names = {Path(path).name for path in said["files"]}
    assert names >= {"asset.glb", "asset.obj", "asset.mtl", "asset.png", "turntable.mp4",
                     "preview.png", "report.json"}  # fmt: skip
    assert RunFolder.open(out).run.seed == 4
    report = json.loads((out / "report.json").read_text())
    assert (report["faces"], report["watertight"]) == (12, True)


def test_a_mesh_is_refined_by_the_stages_after_the_field(
    threed: Callable[..., Answer], tmp_path: Path, preset: Path, box: Path
) -> None:
    out = tmp_path / "a"
    answer = threed(
        "generate", "a mug", "--init", box, "--up", "y", "--preset", preset, "--out", out
    )
    assert (answer.status, answer.out) == (0, f"{out / 'asset.glb'}\n")
    assert [stage.scene for stage in RunFolder.open(out).run.stages] == ["surface"]
    answer = threed("resume", out)
    assert (answer.status, answer.err) == (0, f"note: {out} is finished already\n")


@pytest.mark.parametrize(
    ("content", "name", "parts"),
    [
        (None, "none.glb", ["cannot read", "none.glb", "no such file"]),
        (b"", "empty.stl", ["empty.stl is empty"]),
        (b"glTF\x02\0\0\0\xff\0\0\0", "cut.glb", ["cut.glb is not a whole GLB file"]),
        (b"BLENDER", "scene.blend", ["must end in one of .glb, .gltf, .obj, .ply, .stl"]),
        (
            b"v 0 0 0\nv 1 0 0\nv 0 1 0\n",
            "points.obj",
            ["points.obj is not a whole OBJ file: it holds no face"],
        ),
        (
            b"v 0 0 0\nv 1 nan 0\nv 0 1 0\nf 1 2 3\n",
            "nan.obj",
            ["not numbers"],
        ),
        (b"v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n", "dot.obj", ["dot.obj has no extent"]),
        (
            b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n",
            "line.obj",
            ["line.obj has no surface: none of its faces has an area"],
        ),
    ],
)
def test_meshes_that_cannot_be_used_are_refused(
    threed: Callable[..., Answer], tmp_path: Path, painting: Path, preset: Path,
    content: bytes | None, name: str, parts: list[str],
) -> None:  # fmt: skip
    path, out = tmp_path / name, tmp_path / "out"
    if content is not None:
        path.write_bytes(content)
    assert_refused(threed("texture", path, "a mug", "--preset", painting, "--out", out), *parts)
    answer = threed("generate", "a mug", "--init", path, "--preset", preset, "--out", out)
    assert_refused(answer, *parts)
    assert not out.exists()


def test_words_that_do_not_fit_are_refused(
    threed: Callable[..., Answer], tmp_path: Path, painting: Path, box: Path
) -> None:
    out = tmp_path / "out"
    words = ("--preset", painting, "--out", out)
    assert_refused(threed("texture", box, " ", *words), "the prompt is empty")
    answer = threed("texture", box, "a mug", "--keep-uv", *words)
    assert_refused(answer, "no texture coordinates that could be kept", "leave --keep-uv out")
    answer = threed("generate", "a mug", "--init", box, "--preset", "toybox-sds", "--out", out)
    assert_refused(answer, "a field cannot begin with a mesh", "--preset toybox-magic3d or magic3d")
    answer = threed("generate", "a mug", *words)
    assert_refused(answer, "a textured stage paints a mesh", "--init", "threed texture")
    answer = threed("texture", box, "a mug", "--up", "x", *words)
    assert answer.status == 2
    assert "up must be one of y, z, or null, got 'x'" in answer.err
    assert not out.exists()
