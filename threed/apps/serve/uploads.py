"""Pictures and meshes that clients send: judged, then kept in the queue's folder by their content.

Each lies alone in a folder of its own, since a mesh may name files beside it. A picture is decoded
here, once its pixels have been counted. A mesh is read by a process of its own, with a limit on
its memory and its time, since a small file may unpack to a large mesh.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from threed.apps.serve.options import MIB, Serve
from threed.apps.serve.refusal import Refusal
from threed.core.errors import InputError
from threed.core.files import refuse

STEM = "sent"  # of a file's name
PICTURES = (".png", ".jpg", ".webp")
MESHES = (".glb", ".obj", ".ply", ".stl")
TAKES = "PNG, JPEG and WebP pictures, and .glb, .obj, .ply and .stl meshes are taken"
SECONDS = 120  # for a mesh to be read
AT_ONCE = 2  # files that are judged
Told = dict[str, object]


@dataclass(frozen=True)
class Uploads:
    """What was sent, in a folder."""

    folder: Path
    limits: Serve
    name: Callable[[str], str]  # what cannot be guessed, of a text
    gate: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(AT_ONCE))

    def find(self, own: str) -> Path | None:
        """The file of an id, which must be of the form of one; None if nothing sent has it."""
        places = (self.folder / own / f"{STEM}{ending}" for ending in (*PICTURES, *MESHES))
        return next((place for place in places if place.is_file()), None)

    async def receive(self, chunks: AsyncIterator[bytes], name: str) -> Told:
        """Keep a file; `name` says by its ending what a mesh is.

        Returns what it is, with its id. Refusal for what is too large or of another kind,
        InputError for what is broken.
        """
        from starlette.concurrency import run_in_threadpool

        size = 0
        with self._aside() as part:
            with part.open("wb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    self._check_size(size)
                    file.write(chunk)
            return await run_in_threadpool(self._keep, part, name)

    def keep(self, content: bytes, name: str) -> Told:
        """Keep a file that is here as a whole; otherwise as `receive`."""
        self._check_size(len(content))
        with self._aside() as part:
            part.write_bytes(content)
            return self._keep(part, name)

    @contextmanager
    def _aside(self) -> Iterator[Path]:
        """A place for a file, which is gone in the end. Refusal where the folder is full."""
        kept = sum(path.stat().st_size for path in self.folder.glob(f"*/{STEM}.*"))
        if kept + self.limits.upload_bytes > self.limits.store * MIB:
            raise Refusal(507, f"{self.limits.store} MiB have been sent: files have to be removed "
                               "from the queue's folder uploads/ first")  # fmt: skip
        with refuse(self.folder), TemporaryDirectory(
            prefix=".part", dir=self.folder, ignore_cleanup_errors=True
        ) as aside:  # fmt: skip
            yield Path(aside) / STEM

    def _keep(self, part: Path, name: str) -> Told:
        ending = ending_of(part, name)
        own = self.name(hashlib.sha256(part.read_bytes()).hexdigest() + ending)
        place = part.rename(part.with_suffix(ending))
        with self.gate:
            if ending in PICTURES:
                told = judge_picture(place, self.limits.pixels * 1_000_000)
            else:
                told = judge_mesh(place, self.limits.faces)
        with suppress(OSError):  # it was sent before
            place.parent.rename(self.folder / own)
        return {"id": own, **told}

    def _check_size(self, size: int) -> None:
        if size > self.limits.upload_bytes:
            raise Refusal(413, f"a file may have at most {self.limits.upload} MiB")


def ending_of(path: Path, name: str) -> str:
    """What a file is, by how it begins if it is a picture, by its name's ending if it is a mesh."""
    with path.open("rb") as file:
        head = file.read(12)
    if not head:
        raise Refusal(400, "the file is empty: send it as the request's body")
    starts = {".png": b"\x89PNG\r\n\x1a\n", ".jpg": b"\xff\xd8\xff", ".glb": b"glTF"}
    for ending, start in starts.items():
        if head.startswith(start):
            return ending
    if head.startswith(b"RIFF") and head.endswith(b"WEBP"):
        return ".webp"
    ending = os.path.splitext(name)[1].lower()
    if ending not in MESHES:
        raise Refusal(415, f"{name[:60]!r} is none of what can be sent: {TAKES}")
    return ending


def judge_picture(path: Path, pixels: int) -> Told:
    """Decode a picture; InputError if it is broken, or has more pixels, which are counted first."""
    from PIL import Image

    from threed.core.pictures import open_picture

    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as file:
            width, height = file.size
    except Image.DecompressionBombError:  # Pillow itself counts, and stops far above
        width = height = pixels
    except Exception as error:  # decoders raise whatever they stumble over
        raise InputError("the picture is damaged: it cannot be decoded") from error
    if width * height > pixels:
        raise Refusal(413, f"the picture has {width:,} x {height:,} pixels or more; at most "
                           f"{pixels:,} in all are taken")  # fmt: skip
    with path.open("rb") as content:
        open_picture(content, "the picture")
    return {"kind": "picture", "width": width, "height": height}


def judge_mesh(path: Path, faces: int) -> Told:
    """Read a mesh elsewhere; InputError if it is broken, has more faces, or takes too much."""
    command = [sys.executable, "-m", "threed.apps.serve.judge", str(path)]
    around = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, env=around, check=False
        )
        told = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise InputError("the mesh could not be read: it takes too much memory or time") from error
    if "error" in told:
        raise InputError(told["error"].replace(str(path), "the mesh"))
    if told["faces"] > faces:
        raise Refusal(413, f"the mesh has {told['faces']:,} faces; at most {faces:,} are taken")
    return {"kind": "mesh", "faces": told["faces"]}
