"""Devices by the names that people give them; torch is asked only where a GPU may be."""

from __future__ import annotations

import re
import sys
from glob import glob

from threed.core.errors import InputError

DEVICES = "auto|cpu|cuda(:[0-9]{1,3})?"  # as a regular expression
TAKES = "must be auto, cpu, cuda or cuda:N"
GPUS = ("/dev/nvidia*", "/dev/nvhost*", "/dev/dxg", "/dev/kfd")  # Linux has one where torch may


def pick_device(device: str = "auto") -> str:
    """Name the device to work on: CUDA if there is any and "auto" is asked for.

    InputError for what is none of DEVICES, and for a GPU that is not there.
    """
    if re.fullmatch(DEVICES, device) is None:
        raise InputError(f"device {TAKES}, got {device!r}")
    if device == "cpu":
        return device
    count = _count_gpus()
    if device == "auto":
        return "cuda" if count else "cpu"
    if int(device.partition(":")[2] or 0) >= count:
        seen = f"{count} of them" if count else "no CUDA GPU"
        raise InputError(f"device {device!r} was asked for, but this PyTorch sees {seen}")
    return device


def _count_gpus() -> int:
    """How many GPUs torch can use; it is not imported, which takes seconds, where none can be."""
    if "torch" not in sys.modules and sys.platform == "linux" and not any(map(glob, GPUS)):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
