"""Wavefront OBJ with its MTL and PNG: what every program reads."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from exporters import axes, pictures
from exporters.corners import polygons, unit_normals
from exporters.glb import Extras, name_of
from threed.core import files
from threed.core.mesh import Mesh, flip_v


def save(mesh: Mesh, path: Path, extras: Extras) -> None:
    """Write PATH.obj, .mtl and, for a textured mesh, .png; y up, as importers expect.

    Without a texture the vertex colours stand behind the coordinates, where most programs look.
    `extras` are comments.
    """
    stem = re.sub(r"\s", "_", path.stem)
    material, picture = path.with_name(f"{stem}.mtl"), path.with_name(f"{stem}.png")
    image = None if mesh.uv is None else mesh.material.albedo
    surface, together = _describe_material(mesh), {}
    if image is not None:
        surface += f"map_Kd {picture.name}\n"
        together[picture] = pictures.encode_png(image)
    together[material] = surface.encode()
    lines = [f"# {key}: {' '.join(str(value).split())}" for key, value in extras.items()]
    lines += [f"mtllib {material.name}", f"o {name_of(path, extras)}"]
    together[path] = _describe_shape(mesh, lines, painted=image is not None).encode()
    files.write_together(together)


def _describe_shape(mesh: Mesh, lines: list[str], *, painted: bool) -> str:
    """The text of the OBJ, after its first lines.

    The colours of the vertices are left out if a texture is painted on it.
    """
    place, form = axes.to_y_up(mesh.vertices), "v %.7g %.7g %.7g"
    if mesh.colors is None or painted:
        lines += _format_rows(form, place)
    else:
        lines += _format_rows(f"{form} %.5f %.5f %.5f", torch.cat([place, mesh.colors], 1))
    corner, columns = "%d//%d", [mesh.faces, mesh.faces]
    if mesh.uv is not None and mesh.uv_faces is not None:
        lines += _format_rows("vt %.9g %.9g", flip_v(mesh.uv))
        corner, columns = "%d/%d/%d", [mesh.faces, mesh.uv_faces, mesh.faces]
    lines += _format_rows("vn %.5f %.5f %.5f", axes.to_y_up(unit_normals(mesh)))
    lines += ["s 1", "usemtl surface"]
    numbers = torch.stack(columns, -1).flatten(0, 1) + 1
    for rows in polygons(mesh):
        form = " ".join(["f", *[corner] * rows.shape[1]])
        lines += _format_rows(form, numbers[rows].flatten(1))
    return "\n".join(lines) + "\n"


def _format_rows(form: str, rows: Tensor) -> list[str]:
    return [form % tuple(row) for row in rows.tolist()]


def _describe_material(mesh: Mesh) -> str:
    """The text of the MTL, but for the picture."""
    lines = [
        "newmtl surface",
        "Ka 0 0 0",
        "Kd 1 1 1",
        "Ks 0 0 0",
        "illum 1",
        f"Pr {mesh.material.roughness:g}",
        f"Pm {mesh.material.metallic:g}",
    ]
    return "\n".join(lines) + "\n"
