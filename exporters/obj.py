"""Wavefront OBJ with its MTL and PNG: what every program reads."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from torch import Tensor

from exporters import axes, files, pictures
from exporters.glb import Extras
from threed.core.mesh import Mesh


def save(mesh: Mesh, path: Path, extras: Extras) -> None:
    """Write PATH.obj, .mtl and, for a textured mesh, .png; y up, as importers expect.

    Without a texture the vertex colours stand behind the coordinates, where most programs look.
    `extras` are comments.
    """
    stem = re.sub(r"\s", "_", path.stem)
    material, picture = path.with_name(f"{stem}.mtl"), path.with_name(f"{stem}.png")
    textured = mesh.material.albedo is not None and mesh.uv is not None
    together = {}
    if mesh.material.albedo is not None and textured:
        together[picture] = pictures.png(mesh.material.albedo)
    together[material] = _material(mesh, picture.name if textured else None).encode()
    together[path] = _geometry(mesh, material.name, extras).encode()
    files.write(together)


def _geometry(mesh: Mesh, material: str, extras: Extras) -> str:
    normal = mesh.vertex_normals()
    normal[normal.norm(dim=-1) < 0.5, 2] = 1.0
    lines = [f"# {key}: {' '.join(str(value).split())}" for key, value in extras.items()]
    lines += [f"mtllib {material}", "o asset"]
    place = axes.to_y_up(mesh.vertices)
    painted = mesh.uv is not None and mesh.material.albedo is not None
    lines += _rows("v %.7g %.7g %.7g", place) if mesh.colors is None or painted else [
        f"{v} {c}" for v, c in
        zip(_rows("v %.7g %.7g %.7g", place), _rows("%.5f %.5f %.5f", mesh.colors))
    ]  # fmt: skip
    corner = [mesh.faces + 1]
    if mesh.uv is not None and mesh.uv_faces is not None:
        lines += _rows("vt %.9g %.9g", mesh.uv)
        corner.append(mesh.uv_faces + 1)
    lines += _rows("vn %.5f %.5f %.5f", axes.to_y_up(normal))
    lines += ["s 1", "usemtl surface"]
    corner.append(mesh.faces + 1)
    one = ("%d/%d/%d" if len(corner) == 3 else "%d//%d",) * 3
    order = np.stack([c.numpy() for c in corner], -1).reshape(len(mesh.faces), -1)
    form = "f " + " ".join(one)
    lines += [form % tuple(row) for row in order.tolist()]
    return "\n".join(lines) + "\n"


def _rows(form: str, values: Tensor) -> list[str]:
    return [form % tuple(row) for row in values.tolist()]


def _material(mesh: Mesh, picture: str | None) -> str:
    lines = [
        "newmtl surface",
        "Ka 0 0 0",
        "Kd 1 1 1",
        "Ks 0 0 0",
        "illum 1",
        f"Pr {mesh.material.roughness:g}",
        f"Pm {mesh.material.metallic:g}",
    ]
    if picture is not None:
        lines.append(f"map_Kd {picture}")
    return "\n".join(lines) + "\n"
