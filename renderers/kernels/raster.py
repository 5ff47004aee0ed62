"""Triangles on the screen: which one covers a pixel, and what lies there. Forward only.

The buffer layout is nvdiffrast's, except that row 0 is the top, as in all our images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from renderers import kernels

MAX_FACES = 2**24 - 1  # ids travel as float32


@torch.no_grad()
def rasterize(clip: Tensor, faces: Tensor, size: tuple[int, int]) -> Tensor:
    """The nearest triangle at each pixel centre: [B, H, W, 4] float32, for size = (H, W).

    clip [B, V, 4] are OpenGL clip coordinates (x right, y up, near is z = -w); faces [F, 3] int64.
    The channels are u, v (perspective-correct weights of the triangle's first and second vertex),
    z / w, and the triangle's index + 1; all 0 where there is none. Both sides of a triangle show;
    what lies behind the camera (w <= 0) or outside -w <= z <= w is cut away exactly. Of equally
    near triangles the first in `faces` wins. ValueError on shapes.
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


@torch.no_grad()
def interpolate(attributes: Tensor, buffer: Tensor, faces: Tensor) -> Tensor:
    """Vertex attributes [V, C] or [B, V, C] at the pixels of a rasterize buffer: [B, H, W, C].

    faces [F, 3] int64 name the rows of `attributes`: the ones given to rasterize, or others in the
    same order, such as a mesh's uv_faces. 0 where there is no triangle. ValueError on shapes.
    """
    _check_faces(faces)
    if buffer.ndim != 4 or buffer.shape[3] != 4:
        raise ValueError(f"buffer must be [B, H, W, 4], got {list(buffer.shape)}")
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


@torch.no_grad()
def texture(image: Tensor, uv: Tensor) -> Tensor:
    """Bilinear look-ups [B, H, W, C] in an image [h, w, C] or [B, h, w, C] at uv [B, H, W, 2].

    uv (0, 0) is the lower left corner of the image, whose row 0 is the top; (1, 1) the upper right.
    Outside, the border's colour goes on. ValueError on shapes.
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


def _check_faces(faces: Tensor) -> None:
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype != torch.int64:
        raise ValueError(f"faces must be [F, 3] int64, got {list(faces.shape)} {faces.dtype}")
    if len(faces) > MAX_FACES:
        raise ValueError(f"at most {MAX_FACES} faces can be told apart, got {len(faces)}")
