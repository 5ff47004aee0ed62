"""Reading a glTF file: what is told by its description, and what trimesh makes of its faces."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import trimesh
from torch import Tensor

from exporters import axes
from exporters.gltf import looks, packed, shapes
from exporters.gltf.document import OTHERS, Document, find_problem, split
from exporters.join import join
from exporters.surfaces import Part
from threed.core.errors import InputError, MeshWarning
from threed.core.mesh import Mesh

__all__ = ["find_problem", "read"]

UNLIT = "KHR_materials_unlit"  # its colours are read, and shown in light
# what is read; a file that requires anything else is refused
DONE = {
    "KHR_mesh_quantization",
    UNLIT,
    packed.DRACO,
    *packed.MESHOPT,
    shapes.INSTANCING,
    looks.TRANSFORM,
    looks.SHINY,
    *OTHERS,
}
# what changes nothing of a mesh's looks
BESIDES = (
    "KHR_lights_punctual", "KHR_materials_variants", "KHR_xmp", "KHR_xmp_json_ld",
    "KHR_animation_pointer", "EXT_lights_image_based", "EXT_lights_ies",
)  # fmt: skip


def read(content: bytes, path: Path) -> Mesh:
    """Read the mesh in the content of a glTF file; its texture coordinates bit by bit.

    A MeshWarning tells what is left out. InputError, naming `path`, for what cannot be read, and
    for a file that requires an extension which is not.
    """
    with _by_the_book(path):
        text, chunk = split(content)
        document = Document(path, json.loads(text), chunk)
        _check_extensions(document)
        plain, found = shapes.rewrite(document)
        if not found:
            raise InputError(f"{path} holds no triangle")
        surfaces = looks.Looks(document)
        parts = [
            _to_part(found[index], vertices, faces, surfaces)
            for index, vertices, faces in _place(plain)
        ]
    mesh = join(parts, path)
    if document.left_out:
        warnings.warn(f"{path}: left out: {'; '.join(document.left_out)}", MeshWarning,
                      stacklevel=3)  # fmt: skip
    return mesh


@contextmanager
def _by_the_book(path: Path) -> Iterator[None]:
    """Make an InputError, naming the file, of a description that is not as glTF has it."""
    try:
        yield
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"{path} is no whole glTF: it does not say its {error.args[0]}") from error
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise InputError(f"{path} is no whole glTF: something in its description has another "
                         "type or length than the format asks for") from error  # fmt: skip


def _place(plain: bytes) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Let trimesh read a plain GLB: the number of each mesh in it, places [N, 3], faces [F, 3]."""
    scene = trimesh.load_scene(BytesIO(plain), file_type="glb", process=False)
    for node in scene.graph.nodes_geometry:
        matrix, name = scene.graph[node]
        mesh = scene.geometry[name]
        vertices, faces = np.array(mesh.vertices), np.array(mesh.faces)
        if not np.array_equal(matrix, np.eye(4)):
            with np.errstate(all="ignore"):  # what is no number is refused by `join`
                vertices = vertices @ matrix[:3, :3].T + matrix[:3, 3]
        if np.linalg.det(matrix[:3, :3]) < 0:  # what is mirrored turns its faces round
            faces = faces[:, ::-1].copy()
        yield int(name), axes.from_y_up(torch.from_numpy(vertices)), torch.from_numpy(faces)


def _to_part(shape: shapes.Shape, vertices: Tensor, faces: Tensor, surfaces: looks.Looks) -> Part:
    """A shape in its place with what else the file says of it."""
    surface = surfaces.find(shape.material, shape.columns)
    uv = looks.find_coordinates(shape.columns, surface)
    colors = looks.find_colors(shape.columns)
    return Part(
        vertices,
        faces,
        surface,
        {name: rows[faces] for name, rows in uv.items()},
        None if colors is None else colors[faces],
    )


def _check_extensions(document: Document) -> None:
    """Refuse what a file requires and we have not; note the others that would change its looks."""
    used, required = (
        {str(name) for name in document.gltf.get(key, [])}
        for key in ("extensionsUsed", "extensionsRequired")
    )
    unknown = sorted(required - DONE - set(BESIDES))
    if unknown:
        raise InputError(f"{document.path} requires {', '.join(unknown)}, which is not read here; "
                         "save it without")  # fmt: skip
    for name in sorted(used - DONE.difference({UNLIT}) - set(BESIDES)):
        document.left_out[name] = None
