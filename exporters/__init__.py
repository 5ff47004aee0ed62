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
    ".3mf": "exporters.threemf",
    ".fbx": "exporters.fbx",
    ".glb": "exporters.glb",
    ".obj": "exporters.obj",
    ".splat.ply": "exporters.splats",
    ".ply": "exporters.ply",
    ".spz": "exporters.splats",
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


def save(
    mesh: Mesh,
    path: Path,
    *,
    extras: Mapping[str, str | int | float] | None = None,
    colliders: Mapping[str, Mesh] | None = None,
    small: bool = False,
) -> None:
    """Write a mesh in the format that the path's suffix names, whole or not at all.

    `extras` say where the mesh comes from, as far as the format has room. Only a .glb takes
    colliders, by their names, and can be made small (exporters.small). InputError for a suffix that
    is not in WRITERS, and for a place that cannot be written to.
    """
    writer = find_writer(path)
    more = {"colliders": colliders} if colliders else {}
    importlib.import_module("exporters.small" if small else writer).save(
        mesh, path, extras or {}, **more
    )


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
    return WRITERS[find_suffix(path.name)]


def find_suffix(name: str) -> str:
    """Find the suffix of WRITERS that a name ends in: of a.splat.ply not the shorter one."""
    return next(suffix for suffix in WRITERS if name.lower().endswith(suffix))
