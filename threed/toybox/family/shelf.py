"""Drawn pictures on disk, and what the parts of the family are trained on of them.

A folder holds pictures.npy [N, V, size, size, 3] uint8, and notes.npz with what there is to know
of each. Entry i depends on (seed, i) alone, so drawing can be cut and continued, and gives the
same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from threed.core.cameras import Cameras
from threed.toybox.family.nets import SIZE
from threed.toybox.family.spread import every, spread
from threed.toybox.judge.net import HEADS
from threed.toybox.judge.truth import UNKNOWN, indices, truths_in_style
from threed.toybox.world.captions import BACKGROUNDS, Label, caption
from threed.toybox.world.chance import Rng
from threed.toybox.world.draw import Array
from threed.toybox.world.mix import in_style, maybe_style, random_scene
from threed.toybox.world.phrases import reworded
from threed.toybox.world.scenes import draw_scene
from threed.toybox.world.toys import AROUND, COLORS, FINISHES, KINDS, random_set, view_words

CAPTIONS = 4  # of each scene
CHUNK = 256  # entries drawn between two notes of progress
SAVE_SECONDS = 2.0  # between two times that what is drawn is noted on disk
Index = NDArray[np.int64]
Entry = tuple[Sequence[Array], dict[str, Any]]  # its pictures in [0, 1], and what is noted of them
Draw = Callable[[int], Entry]  # of its number


@dataclass(frozen=True)
class Shelf:
    """N sets of V pictures of single toys, as N * V pictures, one set after the other."""

    pixels: NDArray[np.uint8]  # [N, V, size, size, 3] sRGB; a memory map
    labels: Index  # [N, 4] kind, color, finish, background: indices
    c2w: NDArray[np.float32]  # [N, V, 4, 4]
    fov_y: NDArray[np.float32]  # [N, V] radians

    def __len__(self) -> int:
        return len(self.labels) * AROUND

    @property
    def size(self) -> int:
        """Pixels a side of each."""
        return int(self.pixels.shape[2])

    def images(self, numbers: Index) -> Tensor:
        """[B, 3, size, size] in [0, 1] of pictures of these numbers [B]."""
        return images_of(self.pixels[numbers // AROUND, numbers % AROUND])

    def cameras(self, numbers: Index) -> Cameras:
        """Give the cameras of pictures of these numbers [B]."""
        c2w, fov_y = (torch.from_numpy(values[numbers // AROUND, numbers % AROUND])
                      for values in (self.c2w, self.fov_y))  # fmt: skip
        return Cameras(c2w, fov_y, self.size, self.size)

    def captions(self, rng: Rng, numbers: Index, view_share: float) -> list[str]:
        """Make captions of pictures [B], with the view's word in a share of them."""
        labels, views = self.labels[numbers // AROUND].tolist(), view_words(self.cameras(numbers))
        said = [caption(rng, Label(*label), view if rng.uniform() < view_share else None)
                for label, view in zip(labels, views)]  # fmt: skip
        return [reworded(rng, text) for text in said]


@dataclass(frozen=True)
class SceneShelf:
    """N scenes with the labels of the judge's heads and CAPTIONS captions each."""

    pixels: NDArray[np.uint8]  # [N, 1, size, size, 3] sRGB; a memory map
    labels: Index  # [N, heads] in the order of judge.net.HEADS, UNKNOWN where hidden
    texts: NDArray[np.str_]  # [N, CAPTIONS]

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, numbers: Index) -> Tensor:
        """[B, 3, size, size] in [0, 1] of scenes of these numbers [B]."""
        return images_of(self.pixels[numbers, 0])

    def captions(self, rng: Rng, numbers: Index) -> list[str]:
        """Choose one of the captions of each of these scenes [B]."""
        chosen = rng.integers(0, CAPTIONS, len(numbers))
        return [reworded(rng, str(text)) for text in self.texts[numbers, chosen]]


def no_scenes(size: int = SIZE) -> SceneShelf:
    """Make a shelf without any scene, for a family that knows single toys alone."""
    blank = np.zeros((0, 1, size, size, 3), np.uint8)
    return SceneShelf(blank, np.zeros((0, len(HEADS)), np.int64), np.zeros((0, CAPTIONS), "U1"))


@dataclass(frozen=True)
class Stock:
    """The pictures that a part is trained on: those of single toys, then those of scenes."""

    toys: Shelf
    scenes: SceneShelf
    share: float  # of a batch that scenes are, where there are any
    often_toys: NDArray[np.float64] | None = None  # [N] how often each set is drawn; all alike
    often_scenes: NDArray[np.float64] | None = None  # [N] the same

    @property
    def size(self) -> int:
        """Pixels a side of a picture."""
        return self.toys.size

    def __len__(self) -> int:
        return len(self.toys) + len(self.scenes)

    def draw(self, rng: Rng, n: int) -> Index:
        """[n] numbers of random pictures, those of scenes behind the others."""
        scenes = round(self.share * n) if len(self.scenes) else 0
        toys = n - scenes
        numbers = AROUND * rng.choice(len(self.toys.labels), toys, p=self.often_toys)
        numbers += rng.integers(0, AROUND, toys)
        if scenes:
            others = rng.choice(len(self.scenes), scenes, p=self.often_scenes)
            numbers = np.concatenate([numbers, others + len(self.toys)])
        return numbers

    def split(self, numbers: Index) -> tuple[Index, Index]:
        """Split the numbers of pictures [B] into those of toys and those of scenes."""
        count = len(self.toys)
        return numbers[numbers < count], numbers[numbers >= count] - count

    def images(self, numbers: Index) -> Tensor:
        """[B, 3, size, size] in [0, 1]."""
        toys, scenes = self.split(numbers)
        return torch.cat([self.toys.images(toys), self.scenes.images(scenes)])

    def pictures(self, role: str, indices: Sequence[int]) -> Tensor:
        """[B, 3, size, size] in [0, 1]; they have one role."""
        return self.images(np.array(indices, np.int64))

    def captions(self, rng: Rng, numbers: Index, view_share: float) -> list[str]:
        """Make captions of pictures [B]; a share of those of toys name the view."""
        toys, scenes = self.split(numbers)
        return self.toys.captions(rng, toys, view_share) + self.scenes.captions(rng, scenes)


def images_of(pixels: NDArray[np.uint8]) -> Tensor:
    """[B, 3, H, W] in [0, 1], of [B, H, W, 3] uint8."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def fill_shelf(
    folder: Path,
    sets: int,
    seed: int,
    *,
    size: int = SIZE,
    clay_every: int = 0,
    processes: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Shelf:
    """Draw what a folder of `sets` sets of single toys still lacks, and open it: see `fill`.

    size: pixels a side. Every clay_every-th set is of clay.
    """
    draw = partial(_draw_toy, seed, size, clay_every)
    return Shelf(*fill(folder, sets, draw, seed, (AROUND, size), processes, progress))


def fill_scenes(
    folder: Path,
    count: int,
    seed: int,
    *,
    size: int = SIZE,
    processes: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> SceneShelf:
    """Draw what a folder of `count` scenes still lacks, and open it: see `fill`."""
    draw = partial(_draw_scene, seed, size)
    return SceneShelf(*fill(folder, count, draw, seed, (1, size), processes, progress))


def fill(
    folder: Path,
    count: int,
    draw: Draw,
    seed: int,
    shape: tuple[int, int],
    processes: int | None,
    progress: Callable[[int], None] | None,
) -> list[NDArray[Any]]:
    """Draw what a folder lacks of `count` entries; return pictures and notes.

    shape: how many pictures an entry has, and their pixels a side.
    processes: as many as there are cores if not given. progress is told how many entries are there.
    A folder with more entries is used as it is. ValueError for one of another seed or size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pictures.npy"
    views, size = shape
    notes = _read_notes(folder / "notes.npz", seed, size)
    done = min(map(len, notes.values()), default=0)
    tasks, fresh, now = chunks(done, count), list[dict[str, Any]](), every(SAVE_SECONDS)
    if tasks:
        _grow(path, (count, views, size, size, 3))
    for task, drawn in zip(tasks, spread(partial(_draw_some, path, draw), tasks, processes)):
        fresh += drawn
        if now() or task is tasks[-1]:
            for name in fresh[0]:
                rows = np.array([note[name] for note in fresh])
                notes[name] = np.concatenate([notes.get(name, rows[:0]), rows])
            aside = folder / "notes.part.npz"
            np.savez(aside, allow_pickle=False, seed=seed, size=size, **notes)
            aside.replace(folder / "notes.npz")
            fresh.clear()
        if progress is not None:
            progress(task[-1] + 1)
    return [np.load(path, mmap_mode="r"), *notes.values()]


def chunks(first: int, last: int) -> list[range]:
    """Cut the numbers first..last - 1 into pieces of CHUNK."""
    return [range(start, min(start + CHUNK, last)) for start in range(first, last, CHUNK)]


def _read_notes(path: Path, seed: int, size: int) -> dict[str, NDArray[Any]]:
    """Read the notes that are there; ValueError if they are of another seed or size."""
    if not path.exists():
        return {}
    with np.load(path) as state:
        notes = {name: state[name] for name in state}
    known = int(notes.pop("seed")), int(notes.pop("size"))
    if known != (seed, size):
        raise ValueError(f"{path.parent} holds pictures of seed {known[0]} and size {known[1]}, "
                         f"not of {seed} and {size}")  # fmt: skip
    return notes


def _grow(path: Path, shape: tuple[int, ...]) -> None:
    """Lengthen the array at path; what it holds stays."""
    aside = path.with_suffix(".part.npy")
    new = np.lib.format.open_memmap(aside, "w+", np.uint8, shape)
    if path.exists():
        old = np.load(path, mmap_mode="r")[: len(new)]
        new[: len(old)] = old
    new.flush()
    aside.replace(path)


def _draw_some(path: Path, draw: Draw, numbers: range) -> list[dict[str, Any]]:
    """Draw some entries into the array at path; return what is noted of each."""
    pixels, notes = np.load(path, mmap_mode="r+"), []
    for number in numbers:
        pictures, note = draw(number)
        pixels[number] = [(picture * 255 + 0.5).astype(np.uint8) for picture in pictures]
        notes.append(note)
    pixels.flush()
    return notes


def _draw_toy(seed: int, size: int, clay_every: int, number: int) -> Entry:
    clay = clay_every > 0 and number % clay_every == 0
    drawn = random_set(np.random.default_rng([seed, number]), size, clay=clay)
    toy, cameras, ground = drawn.toy, drawn.cameras, BACKGROUNDS.index(drawn.background)
    looks = list(COLORS).index(toy.color), FINISHES.index(toy.finish)
    labels = (KINDS.index(toy.kind), *((UNKNOWN, UNKNOWN) if clay else looks), ground)
    note = {"labels": labels, "c2w": cameras.c2w.numpy(), "fov_y": cameras.fov_y.numpy()}
    return [picture.rgb for picture in drawn.pictures], note


def _draw_scene(seed: int, size: int, number: int) -> Entry:
    rng = np.random.default_rng([seed, number])
    scene, style = random_scene(rng), maybe_style(rng)
    view = draw_scene(scene, size)
    picture = view.picture.rgb if style is None else style.paint(view)
    texts = [in_style(scene.caption(rng), style) for _ in range(CAPTIONS)]
    return (picture,), {"labels": indices(truths_in_style(scene, style)), "texts": texts}
