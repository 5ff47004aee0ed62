"""Packs: what is in them stands alone; the client, and the commands that write them."""

from __future__ import annotations

import ast
import io
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

import threed
from tests.conftest import Answer
from threed.apps.packs.client import Client, Refused, Sent
from threed.apps.packs.write import pack, write_extension

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOKEN = "a-token-of-24-characters"
AROUND = {"blender": {"bpy", "mathutils"},
          "comfyui": {"comfy", "folder_paths", "numpy", "torch", "PIL"}}  # fmt: skip


@pytest.mark.parametrize("name", AROUND)
def test_a_pack_needs_nothing_but_python_and_its_program(name: str) -> None:
    files = {name: text.decode() for name, text in pack(name).items() if name.endswith(".py")}
    assert "client.py" in files
    for text in files.values():
        assert "threed.apps" not in text
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.level:
                names = [node.module] if node.module else [alias.name for alias in node.names]
                assert {f"{own}.py" for own in names} <= files.keys()
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                found = [node.module] if isinstance(node, ast.ImportFrom) else [
                    alias.name for alias in node.names]  # fmt: skip
                tops = {str(one).partition(".")[0] for one in found}
                assert tops <= sys.stdlib_module_names | AROUND[name]


def test_the_extension_is_a_zip_with_a_manifest(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        write_extension(tmp_path / name)
    content = (tmp_path / "a.zip").read_bytes()
    assert content == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        assert {"__init__.py", "client.py", "blender_manifest.toml"} <= set(file.namelist())
        assert not [name for name in file.namelist() if "/" in name]
        manifest = tomllib.loads(file.read("blender_manifest.toml").decode())
    assert manifest["version"] == threed.__version__
    assert (manifest["id"], manifest["blender_version_min"]) == ("threed", "4.2.0")
    assert manifest["license"] == ["SPDX:GPL-3.0-or-later"]
    assert len(manifest["tagline"]) <= 64
    assert not manifest["tagline"].endswith(".")


def test_the_commands_write_packs(tmp_path: Path, threed: Callable[..., Answer]) -> None:
    answer = threed("blender", "--extension", tmp_path / "threed.zip")
    assert (answer.status, answer.out) == (0, f"{tmp_path / 'threed.zip'}\n")
    assert zipfile.is_zipfile(tmp_path / "threed.zip")
    for _ in range(2):  # over what is there
        answer = threed("comfyui", "--nodes", tmp_path / "nodes")
        assert (answer.status, answer.out) == (0, f"{tmp_path / 'nodes'}\n")
    assert {path.name for path in (tmp_path / "nodes").iterdir()} == pack("comfyui").keys()
    for words, said in (
        (["blender"], "name an asset"), (["blender", "x.glb", "--extension", "x.zip"], "name an"),
        (["blender", "--extension", tmp_path / "x.txt"], "must end in one of .zip"),
        (["blender", "--extension", tmp_path / "threed.zip/x.zip"], "not a directory"),
        (["comfyui"], "--nodes"), (["comfyui", "--nodes", tmp_path / "threed.zip"], "file exists"),
    ):  # fmt: skip
        answer = threed(*words)
        assert answer.status == 2
        assert said in answer.err


class Odd(BaseHTTPRequestHandler):
    """Answers that a server of ours does not give."""

    heard: list[tuple[str, str | None]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.heard.append((self.path, self.headers["Authorization"]))
        status, body = {"/moved": (302, b""), "/text": (200, b"<html>"), "/list": (418, b"[]"),
                        "/error": (503, b'{"error": "the disk is full"}')}[self.path]  # fmt: skip
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/text")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def odd() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Odd) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_the_client_says_what_is_wrong_with_an_answer(odd: str, tmp_path: Path) -> None:
    client = Client(odd + "/", TOKEN)
    for path, status, said in (
        ("/moved", 302, "answered 302"), ("/list", 418, "answered 418"),
        ("/text", 500, "is no threed server"), ("/error", 503, "^the disk is full$"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=said) as refused:
            client.ask("GET", path)
        assert refused.value.status == status
    assert Odd.heard == [
        (path, f"Bearer {TOKEN}") for path in ("/moved", "/list", "/text", "/error")
    ]
    for url in ("http://127.0.0.1:9", "nonsense", "http://127.0.0.1:x", "ftp://127.0.0.1:9"):
        with pytest.raises(Refused, match="no server answers at") as refused:
            Client(url).ask("GET", "/v1/status")
        assert refused.value.status == 0
    with pytest.raises(Refused, match=r"cannot read .*none\.glb"):
        client.send(Sent(tmp_path / "none.glb"))


@pytest.mark.parametrize(("url", "local"), [
    ("http://127.0.0.1:8081", True), ("http://localhost", True), ("http://[::1]:80", True),
    ("http://192.168.0.2:8081", False), ("https://desk.studio.lan", False), ("http://[::1", False),
])  # fmt: skip
def test_the_client_knows_which_server_is_here(url: str, local: bool) -> None:
    assert Client(url).is_local == local


def test_jobs_are_followed_while_the_server_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([Refused(0, "no server answers"), {"id": "a", "state": "done"}])

    def show(self: Client, own: str) -> Any:
        answer = next(answers)
        if isinstance(answer, Refused):
            raise answer
        return answer

    monkeypatch.setattr(Client, "show", show)
    seen = list(Client().follow({"id": "a", "state": "running"}, pause=0))
    assert seen == [{"id": "a", "state": "running"},
                    {"id": "a", "state": "running", "message": "no server answers"},
                    {"id": "a", "state": "done"}]  # fmt: skip
    answers = iter([Refused(404, "there is no such job")])
    with pytest.raises(Refused, match="no such job"):
        list(Client().follow({"id": "a", "state": "running"}, pause=0))
