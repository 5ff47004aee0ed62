"""From a mesh to files and back: repairs, texture maps, formats, pictures, reports.

Importing the package is cheap; the module of a format is loaded when it is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threed.core.mesh import Mesh

# suffix -> module with save(mesh, path, extras)
WRITERS = {
    ".glb": "exporters.glb",
    ".obj": "exporters.obj",
    ".ply": "exporters.ply",
    ".stl": "exporters.stl",
    ".usdz": "exporters.usdz",
}
# suffix -> module with find_problem(content) and read(content, path)
READERS = {
    ".glb": "exporters.gltf.read",
    ".gltf": "exporters.gltf.read",
    ".obj": "exporters.obj_read",
    ".ply": "exporters.ply_read",
    ".stl": "exporters.stl_read",
}


def save(mesh: Mesh, path: Path, *, extras: Mapping[str, str | int | float] | None = None) -> None:
    """Write a mesh in the format that the path's suffix names, whole or not at all.

    `extras` say where the mesh comes from, as far as the format has room. InputError for a suffix
    that is not in WRITERS, and for a place that cannot be written to.
    """
    importlib.import_module(find_writer(path)).save(mesh, path, extras or {})


def load(path: Path) -> Mesh:
    """Read the mesh in a GLB, OBJ, PLY or STL file; z up with its front at +x.

    A scene of several parts becomes one mesh. Files that the mesh file names are read from its own
    folder only. InputError, with the path and the reason, for a file that is missing, too large,
    truncated, empty, or not what its name says.
    """
    from exporters.parse import read_file
    from threed.core.errors import InputError

    suffix = path.suffix.lower()
    if suffix not in READERS:
        names = ", ".join(READERS)
        raise InputError(f"cannot read {path}: its name must end in one of {names}")
    form, content = importlib.import_module(READERS[suffix]), read_file(path)
    problem = form.find_problem(content)
    if problem is not None:
        raise InputError(f"{path} is not a whole {suffix[1:].upper()} file: {problem}")
    mesh: Mesh = form.read(content, path)
    return mesh


def find_writer(path: Path) -> str:
    """Name the module that writes such a file; InputError as from `threed.core.files.check_out`."""
    from threed.core.files import check_out

    check_out(path, tuple(WRITERS))
    return WRITERS[path.suffix.lower()]
