"""Mesh files damaged at random, for `tests/test_exporters_fuzz.py` and `benchmarks/fuzz.py`."""

from __future__ import annotations

import re
import struct
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

import exporters
from exporters.bake import bake
from exporters.unwrap import unwrap
from tests.reading import CASES
from tests.shapes import FORMATS, lopsided

Random = np.random.Generator
Files = dict[str, bytes]  # a mesh file, and what lies beside it
BROKEN = ("indices of nothing", "cut short", "numbers that are none", "files outside the folder")
HARD = (b"0", b"-1", b"1", b"255", b"65536", b"4294967295", b"-2147483648", b"99999999999999999999",
        b"1e400", b"-1e38", b"nan", b"inf", b"", b"a", b"/", b"\0", b"\xff\xfe", b"\n")  # fmt: skip


@cache
def whole_files(form: str) -> list[Files]:
    """Files of a format, most of them read: what we write, and small ones of other tools."""
    bare = lopsided()
    painted = bake(unwrap(bare, 16), lambda p, n: p.clamp(0, 1), 16)
    found = []
    for mesh in (bare, painted):
        with tempfile.TemporaryDirectory() as folder:
            exporters.save(mesh, Path(folder) / f"mesh.{form}")
            found.append({p.name: p.read_bytes() for p in sorted(Path(folder).iterdir())})
    for feature, cases in CASES.get(form.upper(), {}).items():
        for case in cases * (feature not in BROKEN):
            files = {f"mesh.{form}": case.content, **case.beside}
            found.append({n: c if isinstance(c, bytes) else c.encode() for n, c in files.items()})
    return found


def damaged(form: str, seed: int) -> Files:
    """One of the files, damaged once or more often; the seed decides everything."""
    rng = np.random.default_rng([seed, *form.encode()])
    whole = whole_files(form)
    files = dict(whole[rng.integers(len(whole))])
    names = [name for name in files if name.endswith((f".{form}", ".mtl"))]
    name = names[rng.integers(len(names))]
    content = files[name]
    ways = WAYS + [_change_glb] * len(WAYS) * (form == "glb")
    for _ in range(rng.geometric(0.7)):
        content = ways[rng.integers(len(ways))](content, rng)
    return files | {name: content}


def write(files: Files, folder: Path) -> Path:
    """Write files into a folder; the path of the mesh."""
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(content)
    return folder / next(iter(name for name in files if name.endswith(tuple(FORMATS))))


def _place(content: bytes, rng: Random, length: int = 0) -> int:
    return int(rng.integers(max(len(content) - length, 0) + 1))


def _change_bytes(content: bytes, rng: Random) -> bytes:
    broken = bytearray(content)
    for place in rng.integers(max(len(content), 1), size=rng.integers(1, 9)):
        if place < len(broken):
            broken[place] = rng.integers(256)
    return bytes(broken)


def _cut(content: bytes, rng: Random) -> bytes:
    return content[: _place(content, rng)]


def _leave_out(content: bytes, rng: Random) -> bytes:
    place, length = _place(content, rng), int(rng.integers(1, 60))
    return content[:place] + content[place + length :]


def _repeat(content: bytes, rng: Random) -> bytes:
    place, length = _place(content, rng), int(rng.integers(1, 200))
    return content[: place + length] + content[place:]


def _put_in(content: bytes, rng: Random) -> bytes:
    place = _place(content, rng)
    return content[:place] + HARD[rng.integers(len(HARD))] + content[place:]


def _change_word(content: bytes, rng: Random) -> bytes:
    words = list(re.finditer(rb"[\w.+-]+", content[:4000]))
    if not words:
        return content
    word = words[rng.integers(len(words))]
    return content[: word.start()] + HARD[rng.integers(len(HARD))] + content[word.end() :]


def _change_count(content: bytes, rng: Random) -> bytes:
    """A whole number of 32 bits becomes a hard one."""
    place = _place(content, rng, 4)
    hard = [0, 1, 2**31, 2**32 - 1, 2**24, len(content)][rng.integers(6)]
    return content[:place] + struct.pack("<I", hard) + content[place + 4 :]


def _change_glb(content: bytes, rng: Random) -> bytes:
    """A number, a word or a value of the description changes, and its lengths with it."""
    size = int.from_bytes(content[12:16], "little")
    text, rest = content[20 : 20 + size], content[20 + size :]
    values = list(re.finditer(rb'-?[0-9][0-9.e+-]*|"[^"]*"|true|false|\[[^\[\]{}]*\]', text))
    if not values:
        return content
    value = values[rng.integers(len(values))]
    odd = [b"-1", b"0", b"1", b"5126", b"65536", b"1e300", b"4294967296", b"null", b'"POSITION"',
           b"[]", b"{}", b"[0]", b'"a"', b"0.5", b"true", b"3", b"100000000"]  # fmt: skip
    text = text[: value.start()] + odd[rng.integers(len(odd))] + text[value.end() :]
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sIII4s", b"glTF", 2, 20 + len(text) + len(rest), len(text), b"JSON")
    return head + text + rest


WAYS: list[Callable[[bytes, Random], bytes]] = [
    _change_bytes, _cut, _leave_out, _repeat, _put_in, _change_word, _change_count,
]  # fmt: skip
