"""Pictures that are prompts, each of a subject: what is typed of them, and examples to learn from.

An example is a picture of several subjects, its text, and a picture of each subject alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from threed.core.errors import InputError
from threed.core.pictures import Size
from threed.diffusion.parts.plans import Box, read_region
from threed.diffusion.reading import POINTER
from threed.settings.base import Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from threed.learning.data import Examples

MOST = 4  # subjects of an example
ROLES = tuple(f"subject{number}" for number in range(1, MOST + 1))
OTHER = "shown"  # the picture of an example that is the prompt, where it is not the image itself
FLAT = 4  # levels of 256 within which a picture shows nothing


class Seeing(Settings):
    """What a net learns to read pictures by."""

    encoder: str | None = Field(
        None, description="the image encoder's folder; if not given, the one beside the backbone"
    )


def read_shown(path: Path, size: int) -> Tensor:
    """[1, 3, size, size] in [0, 1] of what is in a picture's middle.

    InputError for a picture of one colour, which shows nothing.
    """
    import torch

    from threed.learning.data import read_picture

    pixels = torch.from_numpy(read_picture(path, size).copy()).permute(2, 0, 1)[None].float()
    if float((pixels.amax((2, 3)) - pixels.amin((2, 3))).max()) < FLAT:
        raise InputError(f"{path} shows nothing: its middle is all of one colour")
    return pixels / 255


def read_numbers(text: str | None) -> tuple[float, ...]:
    """Numbers of at least 0 with commas between them; none if not given. InputError for others."""
    try:
        numbers = tuple(float(part) for part in text.split(",")) if text is not None else ()
    except ValueError:
        numbers = (-1.0,)
    if not all(0 <= number < float("inf") for number in numbers):
        raise InputError(f"must be numbers of at least 0, such as 1,0.5, got {text!r}")
    return numbers


def read_subjects(folder: Path, size: Size, options: Settings, *more: str) -> Examples:
    """Open a training folder: image, text, subjects ("BOX:PHRASE; ..."), subject1, subject2, ...

    more: further texts that examples need. InputError for an example whose subjects have no box,
    are too many, or lack a picture.
    """
    from threed.learning.data import read_examples, readable

    examples = read_examples(folder, size, texts=("text", "subjects", *more))
    for row in examples.rows:
        needed = [f"subject{number}" for number in range(1, len(placed(row["subjects"])) + 1)]
        lacking = [role for role in needed if role not in ROLES or role not in row]
        if lacking:
            raise InputError(f"{folder}: of the subjects {row['subjects']!r}, 1 to {MOST}, each "
                             f"needs its picture, and there is no {lacking[0]}")  # fmt: skip
    return readable(folder, examples.rows, size, ROLES)


def read_pointed(folder: Path, size: Size, options: Settings) -> Examples:
    """Open such a folder, in which `pointed` is the text with <1>, <2> for what subjects show.

    InputError, too, for an example that points at a subject that it has not.
    """
    examples = read_subjects(folder, size, options, "pointed")
    for row in examples.rows:
        count = len(placed(row["subjects"]))
        if any(int(number) > count for number in POINTER.findall(row["pointed"])):
            raise InputError(f"{folder}: {row['pointed']!r} points at more than the {count} "
                             f"subjects of {row['subjects']!r}")  # fmt: skip
    return examples


def read_prompted(folder: Path, size: Size, options: Settings) -> Examples:
    """Open a training folder: image, text, and `shown`, another picture of it, if there is one."""
    from threed.learning.data import read_examples, readable

    examples = read_examples(folder, size, texts=("text",))
    return readable(folder, examples.rows, size, ("image", OTHER))


def prompts(examples: Examples, indices: Sequence[int]) -> Tensor:
    """[B, 3, H, W] in [0, 1] the pictures that are prompts of examples."""
    import torch

    roles = ((OTHER if OTHER in examples.rows[i] else "image", i) for i in indices)
    return torch.cat([examples.pictures(role, [i]) for role, i in roles])


def placed(text: str) -> list[tuple[str, Box]]:
    """The phrases and boxes of an example's subjects. InputError for a box that is none."""
    regions = [read_region(part.strip()) for part in text.split(";")]
    return [(region.prompt, region.box) for region in regions]


def subject_pictures(examples: Examples, indices: Sequence[int]) -> Tensor:
    """[B, N, 3, H, W] in [0, 1] of each subject of these examples; black for those that are not.

    N is that of the example with the most.
    """
    counts = [len(placed(text)) for text in examples.texts("subjects", indices)]
    first = examples.pictures(ROLES[0], indices)
    pictures = first.new_zeros(len(counts), max(counts), *first.shape[1:])
    pictures[:, 0] = first
    for number, role in enumerate(ROLES[1 : max(counts)], 1):
        there = [i for i, count in enumerate(counts) if number < count]
        pictures[there, number] = examples.pictures(role, [indices[i] for i in there])
    return pictures


def same_people(
    examples: Examples, indices: Sequence[int], count: int, generator: torch.Generator
) -> list[int]:
    """Draw `count` others of the same person for each example; itself if none is known."""
    import torch

    names = [row.get("person", f"example {i}") for i, row in enumerate(examples.rows)]
    people: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        people.setdefault(name, []).append(i)
    found: list[int] = []
    for i in indices:
        others = [other for other in people[names[i]] if other != i] or [i]
        drawn = torch.randint(len(others), (count,), generator=generator)
        found += [others[k] for k in drawn.tolist()]
    return found
