"""What text files of all tools have in common, and the files that they name."""

from __future__ import annotations

import codecs
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from threed.core.errors import InputError, MeshWarning

LOOK = 60  # characters of a line that an error shows


@contextmanager
def name_file(path: Path) -> Iterator[None]:
    """Put the file's name before what InputErrors and MeshWarnings in here say."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            yield
        except InputError as error:
            if str(path) in str(error):
                raise
            raise InputError(f"cannot read {path}: {error}") from error
    for message, kind in dict.fromkeys((str(one.message), one.category) for one in said):
        known = issubclass(kind, MeshWarning)
        warnings.warn(f"{path}: {message}" if known else message, kind, stacklevel=5)


def say(message: str) -> None:
    """Warn that something in a file is left out, or read in another way than it is meant."""
    warnings.warn(message, MeshWarning, stacklevel=3)


def to_lines(content: bytes) -> bytes:
    r"""Make UTF-8 without a byte order mark of a text, every line ended by \n."""
    if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        content = content.decode("utf-16", "replace").encode()
    content = content.removeprefix(codecs.BOM_UTF8)
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n") + b"\n"


def decode(text: bytes) -> str:
    """Decode UTF-8, or else what Windows in western Europe writes."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("cp1252", "replace")


def read_numbers(text: bytes, dtype: type = np.float64) -> npt.NDArray[Any]:
    """Read the numbers [N] of a text with blanks between them; InputError names what is none."""
    if not text.strip():
        return np.zeros(0, dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what numpy 1 says, later ones raise
            return np.fromstring(text, dtype, sep=" ")
    except (ValueError, DeprecationWarning) as error:
        bad = next((word for word in text.split() if not _is_number(word, dtype)), b"")
        raise InputError(f"{decode(bad[:LOOK])!r} is no number") from error


def _is_number(word: bytes, dtype: type) -> bool:
    try:
        dtype(word)
    except ValueError:
        return False
    return True


def find_beside(folder: Path, name: str) -> Path | None:
    r"""Find the file that a file in `folder` names; None if it is not there.

    Backslashes part folders as slashes do, upper and lower case count as the same, and a file that
    is not where it should be may lie in the folder itself. InputError for one outside the folder.
    """
    wanted = PurePosixPath(name.strip().strip('"').replace("\\", "/"))
    place = _follow(folder, wanted) or _follow(folder, PurePosixPath(wanted.name))
    if place is None and (wanted.is_absolute() or ".." in wanted.parts):
        raise InputError(f"it asks for {name!r}, which lies outside its folder")
    return place


def _follow(folder: Path, wanted: PurePosixPath) -> Path | None:
    place = folder
    try:
        for part in wanted.parts:
            if part in ("..", "/"):
                return None
            found = place / part
            if not found.exists():
                same = [one for one in place.iterdir() if one.name.casefold() == part.casefold()]
                found = min(same, default=found)
            place = found
        inside = place.resolve().is_relative_to(folder.resolve())
        return place if inside and place.is_file() else None
    except (OSError, ValueError):  # no folder, or a name that no file can have
        return None
