"""From a mesh to files: repairs, texture maps, formats, pictures, reports.

Importing the package is cheap; a writer is loaded when it is used.
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


def save(mesh: Mesh, path: Path, *, extras: Mapping[str, str | int | float] | None = None) -> None:
    """Write a mesh in the format that the path's suffix names, whole or not at all.

    `extras` say where the mesh comes from, as far as the format has room. InputError for a suffix
    that is not in WRITERS, and for a place that cannot be written to.
    """
    importlib.import_module(writer(path)).save(mesh, path, extras or {})


def writer(path: Path) -> str:
    """The module that writes such a file; InputError if there is none."""
    from threed.core.errors import InputError

    module = WRITERS.get(path.suffix.lower())
    if module is None:
        raise InputError(f"cannot write {path.name!r}: its name must end in one of "
                         f"{', '.join(WRITERS)}")  # fmt: skip
    return module
