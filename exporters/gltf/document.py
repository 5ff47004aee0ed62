"""A glTF file taken apart: its description, its numbers, its pictures."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from exporters import parse
from exporters.gltf import packed
from threed.core import pictures
from threed.core.errors import InputError

Array = npt.NDArray[Any]
TYPES = {5120: "i1", 5121: "u1", 5122: "i2", 5123: "u2", 5125: "u4", 5126: "f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
MOST_TEXELS = 2**28  # of all pictures: each takes 12 bytes
OTHERS = ("EXT_texture_webp", "EXT_texture_avif", "MSFT_texture_dds")  # pictures that Pillow reads


@dataclass(frozen=True, eq=False)
class Document:
    """What a glTF file says, to be asked for the things that it numbers."""

    path: Path
    gltf: dict[str, Any]
    chunk: bytes | None  # the binary part of a GLB
    left_out: dict[str, None] = field(default_factory=dict)  # what is said of it at the end, once
    texels: list[int] = field(default_factory=list)  # of the pictures that were read

    def find(self, kind: str, index: Any) -> dict[str, Any]:
        """The thing of a kind, such as "nodes", of a number; InputError if there is none."""
        things = self.gltf.get(kind, [])
        if not isinstance(index, int) or not 0 <= index < len(things):
            raise InputError(f"{self.path} names {kind} {index!r}, of which it has {len(things)}")
        found: dict[str, Any] = things[index]
        return found

    def numbers(self, index: int) -> Array:
        """Read an accessor: [count, width], integers that stand for fractions as float32."""
        about = self.find("accessors", index)
        kind, width = self._kind(about), WIDTHS.get(about["type"])
        if width is None:
            raise InputError(f"{self.path} has numbers of an unknown type {about['type']!r}")
        values = self._rows(about, about["count"], kind, width)
        if "sparse" in about:
            some, values = about["sparse"], values.copy()
            few, at = some["count"], some["indices"]
            where = self._rows(at, few, self._kind(at), 1)
            values[where[:, 0]] = self._rows(some["values"], few, kind, width)
        return to_fractions(values) if about.get("normalized") else values

    def _kind(self, about: dict[str, Any]) -> Any:
        """The type of the numbers of an accessor."""
        name = TYPES.get(about["componentType"])
        if name is None:
            raise InputError(f"{self.path} has numbers of an unknown componentType "
                             f"{about['componentType']!r}")  # fmt: skip
        return np.dtype(f"<{name}")

    def _rows(self, about: dict[str, Any], count: int, kind: Any, width: int) -> Array:
        """Read count rows of a buffer view; zeros without one."""
        if count > 4 * parse.MAX_FACES:
            raise InputError(f"{self.path} speaks of {count:,} rows of numbers; at most "
                             f"{4 * parse.MAX_FACES:,} are read")  # fmt: skip
        if "bufferView" not in about:
            return np.zeros((count, width), kind)
        data, stride = self._view(about["bufferView"])
        size, start = width * kind.itemsize, about.get("byteOffset", 0)
        stride = stride or size
        if start < 0 or count < 1 or start + (count - 1) * stride + size > len(data):
            raise InputError(f"{self.path} is cut short: {count:,} rows of numbers are not there")
        rows = np.ndarray((count, width), kind, data, start, (stride, kind.itemsize))
        return rows.copy()

    def _view(self, index: int) -> tuple[bytes, int]:
        """The bytes of a buffer view, unpacked, and how far apart its rows are, or 0."""
        view = self.find("bufferViews", index)
        extension = packed.find(view)
        if extension is not None:
            return packed.unpack(self.data(extension), extension, self.path)
        return self.data(view), view.get("byteStride", 0)

    def view(self, index: int) -> bytes:
        """The bytes of a buffer view."""
        return self._view(index)[0]

    def data(self, view: dict[str, Any]) -> bytes:
        """The bytes that a buffer view, or its extension, speaks of."""
        whole, start = self._buffer(view["buffer"]), view.get("byteOffset", 0)
        end = start + view["byteLength"]
        if not 0 <= start <= end <= len(whole):
            raise InputError(f"{self.path} is cut short: bytes {start:,} to {end:,} are not there")
        return whole[start:end]

    @cached_property
    def _buffers(self) -> dict[int, bytes]:
        return {}

    def _buffer(self, index: int) -> bytes:
        if index not in self._buffers:
            about = self.find("buffers", index)
            if "uri" in about:
                self._buffers[index] = self.read_uri(about["uri"])
            elif self.chunk is None or index:
                raise InputError(f"{self.path} has no data for its buffer {index}")
            else:
                self._buffers[index] = self.chunk
        return self._buffers[index]

    def read_uri(self, uri: str) -> bytes:
        """Read what a URI says itself, or a file beside the document."""
        if uri.startswith("data:"):
            return base64.b64decode(uri.partition(",")[2] + "==")
        return parse.read_beside(self.path, unquote(uri))

    def picture(self, index: int) -> Image | None:
        """Decode the picture of a texture; None, and said, where that cannot be."""
        texture = self.find("textures", index)
        others = texture.get("extensions", {})
        sources = [others[name].get("source") for name in OTHERS if name in others]
        source = next(iter(sources), texture.get("source"))
        if source is None:
            self.left_out["textures of an unknown kind: " + (", ".join(others) or "none")] = None
            return None
        image = self.find("images", source)
        name = f"its texture {image.get('uri', image.get('name', source))!r:.80}"
        try:
            own = "uri" not in image
            content = self.view(image["bufferView"]) if own else self.read_uri(image["uri"])
            picture = pictures.to_rgb(pictures.open_picture(BytesIO(content), name), name, None)
        except InputError as error:
            self.left_out[str(error)] = None
            return None
        self.texels.append(picture.width * picture.height)
        if sum(self.texels) > MOST_TEXELS:
            raise InputError(f"{self.path} has textures of more than {MOST_TEXELS:,} texels in all")
        return picture


def to_fractions(values: Array) -> Array:
    """Make integers the fractions that they stand for, float32; floats stay."""
    if values.dtype.kind == "f":
        return values
    most = np.iinfo(values.dtype).max
    return np.maximum(values.astype(np.float64) / most, -1).astype(np.float32)


def split(content: bytes) -> tuple[bytes, bytes | None]:
    """Take a GLB apart: its description, and its binary part, if any."""
    if content[:4] != b"glTF":
        return content, None
    place = 12
    chunks: dict[bytes, bytes] = {}
    while place + 8 <= len(content):
        size, kind = struct.unpack("<I4s", content[place : place + 8])
        chunks.setdefault(kind, content[place + 8 : place + 8 + size])
        place += 8 + size
    return chunks[b"JSON"], chunks.get(b"BIN\0")


def find_problem(content: bytes) -> str | None:
    """Say why this is not the content of a whole glTF file; None if it is one."""
    if content[:4] == b"glTF" and len(content) >= 20:
        version, length = struct.unpack("<II", content[4:12])
        if version != 2:
            return f"it is of version {version}, not 2"
        if length > len(content):
            return f"it should have {length:,} bytes and has {len(content):,}"
        size, kind = struct.unpack("<I4s", content[12:20])
        if kind != b"JSON" or 20 + size > len(content):
            return "its description is missing or cut off"
    elif content[:200].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"{":
        return "it does not begin as one"
    try:
        whole = isinstance(json.loads(split(content)[0]), dict)
    except (ValueError, RecursionError):
        whole = False
    return None if whole else "its description cannot be read"
