"""USDZ: what phones and Apple's programs open. Needs usd-core, of the extra [usd]."""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exporters import axes, pictures
from exporters.corners import polygons, unit_normals
from exporters.glb import Extras
from renderers.shading import to_linear
from threed.core import files
from threed.core.errors import InputError
from threed.core.mesh import Material, Mesh

ROOT = "/asset"
MODULES = ("Gf", "Sdf", "Usd", "UsdGeom", "UsdShade", "UsdUtils", "Vt")  # of usd-core
# each picture's inputs of the surface, and the channels that these read
INPUTS = {
    "albedo": {"diffuseColor": "rgb"},
    "normal": {"normal": "rgb"},
    "metallic_roughness": {"roughness": "g", "metallic": "b"},
}


def save(mesh: Mesh, path: Path, extras: Extras) -> None:
    """Write a USDZ: one mesh with a UsdPreviewSurface, y up, a unit a metre, textures inside.

    `extras` become the layer's customLayerData. InputError where usd-core is not installed.
    """
    usd = _import_usd()
    with files.write_aside(path) as part, tempfile.TemporaryDirectory() as folder:
        # the package's name inside the archive, whatever the file is called in the end
        layer, packed = Path(folder) / "asset.usdc", Path(folder) / "asset.usdz"
        stage = usd.Usd.Stage.CreateNew(str(layer))
        usd.UsdGeom.SetStageUpAxis(stage, usd.UsdGeom.Tokens.y)
        usd.UsdGeom.SetStageMetersPerUnit(stage, 1.0)
        stage.SetDefaultPrim(usd.UsdGeom.Xform.Define(stage, ROOT).GetPrim())
        stage.GetRootLayer().customLayerData = dict(extras)
        shape = _define_shape(usd, stage, mesh)
        surface = _define_surface(usd, stage, mesh, Path(folder))
        usd.UsdShade.MaterialBindingAPI.Apply(shape.GetPrim()).Bind(surface)
        stage.Save()
        if not usd.UsdUtils.CreateNewUsdzPackage(str(layer), str(packed)):
            raise InputError(f"usd-core could not pack {path}")
        part.write_bytes(packed.read_bytes())


def _import_usd() -> Any:
    """Import usd-core with its MODULES; InputError where it is not installed."""
    try:
        pxr = importlib.import_module("pxr")
        for name in MODULES:
            importlib.import_module(f"pxr.{name}")
    except ImportError as error:
        cure = "pip install 'threed[usd]'; or write a .glb"
        raise InputError(f"a .usdz needs usd-core ({error}): {cure}") from error
    return pxr


def _define_shape(usd: Any, stage: Any, mesh: Mesh) -> Any:
    """Define the mesh, y up, with its texture coordinates and the colours of its vertices."""
    geom, kinds = usd.UsdGeom, usd.Sdf.ValueTypeNames
    shape = geom.Mesh.Define(stage, f"{ROOT}/mesh")
    place = axes.to_y_up(mesh.vertices.float())
    shape.CreatePointsAttr(_to_vectors(usd, place))
    shape.CreateExtentAttr(_to_vectors(usd, torch.stack([place.amin(0), place.amax(0)])))
    shape.CreateNormalsAttr(_to_vectors(usd, axes.to_y_up(unit_normals(mesh))))
    shape.SetNormalsInterpolation(geom.Tokens.vertex)
    rows = polygons(mesh)
    corners = torch.cat([row.flatten() for row in rows])
    shape.CreateFaceVertexCountsAttr([row.shape[1] for row in rows for _ in row])
    shape.CreateFaceVertexIndicesAttr(_to_integers(usd, mesh.faces.flatten()[corners]))
    shape.CreateSubdivisionSchemeAttr(geom.Tokens.none)
    shape.CreateDoubleSidedAttr(True)
    primvars = geom.PrimvarsAPI(shape)
    if mesh.uv is not None:
        places, uv_faces = mesh.opengl_map()
        uv = primvars.CreatePrimvar("st", kinds.TexCoord2fArray, geom.Tokens.faceVarying)
        uv.Set(usd.Vt.Vec2fArray.FromNumpy(places.numpy()))
        uv.SetIndices(_to_integers(usd, uv_faces.flatten()[corners]))
    if mesh.colors is not None:
        color = primvars.CreatePrimvar("displayColor", kinds.Color3fArray, geom.Tokens.vertex)
        color.Set(_to_vectors(usd, to_linear(mesh.colors.clamp(0, 1))))
    return shape


def _define_surface(usd: Any, stage: Any, mesh: Mesh, folder: Path) -> Any:
    """Define the material; its textures are written into the folder."""
    types, own = usd.Sdf.ValueTypeNames, mesh.material
    material = usd.UsdShade.Material.Define(stage, f"{ROOT}/surface")
    surface = _define_shader(usd, stage, "preview", "UsdPreviewSurface")
    surface.CreateInput("roughness", types.Float).Set(own.roughness)
    surface.CreateInput("metallic", types.Float).Set(own.metallic)
    if mesh.uv is not None:
        reader = _define_shader(usd, stage, "uv", "UsdPrimvarReader_float2")
        reader.CreateInput("varname", types.String).Set("st")
        reader.CreateOutput("result", types.Float2)
        for name, image in own.maps().items():
            (folder / f"{name}.png").write_bytes(pictures.encode_png(image))
            texture = _define_texture(usd, stage, name, own)
            place = texture.CreateInput("st", types.Float2)
            place.ConnectToSource(reader.ConnectableAPI(), "result")
            _connect(usd, texture, surface, INPUTS[name])
    if own.albedo is None and mesh.colors is not None:
        tint = _define_shader(usd, stage, "tint", "UsdPrimvarReader_float3")
        tint.CreateInput("varname", types.String).Set("displayColor")
        _connect(usd, tint, surface, {"diffuseColor": "result"})
    surface.CreateOutput("surface", types.Token)
    material.CreateSurfaceOutput().ConnectToSource(surface.ConnectableAPI(), "surface")
    return material


def _define_shader(usd: Any, stage: Any, name: str, kind: str) -> Any:
    """Define a node of the material."""
    shader = usd.UsdShade.Shader.Define(stage, f"{ROOT}/surface/{name}")
    shader.CreateIdAttr(kind)
    return shader


def _define_texture(usd: Any, stage: Any, name: str, material: Material) -> Any:
    """Define the node of a picture of the material."""
    types, vector = usd.Sdf.ValueTypeNames, usd.Gf.Vec4f
    texture = _define_shader(usd, stage, name, "UsdUVTexture")
    texture.CreateInput("file", types.Asset).Set(f"./{name}.png")
    space = "sRGB" if name == "albedo" else "raw"
    texture.CreateInput("sourceColorSpace", types.Token).Set(space)
    for axis in ("wrapS", "wrapT"):
        texture.CreateInput(axis, types.Token).Set("clamp")
    if name == "normal":
        texture.CreateInput("scale", types.Float4).Set(vector(2, 2, 2, 1))
        texture.CreateInput("bias", types.Float4).Set(vector(-1, -1, -1, 0))
    if name == "metallic_roughness":
        scale = vector(1, material.roughness, material.metallic, 1)
        texture.CreateInput("scale", types.Float4).Set(scale)
    return texture


def _connect(usd: Any, node: Any, surface: Any, inputs: dict[str, str]) -> None:
    """Connect inputs of the surface with outputs of a node, by their names."""
    types = usd.Sdf.ValueTypeNames
    kinds = {"diffuseColor": types.Color3f, "normal": types.Normal3f}
    for target, output in inputs.items():
        kind = kinds.get(target, types.Float)
        node.CreateOutput(output, types.Float3 if target in kinds else types.Float)
        surface.CreateInput(target, kind).ConnectToSource(node.ConnectableAPI(), output)


def _to_vectors(usd: Any, rows: Tensor) -> Any:
    return usd.Vt.Vec3fArray.FromNumpy(rows.float().contiguous().numpy())


def _to_integers(usd: Any, rows: Tensor) -> Any:
    return usd.Vt.IntArray.FromNumpy(rows.flatten().int().contiguous().numpy())
