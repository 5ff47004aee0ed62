"""Files that are written whole or not at all, and folders that are new."""

from __future__ import annotations

import os
import re
import time
import unicodedata
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


def default_folder(prompt: str) -> Path:
    """outputs/<slug>-<time>, not in use yet."""
    words = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", words).strip("-")[:40].rstrip("-") or "asset"
    path = Path("outputs") / f"{slug}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = (path, *(path.with_name(f"{path.name}-{i}") for i in range(2, 1000)))
    return next(candidate for candidate in candidates if not candidate.exists())
