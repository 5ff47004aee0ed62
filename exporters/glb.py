"""Binary glTF 2.0: one file that holds geometry, texture, material and provenance."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from exporters import axes, pictures
from exporters.corners import Corners, to_corners
from renderers.shading import to_linear
from threed.core import files
from threed.core.mesh import Material, Mesh

GENERATOR = "threed"
FLOAT, USHORT, UINT = 5126, 5123, 5125
VERTICES, INDICES = 34962, 34963  # what a buffer view is for
# a linear filter, one between mip levels too, and a texture that does not repeat
SAMPLER = {"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}
Extras = Mapping[str, str | int | float]
NO_COLLIDERS: Mapping[str, Mesh] = {}


def pack(gltf: Mapping[str, Any], blob: Blob) -> bytes:
    """Make a GLB of its description, but for the data that a blob holds, and of this."""
    data = {"accessors": blob.accessors, "bufferViews": blob.views}
    whole = {**gltf, **data, "buffers": [{"byteLength": len(blob.content)}]}
    return finish(whole, bytes(blob.content))


def finish(gltf: Mapping[str, Any], content: bytes) -> bytes:
    """Put a whole description and its data, a multiple of 4 bytes, into a GLB."""
    text = json.dumps(gltf, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 4)
    rest = struct.pack("<I4s", len(content), b"BIN\0") + content
    head = struct.pack("<4sIII4s", b"glTF", 2, 20 + len(text) + len(rest), len(text), b"JSON")
    return head + text + rest


def save(
    mesh: Mesh, path: Path, extras: Extras, colliders: Mapping[str, Mesh] = NO_COLLIDERS
) -> None:
    """Write a GLB: metallic-roughness material, embedded PNGs, y up, `extras` in asset.extras.

    Vertex colours are written where there is no texture, tangents where there is a normal map. The
    thing is called as `name` in extras says, else as the file. Colliders, by their names, are bare
    nodes beside it. The same mesh gives the same bytes.
    """
    files.write(path, encode(mesh, name_of(path, extras), extras, colliders))


def name_of(path: Path, extras: Extras) -> str:
    """Say what the thing in a file is called: one word."""
    return re.sub(r"\s+", "_", str(extras.get("name", path.stem)).strip()) or "asset"


def encode(
    mesh: Mesh, name: str, extras: Extras, colliders: Mapping[str, Mesh] = NO_COLLIDERS
) -> bytes:
    """Make the bytes of the file."""
    rows, blob = to_corners(mesh), Blob()
    attributes = _add_attributes(rows, blob)
    primitive = {
        "attributes": attributes,
        "indices": blob.add_faces(rows.faces, len(rows.position)),
        "material": 0,
    }
    meshes = [{"name": name, "primitives": [primitive]}]
    meshes += [_describe_bare(part, title, blob) for title, part in colliders.items()]
    gltf: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": GENERATOR, "extras": dict(extras)},
        "scene": 0,
        "scenes": [{"nodes": [*range(len(meshes))]}],
        "nodes": [{"mesh": index, "name": part["name"]} for index, part in enumerate(meshes)],
        "meshes": meshes,
    }
    gltf |= _describe_material(mesh.material, blob, textured=rows.uv is not None)
    return pack(gltf, blob)


class Blob:
    """The binary part as it grows, and what glTF says of it."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.views: list[dict[str, int]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(self, data: bytes, target: int | None = None) -> int:
        """Add data; the index of its buffer view."""
        view = {"buffer": 0, "byteOffset": len(self.content), "byteLength": len(data)}
        self.views.append(view if target is None else view | {"target": target})
        self.content += data + b"\0" * (-len(data) % 4)
        return len(self.views) - 1

    def add_places(self, rows: Tensor) -> int:
        """Add positions [N, 3] with their bounds; the index of their accessor."""
        return self.add_vectors(rows, min=rows.amin(0).tolist(), max=rows.amax(0).tolist())

    def add_vectors(self, rows: Tensor, **bounds: list[float]) -> int:
        """Add float rows [N, 2 to 4]; the index of their accessor."""
        view = self.add(rows.contiguous().numpy().astype("<f4").tobytes(), VERTICES)
        about = {"bufferView": view, "componentType": FLOAT, "count": len(rows)}
        self.accessors.append(about | {"type": f"VEC{rows.shape[1]}"} | bounds)
        return len(self.accessors) - 1

    def add_faces(self, faces: Tensor, count: int) -> int:
        """Add faces [F, 3] of so many vertices; the index of their accessor."""
        kind, dtype = (USHORT, "<u2") if count < 2**16 else (UINT, "<u4")
        view = self.add(faces.numpy().astype(dtype).tobytes(), INDICES)
        about = {"bufferView": view, "componentType": kind, "count": faces.numel()}
        self.accessors.append(about | {"type": "SCALAR"})
        return len(self.accessors) - 1


def _add_attributes(rows: Corners, blob: Blob) -> dict[str, int]:
    """Add what the vertices have; their accessors by glTF's names."""
    attributes = {
        "POSITION": blob.add_places(rows.position),
        "NORMAL": blob.add_vectors(rows.normal),
    }
    if rows.uv is not None:
        attributes["TEXCOORD_0"] = blob.add_vectors(rows.uv)
    if rows.tangent is not None:
        attributes["TANGENT"] = blob.add_vectors(rows.tangent)
    if rows.color is not None:
        attributes["COLOR_0"] = blob.add_vectors(to_linear(rows.color))
    return attributes


def _describe_bare(mesh: Mesh, name: str, blob: Blob) -> dict[str, Any]:
    """A mesh of nothing but places and faces."""
    primitive = {
        "attributes": {"POSITION": blob.add_places(axes.to_y_up(mesh.vertices))},
        "indices": blob.add_faces(mesh.faces, len(mesh.vertices)),
    }
    return {"name": name, "primitives": [primitive]}


def _describe_material(material: Material, blob: Blob, *, textured: bool) -> dict[str, Any]:
    """The material, and the textures, samplers and images that it needs where it is textured."""
    factors: dict[str, Any] = {
        "metallicFactor": material.metallic,
        "roughnessFactor": material.roughness,
    }
    surface: dict[str, Any] = {"name": "surface", "pbrMetallicRoughness": factors}
    surface["doubleSided"] = True
    places = {
        "albedo": (factors, "baseColorTexture"),
        "metallic_roughness": (factors, "metallicRoughnessTexture"),
        "normal": (surface, "normalTexture"),
    }
    maps = material.maps() if textured else {}
    images: list[dict[str, Any]] = []
    for name, (owner, key) in places.items():
        if name in maps:
            owner[key] = {"index": len(images)}
            view = blob.add(pictures.encode_png(maps[name]))
            images.append({"name": name.replace("_", "-"), "bufferView": view})
            images[-1]["mimeType"] = "image/png"
    if not images:
        return {"materials": [surface]}
    textures = [{"source": index, "sampler": 0} for index in range(len(images))]
    found = {"materials": [surface], "textures": textures, "samplers": [SAMPLER]}
    return found | {"images": images}
