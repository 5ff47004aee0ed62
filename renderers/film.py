"""Many pictures of a finished mesh of which only the colours are wanted: turntables, previews."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from renderers.raster import Subject
from renderers.shading import Look
from threed.core.cameras import Cameras
from threed.core.mesh import Mesh


def film(
    mesh: Mesh,
    cameras: Cameras,
    *,
    background: Tensor,
    look: Look = "albedo",
    solid: bool = False,
    relief: Tensor | None = None,
) -> Iterator[Tensor]:
    """Draw one picture [H, W, 3] sRGB for each camera, over a background [3].

    The rgb of `renderers.raster.render_mesh`, but for a texture that is too fine for the pixels:
    it is taken smaller. For solid see `Subject.draw`, for look and relief `Subject`. No gradient.
    """
    cameras, background = cameras.to(mesh.vertices.device), background.to(mesh.vertices.device)
    subject = Subject(shrink_texture(mesh, cameras), look, relief=relief)
    for view in range(len(cameras)):
        seen = subject.draw(cameras[view : view + 1], solid=solid, rgb_only=True)
        yield seen[..., :3] + (1 - seen[..., 3:]) * background


def shrink_texture(mesh: Mesh, cameras: Cameras) -> Mesh:
    """Halve a mesh's texture while two of its texels fit into a pixel.

    Without, fine patterns flicker from frame to frame; `benchmarks/turntable.py` prints what it
    gains. One size for all of the picture: our maps have about one scale, and toys are not deep.
    """
    image = mesh.material.albedo
    if image is None or mesh.uv is None:
        return mesh
    for _ in range(int(math.log2(max(texels_a_pixel(mesh, cameras), 1)))):
        if min(image.shape[:2]) < 2:
            break
        image = F.avg_pool2d(image.permute(2, 0, 1), 2).permute(1, 2, 0)
    return replace(mesh, material=replace(mesh.material, albedo=image))


def texels_a_pixel(mesh: Mesh, cameras: Cameras) -> float:
    """How many texels a side, on average, the nearest of the cameras sees in a pixel of a mesh.

    ValueError for a mesh without a texture.
    """
    image = mesh.material.albedo
    if image is None or mesh.uv is None:
        raise ValueError("a mesh without a texture has no texels")
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    surface = float(torch.linalg.cross(b - a, c - a).norm(dim=-1).sum())
    uv, uv_faces = mesh.opengl_map()
    p, q, r = uv[uv_faces].unbind(1)
    one, two = q - p, r - p
    on_map = float((one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]).abs().sum())
    texels = math.sqrt(on_map * image.shape[0] * image.shape[1] / max(surface, 1e-30))
    middle = mesh.bounds().mean(0)
    distance = (cameras.position - middle).norm(dim=-1)
    pixel = 2 * (cameras.fov_y / 2).tan() * distance / cameras.height
    return texels * float(pixel.min())
