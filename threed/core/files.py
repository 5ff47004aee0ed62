"""Files that appear whole or not at all, and folders that are new."""

from __future__ import annotations

import errno
import os
import re
import time
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from threed.core.errors import InputError

CURES = {
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some space, or choose another folder",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.EISDIR: "choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
}


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Give a name to write to, beside `path` and with its suffix; rename it to `path` at the end.

    What `path` held before is lost only then; a failure leaves it as it was and leaves no other
    file. Folders on the way are made. OSError becomes an InputError that names the path.
    """
    part = path.with_name(f".{os.getpid()}.part.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        cure = CURES.get(error.errno or 0, "choose another place")
        raise InputError(f"cannot write {path}: {reason.lower()}; {cure}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write(path: Path, content: bytes) -> None:
    """Write a file. Errors as from `write_aside`."""
    write_together({path: content})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write files that belong together: all are written aside before the first one is renamed.

    They are renamed in the order given, so the one that names the others goes last. Errors as from
    `write_aside`.
    """
    with ExitStack() as stack:
        for path, content in reversed(list(files.items())):
            stack.enter_context(write_aside(path)).write_bytes(content)


def default_folder(prompt: str) -> Path:
    """outputs/<slug>-<time>, not in use yet."""
    words = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", words).strip("-")[:40].rstrip("-") or "asset"
    path = Path("outputs") / f"{slug}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = (path, *(path.with_name(f"{path.name}-{i}") for i in range(2, 1000)))
    return next(candidate for candidate in candidates if not candidate.exists())
