"""What this machine offers a run, and why something faster is not in use."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch

from renderers import kernels
from threed import __version__
from threed.diffusion.catalog import list_backbones

OPTIONAL = {  # module: what it is for, and where it comes from
    "pymeshlab": "threed repair, and broken meshes for --init; pip install 'threed[repair]'"
}
LIBRARIES = ("torch", "diffusers", "transformers", "numba", "numpy", "trimesh", "xatlas", "av")


def examine() -> dict[str, dict[str, Any]]:
    """Findings by part and name, ready for JSON. Loads no model and touches no network."""
    return {
        "threed": {"version": __version__, "python": sys.version.split()[0],
                   "system": platform.platform()},
        "devices": _devices(),
        "kernels": _kernels(),
        "libraries": {name: _version(name) or "missing" for name in LIBRARIES},
        "optional": {name: "installed" if find_spec(name) else f"missing: {why}"
                     for name, why in OPTIONAL.items()},
        "backbones": {item.name: str(item.folder) if item.folder else "not on this disk"
                      for item in list_backbones()},
        "memory": _memory(),
        "disk": _disk(),
    }  # fmt: skip


def _devices() -> dict[str, Any]:
    found: dict[str, Any] = {
        "cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads in use"
    }
    if not torch.cuda.is_available():
        built = torch.version.cuda
        found["cuda"] = "no GPU found" if built else "this PyTorch is built without CUDA"
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB"
    return found


def _kernels() -> dict[str, Any]:
    found = {"cpu tensors": kernels.select("cpu")}
    if torch.cuda.is_available():
        found |= {f"cuda {name}": kernels.select("cuda", name) for name in kernels.OPERATIONS}
    return found | {f"not {name}": why for name, why in kernels.why_not().items()}


def _memory() -> dict[str, Any]:
    memory = psutil.virtual_memory()
    return {"total": _gib(memory.total), "available": _gib(memory.available)}


def _disk() -> dict[str, Any]:
    return {"free here": _gib(shutil.disk_usage(Path.cwd()).free),
            "here can be written": os.access(Path.cwd(), os.W_OK)}  # fmt: skip


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
