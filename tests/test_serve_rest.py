"""REST as clients use it, and as it must not be used: a table of hostile requests."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra [app]")

from starlette.exceptions import HTTPException
from starlette.requests import Request

from tests.serving import MUG, NONE, TEAPOT, client_of, desk_in, make, png, png_bomb
from threed.apps.serve import compat, v1
from threed.apps.serve.desk import Desk
from threed.apps.serve.guard import HEADERS, Guard
from threed.apps.serve.options import Serve
from threed.queue import work

TOKEN = "a-token-of-24-characters"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A desk over an empty queue."""
    return desk_in(tmp_path, upload=1)


def test_a_job_from_asking_to_its_file(desk: Desk) -> None:
    client = client_of(desk)
    answer = client.post("/v1/jobs", json=TEAPOT)
    assert answer.status_code == 201
    own = answer.json()["id"]
    assert answer.json()["state"] == "waiting"
    assert client.get("/v1/status").json()["jobs"]["waiting"] == 1
    assert client.delete(f"/v1/jobs/{own}").json()["state"] == "cancelled"
    assert client.post(f"/v1/jobs/{own}/retry").json()["state"] == "waiting"
    work(desk.queue, do=make)
    shown = client.get(f"/v1/jobs/{own}").json()
    assert (shown["state"], shown["job"]["prompt"]) == ("done", "a blue teapot")
    file = client.get(f"/v1/jobs/{own}/files/asset.glb")
    assert (file.content, file.headers["content-type"]) == (
        b"generate asset.glb", "model/gltf-binary"
    )  # fmt: skip
    assert file.headers.items() >= HEADERS.items()
    part = client.get(f"/v1/jobs/{own}/files/turntable.mp4", headers={"range": "bytes=0-7"})
    assert (part.status_code, part.content) == (206, b"generate")
    assert client.delete(f"/v1/jobs/{own}").status_code == 409


def test_the_newest_jobs_come_first_and_are_searched(desk: Desk) -> None:
    client = client_of(desk)
    for seed, thing in enumerate(("mug", "ball", "Mug", "cube")):
        client.post("/v1/jobs", json={**MUG, "prompt": f"a red {thing}", "seed": seed})
    work(desk.queue, do=make)
    client.post("/v1/jobs", json={**MUG, "seed": 9})

    def numbers(query: str) -> list[int]:
        return [job["number"] for job in client.get(f"/v1/jobs?{query}").json()]

    assert numbers("") == [5, 4, 3, 2, 1]
    assert numbers("words=mug") == [5, 3, 1]
    assert numbers("limit=2") == [5, 4]
    assert numbers("limit=2&before=4") == [3, 2]
    assert numbers("state=waiting") == [5]


def test_events_come_until_a_job_is_over(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v1, "LOOK", 0.01)
    monkeypatch.setattr(v1, "BEAT", 0.01)
    client = client_of(desk)
    own = client.post("/v1/jobs", json=MUG).json()["id"]
    worker = threading.Timer(0.5, work, [desk.queue], {"do": make})
    worker.start()
    answer = client.get(f"/v1/jobs/{own}/events")
    worker.join()
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.text.splitlines()
    states = [json.loads(line[6:])["state"] for line in lines if line.startswith("data: ")]
    assert (states[0], states[-1]) == ("waiting", "done")
    assert ": still here" in lines
    for name in ("STREAMS", "EACH"):
        with monkeypatch.context() as patch:
            patch.setattr(v1, name, 0)
            assert client.get(f"/v1/jobs/{own}/events").status_code == 429
    assert client.get(f"/v1/jobs/{NONE}/events").status_code == 404


def test_what_watches_jobs_ends_with_the_server(desk: Desk) -> None:
    async def watched() -> list[str]:
        events = v1.watch(request, desk, own)
        found = [await anext(events)]
        assert waiting == {"anna": 1}
        desk.closing.set()
        return found + [event async for event in events]

    waiting = Counter[str]()
    app = SimpleNamespace(state=SimpleNamespace(waiting=waiting))
    request = Request({"type": "http", "app": app, "client": ("anna", 1)})
    own = desk.submit(MUG, "a")
    assert len(asyncio.run(watched())) == 1
    assert not waiting


def test_there_is_what_a_form_needs(desk: Desk) -> None:
    client = client_of(desk)
    systems = client.get("/v1/systems").json()
    mask = systems["ip_adapter"]["properties"]["inputs"]["properties"]["mask"]
    assert mask["items"]["kind"] == "mask"
    assert "toybox-mvdream" in client.get("/v1/presets").json()
    assert {"toybox", "toybox-multiview"} <= set(client.get("/v1/backbones").json())
    assert client.get("/v1/models").json() == []


def test_the_openapi_says_what_jobs_take(desk: Desk) -> None:
    text = client_of(desk).get("/openapi.json").text
    assert "#/$defs" not in text
    page = json.loads(text)
    schemas = page["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    kinds = {one["properties"]["job"]["const"]: one for one in schemas["schema"]["oneOf"]}
    assert kinds["generate"]["properties"]["init"]["pattern"] == "^[0-9a-f]{32}(/[a-z0-9_.]+)?$"
    assert kinds["texture"]["required"] == ["job", "mesh", "prompt"]
    assert "train" not in kinds
    for path in ("/docs", "/redoc"):  # they load scripts from elsewhere
        assert client_of(desk).get(path).status_code == 404


def test_a_token_is_needed_where_one_is_set(desk: Desk) -> None:
    client = client_of(desk, TOKEN)
    for said in ({}, {"authorization": "Bearer"}, {"authorization": f"Bearer {TOKEN}x"},
                 {"authorization": TOKEN}, {"authorization": b"Bearer \xff\xfe"}):  # fmt: skip
        for path in ("/v1/jobs", "/openapi.json", "/mcp", "/status/x", "/none"):
            answer = client.get(path, headers=said)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert client.get("/v1/jobs", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize(("host", "status"), [
    ("127.0.0.1", 200), ("127.0.0.1:8081", 200), ("localhost:1", 200), ("[::1]:8081", 200),
    ("192.168.0.7:8081", 200), ("desk.studio", 200), ("evil.example", 421), ("", 421),
    ("127.0.0.1.evil.example", 421), ("localhost:80:80", 421), ("a@127.0.0.1", 421),
])  # fmt: skip
def test_only_names_of_this_machine_are_answered(desk: Desk, host: str, status: int) -> None:
    guard = Guard(client_of(desk).app, desk.limits, names=["desk.studio"])
    scope = {"type": "http", "path": "/", "client": ("x", 1)}
    refused = guard.judge(scope, {"host": host})
    assert (200 if refused is None else refused[0]) == status


@pytest.mark.parametrize(("headers", "status"), [
    ({"origin": "http://127.0.0.1"}, 201), ({"sec-fetch-site": "same-origin"}, 201),
    ({"origin": "http://evil.example"}, 403), ({"origin": "null"}, 403),
    ({"origin": "http://127.0.0.1:9"}, 403), ({"sec-fetch-site": "cross-site"}, 403),
    ({"sec-fetch-site": "same-site"}, 403),
])  # fmt: skip
def test_pages_of_other_sites_are_refused(desk: Desk, headers: dict[str, str], status: int) -> None:
    answer = client_of(desk).post("/v1/jobs", json=MUG, headers=headers)
    assert answer.status_code == status
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_each_client_has_its_rate(desk: Desk) -> None:
    guard = Guard(client_of(desk).app, Serve(rate=1))
    spent = [guard.judge({"path": "/", "client": (name, 1)}, {"host": "127.0.0.1"})
             for name in ("anna", "anna", "anna", "anna", "bert")]  # fmt: skip
    assert [one and one[0] for one in spent] == [None, None, None, 429, None]


def large() -> Iterator[bytes]:
    """A body that is too large for anything, in chunks and without a length."""
    yield from itertools.repeat(b"x" * 65536, 50)


def test_a_body_is_ended_while_it_comes(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(pieces: Iterator[bytes], pause: float) -> tuple[int, int]:
        async def receive() -> dict[str, Any]:
            await asyncio.sleep(pause)
            return {"type": "http.request", "body": next(pieces), "more_body": True}

        receiving, taken = guard._counted({"path": "/v1/jobs"}, receive), 0
        try:
            while True:
                taken += len((await receiving())["body"])
        except HTTPException as error:
            return error.status_code, taken

    guard = Guard(client_of(desk).app, desk.limits)
    assert asyncio.run(read(itertools.repeat(b"x" * 65536), 0)) == (413, 2**18)
    monkeypatch.setattr("threed.apps.serve.guard.PAUSE", 0.01)
    assert asyncio.run(read(itertools.repeat(b"x"), 5)) == (408, 0)
    monkeypatch.setattr("threed.apps.serve.guard.WHOLE", 0.0)
    assert asyncio.run(read(itertools.repeat(b"x"), 0)) == (408, 0)


DEEP, LONG = b"[" * 100_000, "9" * 5000
FILE = f"/v1/jobs/{NONE}/files"
# method, path, what else, the status
HOSTILE: list[tuple[str, str, dict[str, Any], int]] = [
    *[("POST", path, {"content": content}, 400) for path in ("/v1/jobs", "/send", "/generate")
      for content in (b"", b"{", b"null", b"[]", b"5", b'"x"', b"\xff\xfe", DEEP, b'{"a":' * 9999,
                      b"NaN", LONG.encode(), b'{"job": 1e999}', b"\0")],
    *[("POST", path, {"content": large()}, 413)
      for path in ("/v1/jobs", "/send", "/v1/files", "/generate", "/v1/files?name=x.glb")],
    ("POST", "/v1/jobs", {"content": b"{}", "headers": {"content-length": str(2**40)}}, 413),
    ("POST", "/v1/jobs", {"content": b"{}", "headers": {"content-length": "-5"}}, 400),
    ("POST", "/v1/jobs", {"content": b"{}", "headers": {"content-length": b"\xb2"}}, 400),
    *[("POST", "/v1/jobs", {"content": json.dumps(data).encode()}, 400) for data in (
        {"job": "image"}, {"job": "image", "prompt": ""}, {"job": "image", "prompt": "a" * 9999},
        {"job": "image", "prompt": ["x"]}, {"job": "image", "prompt": {"x": 1}},
        {"job": "image", "prompt": "x", "n": 10**9}, {"job": "image", "prompt": "x", "n": "1e400"},
        {"job": "image", "prompt": "x", "steps": -1}, {"job": "image", "prompt": "x", "seed": "x"},
        {"job": "image", "prompt": "x", "guidance": float("nan")},
        {"job": "image", "prompt": "x", "guidance": "inf"}, {"job": "image", "prompt": "\ud800"},
        {"job": "image", "prompt": "x", "device": "cuda:-1"}, {"job": "__class__"},
        {"job": "image", "prompt": "x", "inputs": [1]}, {"job": "image", "prompt": "x", "": 1},
        {"job": "image", "prompt": "x", "inputs": {"image": {"a": 1}}},
        {"job": "image", "prompt": "x", "system": "controlnet", "inputs": {"control": ["a:\0"]}},
        {"job": "image", "prompt": "x", "system": "controlnet", "inputs": {"control": [":"]}},
        {"job": "image", "prompt": "x", "system": "../rpg"}, {"job": "image", "prompt": "\x1b[2J"},
        {"job": "generate", "prompt": "x", "settings": ["a"]},
        {"job": "generate", "prompt": "x", "settings": ["backbone=" + "[" * 999]},
        {"job": "generate", "prompt": "x", "settings": ["stages=&a [*a]"]},
        {"job": "generate", "prompt": "x", "settings": ["!!python/object/apply:os.system=x"]},
        {"job": "generate", "prompt": "x", "settings": ["seed=!!python/object/apply:os.system x"]},
        {"job": "generate", "prompt": "x", "budget": "faces=" + LONG}, {"job": "generate"},
        {"job": "generate", "prompt": "x", "lods": 99}, {"job": "generate", "prompt": "x", "up": 1},
        {"job": "generate", "prompt": "x", "init": "http://127.0.0.1/x.glb"},
        {"job": "generate", "prompt": "x", "init": "file:///etc/passwd"},
        {"job": "generate", "prompt": "x", "init": "C:\\x.glb"},
        {"job": "texture", "mesh": "~/x.glb", "prompt": "x"},
        {"job": "export", "source": "/proc/self/environ"},
        {"job": "export", "source": "/dev/zero", "file": "asset.glb"},
    )],
    *[("GET", f"/v1/jobs/{own}", {}, 422) for own in ("x", "0" * 31, "0" * 33, "G" * 32, "%00" * 32,
                                                      "é" * 32, "0" * 31 + "%0a", LONG)],
    ("GET", f"/v1/jobs/{NONE}", {}, 404), ("DELETE", f"/v1/jobs/{NONE}", {}, 404),
    ("POST", f"/v1/jobs/{NONE}/retry", {}, 404), ("PUT", "/v1/jobs", {}, 405),
    ("GET", f"{FILE}/asset.glb", {}, 404), ("GET", f"{FILE}/../../x", {}, 422),
    *[("GET", f"{FILE}/{name}", {}, 404) for name in (
        "..%2f..%2fqueue.json", "%2e%2e%2f", "..%5c", "asset.glb%00", "%2fetc%2fpasswd", "x" * 999,
        "checkpoint.pt", ".secret", "%c0%ae%c0%ae", "asset.glb/", "")],
    *[("GET", f"/v1/jobs?{query}", {}, 422) for query in (
        "limit=0", "limit=9999", "limit=x", "before=-1", f"before={LONG}", "state=none",
        f"words={'x' * 201}")],
    *[("POST", f"/v1/files?name={name}", {"content": sent}, status) for name, sent, status in (
        ("x.png", png()[:40], 400), ("x.png", png_bomb(60_000), 413), ("x.pkl", b"\x80\x04.", 415),
        ("x.zip", b"PK\x03\x04" + b"\0" * 99, 415), ("../../x", b"text", 415), ("%00", b"x", 415),
        ("x" * 201, png(), 422), ("x.gltf", b"{}", 415), ("x.svg", b"<svg onload='x'/>", 415),
        ("x.html", b"<script>", 415), ("x.png", b"GIF89a" + b"\0" * 99, 415))],
    *[(method, path, {"json": data}, 400) for method, path in (("POST", "/send"),
                                                               ("POST", "/generate"))
      for data in ({"seed": 1}, {"text": 5}, {"text": "x", "type": "exe"}, {"image": "%%%"},
                   {"image": 5}, {"text": "x", "seed": -1}, {"text": "x", "face_count": "x"},
                   {"mesh": base64.b64encode(b"glTF").decode(), "texture": True},
                   {"image": base64.b64encode(b"\xff\xd8\xff").decode()})],
    ("GET", "/status/x", {}, 422), ("GET", f"/status/{NONE}", {}, 404),
    ("GET", "/status/..%2f..%2fetc", {}, 404), ("GET", "/../../etc/passwd", {}, 404),
    ("GET", "/page/../queue.json", {}, 404), ("GET", "//etc/passwd", {}, 404),
    ("TRACE", "/v1/jobs", {}, 405), ("OPTIONS", "/v1/jobs", {}, 405), ("GET", "/.secret", {}, 404),
]  # fmt: skip


def test_no_hostile_request_does_harm(desk: Desk, tmp_path: Path) -> None:
    client, wrong = client_of(desk), list[str]()
    (tmp_path / "kept").write_text("kept")
    desk.uploads, desk.secret  # noqa: B018, they make what they need
    before = set(tmp_path.rglob("*"))
    for method, path, more, status in HOSTILE:
        answer = client.request(method, path, **more)
        shown = f"{method} {path[:60]} {str(more)[:90]}: {answer.status_code} {answer.text[:90]}"
        if answer.status_code != status or "passwd:" in answer.text:
            wrong.append(f"{shown}, not {status}")
        elif status != 404 and not answer.json()["error"]:
            wrong.append(shown)
    assert not wrong, "\n".join(wrong)
    assert set(tmp_path.rglob("*")) == before
    assert len(HOSTILE) > 100


def test_a_bug_shows_nothing_of_itself(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("secrets")

    monkeypatch.setattr(desk, "counts", fail)
    answer = client_of(desk).get("/v1/status")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")


def sent(content: bytes) -> str:
    """A file as those clients send it."""
    return base64.b64encode(content).decode()


def test_clients_of_hunyuan3d_are_answered_as_there(desk: Desk) -> None:
    client = client_of(desk)
    asked = {"text": "a blue teapot", "seed": 7, "face_count": 4000, "octree_resolution": 128,
             "num_inference_steps": 5, "guidance_scale": 5.0, "type": "glb"}  # fmt: skip
    uid = client.post("/send", json=asked).json()["uid"]
    job = desk.show(uid).job
    assert (job["prompt"], job["seed"], job["budget"]) == ("a blue teapot", 7, "faces=4000")
    assert client.get(f"/status/{uid}").json() == {"status": "processing"}
    work(desk.queue, do=make)
    assert client.get(f"/status/{uid}").json() == {
        "status": "completed", "model_base64": sent(b"generate asset.glb")
    }  # fmt: skip
    assert client.post("/generate", json=asked).content == b"generate asset.glb"
    assert client.post("/generate", json={**asked, "type": "obj"}).content == b"generate asset.obj"


def test_what_hunyuan3d_lacks_errors_have_a_state(desk: Desk) -> None:
    client = client_of(desk)
    uid = client.post("/send", json={"text": "a mug"}).json()["uid"]
    desk.cancel(uid)
    assert client.get(f"/status/{uid}").json() == {
        "status": "error", "message": "it was cancelled"
    }  # fmt: skip
    picture = client.post("/send", json={"image": sent(png())}).json()["uid"]
    job = desk.show(picture).job
    assert (job["system"], job["prompt"]) == ("ip_adapter", compat.SHOWN)


def test_who_waits_for_a_file_hears_why_there_is_none(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compat, "LOOK", 0.01)
    own = desk.submit({"job": "generate", "prompt": "a mug"}, "a")
    shown = desk.show(own)
    waits = iter([shown, shown, shown.model_copy(update={"state": "failed", "reason": "no GPU"})])
    monkeypatch.setattr(desk, "show", lambda own: next(waits))
    answer = client_of(desk).post("/generate", json={"text": "a mug"})
    assert (answer.status_code, answer.json()["error"]) == (
        409, "the asset could not be made: no GPU"
    )  # fmt: skip
    desk.closing.set()
    monkeypatch.setattr(desk, "show", lambda own: shown)
    assert client_of(desk).post("/generate", json={"text": "a mug"}).status_code == 503
