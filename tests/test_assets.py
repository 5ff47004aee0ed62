"""From a field to an asset's files, and what the commands do with them."""

from __future__ import annotations

import errno
import gzip
import json
import os
from dataclasses import fields
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

import exporters
from exporters import load
from exporters.bake import bake
from exporters.clean import Repairs
from tests.shapes import Ball, cube, sphere
from threed.core.budget import Budget
from threed.core.errors import InputError
from threed.core.mesh import Mesh
from threed.runs.asset import Asset, build_asset, export_file, report_file, turntable_file
from threed.settings.asset import AssetSettings
from threed.settings.base import replace

SMALL = AssetSettings(
    faces=1500, texture=128, resolution=40, turntable_frames=6, turntable_size=64, preview_size=32
)
FILES = {"asset.glb", "asset.obj", "asset.mtl", "asset.png", "preview.png", "report.json",
         "turntable.mp4"}  # fmt: skip
PROVENANCE = {"prompt": "a ball", "seed": 4}


@pytest.fixture(scope="module")
def asset(tmp_path_factory: pytest.TempPathFactory) -> Asset:
    folder = tmp_path_factory.mktemp("run") / "ball"
    said: list[str] = []
    made = build_asset(Ball(floater=True), folder, SMALL, PROVENANCE, said.append)
    assert len(said) > 4
    return made


def test_all_files_are_there_and_nothing_else(asset: Asset) -> None:
    assert {p.name for p in asset.folder.iterdir()} == FILES
    assert asset.glb.read_bytes()[:4] == b"glTF"


def test_the_mesh_is_the_ball(asset: Asset) -> None:
    numbers = asset.report
    assert numbers.watertight
    assert (numbers.components, numbers.holes, numbers.non_manifold_edges) == (1, 0, 0)
    assert 1000 < numbers.faces <= 1510
    assert numbers.volume is not None
    assert numbers.volume == pytest.approx(4 / 3 * 3.14159 * Ball.RADIUS**3, rel=0.15)
    assert numbers.iou is not None
    assert numbers.iou > 0.95
    assert numbers.psnr is not None
    assert numbers.psnr > 24
    assert numbers.uv_overlap == 0
    assert numbers.texture == 128
    # the floater is gone
    assert asset.mesh.vertices[:, 2].max() < 0.7


def test_the_files_agree_with_each_other(asset: Asset) -> None:
    values = json.loads((asset.folder / "report.json").read_text())
    assert values == json.loads(asset.report.to_json())
    glb = trimesh.load_scene(asset.glb).to_mesh()
    obj = trimesh.load_scene(asset.folder / "asset.obj").to_mesh()
    assert len(glb.faces) == len(obj.faces) == asset.report.faces
    assert abs(glb.bounds - obj.bounds).max() < 1e-4
    for name, size in (("asset.png", (128, 128)), ("preview.png", (256, 64))):
        with Image.open(asset.folder / name) as picture:
            assert picture.size == size
    with av.open(str(asset.folder / "turntable.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 6


def test_the_same_field_gives_the_same_bytes(asset: Asset, tmp_path: Path) -> None:
    again = build_asset(Ball(floater=True), tmp_path, SMALL, PROVENANCE)
    for name in FILES - {"turntable.mp4"}:
        assert (again.folder / name).read_bytes() == (asset.folder / name).read_bytes(), name


def test_an_asset_stands_as_high_as_asked(asset: Asset, tmp_path: Path) -> None:
    settings, said = replace(SMALL, height=0.12, profile="print", splats=2000), list[str]()
    made = build_asset(Ball(floater=True), tmp_path / "run", settings, PROVENANCE, said.append)
    assert stands(made.mesh, 0.12, 1e-5)
    assert any(line.startswith("asset_print.3mf stands on") for line in said)
    sizes = made.report.sizes or {}
    assert set(sizes) == {"asset.glb", "asset.mtl", "asset.obj", "asset.png", "asset.spz",
                          "asset_print.3mf"}  # fmt: skip
    assert sizes["asset.glb"] == made.glb.stat().st_size
    data = gzip.decompress((made.folder / "asset.spz").read_bytes())
    places = np.frombuffer(data, np.uint8, 9 * 2000, 16).reshape(-1, 3, 3) @ [1, 256, 2**16]
    places = np.where(places >= 2**23, places - 2**24, places) / 2 ** data[13]
    assert places[:, 1].min() == pytest.approx(0, abs=0.006)
    assert places[:, 1].max() == pytest.approx(0.12, abs=0.006)
    assert (made.report.psnr, made.report.iou) == pytest.approx(
        (asset.report.psnr, asset.report.iou), rel=0.01
    )
    (path,) = export_file(asset.folder, tmp_path / "small ball.obj", height=0.03)
    assert stands(load(path), 0.03, 1e-4)
    assert "\no small_ball\n" in path.read_text()
    flat = Mesh(torch.eye(3) * torch.tensor([1.0, 1, 0]), torch.tensor([[0, 1, 2]]))
    exporters.save(flat, tmp_path / "flat.ply")
    with pytest.raises(InputError, match="the mesh is flat: it has no height"):
        export_file(tmp_path / "flat.ply", tmp_path / "flat.glb", height=1.0)


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply", ".stl"])
def test_export_of_a_run_and_of_a_file(asset: Asset, tmp_path: Path, suffix: str) -> None:
    export_file(asset.folder, tmp_path / f"one{suffix}")
    export_file(asset.folder / "asset.obj", tmp_path / f"two{suffix}")
    one, two = load(tmp_path / f"one{suffix}"), load(tmp_path / f"two{suffix}")
    assert len(one.faces) == len(two.faces) == asset.report.faces
    assert (one.bounds() - two.bounds()).abs().max() < 1e-4


def test_the_turntable_of_a_file(asset: Asset, tmp_path: Path) -> None:
    turntable_file(asset.folder, tmp_path / "a.mp4", frames=3, size=32)
    turntable_file(asset.glb, tmp_path / "b.mp4", frames=3, size=32, textureless=True)
    assert (tmp_path / "a.mp4").read_bytes() != (tmp_path / "b.mp4").read_bytes()
    with pytest.raises(InputError, match=r"'a.gif': its name must end in one of \.mp4"):
        turntable_file(asset.glb, tmp_path / "a.gif")


def test_the_report_of_a_file(asset: Asset, tmp_path: Path) -> None:
    assert report_file(asset.folder) == asset.report
    copy = tmp_path / "other.glb"
    copy.write_bytes(asset.glb.read_bytes())
    bare = report_file(copy)
    assert (bare.psnr, bare.iou, bare.threshold) == (None, None, None)
    assert bare.faces == asset.report.faces
    assert bare.sizes == {"other.glb": copy.stat().st_size}


def test_a_folder_without_an_asset(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no asset\.glb: .*'threed resume"):
        report_file(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        report_file(tmp_path / "none.glb")


def test_an_unknown_target_is_refused_before_the_source_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write 'x\.dae'"):
        export_file(tmp_path / "none.glb", tmp_path / "x.dae")


def test_a_folder_that_may_not_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    if os.getuid() == 0:  # the superuser may write everywhere: the system's refusal is played
        write = Path.write_bytes

        def refuse(self: Path, data: bytes) -> int:
            if folder in self.parents:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
            return write(self, data)

        monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(InputError, match=r"asset\.glb: permission denied; choose a folder"):
        exporters.save(cube(), folder / "asset.glb")
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/version").is_file(), reason="needs a Linux /proc")
def test_a_place_that_nobody_may_write_to() -> None:
    """Not even the superuser makes files in /proc: the system itself refuses here."""
    with pytest.raises(InputError, match=r"cannot write /proc/run/asset\.glb: .*; choose"):
        exporters.save(cube(), Path("/proc/run/asset.glb"))


def stands(mesh: Mesh, height: float, within: float) -> bool:
    """Whether a mesh is so high, and its base's centre at the origin, within a share of it."""
    low, high = mesh.bounds()
    off = torch.stack([low[2], high[2] - height, *(low + high)[:2]])
    return bool(off.abs().max() <= within * height)


def test_coarser_copies_are_made_where_asked(asset: Asset, tmp_path: Path) -> None:
    settings = replace(SMALL, lods=2)
    made = build_asset(Ball(floater=True), tmp_path, settings, PROVENANCE)
    assert {p.name for p in made.folder.iterdir()} == FILES | {"asset_lod1.glb", "asset_lod2.glb"}
    assert torch.equal(made.mesh.vertices, asset.mesh.vertices)
    assert [*trimesh.load_scene(asset.glb).geometry] == ["a-ball"]
    for number, name in enumerate(("asset", "asset_lod1", "asset_lod2")):
        scene = trimesh.load_scene(tmp_path / f"{name}.glb")
        assert [*scene.geometry] == [f"a-ball_LOD{number}"]
    for number, (faces, texture) in enumerate([(375, 64), (93, 32)], 1):
        copy = load(tmp_path / f"asset_lod{number}.glb")
        assert 0.8 * faces < len(copy.faces) <= faces + 2
        assert copy.material.albedo is not None
        assert copy.material.albedo.shape == (texture, texture, 3)
        color = bake(copy, lambda p, n: Ball().color(p), texture).material.albedo
        assert (copy.material.albedo - color).abs().mean() < 0.03
        assert copy.material.normal is None  # the smooth normals of a ball need no help


def test_what_was_repaired_is_reported(asset: Asset) -> None:
    assert asset.report.repairs is not None
    assert set(asset.report.repairs) == {f.name for f in fields(Repairs)}
    assert report_file(asset.folder).repairs == asset.report.repairs


def test_export_within_a_budget(asset: Asset, tmp_path: Path) -> None:
    budget = Budget(faces=400, texture=64)
    paths = export_file(asset.folder, tmp_path / "toy.glb", budget=budget, lods=1)
    assert paths == [tmp_path / "toy.glb", tmp_path / "toy_lod1.glb"]
    sizes = []
    for path in paths:
        mesh = load(path)
        assert mesh.material.albedo is not None
        sizes.append((len(mesh.faces), mesh.material.albedo.shape[0]))
    assert sizes[0][0] <= 402
    assert sizes[1][0] <= 102
    assert [texture for _, texture in sizes] == [64, 32]


def test_a_disk_that_fills_up_keeps_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.suffix == ".obj":
            raise OSError(28, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"cannot write .*asset\.obj: no space left on device"):
        build_asset(Ball(), tmp_path, SMALL, {})
    assert [p.name for p in tmp_path.iterdir()] == ["asset.glb"]
    assert len(load(tmp_path / "asset.glb").faces) > 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"faces": 2}, r"faces must be in 4\.\.2,000,000, got 2"),
        ({"texture": 9000}, r"texture must be in 16\.\.8,192, got 9000"),
        ({"turntable_size": 65}, "turntable_size must be in .* and a multiple of 2, got 65"),
        ({"lods": 9}, r"lods must be in 0\.\.8, got 9"),
        ({"faces": 100, "lods": 3}, "lods=3 would leave 1 faces of 100"),
    ],
)
def test_settings_that_make_no_asset(change: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AssetSettings(**change)


def test_spheres_are_spheres() -> None:
    """The yardstick of these tests itself."""
    assert (sphere().vertices.norm(dim=-1) - 0.6).abs().max() < 1e-6
