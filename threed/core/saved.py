"""What torch saved in a file: weights, checkpoints, meshes."""

from __future__ import annotations

import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

from threed.core.errors import InputError


class Inert:
    """What an object of a file becomes that is no plain data: it takes anything, does nothing."""

    state: object = None  # what the file says of its attributes

    def __new__(cls, *_: object) -> Inert:
        """Whatever the object was made of is dropped."""
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        """Nothing."""

    def __setstate__(self, state: object) -> None:
        """Kept aside, so that no attribute can be set."""
        self.state = state


def read_saved(path: Path, *, others: bool = False) -> Any:
    """Read what `torch.save` wrote, onto the CPU; nothing in the file is executed.

    others: classes and functions may be named in it beside plain data; they are never looked up,
    and `Inert` stands for each. InputError for any other file, and for one that is damaged.
    """
    import torch
    from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

    if not os.path.isfile(path):
        raise InputError(f"there is no file {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that are refused all the same
            named = get_unsafe_globals_in_checkpoint(path) if (
                others and zipfile.is_zipfile(path)) else []  # fmt: skip
            with safe_globals([(Inert, name) for name in named]):
                return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler raises whatever it stumbles over
        raise InputError(f"{path} is damaged, or holds more than weights; nothing in it was "
                         "executed") from error  # fmt: skip
