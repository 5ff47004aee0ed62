"""A GLB made small: integers for numbers, packed by meshoptimizer, of the extra [gltf].

EXT_meshopt_compression over KHR_mesh_quantization, as glTF's extension registry describes them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from exporters.glb import (
    INDICES,
    NO_COLLIDERS,
    VERTICES,
    Extras,
    encode,
    finish,
    name_of,
)
from exporters.gltf import packed
from exporters.gltf.document import Array, Document, split
from threed.core import files
from threed.core.mesh import Mesh

NAME = packed.MESHOPT[0]
NEEDED = [NAME, "KHR_mesh_quantization"]
# how rows are kept: normals and tangents to half a degree, the rest to 1 in 65,535
KINDS = {"NORMAL": "<i1", "TANGENT": "<i1", "TEXCOORD_0": "<u2", "COLOR_0": "<u2"}
TYPES = {"<i1": 5120, "<u2": 5123, "<u4": 5125}
SEEN = 4.0  # mean square of the difference of two pictures, of 255²: 42 dB
VECTORS = {2: "VEC2", 3: "VEC3", 4: "VEC4"}


def save(
    mesh: Mesh, path: Path, extras: Extras, colliders: Mapping[str, Mesh] = NO_COLLIDERS
) -> None:
    """Write a GLB as `exporters.glb` does, and small. Errors as from `compress`."""
    files.write(path, compress(encode(mesh, name_of(path, extras), extras, colliders), path))


def compress(content: bytes, path: Path) -> bytes:
    """Make a GLB of ours small: places to 1 in 65,535 of the largest side, PNGs as small as can be.

    InputError, naming `path`, where meshoptimizer is not installed.
    """
    library = packed.find_library("meshoptimizer", NAME, path)
    text, chunk = split(content)
    document = Document(path, json.loads(text), chunk)
    gltf, rest = document.gltf, _Packer(library)
    for node in gltf["nodes"]:
        (primitive,) = gltf["meshes"][node["mesh"]]["primitives"]
        node |= rest.add_mesh(document, primitive)
    for image in gltf.get("images", []):
        picture = document.view(image["bufferView"])
        image["bufferView"] = rest.add(_shrink(picture, few=image["name"] == "albedo"))
    gltf |= {"extensionsUsed": NEEDED, "extensionsRequired": NEEDED}
    gltf |= {"accessors": rest.accessors, "bufferViews": rest.views}
    # what a reader without the extension would need is not there: it has no bytes
    plain = {"byteLength": rest.whole, "extensions": {NAME: {"fallback": True}}}
    gltf["buffers"] = [{"byteLength": len(rest.content)}, plain]
    return finish(gltf, bytes(rest.content))


def _shrink(content: bytes, *, few: bool) -> bytes:
    """Write a PNG with the least bytes, with `few` by a palette if nobody would see that."""
    picture, found = Image.open(io.BytesIO(content)), []
    versions: list[Image.Image] = [picture]
    if few:
        by_palette = picture.quantize(256, dither=Image.Dither.NONE)
        off = np.asarray(by_palette.convert("RGB"), np.float64) - np.asarray(picture)
        if (off**2).mean() <= SEEN:
            versions.append(by_palette)
    for version in versions:
        file = io.BytesIO()
        version.save(file, "PNG", optimize=True)
        found.append(file.getvalue())
    return min(found, key=len)


class _Packer:
    """The binary part as it grows, and what glTF says of it."""

    def __init__(self, library: Any) -> None:
        self.library = library
        library.encode_vertex_version(0)  # that of the extension
        self.content, self.whole = bytearray(), 0  # what is there, and bytes that it stands for
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add_mesh(self, document: Document, primitive: dict[str, Any]) -> dict[str, Any]:
        """Add the rows and faces of a primitive, and change it; how its node is placed then."""
        faces = document.numbers(primitive["indices"])[:, 0].astype(np.uint32)
        best = np.empty_like(faces)
        rows = {key: document.numbers(at) for key, at in primitive["attributes"].items()}
        count = len(rows["POSITION"])
        self.library.optimize_vertex_cache(best, faces, len(faces), count)
        used, first, index = np.unique(best, return_index=True, return_inverse=True)
        order = np.argsort(first)  # vertices as the faces come to them
        place = np.argsort(order)
        primitive["indices"] = self._add_faces(place[index].astype(np.uint32), len(used))
        attributes, node = {}, {}
        for key, values in rows.items():
            values = values[used[order]]
            if key == "POSITION":
                low, size = values.min(0), float(np.ptp(values, axis=0).max()) or 1.0
                node = {"translation": low.tolist(), "scale": [size / 65535] * 3}
                whole = np.round((values.astype(np.float64) - low) / size * 65535).astype("<u2")
                bounds = {"min": whole.min(0).tolist(), "max": whole.max(0).tolist()}
                attributes[key] = self._add_rows(whole, bounds)
            else:
                most = np.iinfo(KINDS[key]).max
                whole = np.round(values.clip(-1, 1) * most).astype(KINDS[key])
                attributes[key] = self._add_rows(whole, {"normalized": True})
        primitive["attributes"] = attributes
        return node

    def add(self, data: bytes) -> int:
        """Add bytes as they are; the index of their buffer view."""
        self.views.append({"buffer": 0, "byteOffset": len(self.content), "byteLength": len(data)})
        self.content += data + b"\0" * (-len(data) % 4)
        return len(self.views) - 1

    def _add_rows(self, rows: Array, more: dict[str, Any]) -> int:
        """Add integers [N, width], each row on a multiple of 4 bytes; their accessor."""
        count, width = rows.shape
        size = width * rows.itemsize
        padded = np.zeros((count, size + -size % 4), np.uint8)
        padded[:, :size] = np.ascontiguousarray(rows).view(np.uint8)
        data = bytes(self.library.encode_vertex_buffer(padded, count, padded.shape[1]))
        about = {"mode": "ATTRIBUTES", "count": count, "byteStride": padded.shape[1]}
        own = {"target": VERTICES, "byteStride": padded.shape[1]}
        kind = {"componentType": TYPES[rows.dtype.str.replace("|", "<")], "type": VECTORS[width]}
        return self._add_packed(data, padded.nbytes, about, own, kind | {"count": count} | more)

    def _add_faces(self, index: Array, count: int) -> int:
        """Add the corners of triangles, of so many vertices; their accessor."""
        data = bytes(self.library.encode_index_buffer(index, len(index), count))
        kind = "<u2" if count < 2**16 else "<u4"
        size = np.dtype(kind).itemsize
        about = {"mode": "TRIANGLES", "count": len(index), "byteStride": size}
        accessor = {"componentType": TYPES[kind], "type": "SCALAR", "count": len(index)}
        return self._add_packed(data, len(index) * size, about, {"target": INDICES}, accessor)

    def _add_packed(
        self, data: bytes, size: int, about: dict[str, Any], own: dict[str, int],
        accessor: dict[str, Any],
    ) -> int:  # fmt: skip
        """Add packed bytes that stand for `size` others; the accessor of these."""
        view = self.views[self.add(data)]
        extension = {NAME: {**view, **about}}
        view |= {"buffer": 1, "byteOffset": self.whole, "byteLength": size, **own}
        view["extensions"] = extension
        self.whole += size + -size % 4
        self.accessors.append({"bufferView": len(self.views) - 1, **accessor})
        return len(self.accessors) - 1
