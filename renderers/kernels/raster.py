"""Triangles on the screen: which one covers a pixel, what lies there, and where outlines run.

The operations, their buffer layout and their gradients are nvdiffrast's (Laine et al. 2020, Modular
Primitives for High-Performance Differentiable Rendering), except that row 0 is the top, as in all
our images. A picture whose vertices learn: `rasterize`, `interpolate` what the vertices carry,
colour the pixels, `antialias`. Whatever can be moved by a gradient is written per operation.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
    module = kernels.implementation("raster", clip.device.type)
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
    if attributes.ndim == 2:
        attributes = attributes[None]
    if attributes.ndim != 3 or len(attributes) not in (1, len(buffer)):
        raise ValueError(f"attributes must be [V, C] or [{len(buffer)}, V, C], "
                         f"got {list(attributes.shape)}")  # fmt: skip
    module = kernels.implementation("raster", buffer.device.type)
    values: Tensor = module.interpolate(
        attributes.float().contiguous(), buffer.contiguous(), faces.contiguous()
    )
    return values


def texture(image: Tensor, uv: Tensor) -> Tensor:
    """Bilinear look-ups [B, H, W, C] in an image [h, w, C] or [B, h, w, C] at uv [B, H, W, 2].

    uv (0, 0) is the lower left corner of the image, whose row 0 is the top; (1, 1) the upper right.
    Outside, the border's colour goes on. Gradients go to both. ValueError on shapes.
    """
    if uv.ndim != 4 or uv.shape[3] != 2:
        raise ValueError(f"uv must be [B, H, W, 2], got {list(uv.shape)}")
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or len(image) not in (1, len(uv)):
        raise ValueError(f"image must be [h, w, C] or [{len(uv)}, h, w, C], "
                         f"got {list(image.shape)}")  # fmt: skip
    module = kernels.implementation("raster", uv.device.type)
    values: Tensor = module.texture(image.float().contiguous(), uv.float().contiguous())
    return values


@torch.no_grad()
def twins(faces: Tensor) -> Tensor:
    """Which edges of faces [F, 3] int64 are one: [F, 3] int64, what `antialias` needs to know.

    Edge (f, i) is the one of triangle f that its vertex i is not on, and has the number 3 * f + i.
    Entry (f, i) is the number of the same edge in the other triangle it belongs to; -1 where there
    is no other triangle, or more than one.
    """
    _check_faces(faces)
    module = kernels.implementation("raster", faces.device.type)
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
    if clip.ndim != 3 or clip.shape[2] != 4 or len(clip) != len(buffer):
        raise ValueError(f"clip must be [{len(buffer)}, V, 4], got {list(clip.shape)}")
    if twin is None:
        twin = twins(faces)
    if twin.shape != faces.shape:
        raise ValueError(f"twin must be {list(faces.shape)}, got {list(twin.shape)}")
    module = kernels.implementation("raster", buffer.device.type)
    values: Tensor = module.antialias(
        color.float().contiguous(), buffer.contiguous(), clip.float().contiguous(),
        faces.contiguous(), twin,
    )  # fmt: skip
    return values


def _check_buffer(buffer: Tensor) -> None:
    if buffer.ndim != 4 or buffer.shape[3] != 4:
        raise ValueError(f"buffer must be [B, H, W, 4], got {list(buffer.shape)}")


def _check_faces(faces: Tensor) -> None:
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype != torch.int64:
        raise ValueError(f"faces must be [F, 3] int64, got {list(faces.shape)} {faces.dtype}")
    if len(faces) > MAX_FACES:
        raise ValueError(f"at most {MAX_FACES} faces can be told apart, got {len(faces)}")
