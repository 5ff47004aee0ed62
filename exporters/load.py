"""Meshes from files that anybody may have made."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from PIL import Image
from torch import Tensor
from trimesh.resolvers import Resolver

from exporters import axes
from renderers.shading import to_srgb
from threed.core.errors import InputError
from threed.core.mesh import Material, Mesh

READERS = (".glb", ".obj", ".ply", ".stl")
MAX_BYTES = 512 * 2**20  # of a file
MAX_FACES = 5_000_000
MAX_PIXELS = 8192**2  # of a texture
AS_WRITTEN = "_threed_uv"  # a glTF file's texture coordinates, before trimesh turns them over


def load(path: Path) -> Mesh:
    """The mesh in a GLB, OBJ, PLY or STL file, z up with its front at +x.

    A scene of several parts becomes one mesh. Files that the mesh file names are read from its own
    folder only. InputError, with the path and the reason, for a file that is missing, too large,
    truncated, empty, or not what its name says.
    """
    kind = path.suffix.lower()
    if kind not in READERS:
        raise InputError(f"cannot read {path}: its name must end in one of {', '.join(READERS)}")
    content = _read(path)
    if kind in CHECKS:
        problem = CHECKS[kind](content)
        if problem is not None:
            raise InputError(f"{path} is not a whole {kind[1:].upper()} file: {problem}")
    try:
        part = _parse(content, kind, path)
    except InputError:
        raise
    except Exception as error:  # the parsers raise whatever they stumble over
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"cannot read {path}: {reason}") from error
    if part is None:
        raise InputError(f"{path} holds no triangle")
    if len(part.faces) > MAX_FACES:
        raise InputError(f"{path} has {len(part.faces):,} faces; at most {MAX_FACES:,} are read")
    return _mesh(part, kind, path)


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path} has {size / 2**20:.0f} MiB; at most "
                             f"{MAX_BYTES // 2**20} MiB are read")  # fmt: skip
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    if not content:
        raise InputError(f"{path} is empty")
    return content


class _Folder(Resolver):  # type: ignore[misc]
    """Files beside the mesh, and no others."""

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, path.parent.resolve()
        self.refused: InputError | None = None  # trimesh swallows what is raised in here

    def get(self, key: str) -> bytes:
        """What the file `key` holds."""
        name = key.decode() if isinstance(key, bytes) else key
        place = (self.folder / name.strip()).resolve()
        if not place.is_relative_to(self.folder):
            self.refused = InputError(
                f"{self.path} asks for {name!r}, which lies outside its folder"
            )
            raise self.refused
        return _read(place)

    def keys(self) -> list[str]:
        """Nothing is listed."""
        return []

    def namespaced(self, namespace: str) -> _Folder:
        """The same folder: deeper names are part of the key."""
        return self

    def write(self, name: str, data: bytes) -> None:
        """Reading never writes."""
        raise NotImplementedError


def _parse(content: bytes, kind: str, path: Path) -> Any:
    """trimesh's mesh of the file, or None if it holds no triangle."""
    folder = _Folder(path)
    if kind == ".glb":
        content = _with_uv_as_written(content)
    scene = trimesh.load_scene(BytesIO(content), file_type=kind[1:], resolver=folder, process=False)
    if folder.refused is not None:
        raise folder.refused
    parts = []
    for node in scene.graph.nodes_geometry:
        place, name = scene.graph[node]
        original = scene.geometry[name]
        if isinstance(original, trimesh.Trimesh) and len(original.faces):
            part = original.copy()
            # lost in the copy: trimesh keeps the colours of a part with a material there
            color = getattr(original.visual, "vertex_attributes", {}).get("color")
            if color is not None:
                part.vertex_attributes["color"] = color
            parts.append(part.apply_transform(place))
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else trimesh.util.concatenate(parts)


def _mesh(part: Any, kind: str, path: Path) -> Mesh:
    turn = axes.from_y_up if kind in (".glb", ".obj") else axes.from_z_up
    faces = torch.from_numpy(np.asarray(part.faces, np.int64))
    place = turn(torch.from_numpy(np.asarray(part.vertices, np.float32)))
    if not bool(torch.isfinite(place).all()):
        raise InputError(f"{path} holds coordinates that are not numbers")
    if int(faces.min()) < 0 or int(faces.max()) >= len(place):
        raise InputError(f"{path} names vertices that it does not have")
    vertices, index = _distinct(place)
    mesh = Mesh(vertices, index[faces])
    visual = part.visual
    image = _image(getattr(visual, "material", None), ("baseColorTexture", "image"), path)
    mesh = _mapped(mesh, *_coordinates(part), faces)
    if mesh.uv is not None and getattr(visual, "material", None) is not None:
        mesh = replace(mesh, material=_material(visual.material, image, path))
    if mesh.material.albedo is not None:
        return mesh
    colors = _vertex_colors(part, kind)
    if colors is not None:
        own = torch.zeros_like(vertices).index_copy_(0, index, colors)
        return replace(mesh, colors=own)
    plain = _plain_color(getattr(visual, "material", None))
    return mesh if plain is None else replace(mesh, colors=plain.expand(vertices.shape).clone())


def _with_uv_as_written(content: bytes) -> bytes:
    """A GLB in which AS_WRITTEN is another name of the texture coordinates."""
    size = int.from_bytes(content[12:16], "little")
    text, rest = json.loads(content[20 : 20 + size]), content[20 + size :]
    for mesh in text.get("meshes", []):
        for part in mesh["primitives"]:
            if "TEXCOORD_0" in part["attributes"]:
                part["attributes"][AS_WRITTEN] = part["attributes"]["TEXCOORD_0"]
    data = json.dumps(text).encode()
    data += b" " * (-len(data) % 4)
    head = struct.pack("<4sIII4s", b"glTF", 2, 20 + len(data) + len(rest), len(data), b"JSON")
    return head + data + rest


def _coordinates(part: Any) -> tuple[Tensor | None, Tensor | None]:
    """Texture coordinates [N, 2] of a part, and v as its file counts it where that is down."""
    written = part.vertex_attributes.get(AS_WRITTEN)
    if written is not None and written.dtype == np.float32:
        u, v = torch.from_numpy(written).unbind(1)
        return torch.stack([u, 1 - v], 1), v
    uv = getattr(part.visual, "uv", None)
    return None if uv is None else torch.from_numpy(np.asarray(uv, np.float32)), None


def _mapped(mesh: Mesh, uv: Tensor | None, down: Tensor | None, faces: Tensor) -> Mesh:
    """The mesh with the file's texture coordinates, if it has one for each of its vertices."""
    if uv is None or len(uv) <= int(faces.max()):
        return mesh
    flat = uv[faces]
    within = ((flat >= 0) & (flat <= 1)).all(-1, keepdim=True).all(1, keepdim=True)
    flat = torch.where(within, flat, _into_unit(flat))
    if down is not None:  # where a face was moved, what was written is no more
        down = torch.where(within[..., 0], down[faces], 1 - flat[..., 1])
        flat = torch.cat([flat, down[..., None]], -1)
    rows, corner = _distinct(flat.flatten(0, 1))
    down = None if down is None else rows[:, 2]
    return replace(mesh, uv=rows[:, :2], uv_faces=corner.view(-1, 3), v_down=down)


def _distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The different rows in the order of their first appearance, and the place of each row."""
    values, index = torch.unique(rows, dim=0, return_inverse=True)
    first = torch.full((len(values),), len(rows))
    first = first.scatter_reduce(0, index, torch.arange(len(rows)), "amin")
    order = first.argsort()
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    return values[order], rank[index]


def _into_unit(uv: Tensor) -> Tensor:
    """uv [F, 3, 2] of a texture that repeats, each face moved to the first tile."""
    tile = (uv.amin(1, keepdim=True) + 1e-4).floor()
    return torch.nan_to_num(uv - tile).clamp(0, 1)


def _image(material: Any, names: tuple[str, ...], path: Path) -> Tensor | None:
    """[H, W, 3] of the first of these pictures that a material has."""
    found = [getattr(material, name, None) for name in names]
    image = next((i for i in found if isinstance(i, Image.Image)), None)
    if image is None:
        return None
    if image.width * image.height > MAX_PIXELS:
        raise InputError(f"{path} has a texture of {image.width} × {image.height} texels; "
                         "at most 8192 × 8192 are read")  # fmt: skip
    pixels = np.asarray(image.convert("RGB"), np.float32) / 255
    return torch.from_numpy(pixels)


def _material(material: Any, albedo: Tensor | None, path: Path) -> Material:
    def factor(name: str, default: float) -> float:
        value = getattr(material, name, None)
        return default if value is None else min(max(float(value), 0.0), 1.0)

    both = _image(material, ("metallicRoughnessTexture",), path)
    # glTF's factors are 1 where they are not written; without a map, ours are a better guess
    plain = Material() if both is None else Material(metallic=1.0, roughness=1.0)
    return Material(
        albedo,
        metallic=factor("metallicFactor", plain.metallic),
        roughness=factor("roughnessFactor", plain.roughness),
        normal=_image(material, ("normalTexture",), path),
        metallic_roughness=both,
    )


def _vertex_colors(part: Any, kind: str) -> Tensor | None:
    """[N, 3] sRGB, or None."""
    found = part.vertex_attributes.get("color")
    if found is None and part.visual.kind == "vertex":
        found = part.visual.vertex_colors
    if found is None or len(found) != len(part.vertices):
        return None
    values = np.asarray(found)[:, :3]
    scale = 255 if values.dtype == np.uint8 else 65535 if values.dtype == np.uint16 else 1
    color = torch.from_numpy(values.astype(np.float32) / scale).clamp(0, 1)
    return to_srgb(color) if kind == ".glb" else color


def _plain_color(material: Any) -> Tensor | None:
    """[3] sRGB of a material that has one colour all over and not just white, or None."""
    light, surface = getattr(material, "baseColorFactor", None), getattr(material, "diffuse", None)
    found = surface if light is None else light
    if found is None or bool(np.all(np.asarray(found)[:3] == 255)):
        return None
    color = torch.from_numpy(np.asarray(found, np.float32)[:3] / 255).clamp(0, 1)
    return color if light is None else to_srgb(color)


def _check_glb(content: bytes) -> str | None:
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
        description = json.loads(content[20 : 20 + size])
    except (ValueError, RecursionError):
        return "its description cannot be read"
    return None if isinstance(description, dict) else "its description cannot be read"


def _check_stl(content: bytes) -> str | None:
    if content[:5].lower() == b"solid" and b"facet" in content[:1000]:
        return None if b"endsolid" in content[-1000:] else "its end is missing"
    if len(content) < 84:
        return f"it has only {len(content)} bytes"
    count = int.from_bytes(content[80:84], "little")
    expected = 84 + 50 * count
    if expected != len(content):
        return f"{count:,} triangles need {expected:,} bytes, and it has {len(content):,}"
    return None


def _check_ply(content: bytes) -> str | None:
    if content[:3] != b"ply":
        return "it does not begin as one"
    return None if b"end_header" in content[:100_000] else "its header does not end"


def _check_obj(content: bytes) -> str | None:
    if b"\0" in content[:100_000]:
        return "it is not a text"
    lines = content.splitlines()
    return None if any(line[:2] == b"f " for line in lines) else "it holds no face"


CHECKS: dict[str, Callable[[bytes], str | None]] = {
    ".glb": _check_glb,
    ".obj": _check_obj,
    ".ply": _check_ply,
    ".stl": _check_stl,
}
