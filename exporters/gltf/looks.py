"""The materials of a glTF file."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from exporters.gltf.document import Array, Document, to_fractions
from exporters.surfaces import Layer, Surface, Wrap, light_to_srgb
from threed.core.mesh import Material

WRAPS: dict[int, Wrap] = {10497: "repeat", 33648: "mirror", 33071: "clamp"}
TRANSFORM = "KHR_texture_transform"
SHINY = "KHR_materials_pbrSpecularGlossiness"
# which texture coordinates, and how they are moved: offset, rotation, scale
Place = tuple[int, tuple[float, float], float, tuple[float, float]]


class Looks:
    """The materials of a file, each read once."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._surfaces: dict[Any, Surface] = {}
        self._images: dict[int, Tensor | None] = {}

    def find(self, index: int | None, sets: Collection[str]) -> Surface:
        """The surface of a material for faces that have some sets of texture coordinates."""
        key = index, frozenset(name for name in sets if name.startswith("TEXCOORD_"))
        if index is None:
            return Surface()
        if key not in self._surfaces:
            self._surfaces[key] = self._read(self.document.find("materials", index), key[1])
        return self._surfaces[key]

    def _read(self, material: dict[str, Any], sets: Collection[str]) -> Surface:
        """Translate a material."""
        _say_losses(self.document, material)
        about = material.get("pbrMetallicRoughness", {})
        albedo, color = about.get("baseColorTexture"), about.get("baseColorFactor")
        shiny = material.get("extensions", {}).get(SHINY)
        if shiny is not None:
            self.document.left_out[f"colours of reflections ({SHINY})"] = None
            albedo, color = shiny.get("diffuseTexture"), shiny.get("diffuseFactor")
            about = {"metallicFactor": 0.0, "roughnessFactor": 1 - shiny.get("glossinessFactor", 1)}
        gloss = self._layer(about.get("metallicRoughnessTexture"), sets)
        # glTF's factors are 1 where they are not written; without a map, ours are a better guess
        plain = Material() if gloss is None else Material(metallic=1.0, roughness=1.0)
        light = light_to_srgb(torch.tensor([float(part) for part in (color or (1, 1, 1))[:3]]))
        return Surface(
            color=tuple(light.tolist()),
            metallic=_clip(about.get("metallicFactor", plain.metallic)),
            roughness=_clip(about.get("roughnessFactor", plain.roughness)),
            albedo=self._layer(albedo, sets),
            normal=self._layer(material.get("normalTexture"), sets),
            metallic_roughness=gloss,
        )

    def _layer(self, about: dict[str, Any] | None, sets: Collection[str]) -> Layer | None:
        """Translate what a material says of a texture; None without one that can be shown."""
        if about is None:
            return None
        moved = about.get("extensions", {}).get(TRANSFORM, {})
        number = moved.get("texCoord", about.get("texCoord", 0))
        if f"TEXCOORD_{number}" not in sets:
            self.document.left_out["textures of faces without coordinates for them"] = None
            return None
        (x, y), (w, h) = moved.get("offset", (0, 0)), moved.get("scale", (1, 1))
        turn = float(moved.get("rotation", 0))
        place: Place = (number, (float(x), float(y)), turn, (float(w), float(h)))
        texture = self.document.find("textures", about["index"])
        if about["index"] not in self._images:
            self._images[about["index"]] = self._picture(about["index"])
        image = self._images[about["index"]]
        if image is None:
            return None
        sampler = self.document.find("samplers", texture["sampler"]) if "sampler" in texture else {}
        wrap = (WRAPS[sampler.get("wrapS", 10497)], WRAPS[sampler.get("wrapT", 10497)])
        return Layer(_scale_normals(image, float(about.get("scale", 1.0))), place, wrap)

    def _picture(self, index: int) -> Tensor | None:
        """The picture [H, W, 3] in [0, 1] of a texture."""
        picture = self.document.picture(index)
        return None if picture is None else torch.from_numpy(np.asarray(picture, np.float32) / 255)


def find_coordinates(columns: dict[str, Array], surface: Surface) -> dict[Any, Tensor]:
    """Texture coordinates [N, 2] float64, v downwards, of all vertices by the names in layers.

    Without a layer, those that the file names first.
    """
    places = {layer.uv: layer.uv for layer in surface.layers().values()}
    first = min((name for name in columns if name.startswith("TEXCOORD_")), default=None)
    if not places and first is not None:
        places = {0: (int(first[9:]), (0, 0), 0, (1, 1))}
    return {name: _place(columns, place) for name, place in places.items()}


def _place(columns: dict[str, Array], place: Any) -> Tensor:
    """Texture coordinates [N, 2] moved as a material says."""
    number, offset, turn, scale = place
    uv = torch.from_numpy(to_fractions(columns[f"TEXCOORD_{number}"])).double()
    if (offset, turn, scale) == ((0, 0), 0, (1, 1)):
        return uv
    c, s = math.cos(turn), math.sin(turn)  # counter-clockwise in the picture, whose v is downwards
    matrix = torch.tensor([[c, s], [-s, c]], dtype=torch.float64) * torch.tensor(scale)
    return uv @ matrix.T + torch.tensor(offset, dtype=torch.float64)


def find_colors(columns: dict[str, Array]) -> Tensor | None:
    """The colours [N, 3] of the vertices, sRGB."""
    if "COLOR_0" not in columns:
        return None
    return light_to_srgb(torch.from_numpy(to_fractions(columns["COLOR_0"])[:, :3]).float())


def _scale_normals(image: Tensor, scale: float) -> Tensor:
    """A normal map [H, W, 3] that leans so much more."""
    if scale == 1:
        return image
    lean = (image * 2 - 1) * torch.tensor([scale, scale, 1.0])
    return (F.normalize(lean, dim=-1) + 1) / 2


def _clip(value: float) -> float:
    return min(max(float(value), 0.0), 1.0)


def _say_losses(document: Document, material: dict[str, Any]) -> None:
    """Say what a material has that ours have not."""
    if material.get("alphaMode", "OPAQUE") != "OPAQUE":
        document.left_out["transparency"] = None
    if any(material.get("emissiveFactor", [])):
        document.left_out["light that it sheds (emission)"] = None
    if "occlusionTexture" in material:
        document.left_out["occlusion"] = None
