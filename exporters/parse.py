"""What trimesh finds in a file that anybody may have made, as parts of a mesh of ours."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from PIL import Image
from torch import Tensor
from trimesh.resolvers import Resolver
from trimesh.visual.material import empty_material

from exporters.join import join
from exporters.surfaces import Layer, Part, Surface
from threed.core import pictures
from threed.core.errors import InputError
from threed.core.mesh import Mesh, flip_v

MAX_BYTES = 512 * 2**20  # of a file
MAX_FACES = 5_000_000


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


class Folder(Resolver):  # type: ignore[misc]
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

    def namespaced(self, namespace: str) -> Folder:
        """Stay in the folder: deeper names are part of the key."""
        return self

    def write(self, name: str, data: bytes) -> None:
        """Refuse: reading never writes."""
        raise NotImplementedError


def parse(content: bytes, path: Path) -> list[Any]:
    """Parse the content of the file `path`; its suffix names the format.

    Return the meshes of trimesh's scene, each moved to its place. InputError for what trimesh
    cannot parse, and for more than MAX_FACES.
    """
    folder, kind = Folder(path), path.suffix.lower()[1:]
    with name_file(path):
        scene = trimesh.load_scene(BytesIO(content), file_type=kind, resolver=folder, process=False)
        if folder.refused is not None:
            raise folder.refused
        parts = _find_parts(scene)
    check_count(sum(len(part.faces) for part in parts), path)
    return parts


def check_count(faces: int, path: Path) -> None:
    """Refuse more than MAX_FACES by an InputError."""
    if faces > MAX_FACES:
        raise InputError(f"{path} has {faces:,} faces; at most {MAX_FACES:,} are read")


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


def to_mesh(parts: Sequence[Any], path: Path, turn: Callable[[Tensor], Tensor]) -> Mesh:
    """Make what `parse` found in the file `path` one mesh of ours.

    `turn` maps points [N, 3] from the file's axes to ours. InputError as from `join`, and for
    pictures that cannot be read.
    """
    return join([to_part(part, path, turn) for part in parts], path)


def to_part(part: Any, path: Path, turn: Callable[[Tensor], Tensor]) -> Part:
    """Translate one mesh of trimesh; `turn` maps points [N, 3]. Errors as for `to_mesh`."""
    faces, place = torch.tensor(part.faces), turn(torch.tensor(part.vertices))
    found, last = getattr(part.visual, "uv", None), int(faces.max())
    uv: dict[Hashable, Tensor] = {}
    if found is not None and len(found) > last:
        uv[0] = flip_v(torch.tensor(found, dtype=torch.float32))[faces]
    return Part(place, faces, _read_surface(part.visual, path), uv, _find_colors(part, faces))


def _read_surface(visual: Any, path: Path) -> Surface:
    """Translate the material of a part of trimesh."""
    source = getattr(visual, "material", None)
    if source is None or hash(source) == hash(empty_material()):  # made up where there is none
        return Surface()
    image = getattr(source, "image", None)
    if image is not None:
        return Surface(albedo=Layer(read_picture(image, path)))
    color = np.asarray(source.main_color[:3], np.float64) / 255
    return Surface(color=(float(color[0]), float(color[1]), float(color[2])))


def read_picture(image: Image.Image, path: Path) -> Tensor:
    """A picture [H, W, 3] in [0, 1] that Pillow opened; InputError where that cannot be."""
    upright = pictures.to_rgb(image, f"a texture of {path}", ground=None)
    return torch.from_numpy(np.asarray(upright, np.float32) / 255)


def _find_colors(part: Any, faces: Tensor) -> Tensor | None:
    """The colours [F, 3, 3] of the corners, in [0, 1] as the file has them, or None."""
    found, rows = part.vertex_attributes.get("color"), faces
    if found is None and part.visual.kind == "vertex":
        found = part.visual.vertex_colors
    elif found is None and part.visual.kind == "face":
        found, rows = part.visual.face_colors, torch.arange(len(faces))[:, None].expand(-1, 3)
    if found is None or len(found) <= int(rows.max()):
        return None
    values = np.asarray(found)[:, :3]
    scale = {"u1": 255, "u2": 65535}.get(values.dtype.str[1:], 1)
    return torch.from_numpy(values.astype(np.float32) / scale).clamp(0, 1)[rows]
