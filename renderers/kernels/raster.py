"""Triangles on the screen: which one covers a pixel, what lies there, and where outlines run.

The operations, their buffer layout and their gradients are nvdiffrast's (Laine et al. 2020, Modular
Primitives for High-Performance Differentiable Rendering), except that row 0 is the top, as in all
our images. A picture whose vertices learn: `rasterize`, `interpolate` what the vertices carry,
colour the pixels, `antialias`. Whatever can be moved by a gradient is written per operation.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from renderers import kernels

MAX_FACES = 2**24 - 1  # ids travel as float32


def rasterize(clip: Tensor, faces: Tensor, size: tuple[int, int]) -> Tensor:
    """The nearest triangle at each pixel centre: [B, H, W, 4] float32, for size = (H, W).

    clip [B, V, 4] are OpenGL clip coordinates (x right, y up, near is z = -w); faces [F, 3] int64.
    The channels are u, v (perspective-correct weights of the triangle's first and second vertex),
    z / w, and the triangle's index + 1; all 0 where there is none. Both sides of a triangle show;
    what lies behind the camera (w <= 0) or outside -w <= z <= w is cut away exactly. Of equally
    near triangles the first in `faces` wins. Gradients go from u and v to clip; outlines move only
    through `antialias`. ValueError on shapes.
    """
    h, w = size
    if clip.ndim != 3 or clip.shape[2] != 4:
        raise ValueError(f"clip must be [B, V, 4], got {list(clip.shape)}")
    _check_faces(faces)
    if h < 1 or w < 1:
        raise ValueError(f"size must be at least one pixel, got {h} x {w}")
    module = kernels.implementation("rasterize", clip.device.type)
    buffer: Tensor = module.rasterize(clip.float().contiguous(), faces.contiguous(), h, w)
    return buffer


def interpolate(attributes: Tensor, buffer: Tensor, faces: Tensor) -> Tensor:
    """Vertex attributes [V, C] or [B, V, C] at the pixels of a rasterize buffer: [B, H, W, C].

    faces [F, 3] int64 name the rows of `attributes`: the ones given to rasterize, or others in the
    same order, such as a mesh's uv_faces. 0 where there is no triangle. Gradients go to the
    attributes, and to u and v of the buffer. ValueError on shapes.
    """
    _check_faces(faces)
    _check_buffer(buffer)
    attributes = _batched("attributes", attributes, 3, len(buffer))
    module = kernels.implementation("interpolate", buffer.device.type)
    values: Tensor = module.interpolate(
        attributes.float().contiguous(), buffer.contiguous(), faces.contiguous()
    )
    return values


@torch.no_grad()
def derivatives(
    attributes: Tensor, clip: Tensor, buffer: Tensor, faces: Tensor, names: Tensor | None = None
) -> Tensor:
    """How fast attributes [V, C] or [B, V, C] change on the screen: [B, H, W, 2 C], a pixel.

    Two channels an attribute: its change from a pixel to the one on the right, and to the one below
    (nvdiffrast's `uv_da`). clip, buffer and faces are those of `rasterize`; names [F, 3] int64 are
    the rows of `attributes`, where they are not the faces themselves. 0 where there is no triangle.
    No gradient. ValueError on shapes.
    """
    names = faces if names is None else names
    _check_faces(faces)
    _check_faces(names)
    _check_buffer(buffer)
    _check_clip(clip, len(buffer))
    attributes = _batched("attributes", attributes, 3, len(buffer))
    module = kernels.implementation("derivatives", buffer.device.type)
    slopes: Tensor = module.derivatives(
        attributes.float().contiguous(), clip.float().contiguous(), buffer.contiguous(),
        faces.contiguous(), names.contiguous(),
    )  # fmt: skip
    return slopes


def texture(image: Tensor, uv: Tensor, slopes: Tensor | None = None) -> Tensor:
    """Look-ups [B, H, W, C] in an image [h, w, C] or [B, h, w, C] at uv [B, H, W, 2].

    uv (0, 0) is the lower left corner of the image, whose row 0 is the top; (1, 1) the upper right.
    Outside, the border's colour goes on. Bilinear; with slopes [B, H, W, 4], the `derivatives` of
    uv, trilinear: of the image's halves, quarters and so on (down to the first side that is odd),
    the two whose texels are about as large as the pixel is long in the image. Gradients go to image
    and uv, not to the slopes. ValueError on shapes.
    """
    if uv.ndim != 4 or uv.shape[3] != 2:
        raise ValueError(f"uv must be [B, H, W, 2], got {list(uv.shape)}")
    image = _batched("image", image, 4, len(uv)).float()
    if slopes is not None and slopes.shape != (*uv.shape[:3], 4):
        raise ValueError(f"slopes must be {[*uv.shape[:3], 4]}, got {list(slopes.shape)}")
    levels, level = [image], uv.new_zeros(uv.shape[:3], dtype=torch.float32)
    if slopes is not None:
        level = _level(slopes.detach().float(), *image.shape[1:3])
        while (half := _halved(levels[-1])) is not None:
            levels.append(half)
    sizes = [(item.shape[1], item.shape[2]) for item in levels]
    texels = torch.cat([item.flatten(1, 2) for item in levels], 1).contiguous()
    module = kernels.implementation("texture", uv.device.type)
    values: Tensor = module.texture(texels, sizes, uv.float().contiguous(), level)
    return values


def _level(slopes: Tensor, height: int, width: int) -> Tensor:
    """[B, H, W] log2 of the longest way in texels that a pixel of slopes [B, H, W, 4] makes."""
    a, b, c, d = (slopes * slopes.new_tensor([width, width, height, height])).unbind(-1)
    right, down, both = a * a + c * c, b * b + d * d, a * b + c * d
    # the larger eigenvalue of JᵀJ
    longest = (right + down) / 2 + (((right - down) / 2).square() + both.square()).sqrt()
    return longest.clamp(min=1).log2() / 2


def _halved(image: Tensor) -> Tensor | None:
    """Means of 2 x 2 texels of an image [B, h, w, C]; None if a side is odd, unless it is 1."""
    h, w = image.shape[1:3]
    if max(h, w) == 1 or (h > 1 and h % 2) or (w > 1 and w % 2):
        return None
    window = (min(h, 2), min(w, 2))
    return F.avg_pool2d(image.permute(0, 3, 1, 2), window).permute(0, 2, 3, 1)


@torch.no_grad()
def twins(faces: Tensor) -> Tensor:
    """Which edges of faces [F, 3] int64 are one: [F, 3] int64, what `antialias` needs to know.

    Edge (f, i) is the one of triangle f that its vertex i is not on, and has the number 3 * f + i.
    Entry (f, i) is the number of the same edge in the other triangle it belongs to; -1 where there
    is no other triangle, or more than one.
    """
    _check_faces(faces)
    module = kernels.implementation("twins", faces.device.type)
    twin: Tensor = module.twins(faces.contiguous())
    return twin


def antialias(
    color: Tensor, buffer: Tensor, clip: Tensor, faces: Tensor, twin: Tensor | None = None
) -> Tensor:
    """The picture [B, H, W, C] with outlines blended by where they cross between two pixels.

    buffer, clip and faces are those of `rasterize`; twin is `twins(faces)`, which may be kept while
    the faces stay. Between neighbours of different triangles, the surface of the nearer one is
    followed towards the other's centre, up to an edge beyond which no triangle goes on: an outline.
    (nvdiffrast looks at the nearer triangle alone, and so misses outlines of fine meshes.) Where it
    crosses the line between the centres, the pixel whose half it enters or leaves takes so much of
    the other's colour; of edges that run more across than up, only pairs of pixels one above the
    other are looked at, and the reverse. Gradients go to the color, and from the blend to clip:
    they move outlines. ValueError on shapes.
    """
    _check_faces(faces)
    _check_buffer(buffer)
    if color.ndim != 4 or color.shape[:3] != buffer.shape[:3]:
        raise ValueError(f"color must be {[*buffer.shape[:3], 'C']}, got {list(color.shape)}")
    _check_clip(clip, len(buffer))
    if twin is not None and twin.shape != faces.shape:
        raise ValueError(f"twin must be {list(faces.shape)}, got {list(twin.shape)}")
    module = kernels.implementation("antialias", buffer.device.type)
    values: Tensor = module.antialias(
        color.float().contiguous(), buffer.contiguous(), clip.float().contiguous(),
        faces.contiguous(), twin,
    )  # fmt: skip
    return values


def _batched(name: str, value: Tensor, dimensions: int, views: int) -> Tensor:
    """The value with a batch in front, of 1 if it is the same for all views."""
    if value.ndim == dimensions - 1:
        value = value[None]
    if value.ndim != dimensions or len(value) not in (1, views):
        shape = {3: "V, C]", 4: "h, w, C]"}[dimensions]
        raise ValueError(f"{name} must be [{shape} or [{views}, {shape}, got {list(value.shape)}")
    return value


def _check_clip(clip: Tensor, views: int) -> None:
    if clip.ndim != 3 or clip.shape[2] != 4 or len(clip) != views:
        raise ValueError(f"clip must be [{views}, V, 4], got {list(clip.shape)}")


def _check_buffer(buffer: Tensor) -> None:
    if buffer.ndim != 4 or buffer.shape[3] != 4:
        raise ValueError(f"buffer must be [B, H, W, 4], got {list(buffer.shape)}")


def _check_faces(faces: Tensor) -> None:
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype != torch.int64:
        raise ValueError(f"faces must be [F, 3] int64, got {list(faces.shape)} {faces.dtype}")
    if len(faces) > MAX_FACES:
        raise ValueError(f"at most {MAX_FACES} faces can be told apart, got {len(faces)}")
