"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_aside(path: Path, data: bytes) -> Path:
    """Write to a neighbour of path, to be renamed to it."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return part


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    os.replace(write_aside(path, data), path)
