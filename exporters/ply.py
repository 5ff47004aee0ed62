"""Binary PLY: geometry, normals and vertex colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from exporters import axes, files, pictures
from exporters.glb import Extras
from renderers.kernels.raster import texture
from threed.core.mesh import Mesh


def save(mesh: Mesh, path: Path, extras: Extras) -> None:
    """Write a little-endian PLY, z up; a texture becomes vertex colours. `extras` are comments."""
    colors = vertex_colors(mesh)
    fields = [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")]
    kinds = [f"property float {name}" for name, _ in fields]
    if colors is not None:
        fields += [(name, "u1") for name in ("red", "green", "blue")]
        kinds += [f"property uchar {name}" for name in ("red", "green", "blue")]
    rows = np.zeros(len(mesh.vertices), fields)
    values = torch.cat([axes.to_z_up(mesh.vertices), axes.to_z_up(mesh.vertex_normals())], 1)
    for (name, _), column in zip(fields, values.numpy().T):
        rows[name] = column
    if colors is not None:
        for name, column in zip(("red", "green", "blue"), pictures.bytes_of(colors).numpy().T):
            rows[name] = column
    faces = np.zeros(len(mesh.faces), [("count", "u1"), ("index", "<i4", 3)])
    faces["count"], faces["index"] = 3, mesh.faces.numpy()
    header = [
        "ply",
        "format binary_little_endian 1.0",
        *(f"comment {key}: {_ascii(value)}" for key, value in extras.items()),
        f"element vertex {len(rows)}",
        *kinds,
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header\n",
    ]
    files.write({path: "\n".join(header).encode("ascii") + rows.tobytes() + faces.tobytes()})


def vertex_colors(mesh: Mesh) -> Tensor | None:
    """[V, 3] sRGB: the mesh's own, else the texture's at one corner of each vertex, else None."""
    image = mesh.material.albedo
    if mesh.colors is not None or image is None or mesh.uv is None or mesh.uv_faces is None:
        return mesh.colors
    corner = torch.zeros(len(mesh.vertices), dtype=torch.int64)
    corner[mesh.faces.view(-1)] = mesh.uv_faces.view(-1)
    return texture(image, mesh.uv[corner][None, None])[0, 0]


def _ascii(value: str | int | float) -> str:
    return " ".join(str(value).split()).encode("ascii", "backslashreplace").decode()
