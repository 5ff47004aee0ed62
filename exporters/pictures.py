"""Pictures as bytes."""

from __future__ import annotations

import io
from collections.abc import MutableMapping
from dataclasses import replace

from PIL import Image
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from threed.core.mesh import Mesh

_written: MutableMapping[Tensor, tuple[int, bytes]] = WeakTensorKeyDictionary()


def to_bytes(image: Tensor) -> Tensor:
    """Round pixels [..., 3] in [0, 1] to uint8, on the CPU."""
    return (image.detach().cpu().clamp(0, 1) * 255).round().byte()


def encode_png(image: Tensor) -> bytes:
    """Make a PNG file of an image [H, W, 3] in [0, 1]; the same image gives the same bytes.

    Remembered while the image lives, since an asset is written in several formats.
    """
    version, content = _written.get(image, (-1, b""))
    if version != image._version:
        file = io.BytesIO()
        Image.fromarray(to_bytes(image).numpy()).save(file, "PNG")
        content = file.getvalue()
        _written[image] = (image._version, content)
    return content


def fit_ball(mesh: Mesh) -> Mesh:
    """Move and scale a mesh so that it just fits the unit ball, as our cameras expect."""
    low, high = mesh.bounds()
    vertices = mesh.vertices - (low + high) / 2
    radius = vertices.norm(dim=-1).max().clamp(min=1e-9)
    return replace(mesh, vertices=vertices / radius)
