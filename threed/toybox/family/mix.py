"""Drawn scenes on disk: the pairs, persons, garments and hats that are mixed among single toys.

A folder as threed.toybox.shelf's: pictures.npy [N, 1, size, size, 3] uint8, and notes.npz with the
labels that the judge learns from and a few captions of each. Scene i depends on (seed, i) alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from threed.core import files
from threed.toybox.family.shelf import SAVE_SECONDS, UNKNOWN, chunks, grown, images_of
from threed.toybox.judge.net import HEADS, SCENE_HEADS
from threed.toybox.world.figures import Figure, random_figure_scene
from threed.toybox.world.garments import GARMENTS, Garment, laid_flat, random_garment
from threed.toybox.world.pairs import ABOVE, Pair, Single, random_pair_scene, random_toy_scene
from threed.toybox.world.scenes import Scene, draw_scene
from threed.toybox.world.spread import every, spread

Rng = np.random.Generator
SCENES: dict[str, Callable[[Rng], Scene]] = {
    "toy": random_toy_scene,
    "pair": random_pair_scene,
    "figure": random_figure_scene,
    "garment": lambda rng: laid_flat(random_garment(rng, GARMENTS)),
}
SHARES = {"toy": 0.25, "pair": 0.4, "figure": 0.3, "garment": 0.05}
CAPTIONS = 4  # of each scene


def random_scene(rng: Rng, kind: str | None = None) -> Scene:
    """A scene of this kind of SCENES, or of any, by SHARES."""
    return SCENES[kind or str(rng.choice(list(SHARES), p=list(SHARES.values())))](rng)


def truths(scene: Scene) -> dict[str, str]:
    """What the judge should read from a scene: the name by head; heads without one are left out."""
    subject = scene.subject
    if isinstance(subject, Pair):
        found = {"scene": "pair above" if subject.relation == ABOVE else "pair beside"}
        for place, toy in (("first", subject.first), ("second", subject.second)):
            found |= {f"{place}_kind": toy.kind, f"{place}_color": toy.color}
        return found
    if isinstance(subject, Figure):
        return _truths_of_person(subject)
    if isinstance(subject, Garment):
        return {"scene": "garment"} | _worn(subject)
    assert isinstance(subject, Single)
    return {"scene": "toy", "kind": subject.kind, "color": subject.color, "finish": subject.finish,
            "hat": subject.hat or "none"}  # fmt: skip


def _truths_of_person(person: Figure) -> dict[str, str]:
    one = person.identity
    found = {"scene": "person", "skin": one.skin, "hair": one.hair, "beard": one.beard,
             "glasses": "glasses" if one.glasses else "none"} | _worn(person.upper)  # fmt: skip
    if one.hair != "bald" or one.beard != "none":
        found["hair_color"] = one.hair_color
    if person.portrait:
        return found
    lower = _worn(person.lower) if person.lower else {"lower": "none"}
    return found | lower | {"pose": person.pose.name}


def _worn(garment: Garment) -> dict[str, str]:
    place = "upper" if garment.kind in SCENE_HEADS["upper"] else "lower"
    found = {place: garment.kind, f"{place}_color": garment.color}
    return found | ({"upper_finish": garment.finish} if place == "upper" else {})


def indices(named: Mapping[str, str]) -> NDArray[np.int64]:
    """[heads] the index of each name in HEADS, UNKNOWN where there is none."""
    return np.array(
        [names.index(named[head]) if head in named else UNKNOWN for head, names in HEADS.items()]
    )


@dataclass(frozen=True)
class SceneShelf:
    """N scenes with the labels of the judge's heads and CAPTIONS captions each."""

    pictures: NDArray[np.uint8]  # [N, 1, size, size, 3] sRGB; a memory map
    labels: NDArray[np.int64]  # [N, heads] in the order of judge.HEADS, UNKNOWN where hidden
    texts: NDArray[np.str_]  # [N, CAPTIONS]

    def __len__(self) -> int:
        return len(self.pictures)

    def images(self, scenes: NDArray[np.int64], views: NDArray[np.int64]) -> Tensor:
        """[B, 3, size, size] in [0, 1] of given scenes [B]; views [B] are zeros."""
        return images_of(self.pictures[scenes, views])

    def captions(self, rng: Rng, scenes: NDArray[np.int64]) -> list[str]:
        """One of the captions of each of given scenes [B]."""
        chosen = rng.integers(0, CAPTIONS, len(scenes))
        return [str(text) for text in self.texts[scenes, chosen]]


def fill_scenes(
    folder: Path,
    count: int,
    seed: int,
    *,
    size: int = 64,
    processes: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> SceneShelf:
    """Draw what a folder of `count` scenes still lacks, and open it.

    processes: as many as there are cores if not given. progress is told the number of scenes that
    are there. A folder made with another seed or size is refused with ValueError; one with more
    scenes is used as it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    labels, texts = _open(folder / "notes.npz", seed, size)
    done, total = len(labels), max(count, len(labels))
    path = folder / "pictures.npy"
    if done < total:
        grown(path, (total, 1, size, size, 3)).flush()
        tasks, fresh = chunks(done, total), list[Any]()
        now = every(SAVE_SECONDS)
        for task, drawn in zip(tasks, spread(partial(_draw, path, seed, size), tasks, processes)):
            fresh += drawn
            if now() or task is tasks[-1]:
                labels = np.concatenate([labels, np.stack([label for label, _ in fresh])])
                texts = np.concatenate([texts, np.array([said for _, said in fresh])])
                fresh.clear()
                with files.write_aside(folder / "notes.npz") as part:
                    np.savez(part, seed=seed, size=size, labels=labels, texts=texts)
            if progress is not None:
                progress(task[-1] + 1)
    return SceneShelf(np.load(path, mmap_mode="r")[:total], labels, texts)


def _draw(
    path: Path, seed: int, size: int, numbers: range
) -> list[tuple[NDArray[np.int64], list[str]]]:
    """Draw some scenes into the pictures at path; their labels and captions."""
    pictures = np.load(path, mmap_mode="r+")
    found = []
    for index in numbers:
        rng = np.random.default_rng([seed, index])
        scene = random_scene(rng)
        pictures[index, 0] = (draw_scene(scene, size).picture.rgb * 255 + 0.5).astype(np.uint8)
        found.append((indices(truths(scene)), [scene.caption(rng) for _ in range(CAPTIONS)]))
    pictures.flush()
    return found


def _open(path: Path, seed: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """The labels and captions that are there; ValueError if they are of another seed or size."""
    if not path.exists():
        return np.zeros((0, len(HEADS)), np.int64), np.zeros((0, CAPTIONS), "U1")
    with np.load(path) as state:
        known = int(state["seed"]), int(state["size"])
        if known != (seed, size):
            raise ValueError(f"{path.parent} holds scenes of seed {known[0]} and size {known[1]}, "
                             f"not of {seed} and {size}")  # fmt: skip
        return state["labels"], state["texts"]
