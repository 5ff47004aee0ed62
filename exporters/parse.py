"""What trimesh finds in a file that anybody may have made, as a mesh of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

from exporters.topology import find_distinct
from renderers.shading import to_srgb
from threed.core.errors import InputError
from threed.core.mesh import Material, Mesh, flip_v

MAX_BYTES = 512 * 2**20  # of a file
MAX_FACES = 5_000_000
MAX_PIXELS = 8192**2  # of a texture


def read_file(path: Path) -> bytes:
    """Read a whole file; InputError if it is missing, empty, or larger than MAX_BYTES."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            limit = f"at most {MAX_BYTES // 2**20} MiB are read"
            raise InputError(f"{path} has {size / 2**20:.0f} MiB; {limit}")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    if not content:
        raise InputError(f"{path} is empty")
    return content


@contextmanager
def name_file(path: Path) -> Iterator[None]:
    """Make an InputError, naming the file, of whatever the parsers of others stumble over."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"cannot read {path}: {reason}") from error


class _Folder(Resolver):  # type: ignore[misc]
    """The files beside a mesh file, and no others."""

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, path.parent.resolve()
        self.refused: InputError | None = None  # trimesh swallows what is raised in here

    def get(self, key: str) -> bytes:
        """Read the file `key`."""
        name = key.decode() if isinstance(key, bytes) else key
        place = (self.folder / name.strip()).resolve()
        if not place.is_relative_to(self.folder):
            outside = f"{self.path} asks for {name!r}, which lies outside its folder"
            self.refused = InputError(outside)
            raise self.refused
        return read_file(place)

    def keys(self) -> list[str]:
        """List nothing: files are read only where the mesh file names them."""
        return []

    def namespaced(self, namespace: str) -> _Folder:
        """Stay in the folder: deeper names are part of the key."""
        return self

    def write(self, name: str, data: bytes) -> None:
        """Refuse: reading never writes."""
        raise NotImplementedError


def parse(content: bytes, path: Path) -> trimesh.Trimesh:
    """Parse the content of the file `path`; its suffix names the format.

    All parts of a scene, each in its place, become one. InputError for what trimesh cannot parse,
    and for no triangle or more than MAX_FACES.
    """
    folder, kind = _Folder(path), path.suffix.lower()[1:]
    with name_file(path):
        scene = trimesh.load_scene(BytesIO(content), file_type=kind, resolver=folder, process=False)
        if folder.refused is not None:
            raise folder.refused
        parts = _find_parts(scene)
        if not parts:
            raise InputError(f"{path} holds no triangle")
        part = parts[0] if len(parts) == 1 else trimesh.util.concatenate(parts)
    if len(part.faces) > MAX_FACES:
        raise InputError(f"{path} has {len(part.faces):,} faces; at most {MAX_FACES:,} are read")
    return part


def _find_parts(scene: Any) -> list[Any]:
    """The meshes of a trimesh scene, each moved to its place."""
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
    return parts


def to_mesh(
    part: Any,
    path: Path,
    turn: Callable[[Tensor], Tensor],
    *,
    uv: Tensor | None = None,
    linear: bool = False,
) -> Mesh:
    """Make what `parse` found in the file `path` a mesh of ours.

    `turn` maps points [N, 3] from the file's axes to ours. Texture coordinates are `uv` [N, 2],
    v downwards, or else those that trimesh found. `linear` says that the colours of the vertices
    are linear, not sRGB. InputError for coordinates, vertices and pictures that cannot be.
    """
    faces = torch.from_numpy(np.asarray(part.faces, np.int64))
    place = turn(torch.from_numpy(np.asarray(part.vertices, np.float32)))
    if not bool(torch.isfinite(place).all()):
        raise InputError(f"{path} holds coordinates that are not numbers")
    if int(faces.min()) < 0 or int(faces.max()) >= len(place):
        raise InputError(f"{path} names vertices that it does not have")
    vertices, index = find_distinct(place)
    mesh = Mesh(vertices, index[faces])
    source = getattr(part.visual, "material", None)
    if uv is None and getattr(part.visual, "uv", None) is not None:
        uv = flip_v(torch.from_numpy(np.asarray(part.visual.uv, np.float32)))
    if uv is not None and len(uv) > int(faces.max()):
        mesh = _add_map(mesh, uv[faces])
        if source is not None:
            mesh = replace(mesh, material=_read_material(source, path))
    if mesh.material.albedo is not None:
        return mesh
    found = _find_colors(part)
    if found is not None:
        colors = torch.zeros_like(vertices).index_copy_(0, index, found)
        return replace(mesh, colors=to_srgb(colors) if linear else colors)
    plain = _find_plain_color(source)
    return mesh if plain is None else replace(mesh, colors=plain.expand(vertices.shape).clone())


def _add_map(mesh: Mesh, corners: Tensor) -> Mesh:
    """The mesh with texture coordinates [F, 3, 2], v downwards, for the corners of its faces.

    A face outside the texture, which then repeats, moves to the first tile. The tile is that of its
    lowest corner as OpenGL counts.
    """
    up = flip_v(corners).float()
    within = ((up >= 0) & (up <= 1)).flatten(1).all(1)[:, None, None]
    tile = (up.amin(1, keepdim=True) + 1e-4).floor()
    moved = flip_v(torch.nan_to_num(up - tile).clamp(0, 1))
    uv, index = find_distinct(torch.where(within, corners, moved).flatten(0, 1))
    return replace(mesh, uv=uv, uv_faces=index.view(-1, 3))


def _read_material(source: Any, path: Path) -> Material:
    """Translate a material of trimesh; InputError for a picture of more than MAX_PIXELS."""

    def factor(name: str, default: float) -> float:
        value = getattr(source, name, None)
        return default if value is None else min(max(float(value), 0.0), 1.0)

    both = _read_image(source, "metallicRoughnessTexture", path)
    # glTF's factors are 1 where they are not written; without a map, ours are a better guess
    plain = Material() if both is None else Material(metallic=1.0, roughness=1.0)
    albedo = _read_image(source, "baseColorTexture", path)
    return Material(
        albedo=_read_image(source, "image", path) if albedo is None else albedo,
        metallic=factor("metallicFactor", plain.metallic),
        roughness=factor("roughnessFactor", plain.roughness),
        normal=_read_image(source, "normalTexture", path),
        metallic_roughness=both,
    )


def _read_image(source: Any, name: str, path: Path) -> Tensor | None:
    """A picture [H, W, 3] in [0, 1] of a trimesh material, or None."""
    image = getattr(source, name, None)
    if not isinstance(image, Image.Image):
        return None
    if image.width * image.height > MAX_PIXELS:
        size, most = f"{image.width} × {image.height}", "at most 8192 × 8192 are read"
        raise InputError(f"{path} has a texture of {size} texels; {most}")
    return torch.from_numpy(np.asarray(image.convert("RGB"), np.float32) / 255)


def _find_colors(part: Any) -> Tensor | None:
    """The colours [N, 3] of the vertices, in [0, 1] as the file has them, or None."""
    found = part.vertex_attributes.get("color")
    if found is None and part.visual.kind == "vertex":
        found = part.visual.vertex_colors
    if found is None or len(found) != len(part.vertices):
        return None
    values = np.asarray(found)[:, :3]
    scale = 255 if values.dtype == np.uint8 else 65535 if values.dtype == np.uint16 else 1
    return torch.from_numpy(values.astype(np.float32) / scale).clamp(0, 1)


def _find_plain_color(source: Any) -> Tensor | None:
    """The sRGB colour [3] of a material that is one colour all over and not just white, or None."""
    light, surface = getattr(source, "baseColorFactor", None), getattr(source, "diffuse", None)
    found = surface if light is None else light
    if found is None or bool(np.all(np.asarray(found)[:3] == 255)):
        return None
    color = torch.from_numpy(np.asarray(found, np.float32)[:3] / 255).clamp(0, 1)
    return color if light is None else to_srgb(color)
