"""FBX, which old and new modellers and engines read; Blender writes it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from exporters import blender, obj, pictures
from exporters.glb import Extras, name_of
from threed.core import files
from threed.core.mesh import Mesh


def save(mesh: Mesh, path: Path, extras: Extras) -> None:
    """Write an FBX: y up, a unit a metre, colours and normal map inside.

    Roughness and metallic are numbers, since FBX has no place for such pictures; `extras` are left
    out but for the name. InputError where Blender is not found: see `exporters.blender`.
    """
    with files.write_aside(path) as part, tempfile.TemporaryDirectory(prefix="threed-") as name:
        source, lean = Path(name) / "asset.obj", Path(name) / "normal.png"
        obj.save(mesh, source, {"name": name_of(path, extras)})
        if mesh.uv is not None and mesh.material.normal is not None:
            lean.write_bytes(pictures.encode_png(mesh.material.normal))
        blender.write_fbx(source, part.resolve(), lean if lean.exists() else None)
