"""Plans: which part of a picture shows what. RPG's planners make them, its diffusion follows them.

A split is written as the published code has it: "1,2" are two columns, the second twice as wide;
with semicolons, rows, each beginning with its height: "1;2,1,1" is a row over one of twice its
height in two columns.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from threed.core.errors import InputError

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, as shares of the picture's width and height from its upper left."""

MOST = 16  # regions of a picture
LONGEST = 500  # characters of a region's prompt


@dataclass(frozen=True)
class Region:
    """A part of a picture, and what it shows. InputError for a box that is none."""

    prompt: str
    box: Box

    def __post_init__(self) -> None:
        """Refuse boxes outside the picture, or of no size, and prompts that say nothing."""
        left, top, right, bottom = self.box
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise InputError(f"the box {_numbers(self.box)} of {self.prompt!r} is not in the "
                             "picture: left, top, right and bottom are shares of it, 0 <= left < "
                             "right <= 1 and 0 <= top < bottom <= 1")  # fmt: skip
        if not self.prompt.strip():
            raise InputError(f"the region {_numbers(self.box)} has no prompt: say what it shows")
        control = any(unicodedata.category(letter) in ("Cc", "Cs") for letter in self.prompt)
        if len(self.prompt) > LONGEST or control:
            raise InputError(f"the prompt of a region must be text of at most {LONGEST} "
                             f"characters, got {self.prompt[:40]!r}...")  # fmt: skip

    def pixels(self, height: int, width: int) -> tuple[slice, slice]:
        """Its rows and columns in a picture so large; where two regions meet there is no gap."""
        left, top, right, bottom = self.box
        return _cut(top, bottom, height), _cut(left, right, width)

    @property
    def whole_width(self) -> bool:
        """Whether it is as wide as the picture, so that it is the same from all sides."""
        return self.box[0] == 0 and self.box[2] == 1

    def mirrored(self) -> Region:
        """The same with left and right exchanged: what is seen from behind."""
        left, top, right, bottom = self.box
        return replace(self, box=(1 - right, top, 1 - left, bottom))

    def words(self) -> str:
        """The text that `read_region` reads."""
        return f"{_numbers(self.box)}:{self.prompt}"


@dataclass(frozen=True)
class Plan:
    """A picture and its regions. Where two of them overlap the later one counts.

    Where there is none, the picture's own prompt does.
    """

    prompt: str  # of the whole picture
    regions: tuple[Region, ...]

    def __post_init__(self) -> None:
        """InputError for no region, or too many."""
        if not 1 <= len(self.regions) <= MOST:
            raise InputError(f"a plan has 1 to {MOST} regions, got {len(self.regions)}")


def split_plan(prompt: str, split: str, prompts: Sequence[str]) -> Plan:
    """The plan of a split and its regions' prompts, row by row. InputError if they do not fit."""
    boxes = list(split_boxes(split))
    if len(boxes) != len(prompts):
        raise InputError(f"the split {split!r} has {len(boxes)} regions, and there are "
                         f"{len(prompts)} prompts for them")  # fmt: skip
    return Plan(prompt, tuple(map(Region, (text.strip() for text in prompts), boxes)))


def split_boxes(split: str) -> Iterator[Box]:
    """The boxes of a split, row by row; together they are the picture. InputError if it is none."""
    rows = [_ratios(split, row) for row in split.split(";")]
    if len(rows) == 1:
        rows = [[1.0, *rows[0]]]
    heights = _shares([row[0] for row in rows])
    if sum(max(len(row) - 1, 1) for row in rows) > MOST:
        raise InputError(f"the split {split!r} has more than {MOST} regions")
    for (top, bottom), (_, *widths) in zip(heights, rows):
        for left, right in _shares(widths or [1.0]):
            yield left, top, right, bottom


def read_regions(prompt: str, regions: Sequence[str], split: str | None = None) -> Plan:
    """A plan as a user writes it: prompts for a split, or "LEFT,TOP,RIGHT,BOTTOM:PROMPT" each.

    InputError for what is neither.
    """
    if split is not None:
        return split_plan(prompt, split, regions)
    return Plan(prompt, tuple(map(read_region, regions)))


def read_region(text: str) -> Region:
    """A region from "LEFT,TOP,RIGHT,BOTTOM:PROMPT". InputError for any other text."""
    numbers, colon, words = text.partition(":")
    try:
        left, top, right, bottom = map(float, numbers.split(","))
    except ValueError:
        colon = ""
    if not colon:
        raise InputError(f"region {text!r}: write left,top,right,bottom:prompt with shares of the "
                         "picture, such as 0,0,0.5,1:a red ball, or "
                         "give a split, such as 1,1")  # fmt: skip
    return Region(words.strip(), (left, top, right, bottom))


def read_subject(text: str) -> tuple[str, Box | None]:
    """A phrase and its box, from "LEFT,TOP,RIGHT,BOTTOM:PHRASE", or from a phrase alone.

    InputError for a box that is none, or without a phrase.
    """
    if re.match(r"[-+.,\de\s]*:", text):
        region = read_region(text)
        return region.prompt, region.box
    if not text.strip():
        raise InputError("a subject needs a phrase that says what it is, such as a dog")
    return text.strip(), None


def _ratios(split: str, row: str) -> list[float]:
    """The numbers of a row."""
    try:
        numbers = [float(text) for text in row.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(math.isfinite(n) and n > 0 for n in numbers):
        raise InputError(f"the split {split!r} has a row {row!r}: it takes numbers above 0 with "
                         "commas between them, and semicolons between rows")  # fmt: skip
    return numbers


def _shares(ratios: Sequence[float]) -> Iterator[tuple[float, float]]:
    """From and to, for parts in these ratios to each other; the last ends at 1 exactly."""
    ends = [*accumulate(r / sum(ratios) for r in ratios)]
    return pairwise([0.0, *ends[:-1], 1.0])


def _cut(begin: float, end: float, size: int) -> slice:
    """Whole pixels, rounded down as in the published code; a sum of shares may lack a bit."""
    return slice(int(size * begin + 1e-6), int(size * end + 1e-6))


def _numbers(box: Box) -> str:
    return ",".join(f"{number:.6g}" for number in box)
