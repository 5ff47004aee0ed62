"""Drawn pictures on disk, and the batches that training takes from them.

A shelf is a folder: pictures.npy [N, V, size, size, 3] uint8 and labels.npz. Set i of a shelf
depends on (seed, i) alone, so that drawing can be cut and continued and gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from threed.core import files
from threed.core.cameras import Cameras, at, view_name
from threed.toybox.world.captions import BACKGROUNDS, Label, caption
from threed.toybox.world.spread import every, spread
from threed.toybox.world.toys import (
    COLORS,
    FINISHES,
    KINDS,
    Set,
    Toy,
    draw_set,
    random_background,
    random_light,
    random_toy,
)

VIEWS = 4  # pictures of a set, 90 degrees apart
CLAY = (0.8, 0.8, 0.8)  # sRGB of a toy of which only the shape is to be read
UNKNOWN = -100  # label of what a clay toy does not show; torch's losses skip it
CHUNK = 256  # sets drawn between two notes of progress
SAVE_SECONDS = 2.0  # between two times that what is drawn is noted on disk
_Note = tuple[tuple[int, ...], NDArray[np.float32], NDArray[np.float32]]
COLUMNS = ("kind", "color", "finish", "background")


def random_set(
    rng: np.random.Generator, size: int = 64, *, kind: str | None = None, clay: bool = False
) -> Set:
    """A random toy under a random light, seen from VIEWS cameras at one height.

    With `clay` every part is of one pale grey and has no finish: only the shape is left.

    Elevation is in -10..45 degrees, or in one of eight sets in 62..85; field of view 35..45
    degrees; the distance is zoom / sin(fov / 2), zoom in 0.85..1.1, so the unit ball about fits.
    """
    toy = random_toy(rng, kind=kind)
    if clay:
        toy = in_clay(toy)
    name, background = random_background(rng)
    elevation = rng.uniform(62, 85) if rng.uniform() < 0.125 else rng.uniform(-10, 45)
    fov, zoom = rng.uniform(35, 45), rng.uniform(0.85, 1.1)
    azimuth = rng.uniform(-180, 180) + np.arange(VIEWS) * (360 / VIEWS)
    one = torch.ones(VIEWS)
    distance = zoom / np.sin(np.radians(fov) / 2)
    cameras = at(
        torch.from_numpy((azimuth + 180) % 360 - 180).float(), one * elevation, one * distance,
        one * fov, size,
    )  # fmt: skip
    return draw_set(toy, cameras, random_light(rng), background, name=name)


def in_clay(toy: Toy) -> Toy:
    """The same toy, all of one pale grey."""
    grey = tuple(replace(part, color=CLAY) for part in toy.parts)
    return replace(toy, finish="plain", parts=grey)


@dataclass(frozen=True)
class Shelf:
    """N sets of V pictures with their labels."""

    pictures: NDArray[np.uint8]  # [N, V, size, size, 3] sRGB; a memory map
    labels: NDArray[np.int64]  # [N, 4] kind, color, finish, background: indices
    c2w: NDArray[np.float32]  # [N, V, 4, 4]
    fov_y: NDArray[np.float32]  # [N, V] radians

    def __len__(self) -> int:
        return len(self.pictures)

    def images(self, sets: NDArray[np.int64], views: NDArray[np.int64]) -> Tensor:
        """[B, 3, size, size] in [0, 1] of given sets [B] and views [B]."""
        return images_of(self.pictures[sets, views])

    def cameras(self, sets: NDArray[np.int64], views: NDArray[np.int64]) -> Cameras:
        """The cameras of given sets [B] and views [B]."""
        size = self.pictures.shape[2]
        return Cameras(
            torch.from_numpy(self.c2w[sets, views]),
            torch.from_numpy(self.fov_y[sets, views]),
            size,
            size,
        )

    def label(self, index: int) -> Label:
        """The label of a set."""
        kind, color, finish, background = (int(value) for value in self.labels[index])
        return Label(kind, color, finish, background)

    def captions(
        self,
        rng: np.random.Generator,
        sets: NDArray[np.int64],
        views: NDArray[np.int64],
        view_words: float,
    ) -> list[str]:
        """Random captions of given pictures, with the view's word in a share of them."""
        cameras = self.cameras(sets, views)
        names = [
            view_name(a, e)
            for a, e in zip(cameras.azimuth_deg.tolist(), cameras.elevation_deg.tolist())
        ]
        return [
            caption(rng, self.label(int(i)), name if rng.uniform() < view_words else None)
            for i, name in zip(sets, names)
        ]


def images_of(pixels: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """[B, 3, H, W] in [0, 1] on a device, of [B, H, W, 3] uint8."""
    there = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
    return there.permute(0, 3, 1, 2).float() / 255


def fill_shelf(
    folder: Path,
    sets: int,
    seed: int,
    *,
    size: int = 64,
    clay_every: int = 0,
    processes: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Shelf:
    """Draw what a shelf of `sets` sets still lacks, and open it.

    Every clay_every-th set is of clay. processes: as many as there are cores if not given.
    progress is told the number of sets that are there. A shelf made with another seed or size is
    refused with ValueError; one with more sets is used as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    notes = _Notes.open(folder / "labels.npz", seed, size)
    notes.grow(sets)
    path, count = folder / "pictures.npy", len(notes.labels)
    if notes.done < count:
        grown(path, (count, VIEWS, size, size, 3)).flush()
        tasks = chunks(notes.done, count)
        work, now = partial(_draw, path, seed, size, clay_every), every(SAVE_SECONDS)
        for task, drawn in zip(tasks, spread(work, tasks, processes)):
            for index, one in zip(task, drawn):
                notes.labels[index], notes.c2w[index], notes.fov_y[index] = one
            if now() or task is tasks[-1]:
                notes.save(task[-1] + 1)
            if progress is not None:
                progress(task[-1] + 1)
    return Shelf(np.load(path, mmap_mode="r")[:count], notes.labels, notes.c2w, notes.fov_y)


def chunks(first: int, last: int) -> list[range]:
    """The numbers first..last - 1 in pieces of CHUNK."""
    return [range(start, min(start + CHUNK, last)) for start in range(first, last, CHUNK)]


def _draw(path: Path, seed: int, size: int, clay_every: int, indices: range) -> list[_Note]:
    """Draw some sets into the pictures at path, and say what they show."""
    pictures = np.load(path, mmap_mode="r+")
    notes = []
    for index in indices:
        clay = clay_every > 0 and index % clay_every == 0
        drawn = random_set(np.random.default_rng([seed, index]), size, clay=clay)
        for view, picture in enumerate(drawn.pictures):
            pictures[index, view] = (picture.rgb * 255 + 0.5).astype(np.uint8)
        notes.append(_note(drawn, clay=clay))
    pictures.flush()
    return notes


def _note(drawn: Set, *, clay: bool) -> _Note:
    """The labels, c2w and fov_y of a drawn set."""
    labels = (
        KINDS.index(drawn.toy.kind),
        UNKNOWN if clay else list(COLORS).index(drawn.toy.color),
        UNKNOWN if clay else FINISHES.index(drawn.toy.finish),
        BACKGROUNDS.index(drawn.background),
    )
    return labels, drawn.cameras.c2w.numpy(), drawn.cameras.fov_y.numpy()


@dataclass
class _Notes:
    """What is written beside the pictures while they are drawn."""

    path: Path
    seed: int
    size: int
    done: int  # sets that are drawn
    labels: NDArray[np.int64]
    c2w: NDArray[np.float32]
    fov_y: NDArray[np.float32]

    @classmethod
    def open(cls, path: Path, seed: int, size: int) -> _Notes:
        """The notes at path, or empty ones; ValueError if they are of another seed or size."""
        if not path.exists():
            empty = np.zeros((0, 4), np.int64), np.zeros((0, VIEWS, 4, 4), np.float32)
            return cls(path, seed, size, 0, *empty, np.zeros((0, VIEWS), np.float32))
        with np.load(path) as state:
            known = int(state["seed"]), int(state["size"])
            if known != (seed, size):
                raise ValueError(f"{path.parent} holds pictures of seed {known[0]} and size "
                                 f"{known[1]}, not of {seed} and {size}")  # fmt: skip
            arrays = state["labels"], state["c2w"], state["fov_y"]
            return cls(path, seed, size, int(state["done"]), *arrays)

    def grow(self, sets: int) -> None:
        """Make room for so many sets."""
        missing = max(sets - len(self.labels), 0)
        for name in ("labels", "c2w", "fov_y"):
            value = getattr(self, name)
            rows = np.zeros((missing, *value.shape[1:]), value.dtype)
            setattr(self, name, np.concatenate([value, rows]))

    def save(self, done: int) -> None:
        """Write aside and rename."""
        self.done = done
        views: dict[str, Any] = {"labels": self.labels, "c2w": self.c2w, "fov_y": self.fov_y}
        with files.write_aside(self.path) as part:
            np.savez(part, seed=self.seed, size=self.size, done=done, **views)


def grown(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.uint8]]:
    """The memory map of this shape at path, with what a shorter one there already holds."""
    if path.exists():
        old = np.load(path, mmap_mode="r+")
        if old.shape == shape:
            return old
        aside = path.with_suffix(".part.npy")
        new = np.lib.format.open_memmap(aside, "w+", np.uint8, shape)
        new[: len(old)] = old
        new.flush()
        aside.replace(path)
        return new
    return np.lib.format.open_memmap(path, "w+", np.uint8, shape)
