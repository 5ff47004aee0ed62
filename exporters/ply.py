"""Binary PLY: geometry, normals and vertex colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from exporters import axes, pictures
from exporters.glb import Extras
from renderers.kernels.raster import texture
from threed.core import files
from threed.core.mesh import Mesh


def save(mesh: Mesh, path: Path, extras: Extras) -> None:
    """Write a little-endian PLY, z up; a texture becomes vertex colours. `extras` are comments."""
    place, normal = axes.to_z_up(mesh.vertices), axes.to_z_up(mesh.vertex_normals())
    columns = dict(zip(("x", "y", "z", "nx", "ny", "nz"), torch.cat([place, normal], 1).T.numpy()))
    fields = [(name, "<f4") for name in columns]
    kinds = [f"property float {name}" for name in columns]
    colors = vertex_colors(mesh)
    if colors is not None:
        names = ("red", "green", "blue")
        columns |= dict(zip(names, pictures.to_bytes(colors).T.numpy()))
        fields += [(name, "u1") for name in names]
        kinds += [f"property uchar {name}" for name in names]
    rows = np.zeros(len(mesh.vertices), fields)
    for name, column in columns.items():
        rows[name] = column
    faces = np.zeros(len(mesh.faces), [("count", "u1"), ("index", "<i4", 3)])
    faces["count"], faces["index"] = 3, mesh.faces.numpy()
    header = [
        "ply",
        "format binary_little_endian 1.0",
        *(f"comment {key}: {_to_ascii(value)}" for key, value in extras.items()),
        f"element vertex {len(rows)}",
        *kinds,
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header\n",
    ]
    files.write(path, "\n".join(header).encode("ascii") + rows.tobytes() + faces.tobytes())


def vertex_colors(mesh: Mesh) -> Tensor | None:
    """[V, 3] sRGB: the mesh's own, else the texture's at one corner of each vertex, else None."""
    image = mesh.material.albedo
    if mesh.colors is not None or image is None or mesh.uv is None:
        return mesh.colors
    uv, uv_faces = mesh.opengl_map()
    vertex = mesh.faces.flatten()
    # the last of its corners: which one an index assignment keeps is left to chance
    last = torch.zeros(len(mesh.vertices), dtype=torch.int64)
    last.scatter_reduce_(0, vertex, torch.arange(len(vertex)), "amax")
    return texture(image, uv[uv_faces.flatten()[last]][None, None])[0, 0]


def _to_ascii(value: str | int | float) -> str:
    """A value in one line of ASCII, other characters escaped."""
    return " ".join(str(value).split()).encode("ascii", "backslashreplace").decode()
