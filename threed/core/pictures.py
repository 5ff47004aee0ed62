"""Pictures of anybody's, brought to upright RGB of 8 bits; their sizes and names."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from threed.core.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = (".png", ".jpg", ".jpeg", ".webp")
MAX_SIDE = 8192  # pixels; of a picture that is read, whatever its shape, as many as of its square
KNOWN = "PNG, JPEG, WebP, AVIF, GIF, TIFF, BMP and others are read"
CLEAR = ("LA", "La", "PA", "RGBA", "RGBa")  # modes with an alpha
Size = int | tuple[int, int]
"""Pixels a side of a square picture, or (width, height)."""


def sides(size: Size) -> tuple[int, int]:
    """Say the (width, height) of a picture."""
    return (size, size) if isinstance(size, int) else size


def read_size(text: str) -> Size:
    """Read "512", or "768x512": the width first. InputError for anything else."""
    numbers = text.lower().replace("×", "x").split("x")
    right = [re.fullmatch(r"\s*[1-9]\d{0,8}\s*", number) for number in numbers]
    if len(right) > 2 or None in right:
        raise InputError(f"size must be pixels a side, such as 512, or WIDTHxHEIGHT, such as "
                         f"768x512, got {text[:60]!r}")  # fmt: skip
    width, height = int(numbers[0]), int(numbers[-1])
    return width if width == height else (width, height)


def open_picture(source: Path | BinaryIO, name: str = "") -> Image:
    """Open a file and decode its (first) picture, in whatever mode it has; `to_rgb` does the rest.

    InputError names the file, by its path or by `name`, where it is missing, no picture, damaged,
    cut short, or of more than MAX_SIDE² pixels; these are counted before they are decoded.
    """
    from PIL import Image, UnidentifiedImageError

    name = name or str(source)
    try:
        with Image.open(source) as file:
            _check_size(file, name)
            if file.format == "EPS":  # a program, which Ghostscript would run
                raise InputError(f"{name} is EPS, which is never opened; save it as a PNG")
            picture = file.copy()
            picture.format = file.format
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(_too_large(name)) from error
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is no picture of a known kind: {KNOWN}") from error
    except FileNotFoundError as error:
        raise InputError(f"there is no picture {name}") from error
    except Exception as error:  # decoders raise whatever they stumble over
        reason = error.strerror if isinstance(error, OSError) else None
        if reason is not None:
            raise InputError(f"cannot read the picture {name}: {reason.lower()}") from error
        raise InputError(f"{name} is damaged or cut short: it cannot be decoded") from error
    return picture


def to_rgb(picture: Image, name: str, ground: str | None = "white") -> Image:
    """Bring what Pillow opened to RGB of 8 bits, upright as its EXIF says.

    What is transparent lies on the ground, a colour; with None its alpha is left out, as textures
    need it. InputError, with the name, for values whose black and white are not known.
    """
    from PIL import Image, ImageOps

    _check_size(picture, name)
    kind = picture.format
    with suppress(Exception):  # EXIF that cannot be read turns nothing
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith(("I", "F")):
        picture = _to_8_bits(picture, kind, name)
    if picture.mode == "La":
        picture = picture.convert("LA")
    if ground is None or not _has_alpha(picture):
        if ground is None and picture.mode == "P":  # else its colour key would do as a ground
            picture.info.pop("transparency", None)
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, ground), picture).convert("RGB")


def is_clear(picture: Image) -> bool:
    """Whether some of a picture can be seen through, so that it needs a ground."""
    if not _has_alpha(picture):
        return False
    clear = picture.convert("LA" if picture.mode == "La" else "RGBA")
    return sum(clear.getchannel("A").histogram()[:255]) > 0


def middle(have: tuple[int, int], size: Size) -> tuple[int, int, int, int]:
    """Find the largest part of a picture's middle that has the shape of a size.

    have: (width, height) of the picture, as `size`. Returns left, top, right, bottom, in pixels.
    """
    across, down = sides(size)
    scale = min(have[0] / across, have[1] / down)
    width, height = max(1, round(scale * across)), max(1, round(scale * down))
    left, top = (have[0] - width) // 2, (have[1] - height) // 2
    return left, top, left + width, top + height


def fit(picture: Image, size: Size) -> Image:
    """Cut a picture to its `middle`, and resize it."""
    from PIL.Image import Resampling

    if picture.size == sides(size):
        return picture
    return picture.crop(middle(picture.size, size)).resize(sides(size), Resampling.LANCZOS)


def _check_size(picture: Image, name: str) -> None:
    if picture.width * picture.height > MAX_SIDE**2:
        raise InputError(_too_large(name, f" of {picture.width} × {picture.height}"))


def _too_large(name: str, size: str = "") -> str:
    return f"{name} has too many pixels{size}: as many as {MAX_SIDE} × {MAX_SIDE} are read"


def _has_alpha(picture: Image) -> bool:
    return picture.mode in CLEAR or "transparency" in picture.info


def _to_8_bits(picture: Image, kind: str | None, name: str) -> Image:
    """Make a grey picture of more bits one of 8, with an alpha where it has a colour key.

    Of 16 bits white is 65,535 (PNM's are read so, too), of floats it is 1; InputError for others.
    """
    import numpy as np
    from PIL import Image

    if picture.mode == "I" and kind not in ("PNG", "PPM"):
        raise InputError(f"{name} holds whole numbers of 32 bits, whose white is not known; save "
                         "it with 8 or 16 bits")  # fmt: skip
    values, white = np.asarray(picture), 1 if picture.mode == "F" else 65535
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= white:
        raise InputError(f"{name} holds numbers from {low:g} to {high:g}, whose white is not "
                         f"known; save it with 0 to {white}, or with 8 bits")  # fmt: skip
    grey = Image.fromarray(np.round(values * (255 / white)).astype(np.uint8))
    if "transparency" in picture.info:
        grey.putalpha(Image.fromarray(values != picture.info["transparency"]).convert("L"))
    return grey
