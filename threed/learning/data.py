"""Training examples in a folder: pictures and texts that belong together; and batches of them.

metadata.jsonl in it holds one JSON object a line: for each role ("image", "edited", ...) a
picture's file, relative to the folder, and for each text ("text", "instruction", ...) its words.
Where one picture with one caption is all that is needed, a folder of pictures, each with a .txt of
the same name, does too.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from threed.core import files
from threed.core.errors import InputError
from threed.core.pictures import FORMATS, Size, fit, open_picture, sides, to_rgb
from threed.diffusion.backbone import Backbone

METADATA = "metadata.jsonl"
IN_MEMORY = 2**29  # bytes of decoded pictures, and of latents, that are kept
GROUP_PIXELS = 2**16  # of pictures whose latents are encoded at once
NAMED = 5  # corrupt pictures that a warning names
WORKERS = 8  # processes that make batches beside a GPU
Row = dict[str, str]
Batch = dict[str, Any]  # tensors and what else a loss needs, by name
Find = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""A picture [H, W, 3] -> another of its size, found in it."""


class ExamplesWarning(UserWarning):
    """Something in a training folder that cannot be used and is left out."""


class Pictures(Protocol):
    """What has N pictures of a size in each of its roles."""

    @property
    def size(self) -> Size:
        """Pixels a side of a square, or (width, height)."""
        ...

    def __len__(self) -> int: ...

    def pictures(self, role: str, indices: Sequence[int]) -> Tensor:
        """[B, 3, H, W] in [0, 1]."""
        ...


class Examples:
    """N examples: pictures by role, texts by name. Pictures are cut to their size in the middle."""

    def __init__(
        self, folder: Path, rows: Sequence[Row], size: Size, found: Mapping[str, Find] | None = None
    ) -> None:
        self.folder, self.rows, self.size = folder, rows, size
        self.found = found or {}  # roles that are found in "image" where no file is named
        self._kept: dict[str, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, n: int, generator: torch.Generator) -> list[int]:
        """Choose n random examples."""
        indices: list[int] = torch.randint(len(self), (n,), generator=generator).tolist()
        return indices

    def texts(self, name: str, indices: Sequence[int]) -> list[str]:
        """Give the texts of these examples."""
        return [self.rows[i][name] for i in indices]

    def pictures(self, role: str, indices: Sequence[int]) -> Tensor:
        """[B, 3, H, W] in [0, 1] of given examples."""
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
        """Say why a picture cannot be used; None if it can."""
        try:
            self._pixels(name)
        except InputError as error:
            return str(error).replace(str(self.folder / name), name)
        return None


class Mixed:
    """Several sources as one: a batch of n has n examples of each, one source after the other.

    weights: how much each source counts (losses.denoising_loss). Sources must have one size.
    The first source's examples are drawn as if it was alone.
    """

    def __init__(self, sources: Sequence[Examples], weights: Sequence[float]) -> None:
        if len(sources) != len(weights) or len({sides(one.size) for one in sources}) != 1:
            raise ValueError("sources need a weight each, and pictures of one size")
        self.sources, self.weights, self.size = sources, weights, sources[0].size
        self._starts = list(accumulate(map(len, sources), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def draw(self, n: int, generator: torch.Generator) -> list[int]:
        """Choose n random examples of each source."""
        found: list[int] = []
        for part, (start, source) in enumerate(zip(self._starts, self.sources)):
            found += [start + index for index in source.draw(n, beside(generator, part))]
        return found

    def texts(self, name: str, indices: Sequence[int]) -> list[str]:
        """Give the texts of these examples."""
        return [source.texts(name, [index])[0] for source, index in map(self._find, indices)]

    def pictures(self, role: str, indices: Sequence[int]) -> Tensor:
        """[B, 3, H, W] in [0, 1] of given examples."""
        found = map(self._find, indices)
        return torch.cat([source.pictures(role, [index]) for source, index in found])

    def _find(self, index: int) -> tuple[Examples, int]:
        part = bisect_right(self._starts, index) - 1
        return self.sources[part], index - self._starts[part]


def beside(generator: torch.Generator, part: int) -> torch.Generator:
    """Give each part of a batch a chance of its own: the first has the generator itself.

    So that what is drawn for the first part does not depend on how many others there are.
    """
    if part == 0:
        return generator
    words = [generator.initial_seed(), part]
    return torch.Generator().manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))


def ahead(
    make: Callable[[int], Batch], numbers: range, device: torch.device, workers: int | None = None
) -> Iterator[Batch]:
    """Yield make(number) of each number in turn, its tensors on the device.

    workers: so many processes make batches before they are asked for; if not given, WORKERS beside
    a GPU and none beside a CPU, which has no time for both.
    """
    if workers is None:
        workers = min(WORKERS, os.cpu_count() or 1) if device.type == "cuda" else 0
    if workers:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # they warn of it after a fork
    loader: Any = DataLoader(
        _Made(make), batch_size=None, sampler=numbers, num_workers=workers,
        pin_memory=device.type == "cuda", collate_fn=_as_it_is, generator=torch.Generator(),
    )  # fmt: skip
    for batch in loader:
        yield {name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
               for name, value in batch.items()}  # fmt: skip


def _as_it_is(batch: Any) -> Any:
    return batch


class _Made(Dataset[Batch]):
    """What a function makes of a number, as a data loader wants it."""

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self.make = make

    def __getitem__(self, number: int) -> Batch:
        return self.make(number)


class Latents:
    """The latents of pictures, encoded in groups, so that they never depend on chance.

    A convolution's last bit may depend on what else is in the batch: a picture's group is the same
    whenever it is asked for. At most `most` bytes of them are kept.
    """

    def __init__(
        self, backbone: Backbone, examples: Pictures, role: str, most: int = IN_MEMORY
    ) -> None:
        self.backbone, self.examples, self.role, self.most = backbone, examples, role, most
        self.group = max(GROUP_PIXELS // math.prod(sides(examples.size)), 1)  # encoded at once
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
        with torch.autocast(pictures.device.type, enabled=False):  # once for all, so exactly
            made = self.backbone.encode_image(pictures)
        if (len(self._kept) + len(made)) * made[0].nbytes <= self.most:
            self._kept.update((i, made[i - first : i - first + 1].clone()) for i in group)
        return made[index - first : index - first + 1]


def read_examples(
    folder: Path,
    size: Size,
    *,
    pictures: Sequence[str] = ("image",),
    texts: Sequence[str] = (),
    found: Mapping[str, Find] | None = None,
) -> Examples:
    """Open a training folder, and decode every picture in it once to check it.

    size: pixels a side of a square, or (width, height).

    Pictures whose role is in `found` may be missing from the examples: they are found in "image".
    Examples with a picture that is missing or corrupt are left out; an ExamplesWarning counts them
    and names the first. InputError for a folder that is missing, empty, or without what is needed.
    """
    if not os.path.isdir(folder):
        raise InputError(f"there is no training folder {folder}")
    needed = [role for role in pictures if role not in (found or {})]
    rows = list(_rows(folder, needed, texts))
    if not rows:
        raise InputError(f"{folder} holds no examples: it needs {METADATA}, one JSON object a line "
                         f"with {', '.join([*needed, *texts])}")  # fmt: skip
    return readable(folder, rows, size, pictures, found)


def readable(
    folder: Path,
    rows: Sequence[Row],
    size: Size,
    pictures: Sequence[str],
    found: Mapping[str, Find] | None = None,
) -> Examples:
    """The examples whose pictures of these roles can be read; a warning counts and names others.

    InputError if none is left.
    """
    probe = Examples(folder, rows, size)
    with ThreadPoolExecutor(4) as pool:
        names = sorted({row[role] for row in rows for role in pictures if role in row})
        reasons = dict(zip(names, pool.map(probe.check, names)))
    bad = [reason for reason in reasons.values() if reason is not None]
    unread = {name for name, reason in reasons.items() if reason is not None}
    good = [row for row in rows if not unread & {row[r] for r in pictures if r in row}]
    if bad:
        more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        text = f"{len(bad)} of {len(names)} pictures in {folder} cannot be read: " \
               f"{'; '.join(bad[:NAMED])}{more}"  # fmt: skip
        if not good:
            raise InputError(f"{text}; no example is left")
        text += f"; {len(rows) - len(good)} examples are skipped"
        warnings.warn(text, ExamplesWarning, stacklevel=2)
    return Examples(folder, good, size, found)


def read_picture(path: Path, size: Size) -> NDArray[np.uint8]:
    """[H, W, 3] sRGB, over white: as much of the middle of a picture as fits, resized.

    InputError as from `open_picture` and `to_rgb`.
    """
    return np.asarray(fit(to_rgb(open_picture(path), str(path)), size), dtype=np.uint8)


def write_examples(folder: Path, rows: Sequence[Row]) -> None:
    """Write metadata.jsonl; aside, then renamed: a folder without it is not finished."""
    files.write(folder / METADATA, "".join(json.dumps(row) + "\n" for row in rows).encode())


def _rows(folder: Path, pictures: Sequence[str], texts: Sequence[str]) -> Iterator[Row]:
    """Read the examples as they are listed, or as the files lie there."""
    if (folder / METADATA).is_file():
        yield from _listed(folder / METADATA, (*pictures, *texts))
    elif tuple(pictures) == ("image",) and len(texts) <= 1:
        for path in sorted(folder.iterdir()):
            caption = path.with_suffix(".txt")
            if path.suffix.lower() in FORMATS and (caption.is_file() or not texts):
                row = {"image": path.name}
                if texts:
                    row[texts[0]] = files.read_text(caption).strip()
                yield row


def _listed(path: Path, needed: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(files.read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}, is no JSON") from error
        wrong = [name for name in needed
                 if not isinstance(row, dict) or not isinstance(row.get(name), str)]  # fmt: skip
        if wrong:
            raise InputError(f"{path}, line {number}, says no {', '.join(wrong)}; each example "
                             f"needs {', '.join(needed)}")  # fmt: skip
        yield row
