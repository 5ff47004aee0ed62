"""GLB files made by hand, for what others write and we do not."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]
KINDS = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
SHAPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}
PLACES = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], "<f4")
UV = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], "<f4")
INDEX = np.array([0, 1, 2, 0, 2, 3], "<u2")


def png(*columns: tuple[int, int, int], side: int = 16) -> bytes:
    """A square PNG of stripes from left to right, of one colour each."""
    image = np.repeat(np.array(columns, np.uint8), side // len(columns), 0)[None].repeat(side, 0)
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@dataclass
class Gltf:
    """A glTF file as it grows."""

    json: dict[str, Any] = field(default_factory=dict)
    data: bytes = b""

    def add(self, kind: str, **thing: Any) -> int:
        """Add a thing of a kind, such as "nodes"; its number."""
        self.json.setdefault(kind, []).append(thing)
        return len(self.json[kind]) - 1

    def view(self, data: bytes, **more: Any) -> int:
        """Add bytes; the number of their buffer view."""
        start = len(self.data)
        self.data += data + b"\0" * (-len(data) % 4)
        return self.add("bufferViews", buffer=0, byteOffset=start, byteLength=len(data), **more)

    def numbers(self, rows: Array, **more: Any) -> int:
        """Add rows of numbers; the number of their accessor."""
        if "bufferView" not in more:
            more["bufferView"] = self.view(np.ascontiguousarray(rows).tobytes())
        width = rows.shape[1] if rows.ndim > 1 else 1
        return self.add("accessors", componentType=KINDS[rows.dtype.str[1:]],
                        count=len(rows), type=SHAPES[width], **more)  # fmt: skip

    def texture(self, content: bytes, **sampler: int) -> dict[str, Any]:
        """Add a picture, by default one that repeats; how a material names it."""
        source = self.add("images", bufferView=self.view(content), mimeType="image/png")
        more = {"sampler": self.add("samplers", **sampler)} if sampler else {}
        return {"index": self.add("textures", source=source, **more)}

    def material(self, more: dict[str, Any] | None = None, **pbr: Any) -> int:
        """Add a material."""
        return self.add("materials", pbrMetallicRoughness=pbr, **(more or {}))

    def square(self, *, at: float = 0, uv: Array | None = UV, **more: Any) -> dict[str, Any]:
        """A primitive of two triangles, 2 units a side, x from at - 1 to at + 1."""
        attributes = {"POSITION": self.numbers(PLACES + np.array([at, 0, 0], "<f4"))}
        if uv is not None:
            attributes["TEXCOORD_0"] = self.numbers(uv)
        attributes |= more.pop("attributes", {})
        return {"attributes": attributes, "indices": self.numbers(INDEX), **more}

    def show(self, *primitives: dict[str, Any], **node: Any) -> Gltf:
        """Add a node with a mesh of primitives to the scene."""
        number = self.add("nodes", mesh=self.add("meshes", primitives=list(primitives)), **node)
        self.json.setdefault("scenes", [{"nodes": []}])[0]["nodes"].append(number)
        return self

    def needs(self, *names: str) -> Gltf:
        """Say that reading the file needs extensions."""
        self.json["extensionsUsed"] = self.json["extensionsRequired"] = list(names)
        return self

    def save(self, path: Path) -> Path:
        """Write the file, as a GLB or, where the path says so, as .gltf with its data beside."""
        about: dict[str, Any] = {"asset": {"version": "2.0"}, **self.json}
        about["buffers"] = [{"byteLength": len(self.data)}]
        if path.suffix == ".gltf":
            about["buffers"][0]["uri"] = "its%20data.bin"
            (path.parent / "its data.bin").write_bytes(self.data)
            path.write_text(json.dumps(about))
            return path
        text = json.dumps(about).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text
        chunks += struct.pack("<I4s", len(self.data), b"BIN\0") + self.data
        path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
        return path
