"""A flat map of a surface: texture coordinates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import xatlas

from threed.core import Mesh

PADDING = 4  # texels between charts: what bilinear look-ups and two mip levels need


def unwrap(mesh: Mesh, texture: int = 1024) -> Mesh:
    """The mesh with uv and uv_faces for a square texture of that many texels a side.

    Charts do not overlap, and lie at least about PADDING texels apart. The same mesh gives the same
    map. Time grows faster than the faces: 20,000 take seconds, 60,000 half a minute.
    """
    atlas = xatlas.Atlas()
    atlas.add_mesh(
        np.ascontiguousarray(mesh.vertices.numpy(), np.float32),
        np.ascontiguousarray(mesh.faces.numpy(), np.uint32),
        mesh.vertex_normals().numpy(),
    )
    pack = xatlas.PackOptions()
    pack.resolution, pack.padding = texture, PADDING
    atlas.generate(xatlas.ChartOptions(), pack)
    origin, corners, uv = atlas[0]
    faces = torch.from_numpy(corners.astype(np.int64))
    if not torch.equal(torch.from_numpy(origin.astype(np.int64))[faces], mesh.faces):
        raise RuntimeError("xatlas changed the order of the faces")
    # texels stay square: the map may be wider than high, the texture is not
    shape = torch.tensor([atlas.width, atlas.height], dtype=torch.float32)
    flat = torch.from_numpy(np.ascontiguousarray(uv, np.float32)) * (shape / shape.max())
    return replace(mesh, uv=flat.clamp(0, 1), uv_faces=faces)
