"""Pictures of a prompt, and pictures on disk."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from threed.core import files
from threed.core.cameras import Cameras
from threed.core.pictures import FORMATS, Size, fit, is_clear, middle, open_picture, sides, to_rgb
from threed.diffusion.backbone import Backbone
from threed.diffusion.guide import Guide
from threed.diffusion.paint import Ready, paint
from threed.diffusion.score import guided


class PictureWarning(UserWarning):
    """A picture was not as it is needed, and is made to fit."""


def make_images(
    backbone: Backbone,
    prompt: str,
    *,
    n: int = 1,
    steps: int = 30,
    guide: Guide = Guide(7.5),
    seed: int = 0,
    size: Size | None = None,
    cameras: Cameras | None = None,
) -> Tensor:
    """[n, 3, H, W] in [0, 1]. size is in pixels, by default the backbone's own.

    cameras: n of them, for a multi-view backbone. Noise is
    drawn on the CPU, so that a seed means the same on every device. InputError for steps, a seed or
    a size that cannot be.
    """
    texts = backbone.encode_text([prompt, guide.negative])
    each = (texts.select(torch.full((n,), i, device=backbone.device)) for i in (0, 1))
    text, other = (replace(one, cameras=cameras) for one in each)
    ready = Ready(guided(backbone, text, other, guide.scale))
    return paint(backbone, ready, n=n, steps=steps, seed=seed, size=size)


def grid(images: Tensor, columns: int | None = None) -> Tensor:
    """[N, 3, H, W] -> one picture [3, rows*H, columns*W], white where none is left."""
    n, channels, height, width = images.shape
    columns = min(n, columns or int(np.ceil(n**0.5)))
    rows = -(-n // columns)
    padded = torch.cat([images, images.new_ones(rows * columns - n, channels, height, width)])
    cells = padded.reshape(rows, columns, channels, height, width)
    return cells.permute(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)


def save_image(image: Tensor, path: Path) -> None:
    """Write [3, H, W] in [0, 1] as PNG, JPEG or WebP by the name's ending; aside, then renamed."""
    files.check_out(path, FORMATS)
    array = (image.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    with files.write_aside(path) as part:
        Image.fromarray(array).save(part)


def load_image(path: Path, size: Size) -> Tensor:
    """[1, 3, H, W] sRGB in [0, 1]: as much of the middle of a picture as fits, over white.

    A PictureWarning says so where it has to be cut or resized, or is transparent. InputError as
    from `open_picture` and `to_rgb`.
    """
    opened = open_picture(path)
    picture = to_rgb(opened, str(path))
    if is_clear(opened):
        text = f"{path} is transparent in parts, which lie on white"
        warnings.warn(text, PictureWarning, stacklevel=2)
    (width, height), wanted = picture.size, sides(size)
    if picture.size != wanted:
        left, top, right, bottom = middle(picture.size, size)
        w, h = right - left, bottom - top
        cut = "" if (w, h) == (width, height) else f"its middle, {w}×{h}, is "
        text = f"{path} is {width}×{height}: {cut}resized to {wanted[0]}×{wanted[1]}"
        warnings.warn(text, PictureWarning, stacklevel=2)
    pixels = np.array(fit(picture, size))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
