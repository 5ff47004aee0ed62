"""Our files in real Blender: THREED_BLENDER_PYTHON names a Python with bpy, or blender is there."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import exporters
from exporters import blender
from exporters.blender import Picture, Seen, look
from exporters.normals import bake_normals
from exporters.simplify import simplify
from exporters.transfer import Skin
from exporters.unwrap import unwrap
from tests.shapes import cube
from tests.toys import bumpy, toy
from threed.core.errors import InputError
from threed.core.mesh import Mesh
from threed.runs.asset import build_asset
from threed.scenes.paint import Spots, colors_of
from threed.scenes.surface import Surface
from threed.settings.asset import AssetSettings
from threed.settings.scenes import PaintSettings, SurfaceSettings
from threed.toybox.family.nets import WEIGHTS
from threed.toybox.judge.net import load_judge

real = pytest.mark.skipif(
    blender.find_blender() is None,
    reason="needs Blender: the PATH's, or THREED_BLENDER_PYTHON naming a Python with bpy",
)


@pytest.fixture(scope="module")
def mug() -> Mesh:
    made = toy("mug", "red")
    lean = torch.full((256, 256, 3), 0.5)
    lean[..., 2] = 1.0
    return replace(made, material=replace(made.material, metallic=0.25, roughness=0.5, normal=lean))


@pytest.fixture(scope="module")
def drawn(mug: Mesh, tmp_path_factory: pytest.TempPathFactory) -> tuple[Seen, Path]:
    """What Blender made of the mug's GLB, and its picture of it."""
    folder = tmp_path_factory.mktemp("blender")
    exporters.save(mug, folder / "mug.glb", extras={"prompt": "a red mug"})
    picture = folder / "render.png"
    return look(folder / "mug.glb", Picture(picture, size=128, samples=8)), picture


def images(seen: Seen) -> dict[str, dict[str, Any]]:
    """The pictures of the only material, by the input that they feed."""
    (thing,) = seen.objects
    (material,) = thing["materials"]
    return {", ".join(image["feeds"]): image for image in material["images"]}


def judged(path: Path) -> tuple[str, str]:
    """The kind and the colour that the judge reads from a picture of Blender's."""
    with Image.open(path) as picture:
        assert (picture.mode, picture.size) == ("RGBA", (128, 128))
        pixels = torch.from_numpy(np.asarray(picture, np.float32) / 255)
    rgb, alpha = pixels[..., :3], pixels[..., 3:]
    assert 0.1 < float(alpha.mean()) < 0.7
    on_white = (rgb * alpha + 1 - alpha).permute(2, 0, 1)[None]
    verdict = load_judge(WEIGHTS / "judge").read(on_white)
    return verdict.names("kind")[0], verdict.names("color")[0]


@real
def test_a_glb_arrives_whole(mug: Mesh, drawn: tuple[Seen, Path]) -> None:
    seen, _ = drawn
    (thing,) = seen.objects
    assert thing["name"] == "mug"
    assert thing["faces"] == len(mug.faces)
    assert (thing["uv_maps"], thing["color_attributes"]) == (1, 0)
    assert thing["custom_normals"]
    (material,) = thing["materials"]
    assert (material["metallic"], material["roughness"]) == (0.25, 0.5)
    found = images(seen)
    assert set(found) == {"Base Color", "Normal"}
    assert (found["Base Color"]["size"], found["Base Color"]["color_space"]) == ([256, 256], "sRGB")
    assert found["Normal"]["color_space"] == "Non-Color"


@real
def test_an_obj_arrives_whole(mug: Mesh, tmp_path: Path) -> None:
    exporters.save(mug, tmp_path / "mug.obj")
    seen = look(tmp_path / "mug.obj")
    (thing,) = seen.objects
    assert (thing["faces"], thing["vertices"]) == (len(mug.faces), len(mug.vertices))
    assert thing["uv_maps"] == 1
    found = images(seen)
    assert found["Base Color"]["size"] == [256, 256]
    assert found["Base Color"]["color_space"] == "sRGB"


@real
@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply", ".stl", ".usdz", ".fbx"])
def test_size_up_and_front_are_ours_in_every_format(tmp_path: Path, suffix: str) -> None:
    """1 long to the front (our x), 2 to the left (y), 3 up: Blender's front is -y, its up z."""
    exporters.save(cube(), tmp_path / f"toy{suffix}")
    seen = look(tmp_path / f"toy{suffix}")
    assert seen.low == pytest.approx((0, -1, 0), abs=1e-5)
    assert seen.high == pytest.approx((2, 0, 3), abs=1e-5)
    assert [thing["faces"] for thing in seen.objects] == [12]


@real
def test_the_judge_sees_the_toy_in_the_picture_that_cycles_draws(drawn: tuple[Seen, Path]) -> None:
    assert judged(drawn[1]) == ("mug", "red")


@real
def test_the_judge_sees_an_asset_that_a_scene_became(tmp_path: Path) -> None:
    """From a learned surface to Cycles: meshed, made fewer, mapped, painted, written, imported."""
    given = toy("mug", "red")
    paint = PaintSettings(levels=6, log2_table=12, max_resolution=64, copy_steps=100)
    scene = Surface(SurfaceSettings(grid=40), paint)
    scene.wrap(given)
    spots = Spots.on(given, 2**14)
    colors = colors_of(given, spots)
    assert colors is not None
    scene.take_colors(spots, colors)
    settings = AssetSettings(faces=5000, texture=256, turntable_frames=2, turntable_size=32,
                             preview_size=16)  # fmt: skip
    asset = build_asset(scene, tmp_path, settings, {"prompt": "a red mug"})
    seen = look(asset.glb, Picture(tmp_path / "drawn.png", size=128, samples=8))
    assert [thing["faces"] for thing in seen.objects] == [len(asset.mesh.faces)]
    assert images(seen)["Base Color"]["size"] == [256, 256]
    assert judged(tmp_path / "drawn.png") == ("mug", "red")


@real
def test_a_normal_map_brings_back_the_shape_that_was_lost(tmp_path: Path) -> None:
    """Blender makes its own tangents: a map in other frames than its would look worse than none."""
    dense = bumpy()
    low = unwrap(simplify(dense, 1500), 256)
    made = {"dense": dense, "low": low, "mapped": bake_normals(low, Skin(dense), 256)}
    seen = {}
    for name, mesh in made.items():
        exporters.save(mesh, tmp_path / f"{name}.glb")
        look(tmp_path / f"{name}.glb", Picture(tmp_path / f"{name}.png", size=96, samples=16))
        with Image.open(tmp_path / f"{name}.png") as picture:
            seen[name] = np.asarray(picture, np.float32) / 255
    inside = np.minimum(seen["dense"], seen["low"])[..., 3] > 0.99
    off = {name: np.abs(seen[name] - seen["dense"])[inside].mean() for name in ("low", "mapped")}
    assert off["low"] > 0.01
    assert off["mapped"] < 0.5 * off["low"]


@real
def test_what_blender_cannot_open_is_said(tmp_path: Path) -> None:
    path = tmp_path / "toy.glb"
    path.write_bytes(b"glTF but not really" * 10)
    with pytest.raises(InputError, match=r"Blender cannot open .*toy\.glb: .+"):
        look(path, Picture(tmp_path / "a.png"))
    assert [p.name for p in tmp_path.iterdir()] == ["toy.glb"]


def test_without_blender_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporters.save(cube(), tmp_path / "toy.glb")
    monkeypatch.delenv(blender.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(blender.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"Blender was not found.*pip install bpy.*THREED_BLENDER"):
        look(tmp_path / "toy.glb")
    monkeypatch.setenv(blender.VARIABLE, "no/such/python")
    with pytest.raises(InputError, match="THREED_BLENDER_PYTHON is 'no/such/python', which is no"):
        look(tmp_path / "toy.glb")


def test_which_blender_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(blender.VARIABLE, raising=False)
    monkeypatch.setattr(blender.importlib.util, "find_spec", lambda name: name == "bpy")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert blender.find_blender() == [sys.executable, str(blender.SCRIPT)]
    program = tmp_path / "blender"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    command = blender.find_blender()
    assert command is not None
    assert command[:2] == [str(program), "--background"]
    assert command[-2:] == [str(blender.SCRIPT), "--"]
    monkeypatch.setenv(blender.VARIABLE, sys.executable)
    assert blender.find_blender() == [sys.executable, str(blender.SCRIPT)]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("a.jpg", {}, r"'a\.jpg': its name must end in one of \.png"),
        ("a.png", {"size": 4}, r"size must be in 8\.\.8192, got 4"),
        ("a.png", {"samples": 0}, r"samples must be in 1\.\.65536, got 0"),
        ("a.png", {"elevation_deg": 91.0}, r"elevation_deg must be in -90\.\.90, got 91"),
    ],
)
def test_pictures_that_cannot_be(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Picture(Path(name), **change)


def test_files_that_are_not_shown_to_blender(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(blender.VARIABLE, sys.executable)
    with pytest.raises(InputError, match=r"no such file"):
        look(tmp_path / "none.glb")
    with pytest.raises(InputError, match=r"not 'toy\.3mf'"):
        look(tmp_path / "toy.3mf")
    assert os.listdir(tmp_path) == []
