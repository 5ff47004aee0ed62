"""CLIP R-precision: whether an asset's pictures are nearer to its prompt than to all the others.

Park et al. (2021) for text to image, Dream Fields (arXiv:2112.01455) and DreamFusion
(arXiv:2209.14988) for 3D. Prompts come from a file, assets from a folder or one by one.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from exporters import READERS
from threed.core.errors import InputError
from threed.core.files import read_text, slug
from threed.core.pictures import open_picture, to_rgb
from threed.core.words import check_prompt
from threed.diffusion.parts.clip import Clip

PART = 16  # pictures that CLIP sees at once


@dataclass(frozen=True)
class Asked:
    """A prompt of a list."""

    number: int  # in the list, from 0
    prompt: str
    asset: Path | None = None  # if the list names one

    @property
    def name(self) -> str:
        """What its folder is called: no other prompt of the list has the name."""
        return f"{self.number:03d}-{slug(self.prompt)}"


@dataclass(frozen=True)
class Likeness:
    """What CLIP says of an asset's pictures."""

    pictures: int
    hits: int  # pictures that are nearer to their prompt than to all the others
    score: float  # mean of 100 * cosine to their prompt, not below 0, as in torchmetrics

    @property
    def precision(self) -> float:
        """The share of hits."""
        return self.hits / self.pictures


def read_prompts(path: Path) -> list[Asked]:
    """Read a list of prompts; every one counts as a candidate for every picture.

    .txt     a prompt a line
    .json    a list of prompts, as GPTEval3D and MATE-3D publish theirs
    .csv     columns prompt and, if wanted, asset: a file or a run's folder, from the list's place

    InputError for another ending, for text that is no such list, for a prompt that cannot be meant
    and for one that is there twice.
    """
    rows = _rows(path)
    if len(rows) < 2:
        raise InputError(f"{path} holds {len(rows)} prompts; R-precision tells two or more apart")
    asked: list[Asked] = []
    for number, (prompt, asset) in enumerate(rows):
        try:
            text = check_prompt(prompt)
        except InputError as error:
            raise InputError(f"{path}, prompt {number + 1}: {error}") from error
        asked.append(Asked(number, text, path.parent / asset if asset else None))
    seen: dict[str, int] = {}
    for one in asked:
        if (first := seen.setdefault(one.prompt, one.number)) != one.number:
            raise InputError(f"{path}: prompts {first + 1} and {one.number + 1} are the same, "
                             f"{one.prompt!r}: no picture could tell them apart")  # fmt: skip
    return asked


def _rows(path: Path) -> list[tuple[str, str]]:
    """Prompts and names of assets, as they stand in the file."""
    kind = path.suffix.lower()
    if kind not in (".txt", ".json", ".csv"):
        raise InputError(f"{path}: a list of prompts must end in .txt, .json or .csv")
    text = read_text(path).removeprefix("\ufeff")
    if kind == ".txt":
        return [(line, "") for line in text.splitlines() if line.strip()]
    if kind == ".json":
        try:
            data = json.loads(text)
        except ValueError as error:
            raise InputError(f"{path} is damaged, or no JSON: {error}") from error
        if not isinstance(data, list) or not all(isinstance(one, str) for one in data):
            raise InputError(f"{path} must hold a list of prompts, such as "
                             '["a red mug", "a blue car"]')  # fmt: skip
        return [(one, "") for one in data]
    table = csv.DictReader(io.StringIO(text))
    if "prompt" not in (table.fieldnames or ()):
        raise InputError(f"{path} needs a column prompt, and may have one called asset; it has "
                         f"{', '.join(table.fieldnames or ()) or 'none'}")  # fmt: skip
    return [(row["prompt"] or "", row.get("asset") or "") for row in table]


def find_assets(asked: Sequence[Asked], folder: Path) -> dict[int, Path]:
    """Find the asset of every prompt in a folder, by its number in the list.

    Its own name in the list counts first; else a mesh file, or a folder that holds asset.glb or
    model.obj, is called after the prompt, as it is or with _ or - for blanks, or after the number.
    InputError names a prompt without an asset, and how many there are.
    """
    if not folder.is_dir():
        raise InputError(f"--assets {folder}: there is no such folder")
    places = ((one.number, one.asset or _find(folder, one)) for one in asked)
    found = {number: place for number, place in places if place is not None}
    missing = [one for one in asked if one.number not in found]
    if missing:
        one = missing[0]
        raise InputError(
            f"{folder} holds no asset of {len(missing)} of {len(asked)} prompts, such as "
            f"{one.prompt!r}; looked for {_names(one)[1]!r} and {one.number}, as a folder with an "
            f"asset.glb or model.obj, or with {', '.join(READERS)}"
        )
    return found


def _names(one: Asked) -> list[str]:
    prompt = one.prompt.replace("/", "_")
    return [prompt, prompt.replace(" ", "_"), prompt.replace(" ", "-"), one.name, str(one.number)]


def _find(folder: Path, one: Asked) -> Path | None:
    for name in _names(one):
        inside = [folder / name / "asset.glb", folder / name / "model.obj"]
        for place in [*inside, *(folder / f"{name}{end}" for end in READERS)]:
            if place.is_file():
                return place
    return None


def look(clip: Clip, texts: Tensor, number: int, pictures: Sequence[Path]) -> Likeness:
    """Compare pictures with all prompts [P, D], of which theirs is that of a number."""
    vectors = torch.cat([clip.images(_load(pictures[start : start + PART]))
                         for start in range(0, len(pictures), PART)])  # fmt: skip
    return like(vectors, texts, number)


def like(images: Tensor, texts: Tensor, number: int) -> Likeness:
    """Compare vectors of pictures [N, D] with those of prompts [P, D], both of any length.

    A hit is nearer to its own prompt than to each other one; as near is no hit.
    """
    cosine = F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    own = cosine[:, number]
    others = torch.cat([cosine[:, :number], cosine[:, number + 1 :]], 1)
    ahead = (own[:, None] > others).all(1)
    return Likeness(len(images), int(ahead.sum()), float(100 * own.mean().clamp(min=0)))


def _load(paths: Sequence[Path]) -> Tensor:
    """[B, 3, H, W] in [0, 1]."""
    arrays = [np.asarray(to_rgb(open_picture(path), path.name)) for path in paths]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255
