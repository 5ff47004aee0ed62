"""Pictures of an asset as a benchmark takes them, in a folder, with a manifest of what they are."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import PIL
import torch

from exporters.pictures import encode_png
from exporters.protocols import Protocol, Series, find_protocol
from threed import __version__
from threed.core import files
from threed.core.mesh import Mesh
from threed.runs.asset import load_file
from threed.runs.progress import Listener, Progress

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Gallery:
    """A folder for the pictures that a protocol takes of an asset."""

    folder: Path
    name: str  # of the protocol

    @cached_property
    def protocol(self) -> Protocol:
        """How it looks at assets; InputError if there is no such one."""
        return find_protocol(self.name)

    @cached_property
    def series(self) -> tuple[Series, ...]:
        """All its pictures."""
        return self.protocol.series()

    @property
    def count(self) -> int:
        """How many pictures there will be."""
        return sum(len(series.cameras) for series in self.series)

    @property
    def judged(self) -> list[Path]:
        """The pictures that CLIP is shown."""
        return self._paths(self.series[self.protocol.judged])

    def _paths(self, series: Series) -> list[Path]:
        return [self.folder / series.file(view) for view in range(len(series.cameras))]

    def fill(self, source: Path, progress: Listener | None = None) -> dict[str, Any]:
        """Draw what is missing of the pictures of a mesh file, or a run's folder; the manifest.

        The manifest is written first, and again with the sum of every picture when all are there.
        Pictures that another asset, protocol or version has left are drawn anew. InputError for a
        source that cannot be read and for a folder that cannot be written.
        """
        files.check_out(self.folder, folder=True)
        mesh = load_file(source)
        file = source / "asset.glb" if os.path.isdir(source) else source
        about = describe(self.name, self.protocol, file, mesh)
        every = [path for series in self.series for path in self._paths(series)]
        if read_object(self.folder / MANIFEST).get("made_of") != about:
            for path in every:
                path.unlink(missing_ok=True)
            files.write(self.folder / MANIFEST, encode({"made_of": about}))
        self._draw(mesh, progress or (lambda _: None))
        sums = {str(path.relative_to(self.folder).as_posix()): sum_of(path) for path in every}
        manifest = {"made_of": about, "pictures": sums}
        files.write(self.folder / MANIFEST, encode(manifest))
        return manifest

    def _draw(self, mesh: Mesh, progress: Listener) -> None:
        """Draw the pictures that are not there."""
        placed, done = self.protocol.place(mesh), 0
        for series in self.series:
            paths = self._paths(series)
            views = [view for view, path in enumerate(paths) if not path.exists()]
            done += len(paths) - len(views)
            for view, image in zip(views, series.draw(placed, views)):
                files.write(paths[view], encode_png(image))
                done += 1
                progress(Progress(f"drawing for {self.name}", step=done, steps=self.count))


def describe(name: str, protocol: Protocol, file: Path, mesh: Mesh) -> dict[str, Any]:
    """Say what decides the pictures: protocol, asset and versions."""
    return {
        "protocol": name,
        "source": protocol.about,
        "asset": file.name,
        "asset_sha256": sum_of(file),
        "mesh_sha256": mesh_sum(mesh),  # with the textures of formats that keep them elsewhere
        "versions": {"threed": __version__, "torch": torch.__version__,
                     "pillow": PIL.__version__, "python": platform.python_version()},
    }  # fmt: skip


def sum_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    whole = hashlib.sha256()
    with path.open("rb") as file:
        for part in iter(lambda: file.read(2**20), b""):
            whole.update(part)
    return whole.hexdigest()


def sum_of_texts(texts: Iterable[str]) -> str:
    """The SHA-256 of texts, a line each, in hexadecimal."""
    return hashlib.sha256("".join(f"{text}\n" for text in texts).encode()).hexdigest()


def mesh_sum(mesh: Mesh) -> str:
    """The SHA-256 of what a mesh is made of: shape, map, colours, material."""
    whole = hashlib.sha256()
    for name, value in _parts(mesh):
        whole.update(f"{name} {list(value.shape)} {value.dtype}\n".encode())
        whole.update(value.detach().cpu().contiguous().numpy().tobytes())
    return whole.hexdigest()


def _parts(mesh: Mesh) -> Iterator[tuple[str, torch.Tensor]]:
    for name in ("vertices", "faces", "colors", "uv", "uv_faces"):
        if (value := getattr(mesh, name)) is not None:
            yield name, value
    yield "gloss", torch.tensor([mesh.material.metallic, mesh.material.roughness])
    yield from mesh.material.maps().items()


def encode(data: Mapping[str, Any]) -> bytes:
    """Make a JSON file of an object."""
    return (json.dumps(data, indent=2) + "\n").encode()


def read_object(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file; {} for anything else there, and for nothing."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
