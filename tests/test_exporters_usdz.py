"""USDZ files, judged by usd-core's own validators and read back through it."""

from __future__ import annotations

import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pxr import Usd, UsdGeom, UsdShade, UsdValidation

import exporters
from exporters.bake import bake
from exporters.unwrap import unwrap
from tests.shapes import cube, sphere
from threed.core.errors import InputError
from threed.core.mesh import Mesh

EXTRAS = {"prompt": 'a "red" mug', "seed": 3, "version": "0.1"}


def mapped() -> Mesh:
    mesh = unwrap(replace(sphere(0.6, 20, 30), colors=None), 64)
    mesh = bake(mesh, lambda p, n: 0.5 + 0.6 * p, 64)
    normal = torch.full((64, 64, 3), 0.5)
    normal[..., 2] = 1.0
    maps = replace(mesh.material, metallic=0.5, normal=normal,
                   metallic_roughness=torch.rand(64, 64, 3))  # fmt: skip
    return replace(mesh, material=maps)


def opened(mesh: Mesh, folder: Path) -> Any:
    exporters.save(mesh, folder / "toy.usdz", extras=EXTRAS)
    return Usd.Stage.Open(str(folder / "toy.usdz"))


@pytest.mark.parametrize("make", [mapped, sphere, cube])
def test_every_validator_of_usd_is_content(tmp_path: Path, make: type[Mesh]) -> None:
    stage = opened(make(), tmp_path)
    registry = UsdValidation.ValidationRegistry()
    every = registry.GetOrLoadAllValidators()
    assert len(every) > 10
    found = UsdValidation.ValidationContext(every).Validate(stage)
    assert [(error.GetName(), error.GetMessage()) for error in found] == []


def test_geometry_and_provenance_are_read_back(tmp_path: Path) -> None:
    mesh = mapped()
    stage = opened(mesh, tmp_path)
    assert UsdGeom.GetStageUpAxis(stage) == "Y"
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1.0
    assert stage.GetDefaultPrim().GetPath() == "/asset"
    assert dict(stage.GetRootLayer().customLayerData) == EXTRAS
    shape = UsdGeom.Mesh(stage.GetPrimAtPath("/asset/mesh"))
    points = torch.tensor(shape.GetPointsAttr().Get())
    torch.testing.assert_close(points, mesh.vertices[:, [1, 2, 0]])
    assert list(shape.GetFaceVertexIndicesAttr().Get()) == mesh.faces.flatten().tolist()
    uv = UsdGeom.PrimvarsAPI(shape).GetPrimvar("st")
    places, uv_faces = mesh.opengl_map()
    assert torch.equal(torch.tensor(uv.ComputeFlattened()), places[uv_faces].view(-1, 2))


def test_every_map_feeds_its_input(tmp_path: Path) -> None:
    stage = opened(mapped(), tmp_path)
    surface = UsdShade.Shader(stage.GetPrimAtPath("/asset/surface/preview"))
    feeds = {}
    for socket in surface.GetInputs():
        for source in socket.GetConnectedSources()[0]:
            shader = UsdShade.Shader(source.source.GetPrim())
            file = shader.GetInput("file").Get().path
            space = shader.GetInput("sourceColorSpace").Get()
            feeds[socket.GetBaseName()] = (file, str(source.sourceName), space)
    assert feeds == {
        "diffuseColor": ("./albedo.png", "rgb", "sRGB"),
        "normal": ("./normal.png", "rgb", "raw"),
        "roughness": ("./metallic_roughness.png", "g", "raw"),
        "metallic": ("./metallic_roughness.png", "b", "raw"),
    }
    scale = stage.GetPrimAtPath("/asset/surface/metallic_roughness").GetAttribute("inputs:scale")
    assert tuple(scale.Get()) == pytest.approx((1, 0.6, 0.5, 1))
    with zipfile.ZipFile(tmp_path / "toy.usdz") as archive:
        assert all(item.compress_type == zipfile.ZIP_STORED for item in archive.infolist())
        names = {item.filename for item in archive.infolist()}
    assert names == {"asset.usdc", "albedo.png", "normal.png", "metallic_roughness.png"}


def test_colours_of_vertices_are_linear_light(tmp_path: Path) -> None:
    mesh = sphere()
    stage = opened(mesh, tmp_path)
    color = UsdGeom.PrimvarsAPI(stage.GetPrimAtPath("/asset/mesh")).GetPrimvar("displayColor")
    found = torch.tensor(color.Get())
    assert found[-1].tolist() == pytest.approx([1.0, 0.0509, 0.0], abs=1e-3)  # the red south pole


def test_without_usd_core_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pxr", None)
    with pytest.raises(InputError, match=r"needs usd-core.*pip install 'threed\[usd\]'"):
        exporters.save(cube(), tmp_path / "toy.usdz")
    assert list(tmp_path.iterdir()) == []
