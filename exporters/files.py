"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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
def aside(path: Path) -> Iterator[Path]:
    """A name to write to, beside `path`; it becomes `path` in one step when all went well.

    What `path` held before is lost only then; a failure leaves it as it was and leaves no other
    file. Folders on the way are made. OSError becomes an InputError that names the path.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        _forget(part)


def write(files: Mapping[Path, bytes]) -> None:
    """Write files that belong together: all are written aside before the first one is renamed.

    They are renamed in the order given, so the one that names the others goes last.
    """
    parts = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in files}
    current = next(iter(files))
    try:
        for current, content in files.items():
            current.parent.mkdir(parents=True, exist_ok=True)
            parts[current].write_bytes(content)
        for current, part in parts.items():
            os.replace(part, current)
    except OSError as error:
        raise cannot_write(current, error) from error
    finally:
        for part in parts.values():
            _forget(part)


def _forget(part: Path) -> None:
    with suppress(OSError):
        part.unlink(missing_ok=True)


def cannot_write(path: Path, error: OSError) -> InputError:
    """The error to raise for a file that the system refused to write."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    cure = CURES.get(error.errno or 0, "choose another place")
    return InputError(f"cannot write {path}: {reason.lower()}; {cure}")
