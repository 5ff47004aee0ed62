"""Reading a glTF file: what is told by its description, and what trimesh makes of its faces."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from exporters import axes, parse
from exporters.gltf import looks, packed, shapes
from exporters.gltf.document import OTHERS, Document, find_problem, split
from exporters.join import join
from exporters.surfaces import Part
from threed.core.errors import InputError, MeshWarning
from threed.core.mesh import Mesh

__all__ = ["find_problem", "read"]

# what is read; a file that requires anything else is refused
DONE = {
    "KHR_mesh_quantization",
    "KHR_materials_unlit",
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
            _to_part(one, found[int(one.metadata["name"])], surfaces)
            for one in parse.parse(plain, path, kind="glb")
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
        raise InputError(f"{path} is no whole glTF: it does not say {error}") from error
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise InputError(f"{path} is no whole glTF: something in its description has another "
                         "type or length than the format asks for") from error  # fmt: skip


def _to_part(placed: Any, shape: shapes.Shape, surfaces: looks.Looks) -> Part:
    """What trimesh has put in its place, with what else the file says of it."""
    faces = torch.tensor(placed.faces)  # turned round where its place mirrors it
    surface = surfaces.find(shape.material, shape.columns)
    uv = looks.find_coordinates(shape.columns, surface)
    colors = looks.find_colors(shape.columns)
    return Part(
        axes.from_y_up(torch.tensor(placed.vertices)),
        faces,
        surface,
        {name: rows[faces] for name, rows in uv.items()},
        None if colors is None else colors[faces],
    )


def _check_extensions(document: Document) -> None:
    """Refuse what a file requires and we have not; note the others that would change its looks."""
    required = set(document.gltf.get("extensionsRequired", []))
    unknown = sorted(required - DONE - set(BESIDES))
    if unknown:
        raise InputError(f"{document.path} requires {', '.join(unknown)}, which is not read here; "
                         "save it without")  # fmt: skip
    for name in sorted(set(document.gltf.get("extensionsUsed", [])) - DONE - set(BESIDES)):
        document.left_out[name] = None
