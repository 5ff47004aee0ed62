"""Training examples in a folder: pictures and texts that belong together.

metadata.jsonl in it holds one JSON object a line: for each role ("image", "edited", ...) a
picture's file, relative to the folder, and for each text ("text", "instruction", ...) its words.
Where one picture with one caption is all that is needed, a folder of pictures, each with a .txt of
the same name, does too.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from threed.core import files
from threed.core.errors import InputError
from threed.core.pictures import FORMATS
from threed.diffusion.backbone import Backbone

METADATA = "metadata.jsonl"
IN_MEMORY = 2**29  # bytes of decoded pictures, and of latents, that are kept
GROUP_PIXELS = 2**16  # of pictures whose latents are encoded at once
NAMED = 5  # corrupt pictures that a warning names
Row = dict[str, str]
Find = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""A picture [H, W, 3] -> another of its size, found in it."""


class ExamplesWarning(UserWarning):
    """Something in a training folder that cannot be used and is left out."""


class Examples:
    """N examples: pictures by role, texts by name. Pictures are square, cropped in the middle."""

    def __init__(
        self, folder: Path, rows: Sequence[Row], size: int, found: Mapping[str, Find] | None = None
    ) -> None:
        self.folder, self.rows, self.size = folder, rows, size
        self.found = found or {}  # roles that are found in "image" where no file is named
        self._kept: dict[str, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, n: int, generator: torch.Generator) -> list[int]:
        """n random examples."""
        indices: list[int] = torch.randint(len(self), (n,), generator=generator).tolist()
        return indices

    def texts(self, name: str, indices: Sequence[int]) -> list[str]:
        """The texts of given examples."""
        return [self.rows[i][name] for i in indices]

    def pictures(self, role: str, indices: Sequence[int]) -> Tensor:
        """[B, 3, size, size] in [0, 1] of given examples."""
        pixels = np.stack([self._role(self.rows[i], role) for i in indices])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255

    def _role(self, row: Row, role: str) -> NDArray[np.uint8]:
        if role in row:
            return self._pixels(row[role])
        image, find = row["image"], self.found[role]
        return self._remember(f"{role} of {image}", lambda: find(self._pixels(image)))

    def _pixels(self, name: str) -> NDArray[np.uint8]:
        return self._remember(name, lambda: read_picture(self.folder / name, self.size))

    def _remember(self, key: str, make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        kept = self._kept.get(key)
        if kept is None:
            kept = make()
            if (len(self._kept) + 1) * kept.nbytes <= IN_MEMORY:
                self._kept[key] = kept
        return kept

    def check(self, name: str) -> str | None:
        """Why a picture cannot be used; None if it can."""
        try:
            self._pixels(name)
        except FileNotFoundError:
            return "missing"
        except Exception as error:  # a damaged picture raises almost anything
            return str(error).splitlines()[0] if str(error) else type(error).__name__
        return None


class Latents:
    """The latents of a folder's pictures, encoded in groups, so that they never depend on chance.

    A convolution's last bit may depend on what else is in the batch: a picture's group is the same
    whenever it is asked for.
    """

    def __init__(self, backbone: Backbone, examples: Examples, role: str) -> None:
        self.backbone, self.examples, self.role = backbone, examples, role
        self.group = max(GROUP_PIXELS // examples.size**2, 1)  # pictures encoded at once
        self._kept: dict[int, Tensor] = {}

    def __call__(self, indices: Sequence[int]) -> Tensor:
        """[B, C, h, w] float32, scaled, on the backbone's device."""
        return torch.cat([self._one(i) for i in indices])

    def _one(self, index: int) -> Tensor:
        kept = self._kept.get(index)
        return self._encoded(index) if kept is None else kept

    @torch.no_grad()
    def _encoded(self, index: int) -> Tensor:
        """Encode an example's group, and keep it where there is room."""
        first = index - index % self.group
        group = range(first, min(first + self.group, len(self.examples)))
        pictures = self.examples.pictures(self.role, group).to(self.backbone.device)
        made = self.backbone.encode_image(pictures).split(1)
        if (len(self._kept) + len(made)) * made[0].nbytes <= IN_MEMORY:
            self._kept.update((i, z.clone()) for i, z in zip(group, made))
        return made[index - first]


def read_examples(
    folder: Path,
    size: int,
    *,
    pictures: Sequence[str] = ("image",),
    texts: Sequence[str] = (),
    found: Mapping[str, Find] | None = None,
) -> Examples:
    """Open a training folder, its pictures at size × size pixels, every one of them decoded once.

    Pictures whose role is in `found` may be missing from the examples: they are found in "image".
    Examples with a picture that is missing or corrupt are left out; an ExamplesWarning counts them
    and names the first. InputError for a folder that is missing, empty, or without what is needed.
    """
    if not folder.is_dir():
        raise InputError(f"there is no training folder {folder}")
    needed = [role for role in pictures if role not in (found or {})]
    rows = list(_rows(folder, needed, texts))
    if not rows:
        raise InputError(f"{folder} holds no examples: it needs {METADATA}, one JSON object a line "
                         f"with {', '.join([*needed, *texts])}")  # fmt: skip
    probe = Examples(folder, rows, size)
    with ThreadPoolExecutor(4) as pool:
        names = sorted({row[role] for row in rows for role in pictures if role in row})
        reasons = dict(zip(names, pool.map(probe.check, names)))
    bad = [f"{name} ({reason})" for name, reason in reasons.items() if reason is not None]
    good = [row for row in rows
            if all(reasons[row[role]] is None for role in pictures if role in row)]  # fmt: skip
    if bad:
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        text = f"{len(bad)} of {len(names)} pictures in {folder} cannot be read: " \
               f"{', '.join(bad[:NAMED])}{more}"  # fmt: skip
        if not good:
            raise InputError(f"{text}; no example is left")
        warnings.warn(f"{text}; {len(rows) - len(good)} examples are skipped", ExamplesWarning,
                      stacklevel=2)  # fmt: skip
    return Examples(folder, good, size, found)


def read_picture(path: Path, size: int) -> NDArray[np.uint8]:
    """[size, size, 3] sRGB: the largest square in the middle of a picture, resized."""
    with Image.open(path) as file:
        picture = file.convert("RGB")
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    box = (left, top, left + side, top + side)
    if picture.size != (size, size):
        picture = picture.crop(box).resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(picture, dtype=np.uint8)


def write_examples(folder: Path, rows: Sequence[Row]) -> None:
    """Write metadata.jsonl; aside, then renamed: a folder without it is not finished."""
    files.write(folder / METADATA, "".join(json.dumps(row) + "\n" for row in rows).encode())


def _rows(folder: Path, pictures: Sequence[str], texts: Sequence[str]) -> Iterator[Row]:
    """The examples as they are listed, or as the files lie there."""
    if (folder / METADATA).is_file():
        yield from _listed(folder / METADATA, (*pictures, *texts))
    elif tuple(pictures) == ("image",) and len(texts) <= 1:
        for path in sorted(folder.iterdir()):
            caption = path.with_suffix(".txt")
            if path.suffix.lower() in FORMATS and (caption.is_file() or not texts):
                row = {"image": path.name}
                if texts:
                    row[texts[0]] = caption.read_text(encoding="utf-8").strip()
                yield row


def _listed(path: Path, needed: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}, is no JSON: {error}") from None
        wrong = [name for name in needed
                 if not isinstance(row, dict) or not isinstance(row.get(name), str)]  # fmt: skip
        if wrong:
            raise InputError(f"{path}, line {number}, says no {', '.join(wrong)}; each example "
                             f"needs {', '.join(needed)}")  # fmt: skip
        yield row
