"""numba's compiler as every kernel here uses it: parallel, and cached on disk where that works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from torch import Tensor

Function = Callable[..., Any]


def compiled(function: Function) -> Function:
    """The function compiled by numba at its first call, its `prange` loops on all cores.

    The machine code is kept beside the source, else in the user's cache folder, or where
    NUMBA_CACHE_DIR says; where none of these can be written, every process compiles anew.
    """
    return _compiled(function, parallel=True)


def serial(function: Function) -> Function:
    """As `compiled`, for work that has an order: one thread."""
    return _compiled(function, parallel=False)


def exact(function: Function) -> Function:
    """As `compiled`, rounding as written: what two such functions both compute is equal."""
    return _compiled(function, parallel=True, fastmath=False)


def _compiled(function: Function, parallel: bool, fastmath: bool = True) -> Function:
    options = {"parallel": parallel, "fastmath": fastmath, "nogil": True, "error_model": "numpy"}
    made: Function
    try:
        made = numba.njit(cache=True, **options)(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        made = numba.njit(**options)(function)
    return made


def inlined(function: Function) -> Function:
    """A piece of such a function, for use inside it (same file: the cache follows the file)."""
    made: Function = numba.njit(fastmath=True, error_model="numpy")(function)
    return made


def inlined_exact(function: Function) -> Function:
    """A piece of an `exact` function."""
    made: Function = numba.njit(error_model="numpy")(function)
    return made


def array(tensor: Tensor) -> Any:
    """The numbers of a tensor [...] on the CPU as a contiguous array, shared where they can be."""
    return tensor.detach().contiguous().numpy()
