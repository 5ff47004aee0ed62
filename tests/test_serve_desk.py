"""The desk: what requests may name, whose ids are whose, how much is taken, what is handed out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.serving import MUG, NONE, OBJ, TEAPOT, desk_in, glb, make, png, png_bomb
from threed.apps.serve import uploads
from threed.apps.serve.admit import OFFERED, SAID, SENT, TAKEN
from threed.apps.serve.desk import FILES, LIVE, Desk
from threed.apps.serve.judge import judge
from threed.apps.serve.options import Serve
from threed.apps.serve.refusal import Refusal, status_of
from threed.core.errors import InputError
from threed.core.files import refuse
from threed.queue import Queue, work
from threed.queue.ticket import key_of
from threed.queue.worker import Keeper
from threed.runs.jobs import JOBS, read_job
from threed.runs.progress import Progress
from threed.systems.table import SYSTEMS

SECRET = "/etc/passwd"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A desk over an empty queue."""
    return desk_in(tmp_path)


def test_ids_cannot_be_guessed_and_all_servers_of_a_folder_know_them(tmp_path: Path) -> None:
    first, second, other = desk_in(tmp_path), desk_in(tmp_path), desk_in(tmp_path / "other")
    key = key_of(read_job(MUG))
    own = first.submit(MUG, "a")
    assert own == first.id_of(key) == second.id_of(key) == second.submit(MUG, "b")
    assert own != other.id_of(key)
    assert (first.queue.path / ".secret").stat().st_mode & 0o777 == 0o600
    assert second.show(own).number == 1


def test_a_job_is_made_once_and_anew_only_where_it_failed(desk: Desk) -> None:
    def fail(*_: Any) -> Any:
        raise InputError(f"there is no file {desk.queue.path}/uploads/{NONE}/sent.png")

    own = desk.submit(MUG, "a")
    desk.cancel(own)
    desk.cancel(own)  # twice is once
    assert desk.show(own).state == "cancelled"
    assert desk.submit(MUG, "a") == own
    assert desk.show(own).state == "waiting"
    work(desk.queue, do=fail)
    assert (desk.show(own).state, desk.show(own).reason) == ("failed", f"there is no file {NONE}")
    desk.retry(own)
    assert work(desk.queue, do=make) == 1
    shown = desk.show(own)
    assert (shown.state, shown.title, shown.files) == ("done", "a red mug", ("picture.png",))
    assert desk.submit(MUG, "a") == own
    assert not desk.queue.tickets("waiting")
    for act in (desk.cancel, desk.retry):
        with pytest.raises(Refusal, match="the job is done") as refused:
            act(own)
        assert refused.value.status == 409


def test_how_many_may_wait_is_bounded_for_each_and_for_all(tmp_path: Path) -> None:
    desk = desk_in(tmp_path, waiting=3, each=2)
    for seed in range(2):
        desk.submit({**MUG, "seed": seed}, "anna")
    with pytest.raises(Refusal, match="2 of your jobs are waiting") as refused:
        desk.submit({**MUG, "seed": 2}, "anna")
    assert refused.value.status == 429
    assert desk.show(desk.submit({**MUG, "seed": 2}, "bert")).ahead == 2
    with pytest.raises(Refusal, match="3 jobs are waiting"):
        desk.submit({**MUG, "seed": 3}, "carl")
    desk.submit(MUG | {"seed": 0}, "anna")  # is there already


def test_every_kind_of_input_has_its_rule() -> None:
    kinds = {item.kind.name for system in SYSTEMS.values() for item in system.inputs}
    assert kinds <= {*SAID, *SENT, *OFFERED, "planner"}
    assert {*TAKEN, "train", "resume"} == JOBS.keys()


CONTROL = {**MUG, "system": "controlnet"}
# what may not be named: the words of the refusal
NAMED: list[tuple[dict[str, Any], str]] = [
    ({"job": "train", "system": "controlnet", "data": SECRET}, "no job 'train' to be sent"),
    ({"job": "resume"}, "no job 'resume' to be sent"),
    ({"job": ["image"], "prompt": "x"}, "no job"),
    ({}, "no job None"),
    ({**MUG, "backbone": SECRET}, "backbone: '/etc/passwd' is not offered"),
    ({**MUG, "backbone": "sd15"}, "not offered"),  # it is not on this disk
    ({**MUG, "backbone": "owner/name"}, "not offered"),
    ({**MUG, "backbone": 5}, "not offered"),
    ({**MUG, "file": "../x.png"}, "file: '../x.png' is not offered"),
    ({**MUG, "heat": "/tmp/x.png"}, "heat: '/tmp/x.png' is not offered"),
    ({**MUG, "out": SECRET}, "no such setting"),
    ({**MUG, "seed": 1.5}, "seed must be"),
    ({**MUG, "prompt": "a\0b"}, "control character"),
    ({**MUG, "size": "9" * 5000}, "size must be"),
    ({**TEAPOT, "preset": SECRET}, "preset: '/etc/passwd' is not offered"),
    ({**TEAPOT, "init": SECRET}, "'/etc/passwd' is no file here"),
    ({**TEAPOT, "init": f"{NONE}/../../{SECRET}"}, "is no file here"),
    ({**TEAPOT, "init": f"{NONE}/asset.glb"}, "no such job"),
    ({**TEAPOT, "init": NONE}, "nothing was sent"),
    ({**TEAPOT, "settings": [f"backbone={SECRET}"]}, "backbone: '/etc/passwd' is not offered"),
    ({**TEAPOT, "settings": ["stages.0.backbone=x/y"]}, "backbone: 'x/y' is not offered"),
    ({**TEAPOT, "settings": ["stages.0.critic.model=x/y"]}, "backbone: 'x/y' is not offered"),
    ({**TEAPOT, "settings": ["system.name=rpg", "system.inputs={planner: [http://x/v1#m]}"]},
     "must be said as inputs"),
    ({**TEAPOT, "settings": ["steps=1000000"]}, "at most 20,000 are taken"),
    ({**TEAPOT, "settings": ["steps=900"], "best_of": 64}, "172,800 steps; at most 20,000"),
    ({**TEAPOT, "system": "rpg", "inputs": {"planner": ["http://10.0.0.1/v1#m"]}}, "not offered"),
    ({**TEAPOT, "system": "rpg", "inputs": {"learned": [f"{SECRET}:2"]}}, "weights: '/etc/passwd'"),
    ({**CONTROL, "inputs": {"control": [f"edges:{SECRET}"]}}, "is no file here"),
    ({**CONTROL, "inputs": {"control": ["edges"]}}, "--control edges: a word, a colon"),
    ({**CONTROL, "inputs": {"control": [f"edges:{NONE}"]}}, "nothing was sent"),
    ({**CONTROL, "inputs": {"weights": ["owner/name"]}}, "weights: 'owner/name' is not offered"),
    ({**CONTROL, "inputs": {"nothing": ["x"]}}, "takes no --nothing"),
    ({**MUG, "system": "none"}, "no system 'none'"),
    ({**MUG, "inputs": {"image": [SECRET]}}, "is for a system"),
    ({"job": "texture", "mesh": SECRET, "prompt": "x"}, "is no file here"),
    ({"job": "edit3d", "asset": SECRET, "instruction": "x"}, "is no file here"),
    ({"job": "export", "source": "."}, "is no file here"),
    ({"job": "export", "source": NONE, "file": "x.glb"}, "nothing was sent|not offered"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "said"), NAMED, ids=lambda value: str(value)[:60])
def test_no_request_names_what_it_may_not(data: dict[str, Any], said: str, desk: Desk) -> None:
    with pytest.raises(InputError, match=said):
        desk.submit(data, "a")
    assert not list((desk.queue.path / "waiting").iterdir())


def test_what_was_sent_or_made_is_named_by_its_id_and_kept_by_its_path(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "judge_mesh", lambda path, faces: judge(path))
    picture, mesh = desk.uploads.keep(png(), ""), desk.uploads.keep(OBJ, "x/../tetra.OBJ")
    assert picture == {"id": picture["id"], "kind": "picture", "width": 8, "height": 8}
    assert mesh["faces"] == 4
    assert desk.uploads.keep(png(), "again.jpg")["id"] == picture["id"]
    made = desk.submit(TEAPOT, "a")
    work(desk.queue, do=make)
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({**CONTROL, "inputs": {"control": [f"edges:{picture['id']}"]}}, "inputs", "sent.png"),
        ({**TEAPOT, "init": mesh["id"], "seed": 3}, "init", "sent.obj"),
        ({"job": "edit3d", "asset": f"{made}/asset.glb", "instruction": "make it blue"}, "asset",
         "asset.glb"),
        ({"job": "export", "source": f"{made}/asset.glb", "file": "asset.stl"}, "source", "glb"),
    ]  # fmt: skip
    for data, name, ending in cases:
        own = desk.submit(data, "a")
        assert desk.show(own).job[name] == data[name]
        _, ticket = desk.find(own)
        kept = json.loads(desk.queue.file("waiting", ticket).read_bytes())["job"][name]
        while not isinstance(kept, str):
            kept = next(iter(kept.values())) if isinstance(kept, dict) else kept[0]
        path = Path(kept.removeprefix("edges:"))
        assert path.is_file()
        assert path.is_relative_to(desk.queue.path)
        assert path.name.endswith(ending)


def test_what_the_owner_offers_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "models" / "my-toy").mkdir(parents=True)
    (tmp_path / "models" / "mine").mkdir()
    (tmp_path / "models" / "mine" / "model_index.json").touch()
    desk = desk_in(tmp_path, models=tmp_path / "models")
    picture = desk.uploads.keep(png(), "")["id"]
    told = {"control": [f"edges:{picture}"], "learned": ["my-toy:0.5"]}
    own = desk.submit({**CONTROL, "inputs": told}, "a")
    _, ticket = desk.find(own)
    kept = json.loads(desk.queue.file("waiting", ticket).read_bytes())["job"]["inputs"]
    assert kept["learned"] == [f"{tmp_path}/models/my-toy:0.5"]
    assert desk.door.backbones()["mine"] == f"{tmp_path}/models/mine"
    assert "toybox" in desk.door.backbones()
    desk.submit({**MUG, "backbone": "mine"}, "a")


def test_files_are_had_by_fixed_names_of_jobs_that_are_done(desk: Desk) -> None:
    own = desk.submit(TEAPOT, "a")
    with pytest.raises(Refusal, match="it is waiting"):
        desk.file(own, "asset.glb")
    work(desk.queue, do=make)
    folder = desk.queue.result(key_of(read_job(TEAPOT)))
    assert desk.file(own, "asset.glb") == folder / "asset.glb"
    (folder / "views.png").symlink_to(SECRET)
    for name in ("checkpoint.pt", "views.png", "asset_lod1.glb", "../queue.json", "", LIVE, "/"):
        with pytest.raises(Refusal, match="no such file"):
            desk.file(own, name)
    assert not any("/" in name for name in FILES)


def test_a_job_that_runs_shows_its_losses_and_its_newest_picture(desk: Desk) -> None:
    own = desk.submit(TEAPOT, "a")
    claim = desk.queue.claim("anna")
    assert claim is not None
    desk.queue.prepare(claim)
    keeper = Keeper(desk.queue, claim, lambda: False)
    picture = claim.folder / "progress" / "0-50.png"
    picture.parent.mkdir()
    picture.write_bytes(png())
    losses = {"loss": 0.5, "nan": float("nan")}
    keeper.listen(Progress("optimising", step=5, steps=9, losses=losses, preview=picture))
    desk.queue.record(claim.ticket, keeper.state())
    shown = desk.show(own)
    assert (shown.state, shown.step, shown.losses) == ("running", 5, {"loss": 0.5})
    assert shown.files == (LIVE,)
    assert desk.file(own, LIVE) == picture
    for preview in (SECRET, "../../../queue.json", "progress/../x.png", "progress/none.png"):
        desk.queue.record(claim.ticket, keeper.state().model_copy(update={"preview": preview}))
        with pytest.raises(Refusal):
            desk.file(own, LIVE)


BROKEN: list[tuple[bytes, str, int, str]] = [
    (b"", "x.glb", 400, "the file is empty"),
    (b"\x80\x04\x95pickle", "x.pt", 415, "none of what can be sent"),
    (b"PK\x03\x04" + b"\0" * 99, "x.zip", 415, "none of what can be sent"),
    (b"<svg/>", "../../x.svg", 415, "none of what can be sent"),
    (b"%!PS-Adobe-3.0 EPSF", "x.png", 415, "none of what can be sent"),
    (png()[:40], "x.png", 400, "damaged"),
    (b"\xff\xd8\xff\xe0" + b"\0" * 99, "x.jpg", 400, "damaged"),
    (b"RIFF\0\0\0\0WEBPVP8 ", "x", 400, "damaged"),
    (png(1100, 1000), "x.png", 413, "1,100 x 1,000 pixels or more; at most 1,000,000"),
    (png_bomb(100_000), "x.png", 413, "pixels"),
    (b"\x89PNG\r\n\x1a\n" + b"x" * 2**20, "x.png", 413, "at most 1 MiB"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "name", "status", "said"), BROKEN)
def test_what_is_sent_is_judged(
    tmp_path: Path, content: bytes, name: str, status: int, said: str
) -> None:
    desk = desk_in(tmp_path, upload=1, pixels=1)
    with pytest.raises(InputError, match=said) as refused:
        desk.uploads.keep(content, name)
    assert status_of(refused.value) == status
    assert not list(desk.uploads.folder.iterdir())


def test_meshes_are_read_elsewhere_within_limits(tmp_path: Path) -> None:
    desk = desk_in(tmp_path, faces=4)
    assert desk.uploads.keep(OBJ, "mug.obj")["faces"] == 4  # in a process of its own
    for told, said in (('{"faces": 5}', "has 5 faces; at most 4"), ("", "too much memory or time"),
                       ('{"error": "FILE is no mesh"}', "the mesh is no mesh")):  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(uploads.sys, "executable", str(tmp_path / "judge"))
            (tmp_path / "judge").write_text(f"#!/bin/sh\necho '{told}' | sed \"s|FILE|$3|\"\n")
            (tmp_path / "judge").chmod(0o755)
            with pytest.raises(InputError, match=said):
                desk.uploads.keep(OBJ + b"\n", "mug.obj")
    mesh = tmp_path / "broken.glb"
    for content in (glb(b"{}"), glb(b"[" * 9999), glb(b'{"asset": {"version": "2.0"}}'), b"glTF"):
        mesh.write_bytes(content)
        assert "error" in judge(mesh)


def test_all_that_is_kept_is_bounded(tmp_path: Path) -> None:
    desk = desk_in(tmp_path, upload=1, store=1)
    desk.uploads.keep(png(), "x.png")
    with pytest.raises(Refusal, match="1 MiB have been sent") as refused:
        desk.uploads.keep(png(9, 9), "x.png")
    assert refused.value.status == 507


def test_a_full_or_closed_disk_has_its_status(tmp_path: Path) -> None:
    for code, status in ((28, 507), (30, 503), (13, 503)):
        with pytest.raises(InputError) as refused, refuse(tmp_path):
            raise OSError(code, "")
        assert status_of(refused.value) == status
    assert Serve().upload_bytes == 64 * 2**20


def test_a_damaged_ticket_is_shown_and_does_no_harm(desk: Desk) -> None:
    own = desk.submit(MUG, "a")
    _, ticket = desk.find(own)
    for content in (b"{", b"[]", b'{"job": 5}', b"\xff" * 9):
        desk.queue.file("waiting", ticket).write_bytes(content)
        assert Desk(Queue.open(desk.queue.path)).show(own).title == "a damaged job"
