"""What the tests of the server share: a desk over a queue, a client, files to send, a short job."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra [app]")

from PIL import Image
from starlette.testclient import TestClient

from threed.apps.serve.app import make_app
from threed.apps.serve.desk import Desk
from threed.apps.serve.options import Serve
from threed.queue import Queue
from threed.runs.do import Result
from threed.runs.job import Job
from threed.runs.progress import Listener

MUG = {"job": "image", "prompt": "a red mug"}
TEAPOT = {"job": "generate", "prompt": "a blue teapot"}
OBJ = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"
NONE = "0" * 32  # an id that nobody has


def desk_in(path: Path, **options: Any) -> Desk:
    """A desk over a new queue."""
    return Desk(Queue.create(path / "queue"), Serve(**{"rate": 10_000, **options}), fresh=0)


def client_of(desk: Desk, token: str | None = None) -> TestClient:
    """A client of an app over a desk, which is shown bugs as 500, as others are."""
    app = make_app(desk, token)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


def png(width: int = 8, height: int = 8) -> bytes:
    """A picture."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


def png_bomb(side: int) -> bytes:
    """A small PNG of side² white pixels, the size of which is said at its beginning."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(
            ">I", zlib.crc32(kind + data))  # fmt: skip

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * (side // 8 + 1) * min(side, 400), 9)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows)
            + chunk(b"IEND", b""))  # fmt: skip


def glb(text: bytes, content: bytes = b"") -> bytes:
    """A GLB of such a JSON."""
    text += b" " * (-len(text) % 4)
    parts = struct.pack("<II", len(text), 0x4E4F534A) + text
    if content:
        parts += struct.pack("<II", len(content), 0x004E4942) + content
    return struct.pack("<4sII", b"glTF", 2, 12 + len(parts)) + parts


def make(job: Job, folder: Path, listen: Listener) -> Result:
    """Write what a job would, in no time."""
    names = {"image": ["picture.png"], "export": ["asset.obj"]}.get(
        job.kind, ["asset.glb", "asset.obj", "turntable.mp4", "preview.png", "report.json"]
    )
    for name in (*names, "checkpoint.pt"):
        (folder / name).write_bytes(f"{job.kind} {name}".encode())
    return Result(folder, folder / names[0], ())
