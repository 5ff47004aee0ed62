"""What glTF files hold compressed: Draco's faces, meshoptimizer's rows of numbers."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from threed.core.errors import InputError

Array = npt.NDArray[Any]
DRACO = "KHR_draco_mesh_compression"
MESHOPT = ("EXT_meshopt_compression", "KHR_meshopt_compression")
MOST = 2**29  # bytes that are unpacked at once


def find(view: dict[str, Any]) -> dict[str, Any] | None:
    """What a buffer view says of its compressed rows, if it has some."""
    extensions = view.get("extensions", {})
    return next((extensions[name] for name in MESHOPT if name in extensions), None)


def unpack(data: bytes, about: dict[str, Any], path: Path) -> tuple[bytes, int]:
    """Unpack meshoptimizer's rows: bytes, and how far apart the rows are.

    InputError, naming `path`, without the library or where that fails.
    """
    library = find_library("meshoptimizer", MESHOPT[0], path)
    count, stride = about["count"], about["byteStride"]
    if not 0 < count * stride <= MOST:
        raise InputError(f"{path} is damaged: {count:,} rows of {stride} bytes are compressed")
    mode, name = about["mode"], about.get("filter", "NONE")
    try:
        if mode == "ATTRIBUTES":
            rows = library.decode_vertex_buffer(count, stride, data, np.dtype((np.void, stride)))
        else:
            triangles = mode == "TRIANGLES"
            decode = library.decode_index_buffer if triangles else library.decode_index_sequence
            rows = decode(count, 4, data).astype(f"<u{stride}")
        filters = {"OCTAHEDRAL": "oct", "QUATERNION": "quat", "EXPONENTIAL": "exp"}
        if name != "NONE":
            rows = getattr(library, f"decode_filter_{filters[name]}")(rows, count, stride)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{path} is damaged: what {MESHOPT[0]} holds cannot be unpacked"
        ) from error
    return rows.tobytes(), stride


def unpack_draco(data: bytes, names: dict[str, int], path: Path) -> tuple[dict[str, Array], Array]:
    """Unpack Draco's faces: attributes [N, width] by glTF's names, and faces [F, 3].

    `names` are Draco's numbers of the attributes. Errors as from `unpack`.
    """
    library = find_library("DracoPy", DRACO, path)
    try:
        mesh = library.decode(data)
        found = {one["unique_id"]: np.asarray(one["data"]) for one in mesh.attributes}
        faces = np.asarray(mesh.faces, np.int64).reshape(-1, 3)
    except Exception as error:  # of its own kinds, and of ctypes'
        raise InputError(f"{path} is damaged: what {DRACO} holds cannot be unpacked") from error
    return {name: found[key].reshape(len(found[key]), -1) for name, key in names.items()
            if key in found}, faces  # fmt: skip


def find_library(name: str, extension: str, path: Path) -> Any:
    """Import a library; InputError if it is not there."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"{path} is compressed by {extension}: that needs "
                         f"pip install 'threed[gltf]'") from error  # fmt: skip
