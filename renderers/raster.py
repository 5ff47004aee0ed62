"""Pictures of a mesh: one that is finished, and one that learns from its pictures."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
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
# points, unit normals and unit directions to the camera, [M, 3] each, and where on the mesh they
# are, entries [1, M, 1, 4] of a rasterize buffer, to sRGB [M, 3]
Shade = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
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

    shade is called once, with the world positions, the unit normals, the unit directions to the
    camera and the buffer's entries of the surface in all covered pixels; both sides of a face show,
    with the normal of the side that is seen. Outlines are blended and move with their vertices
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
    color = shade(point, normal, -ray / distance, hits)
    values = torch.cat([color, torch.ones_like(distance), distance, normal], -1)
    image = torch.cat([behind, behind.new_zeros(b, h, w, 5)], -1).index_put(covered, values)
    image = antialias(image, buffer, clip, faces)
    rgb, opacity, depth, normal = torch.split(image, [3, 1, 1, 3], -1)
    depth = torch.where(opacity > 1e-3, depth / opacity.clamp(min=1e-3), torch.zeros_like(depth))
    return RenderOutput(rgb, opacity, depth, normal)


def _behind(background: Tensor | None, shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """[B, H, W, 3] what shows beside the mesh."""
    b, h, w = shape
    background = (torch.ones(3) if background is None else background).to(device)
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
    """Look at a finished mesh through the cameras, over a background [3] or [B, 3] (None is white).

    Each pixel takes antialias_factor² samples. They are shaded one by one where an outline runs
    through the pixel; elsewhere one of them is shaded for all. For look, light and relief see
    `Subject`. On the device of the mesh; no gradient. ValueError for a factor below 1 and for
    another shape of the background.
    """
    cameras = cameras.to(mesh.vertices.device)
    b, h, w = len(cameras), cameras.height, cameras.width
    if antialias_factor < 1:
        raise ValueError(f"antialias_factor must be at least 1, got {antialias_factor}")
    if background is None:
        background = torch.ones(3)
    if background.shape not in ((3,), (b, 3)):
        raise ValueError(f"background must be [3] or [{b}, 3], got {list(background.shape)}")
    subject = Subject(mesh, look, light or Light(), antialias_factor, relief)
    image = mesh.vertices.new_zeros(b, h, w, 8)
    for view in range(b):
        image[view] = subject.draw(cameras[view : view + 1])
    rgb, opacity, depth, normal = torch.split(image, [3, 1, 1, 3], -1)
    behind = background.to(image.device).expand(b, 3)[:, None, None]
    depth = torch.where(opacity > 0, depth / opacity.clamp(min=1e-6), depth)
    return RenderOutput(rgb + (1 - opacity) * behind, opacity, depth, F.normalize(normal, dim=-1))


@dataclass(frozen=True)
class Subject:
    """A finished mesh, and how its pictures are made.

    Both sides of a face show, with the normal of the side that is seen. Normals are those of the
    vertices, interpolated, or of `relief`; colours are the texture's, the vertices' or grey.
    """

    mesh: Mesh
    look: Look = "albedo"  # see `renderers.shading.shade`
    light: Light = field(default_factory=Light)
    factor: int = 2  # samples along each side of a pixel
    relief: Tensor | None = None  # [h, w, 3] world normals, on the map of a mesh that has uv

    @functools.cached_property
    def normals(self) -> Tensor:
        """[V, 3] unit normals of the vertices."""
        return self.mesh.vertex_normals()

    @functools.cached_property
    def uv(self) -> Tensor:
        """[T, 2] texture coordinates, v upwards; ValueError for a mesh without."""
        return self.mesh.opengl_map()[0]

    @functools.cached_property
    def planes(self) -> tuple[Tensor, Tensor]:
        """Normals of the faces [F, 3], not unit, and how far along them the faces lie [F]."""
        a, b, c = self.mesh.vertices[self.mesh.faces].unbind(1)
        normal = torch.linalg.cross(b - a, c - a)
        return normal, (normal * a).sum(-1)

    @torch.no_grad()
    def draw(self, camera: Cameras, *, solid: bool = False, rgb_only: bool = False) -> Tensor:
        """Draw the view of one camera on the mesh's device: [H, W, 8], or [H, W, 4] if rgb_only.

        The channels are means over a pixel's samples, 0 where they hit nothing: sRGB, opacity,
        distance from the camera in world units, normal. `solid` says that the mesh is closed, its
        faces look outwards and the camera stands outside, so that nobody can see the faces that
        look away: they are left out.
        """
        mesh, height, width = self.mesh, camera.height, camera.width
        normal, along = self.planes
        ahead = normal @ camera.position[0] >= along
        part = _Part(mesh.faces, mesh.uv_faces, ahead)
        if solid:
            part = part.of(ahead.nonzero()[:, 0])
        clip = F.pad(mesh.vertices, (0, 1), value=1.0) @ camera.mvp().mT
        window = _find_window(clip, height, width)
        size = (window.height * self.factor, window.width * self.factor)
        buffer = rasterize(window.zoom(clip), part.faces, size)[0]
        lamp = lamps(self.light, camera)[0]
        image = clip.new_zeros(height * width, 4 if rgb_only else 8)
        for pixels, hits in _split_pixels(buffer, self.factor):
            normal = self._find_normals(hits, part)
            albedo = self._find_albedo(hits, part)
            color = shade(self.look, albedo, normal, lamp, self.light.ambient)
            seen = F.pad(color.clamp(0, 1), (0, 1), value=1.0)
            if not rgb_only:
                ray = interpolate(mesh.vertices, hits, part.faces) - camera.position[0]
                seen = torch.cat([seen, ray.norm(dim=-1, keepdim=True), normal], -1)
            seen = (seen * (hits[..., 3:] > 0)).mean(2)[0]
            image.index_copy_(0, window.place(pixels), seen)
        return image.view(height, width, -1)

    def _find_normals(self, hits: Tensor, part: _Part) -> Tensor:
        """Unit world normals [1, N, S, 3] at hits [1, N, S, 4], of the side that is seen."""
        if self.relief is not None and part.uv_faces is not None:
            normal = texture(self.relief, interpolate(self.uv, hits, part.uv_faces))
        else:
            normal = interpolate(self.normals, hits, part.faces)
        ahead = part.ahead[hits[..., 3].long() - 1][..., None]
        return F.normalize(torch.where(ahead, normal, -normal), dim=-1)

    def _find_albedo(self, hits: Tensor, part: _Part) -> Tensor:
        """sRGB [1, N, S, 3] at hits [1, N, S, 4]."""
        image = self.mesh.material.albedo
        if image is not None and part.uv_faces is not None:
            return texture(image, interpolate(self.uv, hits, part.uv_faces))
        if self.mesh.colors is not None:
            return interpolate(self.mesh.colors, hits, part.faces)
        return hits.new_full((*hits.shape[:3], 3), PLAIN)


@dataclass(frozen=True)
class _Part:
    """The faces of a mesh that a picture is drawn of."""

    faces: Tensor  # [F, 3] int64
    uv_faces: Tensor | None  # [F, 3] int64
    ahead: Tensor  # [F] bool: they look towards the camera

    def of(self, rows: Tensor) -> _Part:
        """Only the faces of these rows [N]."""
        uv_faces = None if self.uv_faces is None else self.uv_faces[rows]
        return _Part(self.faces[rows], uv_faces, self.ahead[rows])


@dataclass(frozen=True)
class _Window:
    """A part of a picture of full_height x full_width pixels."""

    top: int
    left: int
    height: int
    width: int
    full_height: int
    full_width: int

    def zoom(self, clip: Tensor) -> Tensor:
        """Turn clip coordinates [B, V, 4] of the whole picture into those of the part."""
        x, y, z, w = clip.unbind(-1)
        right = self.full_width - 2 * self.left - self.width
        down = self.full_height - 2 * self.top - self.height
        x = (x * self.full_width + w * right) / self.width
        y = (y * self.full_height - w * down) / self.height
        return torch.stack([x, y, z, w], -1)

    def place(self, pixels: Tensor) -> Tensor:
        """Turn indices [N] of pixels, counted row by row, in the part into those in the whole."""
        row, column = pixels // self.width, pixels % self.width
        return (row + self.top) * self.full_width + column + self.left


def _find_window(clip: Tensor, height: int, width: int) -> _Window:
    """Find the part of a picture that the points [B, V, 4] can lie in: the rest is empty."""
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


def _split_pixels(buffer: Tensor, factor: int) -> list[tuple[Tensor, Tensor]]:
    """Choose what to shade of a buffer [h * factor, w * factor, 4]: two lists of pixels and hits.

    Pixels are indices [N], row by row; hits are their samples [1, N, S, 4]: one sample (S = 1) of
    the pixels that one smooth surface fills, all of those that an outline cuts.
    """
    width = buffer.shape[1] // factor
    corners = list(itertools.product(range(factor), repeat=2))
    samples = [buffer[i::factor, j::factor] for i, j in corners]
    count = torch.stack([sample[..., 3] > 0 for sample in samples]).sum(0)
    low = functools.reduce(torch.minimum, (sample[..., 2] for sample in samples))
    high = functools.reduce(torch.maximum, (sample[..., 2] for sample in samples))
    # z / w = a - b / w, a nearly 1: so this is the relative change of w
    smooth = (count == factor**2) & (high - low <= JUMP * (1 - high))
    places = torch.tensor([i * width * factor + j for i, j in corners], device=buffer.device)
    found = []
    for chosen, used in ((smooth, places[:1]), ((count > 0) & ~smooth, places)):
        pixels = chosen.flatten().nonzero()[:, 0]
        first = pixels // width * (factor**2 * width) + pixels % width * factor
        hits = buffer.view(-1, 4).index_select(0, (first[:, None] + used).flatten())
        found.append((pixels, hits.view(1, -1, len(used), 4)))
    return found
