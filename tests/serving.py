"""What the tests of the server share: a desk over a queue, a client, files to send, a short job."""

from __future__ import annotations

import io
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra [app]")

import torch
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

import exporters
from tests.shapes import cube
from threed.apps.serve.app import Server, make_app
from threed.apps.serve.desk import Desk
from threed.apps.serve.options import Serve
from threed.apps.serve.run import address, listen
from threed.core.errors import InputError
from threed.core.mesh import Material
from threed.queue import Queue, work
from threed.queue.worker import Doer
from threed.runs.do import Result
from threed.runs.job import Job
from threed.runs.progress import Listener, Progress

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


def make_cube(job: Job, folder: Path, listen: Listener) -> Result:
    """Write what a job would, of a cube or of the mesh that it names, painted in one colour.

    A prompt may be "slow", which goes on until it is cancelled, or "no", which fails.
    """
    prompt = str(getattr(job, "prompt", None) or job.instruction)
    if prompt == "no":
        raise InputError("that cannot be made")
    for step in range(10_000 if prompt == "slow" else 1):
        listen(Progress("optimising", step=step, steps=10_000))
        time.sleep(0.01)
    source = next((path for _, path in job if isinstance(path, Path)), None)
    mesh = cube() if source is None else exporters.load(source)
    if mesh.uv is None or not getattr(job, "keep_uv", True):
        mesh = replace(mesh, uv=torch.rand(len(mesh.vertices), 2).double(), uv_faces=mesh.faces)
    red = torch.tensor([1.0, 0.0, 0.0]).expand(16, 16, 3)
    mesh = replace(mesh, material=Material(red), colors=None)
    exporters.save(mesh, folder / "asset.glb", extras={"name": prompt.replace(" ", "-")})
    Image.new("RGB", (32, 16), "red").save(folder / "preview.png")
    return Result(folder, folder / "asset.glb", ())


@contextmanager
def living(desk: Desk, do: Doer = make_cube, token: str | None = None) -> Iterator[str]:
    """Within, a desk is served and its jobs are done, in threads. Gives the address."""
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(make_app(desk, token), log_config=None, ws="none",
                            timeout_graceful_shutdown=5)  # fmt: skip
    server = Server(config, desk)

    def labour() -> None:
        with suppress(KeyboardInterrupt):  # how a job at hand ends once the desk closes
            work(desk.queue, stay=True, stop=desk.closing.is_set, do=do)

    threads = [threading.Thread(target=server.run, kwargs={"sockets": [listener]}),
               threading.Thread(target=labour)]  # fmt: skip
    with listener:
        for thread in threads:
            thread.start()
        try:
            yield f"http://{address(listener)}"
        finally:
            desk.closing.set()
            server.should_exit = True
            for thread in threads:
                thread.join()
