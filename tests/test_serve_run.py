"""Starting a server: who may reach it, a port that is taken, its workers; and MCP."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Answer
from tests.serving import MUG, TEAPOT, client_of, desk_in, living, make, png
from threed.apps.serve import compat, run, v1
from threed.apps.serve.desk import Desk
from threed.apps.serve.options import Serve
from threed.core.errors import InputError
from threed.queue import Queue, work, worker
from threed.runs.do import Result
from threed.runs.job import Job
from threed.runs.progress import Listener

TOKEN = "a-token-of-24-characters"


@pytest.mark.parametrize(("host", "token", "said"), [
    ("127.0.0.1", None, ""), ("::1", None, ""), ("localhost", None, ""), ("0.0.0.0", TOKEN, ""),
    ("0.0.0.0", None, "set a token"), ("::", None, "set a token"), ("desk", None, "set a token"),
    ("127.0.0.1", "short", "at least"), ("127.0.0.1", "with a blank within", "at least"),
])  # fmt: skip
def test_others_reach_it_with_a_token_only(
    host: str, token: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("THREED_TOKEN", raising=False)
    if said:
        with pytest.raises(InputError, match=said):
            run.token_of(Serve(host=host, token=token))
    else:
        assert run.token_of(Serve(host=host, token=token)) == token
    monkeypatch.setenv("THREED_TOKEN", TOKEN)
    assert run.token_of(Serve(host=host)) == TOKEN


def test_what_cannot_be_served_is_said(
    tmp_path: Path, threed: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = threed("serve", tmp_path / "queue", "--port", port)
        assert (answer.status, answer.out) == (2, "")
        assert f"cannot listen on 127.0.0.1, port {port}: address already in use" in answer.err
    (tmp_path / "text").write_text("x")
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "queue.json").write_text('{"format": 99, "lease": 1}')
    for words, said in (
        ([tmp_path / "queue", "--host", "0.0.0.0"], "set a token"),
        ([tmp_path / "queue", "--host", "203.0.113.7", "--token", TOKEN], "cannot listen on 203"),
        ([tmp_path / "queue", "--models", tmp_path / "none"], "there is no folder"),
        ([tmp_path / "text"], "file exists"),
        ([tmp_path], "is not empty and holds no queue"),
        ([tmp_path / "later"], "a later version"),
    ):
        answer = threed("serve", *words)
        assert answer.status == 2
        assert said in answer.err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'threed[app]'" in threed("serve", tmp_path / "queue").err


def test_workers_that_stop_are_tried_again_and_the_server_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, told, tries, again = desk_in(tmp_path), list[str](), list[int](), threading.Event()

    def employ(queue: Any, workers: int, *, stay: bool, stop: Callable[[], bool]) -> None:
        tries.append(workers)
        if len(tries) == 1:
            raise InputError("the disk is full")
        again.set()
        while not stop():
            time.sleep(0.001)

    monkeypatch.setattr(run, "employ", employ)
    monkeypatch.setattr(run, "AGAIN", 0.01)
    with run.working(desk, 2, told.append):
        assert again.wait(30)
    assert (tries, desk.closing.is_set()) == ([2, 2], True)
    assert told == ["the workers stopped, and are tried again in 0.01 s: the disk is full"]
    assert desk.counts().trouble == ""


def test_a_server_and_its_workers_end_in_peace(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "threed.apps.cli.main", "serve", str(tmp_path / "queue"),
               "--port", "0", "--workers", "1"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        where = server.stdout.readline().strip()
        assert b'"waiting":0' in ask(f"{where}/v1/status")
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 130
    assert not list((tmp_path / "queue" / "running").iterdir())


def ask(url: str, data: dict[str, Any] | None = None) -> bytes:
    """What a server answers."""
    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with straight.open(url, None if data is None else json.dumps(data).encode()) as answer:
        return bytes(answer.read())


def test_two_servers_work_on_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PAUSE", 0.01)
    made = list[Job]()

    def note(job: Job, folder: Path, listen: Listener) -> Result:
        made.append(job)
        return make(job, folder, listen)

    desks = [desk_in(tmp_path), desk_in(tmp_path)]
    with living(desks[0], do=note) as one, living(desks[1], do=note) as other:
        ids = [json.loads(ask(f"{place}/v1/jobs", {**MUG, "seed": seed}))["id"]
               for seed in range(2) for place in (one, other)]  # fmt: skip
        while json.loads(ask(f"{one}/v1/status"))["jobs"]["done"] < 2:
            time.sleep(0.01)
        for own in ids:
            for place in (one, other):
                assert ask(f"{place}/v1/jobs/{own}/files/picture.png") == b"image picture.png"
    assert len(made) == len(set(ids)) == 2


def test_clients_that_leave_in_the_middle_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, counted = list[str](), v1.counted

    @contextmanager
    def noted(request: Any) -> Iterator[None]:
        with counted(request):
            seen.append("came")
            try:
                yield
            finally:
                seen.append("left")

    def wait(what: Callable[[], object]) -> None:
        while not what():
            time.sleep(0.01)

    for module in (v1, compat):
        monkeypatch.setattr(module, "counted", noted)
        monkeypatch.setattr(module, "LOOK", 0.01)
    desk, slow = desk_in(tmp_path), b'{"text": "slow"}'
    files = desk.uploads.folder
    with living(desk) as url:
        own, place = json.loads(ask(f"{url}/send", {"text": "slow"}))["uid"], url[7:].split(":")
        for head, body, length, came, left in (
            (f"GET /v1/jobs/{own}/events", b"", 0, lambda: len(seen) == 1, lambda: len(seen) == 2),
            ("POST /generate", slow, len(slow), lambda: len(seen) == 3, lambda: len(seen) == 4),
            ("POST /v1/files?name=x.png", png()[:9], 99,
             lambda: list(files.iterdir()), lambda: not list(files.iterdir())),
        ):  # fmt: skip
            with socket.create_connection((place[0], int(place[1]))) as line:
                lines = f"{head} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n"
                line.sendall(lines.encode() + body)
                wait(came)
            wait(left)
        wait(lambda: json.loads(ask(f"{url}/v1/jobs/{own}"))["state"] == "running")
        desk.cancel(own)
    assert seen == ["came", "left"] * 2


def call(desk: Desk, place: Any, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
    """What tools answer over MCP, as structure, or as the text of an error."""
    from mcp import Client

    from threed.apps.serve.tools import make_tools

    async def act() -> list[Any]:
        async with Client(make_tools(desk, place)) as client:
            found = [await client.call_tool(name, said) for name, said in calls]
        return [one.content[0].text if one.is_error else one.structured_content for one in found]

    return asyncio.run(act())


def test_mcp_has_what_a_model_needs(tmp_path: Path) -> None:
    def place(own: str, name: str) -> str:
        return str(desk.file(own, name))

    desk = desk_in(tmp_path)
    fields = {name: value for name, value in TEAPOT.items() if name != "job"}
    picture = base64.b64encode(png()).decode()
    (asked,) = call(desk, place, ("submit", {"job": "generate", "fields": fields}))
    own = asked["id"]
    assert asked["state"] == "waiting"
    work(desk.queue, do=make)
    status, result, systems, sent = call(
        desk, place, ("status", {"id": own}), ("result", {"id": own}), ("systems", {}),
        ("send", {"name": "x.png", "content": picture}),
    )  # fmt: skip
    assert status["state"] == "done"
    assert Path(result["asset.glb"]).read_bytes() == b"generate asset.glb"
    assert "rpg" in systems
    assert desk.uploads.find(sent["id"])
    refused = call(
        desk, place, ("cancel", {"id": own}), ("status", {"id": "../x"}),
        ("submit", {"job": "generate", "fields": {**fields, "init": "/etc/passwd"}}),
        ("submit", {"job": "train", "fields": {}}), ("send", {"name": "x", "content": "%"}),
    )  # fmt: skip
    for text, said in zip(refused, ("the job is done", "no such job", "is no file here", "job",
                                    "must be base64")):  # fmt: skip
        assert said in text


def test_mcp_is_spoken_over_standard_input(tmp_path: Path) -> None:
    from mcp import Client, StdioServerParameters

    words = ["-m", "threed.apps.cli.main", "serve", str(tmp_path / "queue"), "--mcp"]
    server = StdioServerParameters(command=sys.executable, args=[*words, "--workers", "0"],
                                   env=dict(os.environ))  # fmt: skip

    async def act() -> list[Any]:
        async with Client(server) as client:
            asked = {"job": "image", "fields": {"prompt": "a red mug"}}
            begun = (await client.call_tool("submit", asked)).structured_content
            assert begun is not None
            gone = await client.call_tool("cancel", {"id": begun["id"]})
            return [begun["state"], gone.structured_content]

    begun, gone = asyncio.run(act())
    assert (begun, gone["state"]) == ("waiting", "cancelled")
    (ticket,) = Queue.open(tmp_path / "queue").tickets("cancelled")
    assert ticket.attempts == 0


def test_mcp_is_spoken_over_http_too(tmp_path: Path) -> None:
    headers = {"accept": "application/json, text/event-stream"}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    with client_of(desk_in(tmp_path)) as client:
        answer = client.post("/mcp", json=asked, headers=headers).json()
        assert {tool["name"] for tool in answer["result"]["tools"]} == {
            "submit", "status", "result", "cancel", "send", "systems"
        }  # fmt: skip
        for body in (b"", b"[", b"{}", b"[" * 99_999):
            assert client.post("/mcp", content=body, headers=headers).status_code < 500


def test_the_command_line_knows_nothing_of_servers() -> None:
    heavy = ("fastapi", "uvicorn", "mcp", "torch")
    code = (
        "import sys, threed.apps.cli.serve\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    around = {**os.environ, "PYTHONPATH": str(Path(run.__file__).parents[3])}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=around,
                           check=True)  # fmt: skip
    assert found.stdout == "[]\n"
