"""numba's compiler as every kernel here uses it: parallel, and cached on disk where that works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

Function = Callable[..., Any]


def compiled(function: Function) -> Function:
    """The function compiled by numba at its first call, its `prange` loops on all cores.

    The machine code is kept beside the source, else in the user's cache folder, or where
    NUMBA_CACHE_DIR says; where none of these can be written, every process compiles anew.
    """
    options = {"parallel": True, "fastmath": True, "nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        return numba.njit(**options)(function)


def inlined(function: Function) -> Function:
    """A piece of such a function, for use inside it (same file: the cache follows the file)."""
    return numba.njit(fastmath=True, error_model="numpy")(function)
