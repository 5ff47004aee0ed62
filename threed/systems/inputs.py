"""What systems are told besides the prompt: inputs, each of a kind.

A kind knows how a value is written, which files it names, and what it says of another view of a
scene. From a system's inputs come the options of its commands, YAML, the JSON schema, forms of
other faces, `threed list systems` and the docs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from threed.core.errors import InputError
from threed.diffusion.parts.plans import Region, read_region, read_subject

Values = tuple[Any, ...]
Change = Callable[[Path], Path]
PICTURED = "pictured"  # the view of the given pictures: as `threed image` shows a front


@dataclass(frozen=True)
class View:
    """A view of a scene, as a system is told it."""

    name: str  # front, side, back, overhead, or PICTURED
    tail: str = ""  # words of the view, which end its prompts: ", back view"

    @property
    def level(self) -> bool:
        """Whether left and right are seen, as they are or exchanged."""
        return self.name in ("front", "back", PICTURED)


@dataclass(frozen=True)
class Kind:
    """A kind of input. `read` raises InputError for text that is no value of this kind."""

    name: str
    metavar: str  # what is typed: "WORD:FACTOR"
    read: Callable[[str], Any]
    seen: Callable[[Values, View], Values | None] = lambda values, view: values
    """What values say of a view of a scene: none are left of what says nothing there, and None
    where nothing can be told without them."""
    with_files: Callable[[str, Change], str] = lambda text, change: text
    """The text of a value, with its file's path changed."""
    copied: bool = False  # a run keeps a copy of the file
    flat: bool = False  # is about one picture, and never of a scene, which has many
    prompt: Callable[[Any], str] | None = None  # what of a value a backbone reads as a prompt


@dataclass(frozen=True)
class Input:
    """One thing that a system is told, by the name of its option."""

    name: str
    kind: Kind
    about: str
    required: bool = False
    many: bool = False  # may be said several times

    def read(self, words: Sequence[str]) -> Values:
        """The values of what was typed. InputError names the option, the text and what it takes."""
        if len(words) > 1 and not self.many:
            raise InputError(f"--{self.name} takes one value, got {', '.join(map(str, words))}")
        try:
            return tuple(self.kind.read(str(word)) for word in words)
        except InputError as error:
            raise InputError(f"--{self.name}{error}") from error

    def schema(self) -> dict[str, Any]:
        """The JSON schema of what may be typed, with the kind for faces that have forms."""
        kind = {"kind": self.kind.name, "placeholder": self.kind.metavar}
        text = {"type": "string", "minLength": 1} | kind
        many = {"type": "array", "items": text}
        return (many if self.many else text) | {"description": self.about}


def _split_word(text: str) -> tuple[str, str]:
    word, colon, rest = text.partition(":")
    if not word or not colon or not rest:
        raise InputError(f" {text}: a word, a colon and a value are needed")
    return word, rest


def _numbers(text: str, count: int) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count or not all(map(math.isfinite, values)):
        what = "a number" if count == 1 else f"{count} numbers with commas between them"
        raise InputError(f": {what} must follow the colon, got {text!r}")
    return values


def _read_factor(text: str) -> tuple[str, float]:
    word, rest = _split_word(text)
    return word, _numbers(rest, 1)[0]


def _read_shift(text: str) -> tuple[str, tuple[float, ...]]:
    word, rest = _split_word(text)
    return word, _numbers(rest, 2)


def _read_span(text: str) -> tuple[str, tuple[float, ...]]:
    word, rest = _split_word(text)
    return word, _numbers(rest, 2) if "," in rest else (0.0, *_numbers(rest, 1))


def _read_file(text: str) -> tuple[str, Path]:
    word, rest = _split_word(text)
    return word, Path(rest)


def _read_weighted(text: str) -> tuple[Path, float]:
    """A path, and how strongly what lies there counts: "my-toy:0.8"; 1 if not said."""
    rest, colon, last = text.rpartition(":")
    try:
        weight = float(last) if rest else 1.0
    except ValueError:  # the colon is part of the path
        return Path(text), 1.0
    if not math.isfinite(weight):
        raise InputError(f" {text}: a finite weight must follow the colon")
    return Path(rest if colon and rest else text), weight


def _change_weighted(text: str, change: Change) -> str:
    path, weight = _read_weighted(text)
    return f"{change(path).as_posix()}:{weight:g}"


def _change_file(text: str, change: Change) -> str:
    return change(Path(text)).as_posix()


def _change_named_file(text: str, change: Change) -> str:
    word, path = _read_file(text)
    return f"{word}:{change(path).as_posix()}"


def _read_garment(text: str) -> tuple[str, Path]:
    """What a garment is, and its picture: "shirt:a.png"; "garment" if not said."""
    word, colon, rest = text.partition(":")
    return (word, Path(rest)) if word and colon and rest else ("garment", Path(text))


def _change_garment(text: str, change: Change) -> str:
    word, path = _read_garment(text)
    return f"{word}:{change(path).as_posix()}"


def _say_view(values: Values, view: View) -> Values:
    return tuple(text + view.tail for text in values)


def _hold_for_one_camera(values: Values, view: View) -> Values | None:
    """A picture holds for the camera that took it."""
    return values if view.name == PICTURED else None


def _say_nothing_elsewhere(values: Values, view: View) -> Values:
    """What is known for one camera is left out from elsewhere, and all else goes on."""
    return values if view.name == PICTURED else ()


def _turn_shifts(values: Values, view: View) -> Values | None:
    """A move turns round from behind; from the side only up and down are left of it."""
    side = {"back": -1.0, "side": 0.0}.get(view.name, 1.0)
    if view.name == "overhead" or (not view.level and not any(dy for _, (_, dy) in values)):
        return None
    return tuple((word, (side * dx, dy)) for word, (dx, dy) in values)


def _turn_regions(values: Values, view: View) -> Values | None:
    """Regions are mirrored from behind; from the side only those of the whole width are left."""
    regions = [read_region(text) for text in values]
    in_rows = all(region.whole_width for region in regions)
    if not view.level and not (in_rows and view.name == "side"):
        return None
    if view.name == "back":
        regions = [region.mirrored() for region in regions]
    return tuple(replace(region, prompt=region.prompt + view.tail).words() for region in regions)


def _turn_subjects(values: Values, view: View) -> Values:
    """Boxes are mirrored from behind; from the side only their rows are left of them."""

    def turned(text: str) -> str:
        phrase, box = read_subject(text)
        if box is None or view.name in ("front", PICTURED):
            return text
        if view.name == "back":
            return Region(phrase, box).mirrored().words()
        rows = box[1::2] if view.name == "side" else (0.0, 1.0)
        return Region(phrase, (0.0, rows[0], 1.0, rows[1])).words()

    return tuple(map(turned, values))


TEXT = Kind("text", "TEXT", str)
PROMPT = Kind("prompt", "PROMPT", str, seen=_say_view, prompt=str)
WORD = Kind("word", "WORD", str)
PLANNER = replace(TEXT, name="planner")  # asks another machine, or a model in a folder
WORD_FACTOR = Kind("word with a factor", "WORD:FACTOR", _read_factor)
WORD_SPAN = Kind("word with a span", "WORD:[FROM,]UNTIL", _read_span)
WORD_SHIFT = Kind("word with a shift", "WORD:DX,DY", _read_shift, seen=_turn_shifts)
REGION = Kind("region", "[LEFT,TOP,RIGHT,BOTTOM:]PROMPT", str, seen=_turn_regions,
              prompt=lambda text: re.sub(r"^[-+.,\de\s]*:", "", text).strip())  # fmt: skip
SUBJECT = replace(REGION, name="subject", metavar="[LEFT,TOP,RIGHT,BOTTOM:]PHRASE",
                  seen=_turn_subjects)  # fmt: skip
PICTURE = Kind("picture", "FILE", Path, with_files=_change_file, copied=True, flat=True)
SHOWN = replace(PICTURE, flat=False)  # of something that is the same from every view
FILE = replace(SHOWN, name="file")
MASK = replace(SHOWN, name="mask", seen=_hold_for_one_camera)
POSE = replace(SHOWN, name="pose", seen=_say_nothing_elsewhere)
WEIGHTS = Kind("weights", "PATH|OWNER/NAME", Path, with_files=_change_file)
LEARNED = Kind("what was learned", "PATH[:WEIGHT]", _read_weighted, with_files=_change_weighted)
LOOK = Kind("word with a look", "WORD:FILE", _read_file, with_files=_change_named_file, copied=True)
GARMENT = Kind("garment", "[WORD:]FILE", _read_garment, with_files=_change_garment, copied=True)
PLACE = replace(LOOK, name="word with a place", seen=_hold_for_one_camera)
MAP = Kind("map", "KIND:FILE", _read_file, _hold_for_one_camera, _change_named_file, copied=True)


BESIDE = Input("learned", LEARNED, "what was learned of a thing or a look, to be used beside: a "
               "folder or a file, and after a colon how much it counts", many=True)  # fmt: skip


def turn(inputs: Sequence[Input], given: Mapping[str, Values], view: View) -> Any:
    """The values of inputs as they are of a view, by name; None if one says nothing of it."""
    said = (item for item in inputs if item.name in given)
    told = {item.name: item.kind.seen(given[item.name], view) for item in said}
    return None if None in told.values() else told
