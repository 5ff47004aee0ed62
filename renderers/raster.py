"""Pictures of a mesh: one that is finished, and one that learns from its pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from renderers.kernels.raster import antialias, interpolate, rasterize, texture
from renderers.shading import Light, Look, lamps, shade
from threed.core.cameras import Cameras
from threed.core.mesh import Mesh
from threed.core.render import RenderOutput

PLAIN = 0.7  # sRGB grey of a mesh that has neither texture nor colours
SAMPLES = 2**20  # rasterized together: memory of this size is reused, larger pieces are not
# points, unit normals and unit directions to the camera, [M, 3] each, to sRGB [M, 3]
Shade = Callable[[Tensor, Tensor, Tensor], Tensor]
JUMP = 0.01  # relative change of depth within a pixel from which it is shaded sample by sample


def render(
    vertices: Tensor,
    faces: Tensor,
    cameras: Cameras,
    *,
    shade: Shade,
    background: Tensor | None = None,
    normals: Literal["smooth", "flat"] = "smooth",
) -> RenderOutput:
    """A picture that teaches vertices [V, 3] and whatever the shade depends on; faces [F, 3] int64.

    shade is called once, with the world positions, the unit normals and the unit directions to the
    camera of the surface in all covered pixels; both sides of a face show, with the normal of the
    side that is seen. Outlines are blended and move with their vertices
    (`renderers.kernels.raster.antialias`). background is
    [3], [B, 3] or [B, H, W, 3]; None is white. In blended pixels opacity is the part that is
    covered, and the normal as much shorter. On the device of the vertices, which the gradients
    reach through positions, normals and outlines. ValueError on shapes.
    """
    cameras = cameras.to(vertices.device)
    b, h, w = len(cameras), cameras.height, cameras.width
    behind = _behind(background, (b, h, w), vertices.device)
    clip = F.pad(vertices, (0, 1), value=1.0) @ cameras.mvp().mT
    buffer = rasterize(clip, faces, (h, w))
    covered = torch.nonzero(buffer.detach()[..., 3], as_tuple=True)
    hits = buffer[covered][None, :, None]  # a picture of one row a pixel, [1, N, 1, 4]
    point = interpolate(vertices, hits, faces)[0, :, 0]
    ray = point - cameras.position[covered[0]]
    if normals == "smooth":
        smooth = Mesh(vertices, faces).vertex_normals()
        normal = F.normalize(interpolate(smooth, hits, faces)[0, :, 0], dim=-1)
    flat = _flat_normals(vertices, faces, hits)
    if normals == "flat":
        normal = flat
    away = (flat * ray).sum(-1, keepdim=True) > 0
    normal = torch.where(away, -normal, normal)
    distance = ray.norm(dim=-1, keepdim=True)
    color = shade(point, normal, -ray / distance)
    values = torch.cat([color, torch.ones_like(distance), distance, normal], -1)
    image = torch.cat([behind, behind.new_zeros(b, h, w, 5)], -1).index_put(covered, values)
    image = antialias(image, buffer, clip, faces)
    rgb, opacity, depth, normal = torch.split(image, [3, 1, 1, 3], -1)
    depth = torch.where(opacity > 1e-3, depth / opacity.clamp(min=1e-3), torch.zeros_like(depth))
    return RenderOutput(rgb, opacity, depth, normal)


def _behind(background: Tensor | None, shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """[B, H, W, 3] what shows beside the mesh."""
    b, h, w = shape
    if background is None:
        background = torch.ones(3)
    background = background.to(device)
    if background.shape in ((3,), (b, 3)):
        return background.expand(b, 3)[:, None, None].expand(b, h, w, 3)
    if background.shape != (b, h, w, 3):
        raise ValueError(f"background must be [3], [{b}, 3] or [{b}, {h}, {w}, 3], "
                         f"got {list(background.shape)}")  # fmt: skip
    return background


def _flat_normals(vertices: Tensor, faces: Tensor, hits: Tensor) -> Tensor:
    """Unit normals [N, 3] of the faces in a buffer's entries [1, N, 1, 4]."""
    a, b, c = vertices[faces[hits.detach()[0, :, 0, 3].long() - 1]].unbind(1)
    return F.normalize(torch.linalg.cross(b - a, c - a), dim=-1)


@torch.no_grad()
def render_mesh(
    mesh: Mesh,
    cameras: Cameras,
    *,
    background: Tensor | None = None,
    look: Look = "albedo",
    antialias_factor: int = 2,
    light: Light | None = None,
    relief: Tensor | None = None,
) -> RenderOutput:
    """Look at a mesh through the cameras, over a background [3] or [B, 3] (None is white).

    antialias_factor² samples are taken in a pixel; they are shaded one by one where an outline
    runs through the pixel, and as one elsewhere. Both sides of a face show, with the normal of the
    side that is seen. Smooth vertex normals, or relief [h, w, 3] of them on the mesh's map; the
    texture, else the vertex colours, else grey. For what the looks are see `renderers.shading`. On
    the device of the mesh; no gradient.
    """
    device = mesh.vertices.device
    cameras = cameras.to(device)
    b, h, w = len(cameras), cameras.height, cameras.width
    if antialias_factor < 1:
        raise ValueError(f"antialias_factor must be at least 1, got {antialias_factor}")
    if background is None:
        background = torch.ones(3)
    if background.shape not in ((3,), (b, 3)):
        raise ValueError(f"background must be [3] or [{b}, 3], got {list(background.shape)}")
    a, _, _ = corners = mesh.vertices[mesh.faces].unbind(1)
    flat = torch.linalg.cross(corners[1] - a, corners[2] - a)  # [F, 3] normals of the faces
    smooth = torch.cat([mesh.vertices, mesh.vertex_normals()], 1)
    clip = F.pad(mesh.vertices, (0, 1), value=1.0) @ cameras.mvp().mT
    lamp, light = lamps(light or Light(), cameras), light or Light()

    # colour, opacity, depth * opacity, normal
    image = torch.zeros(b, h, w, 8, device=device)
    per_pass = max(1, SAMPLES // (h * w * antialias_factor**2))
    for first in range(0, b, per_pass):
        here = clip[first : first + per_pass]
        window = _window(here, h, w)
        size = (window.height * antialias_factor, window.width * antialias_factor)
        buffer = rasterize(window.zoom(here), mesh.faces, size)
        for pixels, hits in _samples(buffer, antialias_factor):
            view = pixels[0] + first
            position, normal = torch.split(interpolate(smooth, hits, mesh.faces), 3, -1)
            if relief is not None and mesh.uv is not None and mesh.uv_faces is not None:
                normal = texture(relief, interpolate(mesh.uv, hits, mesh.uv_faces))
            ray = position - cameras.position[view][:, None]
            face = hits[..., 3].long() - 1  # [1, N, S]; -1 where the sample hits nothing
            away = (flat[face] * ray).sum(-1, keepdim=True) > 0
            normal = F.normalize(torch.where(away, -normal, normal), dim=-1)
            color = shade(look, _albedo(mesh, hits), normal, lamp[view][:, None], light.ambient)
            values = [color.clamp(0, 1), torch.ones_like(ray[..., :1]),
                      ray.norm(dim=-1, keepdim=True), normal]  # fmt: skip
            seen = (torch.cat(values, -1) * (face >= 0)[..., None]).mean(2)[0]
            image[view, pixels[1] + window.top, pixels[2] + window.left] = seen
    rgb, opacity, depth, normal = torch.split(image, [3, 1, 1, 3], -1)
    behind = background.to(device).expand(b, 3)[:, None, None]
    depth = torch.where(opacity > 0, depth / opacity.clamp(min=1e-6), depth)
    return RenderOutput(rgb + (1 - opacity) * behind, opacity, depth, F.normalize(normal, dim=-1))


@dataclass(frozen=True)
class _Window:
    """A part of pictures of full_height x full_width pixels."""

    top: int
    left: int
    height: int
    width: int
    full_height: int
    full_width: int

    def zoom(self, clip: Tensor) -> Tensor:
        """Clip coordinates [B, V, 4] of the whole picture to those of the part."""
        x, y, z, w = clip.unbind(-1)
        right = self.full_width - 2 * self.left - self.width
        down = self.full_height - 2 * self.top - self.height
        x = (x * self.full_width + w * right) / self.width
        y = (y * self.full_height - w * down) / self.height
        return torch.stack([x, y, z, w], -1)


def _window(clip: Tensor, height: int, width: int) -> _Window:
    """The part of the pictures that the points [B, V, 4] can lie in: mostly air is left out."""
    x, y, _, w = clip.unbind(-1)
    whole = _Window(0, 0, height, width, height, width)
    if bool((w < 1e-3).any()):
        return whole
    x, y = (x / w + 1) * (width / 2), (1 - y / w) * (height / 2)
    left, right = max(int(x.min()) - 1, 0), min(int(x.max()) + 2, width)
    top, bottom = max(int(y.min()) - 1, 0), min(int(y.max()) + 2, height)
    if left >= right or top >= bottom:
        return whole
    return _Window(top, left, bottom - top, right - left, height, width)


def _samples(buffer: Tensor, factor: int) -> list[tuple[tuple[Tensor, ...], Tensor]]:
    """What to shade of a buffer [b, h * factor, w * factor, 4]: two lists of pixels and samples.

    Each list holds pixels, as indices (view, row, column) [N], and their samples [1, N, S, 4]: one
    sample of the pixels that one smooth surface fills, all of those that an outline cuts.
    """
    parts = [buffer[:, i::factor, j::factor] for i in range(factor) for j in range(factor)]
    count = torch.stack([part[..., 3] > 0 for part in parts]).sum(0)
    z = torch.stack([part[..., 2] for part in parts])
    low, high = z.amin(0), z.amax(0)
    # z / w = a - b / w, a nearly 1: so this is the relative change of w
    whole = (count == len(parts)) & (high - low <= JUMP * (1 - high))
    cut = (count > 0) & ~whole
    one, many = torch.nonzero(whole, as_tuple=True), torch.nonzero(cut, as_tuple=True)
    return [
        (one, parts[0][one][None, :, None]),
        (many, torch.stack([part[many] for part in parts], 1)[None]),
    ]


def _albedo(mesh: Mesh, hits: Tensor) -> Tensor:
    """sRGB [1, N, S, 3] at the entries of a buffer [1, N, S, 4]."""
    image = mesh.material.albedo
    if image is not None and mesh.uv is not None and mesh.uv_faces is not None:
        return texture(image, interpolate(mesh.uv, hits, mesh.uv_faces))
    if mesh.colors is not None:
        return interpolate(mesh.colors, hits, mesh.faces)
    return hits.new_full((*hits.shape[:3], 3), PLAIN)
