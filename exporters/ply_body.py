"""The numbers of a PLY file, text or binary, with lists of any lengths."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from exporters.parse import MAX_FACES
from exporters.text import LOOK, decode, read_numbers, say, to_lines
from threed.core.errors import InputError

Ints = npt.NDArray[np.int64]
TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "int64": "i8", "uint64": "u8", "float16": "f2",
    "float32": "f4", "float64": "f8",
}  # fmt: skip
FORMS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
END = re.compile(rb"(?<=[\r\n])[ \t]*end_header[ \t]*(?=[\r\n]|$)", re.IGNORECASE)
MOST = 1_000_000  # bytes of a header
MANY = 2**53  # float64 holds all whole numbers up to it


@dataclass(frozen=True)
class Column:
    """What all rows of an element have of one property."""

    values: Any  # [N], of a list [C] all rows' one after the other
    counts: Ints | None  # [N] lengths of the lists; None if it is no list


Element = dict[str, Column]  # by the names of its properties, in small letters


@dataclass(frozen=True)
class _Property:
    name: str
    kind: str  # of numpy
    count: str | None  # of a list: the type of its length


@dataclass(frozen=True)
class _Head:
    """What the header says."""

    form: str  # "<", ">", or "" for a text
    elements: tuple[tuple[str, int, tuple[_Property, ...]], ...]
    textures: tuple[str, ...]  # files that comments name


def read_elements(content: bytes) -> tuple[dict[str, Element], tuple[str, ...]]:
    """Read the elements of a PLY file by their names, and what it names as its textures.

    InputError for a header that makes no sense, and for fewer numbers than it announces; more are
    said.
    """
    lines, body = split(content)
    head = _read_head(lines)
    source: _Text | _Binary
    source = _Binary(np.frombuffer(body, np.uint8), head.form) if head.form else _Text(body)
    total = sum(rows for _, rows, properties in head.elements if properties)
    found = {}
    for name, rows, properties in head.elements:
        if isinstance(source, _Text) and total < len(source.lines):
            found[name] = _read_lines(source, name, rows, properties)
        else:
            found[name] = _read_element(source, name, rows, properties)
    if source.place < len(source.data):
        say(f"{len(source.data) - source.place:,} {source.unit} too many at its end are left out")
    return found, head.textures


def split(content: bytes) -> tuple[list[bytes], bytes]:
    """The lines of the header, and what comes behind it; no line if it does not end."""
    end = END.search(content, 0, MOST)
    if end is None:
        return [], b""
    head, stop = content[: end.start()].removeprefix(b"\xef\xbb\xbf"), end.end()
    if content[stop : stop + 2] == b"\r\n" and b"\n" in head:
        stop += 1  # else what looks like half of a line's end is a number
    return head.strip().splitlines(), content[stop + 1 :]


def _read_head(lines: list[bytes]) -> _Head:
    form, textures = None, []
    elements: list[tuple[str, int, list[_Property]]] = []
    for line in lines[1:]:
        words = decode(line).split()
        match [word.lower() for word in words[:2]]:
            case ["format", kind] if kind in FORMS:
                form = FORMS[kind]
            case ["comment" | "obj_info", "texturefile"]:
                textures.append(decode(line).split(None, 2)[-1])
            case [] | ["comment" | "obj_info", *_]:
                pass
            case ["element", name] if len(words) == 3 and words[2].isdecimal():
                elements.append((name, int(words[2]), []))
            case ["property", _] if elements:
                elements[-1][2].append(_read_property([word.lower() for word in words[1:]]))
            case ["element" | "property" | "format", *_]:
                raise InputError(f"its header has the line {decode(line)[:LOOK]!r}")
            case _:
                say(f"the line {decode(line)[:LOOK]!r} of its header is passed over")
    if form is None:
        raise InputError("its header does not say whether it is ascii or binary")
    made = tuple((name, rows, tuple(properties)) for name, rows, properties in elements)
    return _Head(form, made, tuple(textures))


def _read_property(words: list[str]) -> _Property:
    if len(words) == 2 and words[0] in TYPES:
        return _Property(words[1], TYPES[words[0]], None)
    if len(words) == 4 and words[0] == "list" and words[1] in TYPES and words[2] in TYPES:
        return _Property(words[3], TYPES[words[2]], TYPES[words[1]])
    raise InputError(f"its header has the property {' '.join(words)[:LOOK]!r}")


class _Text:
    """The numbers of a text, each one unit long."""

    unit = "numbers"

    def __init__(self, body: bytes) -> None:
        text = to_lines(body)
        self.data, self.place, self.line = read_numbers(text), 0, 0
        letters = np.frombuffer(text, np.uint8)
        filled = letters > 32
        begins = np.flatnonzero(filled & ~np.concatenate([[False], filled[:-1]]))
        counts = np.diff(np.searchsorted(begins, np.flatnonzero(letters == 10)), prepend=0)
        self.lines = np.cumsum([0, *counts[counts > 0]])  # numbers before each line that has any

    def size(self, kind: str) -> int:
        """Units that a number takes."""
        return 1

    def one(self, place: int, kind: str) -> int:
        """The number at a place, as a length."""
        value = self.data[place]
        return int(value) if np.isfinite(value) else -1

    def take(self, places: Ints, kind: str) -> Any:
        """The numbers [N] at places [N]; InputError for one that is not whole but should be."""
        found = self.data[places]
        if kind[0] == "f":
            return found
        if not np.isfinite(found).all():
            raise InputError("it holds 'nan' or 'inf' where a whole number belongs")
        least = 0 if kind[0] == "u" else -MANY
        return found.clip(least, MANY).astype(np.int64)


class _Binary:
    """Numbers in bytes."""

    unit = "bytes"

    def __init__(self, data: Any, order: str) -> None:
        self.data, self.order, self.place = data, order, 0

    def size(self, kind: str) -> int:
        """Bytes that a number takes."""
        return int(kind[1:])

    def one(self, place: int, kind: str) -> int:
        """The number at a place, as a length."""
        value = self.data[place : place + self.size(kind)].view(self.order + kind)[0]
        return int(value) if np.isfinite(value) else -1

    def take(self, places: Ints, kind: str) -> Any:
        """The numbers [N] at places [N]."""
        rows = self.data[places[:, None] + np.arange(self.size(kind))]
        return rows.view(self.order + kind)[:, 0].astype(kind)


def _read_element(
    source: _Text | _Binary, name: str, rows: int, properties: tuple[_Property, ...]
) -> Element:
    """Read the rows of an element from the source's place on; InputError if there are fewer."""
    if not properties:
        return {}
    least = sum(source.size(one.count or one.kind) for one in properties)
    left = len(source.data) - source.place
    if rows * least > left:
        raise InputError(f"it is cut short: {rows:,} rows of its element {name!r} need "
                         f"{rows * least:,} {source.unit} at least, and {left:,} are left"
                         )  # fmt: skip
    places, counts = _find_places(source, name, rows, properties)
    found = {}
    for index, one in enumerate(properties):
        own = None if one.count is None else counts[index]
        found[one.name] = Column(_gather(source, places[index], own, one.kind), own)
    return found


def _read_lines(source: _Text, name: str, rows: int, properties: tuple[_Property, ...]) -> Element:
    """The same where each row has a line of its own, whatever else is in it."""
    if not properties:
        return {}
    place, ends = source.lines[source.line :][:rows], source.lines[source.line + 1 :][:rows]
    found = {}
    for one in properties:
        count = None if one.count is None else np.zeros(rows, np.int64)
        if count is not None:
            inside = place < ends
            count[inside] = source.take(place[inside], "i8")
            count[~inside] = -1
            place = place + 1
        after = place + (1 if count is None else count)
        bad = (after > ends) | (after < place)
        if bad.any():
            raise InputError(f"it is cut short: of {rows:,} rows of its element {name!r}, number "
                             f"{int(bad.argmax()) + 1:,} is not whole")  # fmt: skip
        found[one.name] = Column(_gather(source, place, count, one.kind), count)
        place = after
    if (place < ends).any():
        say(f"numbers behind {int((place < ends).sum()):,} rows of {name!r} are left out")
    source.line += rows
    source.place = int(source.lines[source.line])
    return found


def _gather(source: _Text | _Binary, places: Ints, counts: Ints | None, kind: str) -> Any:
    if counts is not None:
        step = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        places = np.repeat(places, counts) + step * source.size(kind)
    return source.take(places, kind)


def _find_places(
    source: _Text | _Binary, name: str, rows: int, properties: tuple[_Property, ...]
) -> tuple[list[Ints], list[Ints]]:
    """Where the values of each property begin in each row, and how many they are.

    All rows are taken to be as long as the first; where they are not, they are walked through.
    """
    first, _, end = _walk(source, name, min(rows, 1), properties)
    start, source_end = source.place, len(source.data)
    width = end - start
    places = [start + np.arange(rows) * width + (one[0] - start if len(one) else 0)
              for one in first]  # fmt: skip
    if rows and start + rows * width <= source_end:
        lengths = _read_lengths(source, places, properties)
        if all((one == one[:1]).all() and (one >= 0).all() for one in lengths):
            source.place = start + rows * width
            return places, lengths
    walked, counts, source.place = _walk(source, name, rows, properties)
    return walked, counts


def _read_lengths(
    source: _Text | _Binary, places: list[Ints], properties: tuple[_Property, ...]
) -> list[Ints]:
    lengths = []
    for place, one in zip(places, properties):
        if one.count is None:
            lengths.append(np.ones(len(place), np.int64))
        else:
            before = place - source.size(one.count)
            found = source.take(before, one.count)
            lengths.append(np.nan_to_num(found, nan=-1).astype(np.int64))
    return lengths


def _walk(
    source: _Text | _Binary, name: str, rows: int, properties: tuple[_Property, ...]
) -> tuple[list[Ints], list[Ints], int]:
    """The same row by row, and where the last one ends; InputError if it is not there."""
    if rows > MAX_FACES:
        raise InputError(f"it has {rows:,} rows {name!r} of different lengths; at most "
                         f"{MAX_FACES:,} are read")  # fmt: skip
    place, end = source.place, len(source.data)
    sizes = [(source.size(one.kind), one.count) for one in properties]
    places: list[list[int]] = [[] for _ in properties]
    counts: list[list[int]] = [[] for _ in properties]
    for row in range(rows):
        for index, (size, kind) in enumerate(sizes):
            count = 1
            if kind is not None:
                head = source.size(kind)
                count = source.one(place, kind) if place + head <= end else -1
                place += head
            places[index].append(place)
            counts[index].append(count)
            place += count * size
            if count < 0 or place > end:
                raise InputError(f"it is cut short: of {rows:,} rows of its element {name!r}, "
                                 f"number {row + 1:,} is not whole")  # fmt: skip
    return [np.array(p, np.int64) for p in places], [np.array(c, np.int64) for c in counts], place
