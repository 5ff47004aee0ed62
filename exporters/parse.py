"""Whole files as anybody may have made them, and how much of them is read."""

from __future__ import annotations

from pathlib import Path

from threed.core.errors import InputError

MAX_BYTES = 512 * 2**20  # of a file
MAX_FACES = 5_000_000


def read_file(path: Path) -> bytes:
    """Read a whole file; InputError if it is missing, empty, or larger than MAX_BYTES."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            limit = f"at most {MAX_BYTES // 2**20} MiB are read"
            raise InputError(f"{path} has {size / 2**20:.0f} MiB; {limit}")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    if not content:
        raise InputError(f"{path} is empty")
    return content


def read_beside(path: Path, name: str) -> bytes:
    """Read the file that the file `path` names, from its own folder only; InputError otherwise."""
    folder = path.parent.resolve()
    place = (folder / name.strip()).resolve()
    if not place.is_relative_to(folder):
        raise InputError(f"{path} asks for {name!r}, which lies outside its folder")
    return read_file(place)


def check_count(faces: int, path: Path) -> None:
    """Refuse more than MAX_FACES by an InputError."""
    if faces > MAX_FACES:
        raise InputError(f"{path} has {faces:,} faces; at most {MAX_FACES:,} are read")
