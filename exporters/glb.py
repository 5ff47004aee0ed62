"""Binary glTF 2.0: one file that holds geometry, texture, material and provenance."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporters import axes, parse, pictures
from exporters.corners import Corners, to_corners
from renderers.shading import to_linear
from threed.core import files
from threed.core.mesh import Material, Mesh

FLOAT, USHORT, UINT = 5126, 5123, 5125
VERTICES, INDICES = 34962, 34963  # what a buffer view is for
# a linear filter, one between mip levels too, and a texture that does not repeat
SAMPLER = {"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}
AS_WRITTEN = "_threed_uv"  # texture coordinates under a name that trimesh leaves as they are
Extras = Mapping[str, str | int | float]


def find_problem(content: bytes) -> str | None:
    """Say why this is not the content of a whole GLB file; None if it is one."""
    if content[:4] != b"glTF" or len(content) < 20:
        return "it does not begin as one"
    version, length = struct.unpack("<II", content[4:12])
    if version != 2:
        return f"it is of version {version}, not 2"
    if length > len(content):
        return f"it should have {length:,} bytes and has {len(content):,}"
    size, kind = struct.unpack("<I4s", content[12:20])
    if kind != b"JSON" or 20 + size > len(content):
        return "its description is missing or cut off"
    try:
        whole = isinstance(json.loads(content[20 : 20 + size]), dict)
    except (ValueError, RecursionError):
        whole = False
    return None if whole else "its description cannot be read"


def read(content: bytes, path: Path) -> Mesh:
    """Read the mesh in the content of a GLB file; its texture coordinates bit by bit.

    InputError, naming `path`, for what cannot be read.
    """
    with parse.name_file(path):
        content = _add_uv_as_written(content)
    part = parse.parse(content, path)
    uv = part.vertex_attributes.get(AS_WRITTEN)
    exact = None if uv is None or uv.dtype != np.float32 else torch.from_numpy(uv).double()
    return parse.to_mesh(part, path, axes.from_y_up, uv=exact, linear=True)


def _add_uv_as_written(content: bytes) -> bytes:
    """A GLB in which AS_WRITTEN is another name of the texture coordinates."""
    size = int.from_bytes(content[12:16], "little")
    gltf, rest = json.loads(content[20 : 20 + size]), content[20 + size :]
    for mesh in gltf.get("meshes", []):
        for part in mesh["primitives"]:
            if "TEXCOORD_0" in part["attributes"]:
                part["attributes"][AS_WRITTEN] = part["attributes"]["TEXCOORD_0"]
    return _join(json.dumps(gltf).encode(), rest)


def _join(text: bytes, rest: bytes) -> bytes:
    """A GLB of the JSON that describes it, and of the chunks behind that."""
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sIII4s", b"glTF", 2, 20 + len(text) + len(rest), len(text), b"JSON")
    return head + text + rest


def save(mesh: Mesh, path: Path, extras: Extras) -> None:
    """Write a GLB: metallic-roughness material, embedded PNGs, y up, `extras` in asset.extras.

    Vertex colours are written where there is no texture, tangents where there is a normal map. The
    same mesh gives the same bytes.
    """
    files.write(path, encode(mesh, extras))


def encode(mesh: Mesh, extras: Extras) -> bytes:
    """Make the bytes of the file."""
    rows, blob = to_corners(mesh), _Blob()
    attributes = _add_attributes(rows, blob)
    primitive = {"attributes": attributes, "indices": blob.add_indices(rows), "material": 0}
    gltf: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "threed", "extras": dict(extras)},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "asset"}],
        "meshes": [{"name": "asset", "primitives": [primitive]}],
    }
    gltf |= _describe_material(mesh.material, blob, textured=rows.uv is not None)
    gltf |= {"accessors": blob.accessors, "bufferViews": blob.views}
    gltf["buffers"] = [{"byteLength": len(blob.content)}]
    text = json.dumps(gltf, separators=(",", ":"), ensure_ascii=True).encode()
    return _join(text, struct.pack("<I4s", len(blob.content), b"BIN\0") + bytes(blob.content))


class _Blob:
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

    def add_vectors(self, rows: Tensor, **bounds: list[float]) -> int:
        """Add float rows [N, 2 to 4]; the index of their accessor."""
        view = self.add(rows.contiguous().numpy().astype("<f4").tobytes(), VERTICES)
        about = {"bufferView": view, "componentType": FLOAT, "count": len(rows)}
        self.accessors.append(about | {"type": f"VEC{rows.shape[1]}"} | bounds)
        return len(self.accessors) - 1

    def add_indices(self, rows: Corners) -> int:
        """Add the faces; the index of their accessor."""
        kind, dtype = (USHORT, "<u2") if len(rows.position) < 2**16 else (UINT, "<u4")
        view = self.add(rows.faces.numpy().astype(dtype).tobytes(), INDICES)
        about = {"bufferView": view, "componentType": kind, "count": rows.faces.numel()}
        self.accessors.append(about | {"type": "SCALAR"})
        return len(self.accessors) - 1


def _add_attributes(rows: Corners, blob: _Blob) -> dict[str, int]:
    """Add what the vertices have; their accessors by glTF's names."""
    place = rows.position
    bounds = {"min": place.amin(0).tolist(), "max": place.amax(0).tolist()}
    attributes = {
        "POSITION": blob.add_vectors(place, **bounds),
        "NORMAL": blob.add_vectors(rows.normal),
    }
    if rows.uv is not None:
        attributes["TEXCOORD_0"] = blob.add_vectors(rows.uv)
    if rows.tangent is not None:
        attributes["TANGENT"] = blob.add_vectors(rows.tangent)
    if rows.color is not None:
        attributes["COLOR_0"] = blob.add_vectors(to_linear(rows.color))
    return attributes


def _describe_material(material: Material, blob: _Blob, *, textured: bool) -> dict[str, Any]:
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
