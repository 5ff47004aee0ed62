"""Many pictures of a mesh of which nothing but the colours is wanted: turntables, previews."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from renderers.kernels import select
from renderers.kernels.raster import rasterize
from renderers.raster import JUMP, _window, render_mesh
from renderers.shading import Light, Look, lamps
from threed.core.cameras import Cameras
from threed.core.mesh import Mesh

FACTOR = 2  # samples along each side of a pixel


def film(
    mesh: Mesh,
    cameras: Cameras,
    *,
    background: Tensor,
    look: Look = "albedo",
    solid: bool = False,
    relief: Tensor | None = None,
) -> Iterator[Tensor]:
    """One picture [H, W, 3] sRGB for each camera: the rgb of `renderers.raster.render_mesh`.

    Over a background [3]. `solid` says that the mesh is closed, its faces look outwards, and the
    cameras stand outside: so that nobody can see the faces that look away. relief [h, w, 3] are
    normals in the world, on the map of a textured mesh, to be shown instead of its own. A texture
    that is too fine for the pixels is taken smaller. On the CPU in one pass over each picture's
    samples, about three times cheaper; elsewhere, and with the reference kernels, by render_mesh.
    No gradient.
    """
    mesh = _fitting(mesh, cameras)
    if select(mesh.vertices.device.type) != "cpu":
        for view in range(len(cameras)):
            camera = cameras[view : view + 1]
            seen = render_mesh(
                mesh, camera, background=background, look=look, antialias_factor=FACTOR,
                relief=relief,
            )  # fmt: skip
            yield seen.rgb[0]
        return
    from renderers.kernels.film_cpu import LOOKS, resolve

    h, w = cameras.height, cameras.width
    light = Light()
    lamp = F.pad(lamps(light, cameras), (0, 1), value=light.ambient)
    clip = F.pad(mesh.vertices.float(), (0, 1), value=1.0) @ cameras.mvp().mT
    normals, planes, behind = mesh.vertex_normals().float(), _planes(mesh), background.float()
    source, own_faces, rows, image = _own(mesh)
    relief = torch.zeros(0, 1, 3) if relief is None else relief.float().contiguous()
    for view, place in enumerate(cameras.position):
        ahead: Tensor | slice = slice(None)
        if solid:
            ahead = planes[:, :3] @ place > planes[:, 3]
        part, faces = _window(clip[view : view + 1], h, w), mesh.faces[ahead]
        size = (part.height * FACTOR, part.width * FACTOR)
        buffer = rasterize(part.zoom(clip[view : view + 1]), faces, size)[0]
        arrays = (faces, normals, planes[ahead], place, lamp[view])
        own = (own_faces[ahead], rows, image, relief, behind)
        out = behind.expand(h, w, 3).contiguous()
        resolve(
            buffer.numpy(), FACTOR, JUMP, LOOKS.index(look), *(t.numpy() for t in arrays), source,
            *(t.numpy() for t in own), part.top, part.left, out.numpy(),
        )  # fmt: skip
        yield out


def _fitting(mesh: Mesh, cameras: Cameras) -> Mesh:
    """The mesh with its texture halved while two of its texels fit into a pixel.

    Without, fine patterns flicker from frame to frame; `benchmarks/turntable.py` prints what it
    gains. One size for all of the picture: our maps have about one scale, and toys are not deep.
    """
    image = mesh.material.albedo
    if image is None or mesh.uv is None or mesh.uv_faces is None:
        return mesh
    halvings = int(math.log2(max(texels_a_pixel(mesh, cameras), 1)))
    for _ in range(halvings):
        if min(image.shape[:2]) < 2:
            break
        image = F.avg_pool2d(image.permute(2, 0, 1), 2).permute(1, 2, 0)
    return replace(mesh, material=replace(mesh.material, albedo=image))


def texels_a_pixel(mesh: Mesh, cameras: Cameras) -> float:
    """How many texels a side, on average, the nearest of the cameras sees in a pixel of a mesh."""
    image = mesh.material.albedo
    if image is None or mesh.uv is None or mesh.uv_faces is None:
        raise ValueError("a mesh without a texture has no texels")
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    surface = float(torch.linalg.cross(b - a, c - a).norm(dim=-1).sum())
    p, q, r = mesh.uv[mesh.uv_faces].unbind(1)
    one, two = q - p, r - p
    on_map = float((one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]).abs().sum())
    texels = math.sqrt(on_map * image.shape[0] * image.shape[1] / max(surface, 1e-30))
    middle = mesh.bounds().mean(0)
    distance = (cameras.position - middle).norm(dim=-1)
    pixel = 2 * (cameras.fov_y / 2).tan() * distance / cameras.height
    return texels * float(pixel.min())


def _planes(mesh: Mesh) -> Tensor:
    """[F, 4] the normals of the faces, not unit, and how far along them the faces are."""
    a, b, c = mesh.vertices.float()[mesh.faces].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    return torch.cat([normal, (normal * a).sum(-1, keepdim=True)], 1)


def _own(mesh: Mesh) -> tuple[int, Tensor, Tensor, Tensor]:
    """Where the mesh's own colours come from, as `resolve` takes it: source, faces, rows, image."""
    from renderers.kernels.film_cpu import COLORS, PLAIN, TEXTURE

    image, nothing = mesh.material.albedo, torch.zeros(1, 1, 3)
    if image is not None and mesh.uv is not None and mesh.uv_faces is not None:
        return TEXTURE, mesh.uv_faces, mesh.uv.float().contiguous(), image.float().contiguous()
    if mesh.colors is not None:
        return COLORS, mesh.faces, mesh.colors.float().contiguous(), nothing
    return PLAIN, mesh.faces, torch.zeros(1, 3), nothing
