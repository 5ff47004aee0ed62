"""Binary glTF 2.0: one file that holds geometry, texture, material and provenance."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exporters import files, pictures
from exporters.corners import Corners, corners
from renderers.shading import to_linear
from threed.core.mesh import Material, Mesh

FLOAT, USHORT, UINT = 5126, 5123, 5125
VERTICES, INDICES = 34962, 34963  # what a buffer view is for
LINEAR, LINEAR_MIPMAP, CLAMP = 9729, 9987, 33071
Extras = Mapping[str, str | int | float]


def save(mesh: Mesh, path: Path, extras: Extras) -> None:
    """Write a GLB: metallic-roughness material, embedded PNGs, y up, `extras` in asset.extras.

    Vertex colours are written where there is no texture, tangents where there is a normal map. The
    same mesh gives the same bytes.
    """
    files.write({path: encode(mesh, extras)})


def encode(mesh: Mesh, extras: Extras) -> bytes:
    """The bytes of the file."""
    rows, blob = corners(mesh), _Blob()
    primitive = {"attributes": _attributes(rows, blob), "indices": _indices(rows, blob),
                 "material": 0}  # fmt: skip
    gltf: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "threed", "extras": dict(extras)},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "asset"}],
        "meshes": [{"name": "asset", "primitives": [primitive]}],
    }
    gltf |= _surface(mesh.material, rows, blob)
    gltf |= {"accessors": blob.accessors, "bufferViews": blob.views}
    gltf["buffers"] = [{"byteLength": len(blob.content)}]
    text = json.dumps(gltf, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 4)
    length = 12 + 8 + len(text) + 8 + len(blob.content)
    return b"".join([
        struct.pack("<4sII", b"glTF", 2, length),
        struct.pack("<I4s", len(text), b"JSON"), text,
        struct.pack("<I4s", len(blob.content), b"BIN\0"), bytes(blob.content),
    ])  # fmt: skip


class _Blob:
    """The binary part as it grows, and what glTF says of it."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.views: list[dict[str, int]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(self, data: bytes, target: int | None = None) -> int:
        """Index of a new buffer view."""
        view = {"buffer": 0, "byteOffset": len(self.content), "byteLength": len(data)}
        self.views.append(view if target is None else view | {"target": target})
        self.content += data + b"\0" * (-len(data) % 4)
        return len(self.views) - 1

    def vectors(self, rows: Tensor, *, bounds: bool = False) -> int:
        """Index of a new accessor for float rows [N, 2 to 4]."""
        view = self.add(rows.contiguous().numpy().astype("<f4").tobytes(), VERTICES)
        accessor = {"bufferView": view, "componentType": FLOAT, "count": len(rows),
                    "type": f"VEC{rows.shape[1]}"}  # fmt: skip
        if bounds:
            accessor |= {"min": rows.amin(0).tolist(), "max": rows.amax(0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def _surface(material: Material, rows: Corners, blob: _Blob) -> dict[str, Any]:
    """The material, and the textures, samplers and images that it needs."""
    factors: dict[str, Any] = {
        "metallicFactor": material.metallic,
        "roughnessFactor": material.roughness,
    }
    surface: dict[str, Any] = {"name": "surface", "pbrMetallicRoughness": factors,
                               "doubleSided": True}  # fmt: skip
    maps: list[tuple[str, Tensor | None, dict[str, Any], str]] = [
        ("albedo", material.albedo, factors, "baseColorTexture"),
        ("metallic-roughness", material.metallic_roughness, factors, "metallicRoughnessTexture"),
        ("normal", material.normal, surface, "normalTexture"),
    ]
    images: list[dict[str, Any]] = []
    for name, image, owner, key in maps:
        if image is not None and rows.uv is not None:
            owner[key] = {"index": len(images)}
            view = blob.add(pictures.png(image))
            images.append({"name": name, "bufferView": view, "mimeType": "image/png"})
    found: dict[str, Any] = {"materials": [surface]}
    if images:
        found["textures"] = [{"source": i, "sampler": 0} for i in range(len(images))]
        found["samplers"] = [{"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP,
                              "wrapS": CLAMP, "wrapT": CLAMP}]  # fmt: skip
        found["images"] = images
    return found


def _attributes(rows: Corners, blob: _Blob) -> dict[str, int]:
    attributes = {
        "POSITION": blob.vectors(rows.position, bounds=True),
        "NORMAL": blob.vectors(rows.normal),
    }
    if rows.uv is not None and rows.v_down is not None:
        attributes["TEXCOORD_0"] = blob.vectors(torch.stack([rows.uv[:, 0], rows.v_down], 1))
    if rows.tangent is not None:
        attributes["TANGENT"] = blob.vectors(rows.tangent)
    if rows.color is not None:
        attributes["COLOR_0"] = blob.vectors(to_linear(rows.color))
    return attributes


def _indices(rows: Corners, blob: _Blob) -> int:
    count = len(rows.position)
    kind, dtype = (USHORT, "<u2") if count < 2**16 else (UINT, "<u4")
    view = blob.add(rows.faces.numpy().astype(dtype).tobytes(), INDICES)
    blob.accessors.append({"bufferView": view, "componentType": kind, "count": rows.faces.numel(),
                           "type": "SCALAR"})  # fmt: skip
    return len(blob.accessors) - 1
