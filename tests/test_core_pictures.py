"""Pictures of every kind that people have, and what becomes of each."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from threed.core.errors import InputError
from threed.core.pictures import fit, is_clear, middle, open_picture, to_rgb

Pixels = NDArray[np.uint8]
RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 128, 0), (0, 0, 255), (102, 102, 102)
FOUR = np.repeat(np.repeat(np.uint8([[RED, GREEN], [BLUE, GREY]]), 16, 0), 16, 1)  # a quarter each
STEPS = np.uint8(np.arange(256).reshape(16, 16))  # every grey
ALPHA = np.uint8(np.tril(np.full((32, 32), 255)))  # the upper right triangle can be seen through
HALF = np.uint8(ALPHA // 5 * 2 + 51)  # .2 or .6


def saved(picture: Image.Image, form: str, **options: Any) -> bytes:
    """The bytes of a picture in a format."""
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def four(mode: str = "RGB") -> Image.Image:
    """The four quarters in a mode."""
    return Image.fromarray(FOUR).convert(mode)


def grey(mode: str = "L") -> Image.Image:
    """All greys, black first."""
    return Image.fromarray(STEPS).convert(mode)


def with_alpha(picture: Image.Image, alpha: Pixels = ALPHA) -> Image.Image:
    """The picture with an alpha."""
    picture.putalpha(Image.fromarray(alpha))
    return picture


def turned(orientation: int, form: str, **options: Any) -> bytes:
    """The quarters as a camera that was held otherwise writes them, its EXIF saying how."""
    back = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
            6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(four().transpose(Image.Transpose[back]), form, exif=exif, **options)


def png(width: int, height: int, depth: int, color: int, rows: bytes, **chunks: bytes) -> bytes:
    """A PNG, written by hand: Pillow writes no RGB of 16 bits."""
    parts = {"IHDR": struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0), **chunks,
             "IDAT": zlib.compress(rows), "IEND": b""}  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name.encode() + data
        + struct.pack(">I", zlib.crc32(name.encode() + data)) for name, data in parts.items()
    )  # fmt: skip


def deep(pixels: Pixels, color: int, **chunks: bytes) -> bytes:
    """A PNG of 16 bits a value."""
    wide = (pixels * np.uint16(257)).astype(">u2").reshape(len(pixels), -1)
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    return png(pixels.shape[1], len(pixels), 16, color, rows, **chunks)


def frames(form: str, **options: Any) -> bytes:
    """The quarters, then two other pictures."""
    others = [Image.new("RGB", (32, 32), "yellow"), Image.new("RGB", (32, 32), "black")]
    return saved(four(), form, save_all=True, append_images=others, **options)


def palette(**options: Any) -> bytes:
    """The quarters with a palette."""
    return saved(four().quantize(16), "PNG", **options)


WIDE = STEPS * np.uint16(257)


def place_of(color: tuple[int, int, int]) -> int:
    """The place of a colour in that palette."""
    return four().quantize(16).palette.colors[color]


def over(ground: int, colors: Pixels = FOUR, alpha: Pixels = ALPHA) -> Pixels:
    """What is seen over a grey ground."""
    share = alpha[..., None] / 255
    return np.uint8(np.round(colors * share + ground * (1 - share)))


def on_white(color: tuple[int, int, int]) -> Pixels:
    """The quarters, of which one is white instead."""
    return np.where((color == FOUR).all(-1, keepdims=True), np.uint8(255), FOUR)


GREYS = np.repeat(STEPS[..., None], 3, 2)
BLACK_KEYED = np.where(GREYS == 0, np.uint8(255), GREYS)
# what -> its bytes, what becomes of it over white, by how much a value may differ
KINDS: dict[str, tuple[Callable[[], bytes], Pixels, int]] = {
    "RGB, PNG": (lambda: saved(four(), "PNG"), FOUR, 0),
    "RGB, BMP": (lambda: saved(four(), "BMP"), FOUR, 0),
    "RGB, TIFF": (lambda: saved(four(), "TIFF", compression="tiff_lzw"), FOUR, 0),
    "RGB, PPM": (lambda: saved(four(), "PPM"), FOUR, 0),
    "RGB, WebP": (lambda: saved(four(), "WEBP", lossless=True), FOUR, 0),
    "RGB, JPEG 2000": (lambda: saved(four(), "JPEG2000"), FOUR, 0),
    "RGB, JPEG": (lambda: saved(four(), "JPEG", quality=95), FOUR, 4),
    "RGB, progressive JPEG": (lambda: saved(four(), "JPEG", progressive=True), FOUR, 6),
    "RGB of 16 bits": (lambda: deep(FOUR, 2), FOUR, 0),
    "RGBA, PNG": (lambda: saved(with_alpha(four()), "PNG"), over(255), 0),
    "RGBA, half clear": (lambda: saved(with_alpha(four(), HALF), "PNG"), over(255, alpha=HALF), 1),
    "RGBA, TGA": (lambda: saved(with_alpha(four()), "TGA"), over(255), 0),
    "RGBA, WebP": (lambda: saved(with_alpha(four()), "WEBP", lossless=True), over(255), 0),
    "RGBA of 16 bits": (lambda: deep(np.dstack([FOUR, ALPHA]), 6), over(255), 0),
    "palette": (palette, FOUR, 0),
    "palette, a clear colour": (lambda: palette(transparency=place_of(BLUE)), on_white(BLUE), 0),
    "palette, alphas": (
        lambda: palette(transparency=bytes([255] * place_of(RED) + [0])), on_white(RED), 0),
    "GIF, a clear colour": (
        lambda: saved(four().quantize(16), "GIF", transparency=place_of(GREEN)),
        on_white(GREEN), 0),
    "RGB, a clear colour": (lambda: saved(four(), "PNG", transparency=BLUE), on_white(BLUE), 0),
    "grey, PNG": (lambda: saved(grey(), "PNG"), GREYS, 0),
    "grey, JPEG": (lambda: saved(grey(), "JPEG", quality=95), GREYS, 3),
    "grey, a clear value": (lambda: saved(grey(), "PNG", transparency=0), BLACK_KEYED, 0),
    "grey with alpha": (
        lambda: saved(with_alpha(grey(), ALPHA[:16, :16]), "PNG"),
        over(255, GREYS, ALPHA[:16, :16]), 0),
    "grey of 16 bits, PNG": (lambda: deep(STEPS, 0), GREYS, 0),
    "grey of 16 bits, a clear value": (lambda: deep(STEPS, 0, tRNS=b"\0\0"), BLACK_KEYED, 0),
    "grey of 16 bits, PGM": (
        lambda: b"P5 16 16 65535\n" + WIDE.astype(">u2").tobytes(), GREYS, 0),
    "grey of 10 bits, PGM": (
        lambda: b"P5 16 16 1020\n" + (STEPS * np.uint16(4)).astype(">u2").tobytes(), GREYS, 0),
    "grey of 16 bits, TIFF": (
        lambda: saved(Image.fromarray(WIDE), "TIFF"), GREYS, 0),
    "grey of 16 bits, TIFF of a Mac": (
        lambda: saved(Image.frombytes("I;16B", (16, 16), WIDE.astype(">u2")), "TIFF"),
        GREYS, 0),
    "grey of floats": (
        lambda: saved(Image.fromarray(np.float32(STEPS / 255)), "TIFF"), GREYS, 0),
    "one bit": (
        lambda: saved(grey().point(lambda v: 255 * (v > 99)).convert("1"), "PNG"),
        np.uint8(255 * (GREYS > 99)), 0),
    "CMYK, TIFF": (lambda: saved(four("CMYK"), "TIFF"), FOUR, 0),
    "CMYK, JPEG": (lambda: saved(four("CMYK"), "JPEG", quality=95), FOUR, 6),
    "YCbCr, TIFF": (lambda: saved(four("YCbCr"), "TIFF"), FOUR, 2),
    **{f"EXIF {i}, JPEG": (lambda i=i: turned(i, "JPEG", quality=95), FOUR, 4)
       for i in range(2, 9)},
    "EXIF 6, PNG": (lambda: turned(6, "PNG"), FOUR, 0),
    "EXIF 8, WebP": (lambda: turned(8, "WEBP", lossless=True), FOUR, 0),
    "EXIF 6, TIFF": (lambda: turned(6, "TIFF"), FOUR, 0),
    "EXIF that is damaged": (
        lambda: saved(four(), "PNG", exif=b"Exif\0\0MM\0*\0\0\xff\xff"), FOUR, 0),
    "frames, GIF": (lambda: frames("GIF"), FOUR, 0),
    "frames, WebP": (lambda: frames("WEBP", lossless=True), FOUR, 0),
    "frames, PNG": (lambda: frames("PNG"), FOUR, 0),
    "pages, TIFF": (lambda: frames("TIFF"), FOUR, 0),
}  # fmt: skip
WHOLE = saved(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)), "PNG"
)
REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is no picture of a known kind: PNG, JPEG, WebP"),
    "text": (b"no picture\n" * 9, "is no picture of a known kind"),
    "PNG cut short": (WHOLE[:-99], "is damaged or cut short: it cannot be decoded"),
    "PNG of its first bytes": (WHOLE[:20], "is no picture|is damaged"),
    "PNG with other bits": (WHOLE.replace(b"IDAT", b"IDAT\1\2\3"), "is damaged or cut short"),
    "JPEG cut short": (saved(four(), "JPEG")[:-80], "is damaged or cut short"),
    "GIF cut short": (saved(four(), "GIF")[:-80], "is damaged or cut short|is no picture"),
    "a bomb": (png(60000, 60000, 8, 2, b""), "has too many pixels: as many as 8192 × 8192"),
    "a smaller one": (png(9000, 8000, 8, 2, b""), "too many pixels of 9000 × 8000"),
    "EPS": (saved(four(), "EPS"), "is EPS, which is never opened; save it as a PNG"),
    "whole numbers of 32 bits": (
        saved(Image.fromarray(np.int32(STEPS)), "TIFF"), "32 bits, whose white is not known"),
    "floats above 1": (saved(Image.fromarray(np.float32(STEPS)), "TIFF"),
                       "holds numbers from 0 to 255, whose white is not known"),
    "floats that are none": (saved(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"),
                             "numbers from nan to nan"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_becomes_upright_rgb(kind: str, tmp_path: Path) -> None:
    make, expected, differs = KINDS[kind]
    path = tmp_path / "picture"
    path.write_bytes(make())
    for opened in (open_picture(path), open_picture(io.BytesIO(make()), "picture")):
        found = to_rgb(opened, "picture")
        assert found.mode == "RGB"
        pixels = np.asarray(found).astype(int)
        assert pixels.shape == expected.shape
        inside = slice(4, None, 8) if differs > 2 else slice(None)  # edges ring in lossy ones
        assert np.abs(pixels - expected)[inside, inside].max() <= differs
        assert is_clear(opened) == any(word in kind for word in ("clear", "alpha", "RGBA"))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_brought_there_is_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    content, sentence = REFUSED[kind]
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, of large pictures
        with pytest.raises(InputError, match=sentence) as refused:
            to_rgb(open_picture(path), str(path))
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no picture .*none\.png"):
        open_picture(tmp_path / "none.png")
    with pytest.raises(InputError, match=rf"cannot read the picture {tmp_path}: is a directory"):
        open_picture(tmp_path)
    with pytest.raises(InputError, match=r"cannot read the picture .*: file name too long"):
        open_picture(tmp_path / f"{'x' * 300}.png")


def test_the_ground_is_a_colour_or_what_lies_below() -> None:
    clear = with_alpha(four(), HALF)
    assert np.abs(np.asarray(to_rgb(clear, "", "black")).astype(int)
                  - over(0, alpha=HALF)).max() <= 1  # fmt: skip
    assert np.array_equal(to_rgb(clear, "", None), FOUR)
    keyed = open_picture(io.BytesIO(palette(transparency=place_of(BLUE))))
    assert np.array_equal(to_rgb(keyed, "", None), FOUR)
    for picture, mode, colors in ((four(), "RGBa", FOUR), (grey(), "La", GREYS)):
        alpha = HALF[: picture.height, : picture.width]
        premultiplied = with_alpha(picture, alpha).convert(mode)
        assert is_clear(premultiplied)
        expected = over(255, colors, alpha).astype(int)
        assert np.abs(np.asarray(to_rgb(premultiplied, "")) - expected).max() <= 2


def test_the_middle_has_the_shape_that_is_asked() -> None:
    assert middle((10, 6), 8) == (2, 0, 8, 6)
    assert middle((10, 6), (4, 8)) == (3, 0, 6, 6)
    assert middle((1, 50), (50, 1)) == (0, 24, 1, 25)
    assert np.array_equal(fit(four(), (32, 32)), FOUR)
    assert np.array_equal(fit(four(), (16, 32)), FOUR[:, 8:24])
