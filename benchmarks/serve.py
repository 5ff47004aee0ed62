"""What a server stands: hostile requests, and many clients while it is killed.

    python benchmarks/serve.py [--hostile N] [--jobs N] [--clients N] [--kills N] [--folder DIR]
        [--schema]

Everything goes to a server of its own on 127.0.0.1. The hostile requests are made by chance from
paths, sizes, types, headers, broken chunks, bombs and broken meshes, and some clients leave in the
middle; the server has to answer each with an error, stay up, and keep within its folder, and its
memory is said. The load is short exports of a small mesh by several clients at once, while the
server is killed by SIGKILL; each has to be done once. Then the time of an answer while workers keep
the cores busy. With --schema, schemathesis (pip install schemathesis) reads the OpenAPI and looks
for answers that it does not allow.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import in_folder
from threed.queue import Queue

HOST = "127.0.0.1"
STRAIGHT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
MESH = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"
PATHS = (
    "/",
    "/v1/jobs",
    "/v1/files",
    "/v1/files?name=x.glb",
    "/v1/files?name=x.png",
    "/send",
    "/generate",
    "/status/",
    "/v1/jobs/",
    "/mcp",
    "/openapi.json",
    "/v1/systems",
    "/none",
)
PIECES = (
    "../",
    "..%2f",
    "%2e%2e/",
    "%00",
    "\\",
    "//",
    "etc/passwd",
    "x" * 3000,
    "é",
    "%ff",
    ";",
    "'",
    '"',
    "<script>",
    "${x}",
    "0" * 32,
    "files/asset.glb",
    "events",
    "?a=1",
    "?limit=-1",
)
BODIES: tuple[bytes, ...] = (
    b"", b"{", b"[" * 50_000, b'{"a":' * 5000, b"null", b"\xff\xfe\x00", b"9" * 5000, b"NaN",
    b'{"job": "image", "prompt": 5}', b'{"job": "generate", "prompt": "x", "init": "/etc/passwd"}',
    b'{"job": "train", "data": "/"}', b'{"text": "x", "mesh": "%%"}', b'{"image": "////"}',
    b"\x89PNG\r\n\x1a\n" + b"\0" * 999, b"glTF\x02\0\0\0" + b"\xff" * 99, b"PK\x03\x04" * 99,
    b"\x80\x04\x95cos\nsystem\n", b"RIFF\xff\xff\xff\xffWEBP", b"x" * 2_000_000,
    b"ply\nformat ascii 1.0\nelement vertex 4000000000\n", b"v 1e999 nan inf\nf 1 2 999999999\n",
)  # fmt: skip
HEADERS = (
    "Host: evil.example",
    "Origin: http://evil.example",
    "Content-Length: -1",
    "Content-Length: 99999999999999",
    "Content-Length: x",
    "Transfer-Encoding: chunked",
    "X: " + "y" * 20_000,
    "Authorization: Bearer " + "x" * 999,
    "Range: bytes=0-99999999999",
    "Expect: 100-continue",
    "Sec-Fetch-Site: cross-site",
    "Content-Type: multipart/form-data",
    "Connection: upgrade\r\nUpgrade: websocket",
    "Accept: \0",
    "Cookie: " + "a=b; " * 500,
)


class Server:
    """A server, and what becomes of it."""

    def __init__(self, folder: Path, port: int, workers: int) -> None:
        self.folder, self.port, self.workers = folder, port, workers
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "threed.apps.cli.main", "serve", str(self.folder),
                   "--port", str(self.port), "--workers", str(self.workers), "--rate", "10000",
                   "--upload", "1"]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("http://")

    def ask(self, path: str, data: Any = None) -> Any:
        """Ask for JSON, again while the server is down; the answer's value."""
        body = data if isinstance(data, (bytes, type(None))) else json.dumps(data).encode()
        for _ in range(300):
            try:
                with STRAIGHT.open(f"http://{HOST}:{self.port}{path}", body) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError:
                raise
            except OSError:
                time.sleep(0.2)
        raise TimeoutError(path)

    def kill(self) -> None:
        """Kill it, as a machine that goes down would."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """End it in peace."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(120) == 130


def hostile(chance: random.Random) -> tuple[bytes, bool]:
    """A request that nobody means well, and whether its client leaves before the answer."""
    method = chance.choice(("GET", "POST", "POST", "POST", "DELETE", "PUT", "HEAD", "X" * 99))
    path = chance.choice(PATHS) + "".join(chance.choices(PIECES, k=chance.randint(0, 3)))
    body = chance.choice(BODIES)
    lines = [f"{method} {path.replace(' ', '')} HTTP/1.1"]
    if chance.random() < 0.8:
        lines.append(f"Host: {HOST}")
    more = chance.choices(HEADERS, k=chance.randint(0, 2))
    if not any("Content-Length" in line or "Transfer" in line for line in more):
        lines.append(f"Content-Length: {len(body)}")
    if any("Transfer" in line for line in more):
        size = chance.choice((f"{len(body):x}", "ffffffffff", "-1", "zz", ""))
        body = size.encode() + b"\r\n" + body + chance.choice((b"\r\n0\r\n\r\n", b"\r\n", b""))
    if chance.random() < 0.05:
        lines[0] = chance.choice(("GET", "\0\1\2", "GET / HTTP/9.9", "GET  / HTTP/1.1 x"))
    head = "\r\n".join([*lines, *more, "", ""]).encode("utf-8", "replace")
    return head + body, chance.random() < 0.1


def send(port: int, content: bytes, leave: bool) -> int:
    """Send bytes; the status that is answered, 0 for none."""
    with socket.create_connection((HOST, port), timeout=20) as line:
        try:
            line.sendall(content[: len(content) // 2] if leave else content)
            if leave:
                return 0
            line.shutdown(socket.SHUT_WR)
            answer = line.recv(65536)
        except OSError:
            return 0
    return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def attack(root: Path, count: int) -> None:
    """Send hostile requests, and look at what is left."""
    server, chance = Server(root / "attacked", free_port(), 0), random.Random(0)
    process, found = psutil.Process(server.process.pid), Counter[int]()
    server.ask("/v1/files?name=x.obj", MESH)
    before, most = process.memory_info().rss, 0
    around = set(root.iterdir())
    for _ in range(count):
        found[send(server.port, *hostile(chance))] += 1
        most = max(most, process.memory_info().rss)
    assert server.ask("/v1/status")["jobs"]["running"] == 0
    assert set(root.iterdir()) == around
    bad = {status: number for status, number in found.items() if status in (500, 502, 504)}
    assert not bad, bad
    server.end()
    said = ", ".join(f"{status}: {number}" for status, number in sorted(found.items()))
    mib = 2**20
    sys.stdout.write(f"{count} hostile requests: {said}; memory {before // mib} MiB before, at "
                     f"most {most // mib} MiB\n")  # fmt: skip


def load(root: Path, jobs: int, clients: int, kills: int) -> None:
    """Have jobs done for several clients while the server is killed; time answers beside it."""
    server = Server(root / "loaded", free_port(), 2)
    mesh, ids, times = server.ask("/v1/files?name=x.obj", MESH)["id"], set[str](), list[float]()

    def client(number: int) -> None:
        for own in range(number, jobs, clients):
            job = {"job": "export", "source": mesh, "budget": f"faces={own + 4}"}
            ids.add(server.ask("/v1/jobs", job)["id"])

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for _ in range(kills):
        time.sleep(3)
        server.kill()
        server.start()
    for thread in threads:
        thread.join()
    while (now := server.ask("/v1/status")["jobs"])["done"] + now["failed"] < jobs:
        began = time.perf_counter()
        server.ask("/v1/jobs?limit=20")
        times.append(time.perf_counter() - began)
        time.sleep(0.1)
    assert now["done"] == jobs == len(ids), now
    assert not list((server.folder / "work").iterdir())
    assert len(Queue.open(server.folder).tickets("done")) == jobs
    server.end()
    sys.stdout.write(f"{jobs} jobs of {clients} clients, {kills} kills: each done once\n")
    if times:
        sys.stdout.write(f"an answer beside two busy workers: median {statistics.median(times):.3f}"
                         f" s, longest {max(times):.3f} s\n")  # fmt: skip


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server((HOST, 0)) as line:
        return int(line.getsockname()[1])


def check_schema(root: Path) -> None:
    """Have schemathesis look for answers that the OpenAPI does not allow."""
    server = Server(root / "described", free_port(), 0)
    checks = "not_a_server_error,status_code_conformance,content_type_conformance"
    command = ["schemathesis", "run", f"http://{HOST}:{server.port}/openapi.json", "--checks",
               f"{checks},response_schema_conformance", "--max-examples", "50",
               "--exclude-path-regex", "events|generate|mcp", "--seed", "1",
               "--phases", "examples,coverage,fuzzing"]  # fmt: skip
    assert subprocess.run(command, check=False, cwd=root).returncode == 0  # it keeps notes there
    server.end()


def measure(root: Path, asked: argparse.Namespace) -> None:
    """Measure what is asked for."""
    if asked.hostile:
        attack(root, asked.hostile)
    if asked.jobs:
        load(root, asked.jobs, asked.clients, asked.kills)
    if asked.schema:
        check_schema(root)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the flags."""
    in_folder(
        measure, __doc__, arguments, hostile=2000, jobs=100, clients=20, kills=3, schema=False
    )


if __name__ == "__main__":
    main()
