"""What a request is refused with."""

from __future__ import annotations

import errno

from threed.core.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)


class Refusal(InputError):
    """A mistake of a request that has a status of HTTP of its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def status_of(error: InputError) -> int:
    """The status of HTTP that says best what is wrong: 400 for most.

    507 where the disk is full, and 503 where nothing may be written.
    """
    if isinstance(error, Refusal):
        return error.status
    cause = error.__cause__
    code = cause.errno if isinstance(cause, OSError) else None
    return 507 if code in FULL else 503 if code in CLOSED else 400
