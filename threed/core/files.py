"""Files that appear whole or not at all, and folders that are new."""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
import unicodedata
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

from threed.core.errors import InputError

LONGEST = 255  # bytes of a name
OURS = secrets.token_hex(2)  # on a shared disk another machine may have a process of our number
CURES = {
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some space, or choose another folder",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.EISDIR: "choose another name",
    errno.EEXIST: "choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def check_name(path: Path, endings: Sequence[str] = ()) -> None:
    """InputError for a name that is too long, or without one of the endings."""
    if endings and path.suffix.lower() not in endings:
        raise InputError(f"cannot write {path.name[:60]!r}: its name must end in one of "
                         f"{', '.join(endings)}")  # fmt: skip
    if re.search("[\0\ud800-\udfff]", str(path)):  # lone surrogates: bytes that are no UTF-8
        raise InputError(f"cannot write {str(path)!r}: a name is needed that is text")
    if any(len(os.fsencode(part)) > LONGEST for part in path.parts):
        raise _refusal(path, OSError(errno.ENAMETOOLONG, ""))


def check_out(path: Path, endings: Sequence[str] = (), *, folder: bool = False) -> None:
    """Judge where something is to be written, before the work: a file, or with `folder` a folder.

    Nothing stays there. InputError as from `check_name`; where a folder, a device, or for a folder
    a file, has the name already; under a file; and where nothing can be written.
    """
    check_name(path, endings)
    with refuse(path):
        if path.is_dir() and not folder:
            raise IsADirectoryError(errno.EISDIR, "")
        if path.exists() and not path.is_dir() and (folder or not path.is_file()):
            raise FileExistsError(errno.EEXIST, "")
        with TemporaryFile(dir=next(place for place in path.absolute().parents if place.exists())):
            pass


def _refusal(path: Path, error: OSError) -> InputError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    cure = CURES.get(error.errno or 0, "choose another place")
    return InputError(f"cannot write {path}: {reason.lower()}; {cure}")


@contextmanager
def refuse(path: Path) -> Iterator[None]:
    """Within, an OSError becomes an InputError: the path cannot be written, why, and what to do."""
    try:
        yield
    except OSError as error:
        raise _refusal(path, error) from error


def read_text(path: Path) -> str:
    """The text of a file; InputError where it is missing, cannot be read, or is no UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "it cannot be opened"
        raise InputError(f"cannot read {path}: {reason.lower()}") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged, or no text in UTF-8") from error


def make_folder(path: Path) -> None:
    """Make a folder, and those above it. InputError as from `check_out`."""
    with refuse(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Give a name to write to, beside `path` and with its suffix; rename it to `path` at the end.

    What `path` held before is lost only then; a failure leaves it as it was and leaves no other
    file. Folders on the way are made. OSError becomes an InputError that names the path.
    """
    mark = zlib.crc32(os.fsencode(path.name))  # the name itself may leave no room
    part = path.with_name(f".{os.getpid()}.{OURS}.{mark:08x}.part{path.suffix}")
    try:
        with refuse(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
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


def slug(prompt: str) -> str:
    """What a prompt's files are called: its letters a-z and digits, at most 40, joined by "-"."""
    words = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")[:40].rstrip("-") or "asset"


def default_folder(prompt: str) -> Path:
    """outputs/<slug>-<time>, not in use yet."""
    path = Path("outputs") / f"{slug(prompt)}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = (path, *(path.with_name(f"{path.name}-{i}") for i in range(2, 1000)))
    return next(candidate for candidate in candidates if not candidate.exists())
