"""USDZ: what phones and Apple's programs open. Needs usd-core, of the extra [usd]."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from exporters import axes, files, pictures
from exporters.glb import Extras
from renderers.shading import to_linear
from threed.core.errors import InputError
from threed.core.mesh import Material, Mesh

ROOT = "/asset"
# inputs of the surface, and the channels of their maps
CHANNELS = {"diffuseColor": "rgb", "roughness": "g", "metallic": "b", "normal": "rgb"}


def save(mesh: Mesh, path: Path, extras: Extras) -> None:
    """Write a USDZ: one mesh with a UsdPreviewSurface, y up, a unit a metre, textures inside.

    `extras` become the layer's customLayerData. InputError where usd-core is not installed.
    """
    usd = _usd()
    with files.aside(path) as part, tempfile.TemporaryDirectory() as folder:
        # the package's name inside the archive, whatever the file is called in the end
        layer, packed = Path(folder) / "asset.usdc", Path(folder) / "asset.usdz"
        stage = usd.Usd.Stage.CreateNew(str(layer))
        usd.UsdGeom.SetStageUpAxis(stage, usd.UsdGeom.Tokens.y)
        usd.UsdGeom.SetStageMetersPerUnit(stage, 1.0)
        stage.SetDefaultPrim(usd.UsdGeom.Xform.Define(stage, ROOT).GetPrim())
        stage.GetRootLayer().customLayerData = dict(extras)
        shape = _shape(usd, stage, mesh)
        surface = _surface(usd, stage, mesh, Path(folder))
        usd.UsdShade.MaterialBindingAPI.Apply(shape.GetPrim()).Bind(surface)
        stage.Save()
        if not usd.UsdUtils.CreateNewUsdzPackage(str(layer), str(packed)):
            raise InputError(f"usd-core could not pack {path}")
        part.write_bytes(packed.read_bytes())


def _usd() -> Any:
    """The modules of usd-core."""
    try:
        from pxr import Gf, Sdf, Usd, UsdGeom, UsdShade, UsdUtils, Vt
    except ImportError as error:
        raise InputError(
            f"a .usdz needs usd-core ({error}): pip install 'threed[usd]'; or write a .glb"
        ) from error
    return SimpleNamespace(
        Gf=Gf, Sdf=Sdf, Usd=Usd, UsdGeom=UsdGeom, UsdShade=UsdShade, UsdUtils=UsdUtils, Vt=Vt
    )


def _shape(usd: Any, stage: Any, mesh: Mesh) -> Any:
    geom, sdf = usd.UsdGeom, usd.Sdf
    shape = geom.Mesh.Define(stage, f"{ROOT}/mesh")
    place = axes.to_y_up(mesh.vertices.float())
    normal = axes.to_y_up(mesh.vertex_normals())
    shape.CreatePointsAttr(_vectors(usd, place))
    shape.CreateExtentAttr(_vectors(usd, torch.stack([place.amin(0), place.amax(0)])))
    shape.CreateNormalsAttr(_vectors(usd, normal))
    shape.SetNormalsInterpolation(geom.Tokens.vertex)
    shape.CreateFaceVertexCountsAttr([3] * len(mesh.faces))
    shape.CreateFaceVertexIndicesAttr(_whole(usd, mesh.faces))
    shape.CreateSubdivisionSchemeAttr(geom.Tokens.none)
    shape.CreateDoubleSidedAttr(True)
    primvars = geom.PrimvarsAPI(shape)
    if mesh.uv is not None and mesh.uv_faces is not None:
        kind = sdf.ValueTypeNames.TexCoord2fArray
        uv = primvars.CreatePrimvar("st", kind, geom.Tokens.faceVarying)
        uv.Set(usd.Vt.Vec2fArray.FromNumpy(mesh.uv.float().contiguous().numpy()))
        uv.SetIndices(_whole(usd, mesh.uv_faces))
    if mesh.colors is not None:
        kind = sdf.ValueTypeNames.Color3fArray
        color = primvars.CreatePrimvar("displayColor", kind, geom.Tokens.vertex)
        color.Set(_vectors(usd, to_linear(mesh.colors.clamp(0, 1))))
    return shape


def _surface(usd: Any, stage: Any, mesh: Mesh, folder: Path) -> Any:
    """The material, its textures written into the folder."""
    shade, types = usd.UsdShade, usd.Sdf.ValueTypeNames
    material, own = shade.Material.Define(stage, f"{ROOT}/surface"), mesh.material
    surface = shade.Shader.Define(stage, f"{ROOT}/surface/preview")
    surface.CreateIdAttr("UsdPreviewSurface")
    surface.CreateInput("roughness", types.Float).Set(own.roughness)
    surface.CreateInput("metallic", types.Float).Set(own.metallic)
    if mesh.uv is not None:
        reader = shade.Shader.Define(stage, f"{ROOT}/surface/uv")
        reader.CreateIdAttr("UsdPrimvarReader_float2")
        reader.CreateInput("varname", types.String).Set("st")
        reader.CreateOutput("result", types.Float2)
        for name, image in _maps(own).items():
            (folder / f"{name}.png").write_bytes(pictures.png(image))
            _texture(usd, stage, name, own, reader, surface)
    if own.albedo is None and mesh.colors is not None:
        tint = shade.Shader.Define(stage, f"{ROOT}/surface/tint")
        tint.CreateIdAttr("UsdPrimvarReader_float3")
        tint.CreateInput("varname", types.String).Set("displayColor")
        tint.CreateOutput("result", types.Float3)
        surface.CreateInput("diffuseColor", types.Color3f).ConnectToSource(
            tint.ConnectableAPI(), "result"
        )
    surface.CreateOutput("surface", types.Token)
    material.CreateSurfaceOutput().ConnectToSource(surface.ConnectableAPI(), "surface")
    return material


def _maps(material: Material) -> dict[str, Tensor]:
    """The pictures that a material has, by the names of their files."""
    maps = {"albedo": material.albedo, "normal": material.normal,
            "metallic_roughness": material.metallic_roughness}  # fmt: skip
    return {name: image for name, image in maps.items() if image is not None}


def _texture(
    usd: Any, stage: Any, name: str, material: Material, reader: Any, surface: Any
) -> None:
    """A texture, and the inputs of the surface that it feeds."""
    types, gf = usd.Sdf.ValueTypeNames, usd.Gf
    texture = usd.UsdShade.Shader.Define(stage, f"{ROOT}/surface/{name}")
    texture.CreateIdAttr("UsdUVTexture")
    texture.CreateInput("file", types.Asset).Set(f"./{name}.png")
    space = "sRGB" if name == "albedo" else "raw"
    texture.CreateInput("sourceColorSpace", types.Token).Set(space)
    for axis in ("wrapS", "wrapT"):
        texture.CreateInput(axis, types.Token).Set("clamp")
    texture.CreateInput("st", types.Float2).ConnectToSource(reader.ConnectableAPI(), "result")
    if name == "normal":
        texture.CreateInput("scale", types.Float4).Set(gf.Vec4f(2, 2, 2, 1))
        texture.CreateInput("bias", types.Float4).Set(gf.Vec4f(-1, -1, -1, 0))
    if name == "metallic_roughness":
        scale = gf.Vec4f(1, material.roughness, material.metallic, 1)
        texture.CreateInput("scale", types.Float4).Set(scale)
    inputs = {"albedo": ("diffuseColor",), "normal": ("normal",),
              "metallic_roughness": ("roughness", "metallic")}[name]  # fmt: skip
    kinds = {"diffuseColor": types.Color3f, "normal": types.Normal3f}
    for target in inputs:
        channel = CHANNELS[target]
        texture.CreateOutput(channel, types.Float3 if channel == "rgb" else types.Float)
        surface.CreateInput(target, kinds.get(target, types.Float)).ConnectToSource(
            texture.ConnectableAPI(), channel
        )


def _vectors(usd: Any, rows: Tensor) -> Any:
    return usd.Vt.Vec3fArray.FromNumpy(rows.float().contiguous().numpy())


def _whole(usd: Any, rows: Tensor) -> Any:
    return usd.Vt.IntArray.FromNumpy(rows.flatten().int().contiguous().numpy())
