"""The extension for Blender: forms of schemas, jobs of forms, threads; and all in real Blender."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from exporters import blender
from tests.serving import desk_in, living
from threed.apps.packs.blender import forms, work
from threed.apps.packs.blender.forms import COMMON, Field, Offers, jobs, read_system
from threed.apps.packs.blender.work import Link, Row
from threed.apps.packs.client import Client, Refused, Sent
from threed.apps.packs.write import write_extension
from threed.apps.serve import uploads
from threed.apps.serve.admit import OFFERED, SENT
from threed.settings.presets import presets
from threed.systems.table import SYSTEMS

OFFERS = Offers({name: read_system(system.schema(), ["own"]) for name, system in SYSTEMS.items()},
                COMMON)  # fmt: skip


def filled(**more: Any) -> Any:
    """What a form says that was filled in so, and left as it comes otherwise."""
    own = {told.name: told.default for told in COMMON} | dict.fromkeys(
        ("system", "preset", "backbone"), forms.NONE)  # fmt: skip
    for name, system in OFFERS.systems.items():
        own |= {f"{name}.{told.name}": told.default for told in system.fields}
    assert {name.replace("__", ".") for name in more} <= own.keys()
    own |= {name.replace("__", "."): value for name, value in more.items()}
    return own.__getitem__


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_has_a_form(name: str) -> None:
    form, system = OFFERS.systems[name], SYSTEMS[name]
    names = [told.name for told in form.fields]
    assert len(set(names)) == len(names)
    assert all(own.isidentifier() and len(own) < 64 for own in names)
    assert {slot.input for slot in form.slots} == {item.name for item in system.inputs}
    assert {slot.input for slot in form.slots if slot.needed} == {
        item.name for item in system.inputs if item.required}  # fmt: skip
    for item in system.inputs:
        own = [slot for slot in form.slots if slot.input == item.name]
        assert len(own) == (forms.SLOTS if item.many else 1)
        assert (own[0].fields[-1].form == "file") == (item.kind.name in SENT)
        assert (("own", "") in own[0].fields[-1].choices) == (item.kind.name in OFFERED)
    values = {told.name: told.default for told in form.knobs}
    assert system.knobs(**{own.removeprefix("knob_"): value for own, value in values.items()
                           if value != ""}) == system.knobs()  # fmt: skip


def test_a_form_becomes_a_job() -> None:
    assert jobs("generate", filled(prompt=" a red mug "), OFFERS) == [
        {"job": "generate", "prompt": "a red mug"}
    ]
    many = filled(prompt="a mug", candidates=2, best_of=3, preset="toybox-sds", height="12cm",
                  settings="steps=5  field.samples=8")  # fmt: skip
    common = {"preset": "toybox-sds", "settings": ["steps=5", "field.samples=8"]}
    first = {"job": "generate", "prompt": "a mug", **common, "best_of": 3, "height": "12cm"}
    assert jobs("generate", many, OFFERS) == [{**first, "seed": 0}, {**first, "seed": 1}]
    mesh = Path("mesh.glb")
    del first["height"]
    assert jobs("generate", many, OFFERS, mesh) == [{**first, "init": Sent(mesh)}]
    assert jobs("texture", filled(prompt="a mug", seed=7), OFFERS, mesh) == [
        {"job": "texture", "prompt": "a mug", "mesh": Sent(mesh), "keep_uv": True, "seed": 7}
    ]
    assert jobs("edit3d", filled(prompt="make it blue", shape=True), OFFERS, mesh) == [
        {"job": "edit3d", "instruction": "make it blue", "asset": Sent(mesh), "shape": True}
    ]


def test_a_form_of_a_system_becomes_its_inputs_and_knobs() -> None:
    (told,) = jobs("generate", filled(
        prompt="a mug", system="controlnet", controlnet__input_control_0_word="edges-map",
        controlnet__input_control_0="a.png", controlnet__input_control_1_word="no file",
        controlnet__input_weights_0="own", controlnet__knob_guess=True,
        controlnet__knob_strength=0.30000001192), OFFERS)  # fmt: skip
    assert told["inputs"] == {"control": [Sent(Path("a.png"), "edges-map:")], "weights": ["own"]}
    assert told["knob"] == ["strength=0.3", "guess=true"]
    (told,) = jobs("generate", filled(prompt="a mug", system="rpg",
                                      rpg__input_region_1="a blue mug"), OFFERS)  # fmt: skip
    assert told["inputs"] == {"region": ["a blue mug"]}
    assert "knob" not in told


def test_of_what_may_be_said_again_one_more_is_shown() -> None:
    slots = OFFERS.systems["rpg"].slots

    def numbers(**more: Any) -> list[int]:
        own = filled(**more)
        shown = forms.shown(slots, lambda name: own(f"rpg.{name}"))
        return [slot.number for slot in shown if slot.input == "region"]

    assert numbers() == [0]
    assert numbers(rpg__input_region_0="a mug") == [0, 1]
    assert numbers(**{f"rpg__input_region_{i}": "x" for i in range(8)}) == list(range(8))


class Stub(Client):
    """A server that shows a job so."""

    def __init__(self, *shown: dict[str, Any] | Refused) -> None:
        super().__init__()
        self.__dict__.update(answers=list(shown), cancelled=[])

    def submit(self, job: dict[str, Any]) -> dict[str, Any]:
        """The first answer."""
        return self.show("")

    def show(self, own: str) -> dict[str, Any]:
        """The next."""
        answer = self.__dict__["answers"].pop(0)
        if isinstance(answer, Refused):
            raise answer
        return {"id": "a", "step": 0, "steps": 0, "ahead": 0, "message": "", **answer}

    def cancel(self, own: str) -> None:
        """Is remembered."""
        self.__dict__["cancelled"].append(own)

    def file(self, own: str, name: str) -> bytes:
        """A file."""
        return name.encode()


def test_a_row_says_what_becomes_of_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "PAUSE", 0)
    waiting, running = {"state": "waiting", "ahead": 2}, {"state": "running", "step": 1, "steps": 4}
    for answers, state, message in (
        ([waiting, running, {"state": "done"}], "here", ""),
        ([running, {"state": "failed", "reason": "no GPU"}], "failed", "no GPU"),
        ([waiting, {"state": "cancelled", "reason": ""}], "cancelled", ""),
        ([Refused(400, "no such preset")], "failed", "no such preset"),
        ([running, Refused(404, "there is no such job")], "failed", "there is no such job"),
    ):
        mesh = tmp_path / "sent" / "mesh.glb"
        mesh.parent.mkdir()
        row = Row("a mug", {}, mesh=mesh)
        row.run(Stub(*answers))
        assert (row.state, row.message) == (state, message)
        assert row.content == (b"asset.glb" if state == "here" else b"")
        assert not mesh.parent.exists()
    row = Row("a mug", {})
    row._hear(Stub(waiting).show(""))
    assert (row.state, row.message) == ("waiting", "2 before it")
    row._hear(Stub(running).show(""))
    assert (row.state, row.share) == ("running", 0.25)


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_row_that_is_left_goes_on_elsewhere_unless_it_is_cancelled(cancelled: bool) -> None:
    row, client = Row("a mug", {}), Stub({"state": "running"})
    row.cancel() if cancelled else row.left.set()
    row.run(client)
    assert row.state == "cancelled"
    assert client.__dict__["cancelled"] == ["a"] * cancelled


def program(path: Path, text: str) -> str:
    """A program."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return str(path)


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_a_server_that_does_not_begin_says_why(tmp_path: Path) -> None:
    nobody = Client("http://127.0.0.1:9")
    ends = program(tmp_path / "ends", "echo $*; echo error: $THREED_TOKEN $2; exit 2")
    for name, client, said in (
        ("", nobody, "no server answers at http://127.0.0.1:9"),
        (str(tmp_path / "none"), nobody, "cannot start .*No such file.*preferences"),
        (ends, Client("http://127.0.0.1:9", "word"), "the server ended: error: word jobs"),
        (ends, Client("http://127.0.0.1:x"), "is no address of a server"),
        (ends, Client("http://203.0.113.7:x"), "no server answers"),
    ):
        link = Link(client, name, "jobs")
        link.run()
        assert link.state == "off"
        assert re.search(said, link.trouble)
        link.stop()


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_a_server_that_was_started_ends_with_its_link(tmp_path: Path) -> None:
    link = Link(Client("http://127.0.0.1:9"), program(tmp_path / "stays", "exec sleep 600"), "jobs")
    thread = threading.Thread(target=link.run)
    thread.start()
    while link.server is None:
        time.sleep(0.01)
    process = link.server.process
    link.stop()
    thread.join()
    assert process.poll() is not None
    assert link.state == "off"


def test_what_a_server_offers_becomes_fields(tmp_path: Path) -> None:
    with living(desk_in(tmp_path)) as url:
        offers = Offers.of(Client(url))
    own = {told.name: told for told in offers.fields}
    assert offers.systems.keys() == SYSTEMS.keys()
    assert [name for name, _ in own["preset"].choices] == [forms.NONE, *presets()]
    assert ("toybox", "") in own["backbone"].choices
    assert own["seed"] == Field("seed", "Seed", own["seed"].about, "whole", -1, -1, 2**31 - 1)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Blender saw while the extension was used: see blender_desk.py."""
    python = os.environ.get(blender.VARIABLE)
    if python is None:
        pytest.skip("needs Blender: THREED_BLENDER_PYTHON naming a Python with bpy")
    folder = tmp_path_factory.mktemp("desk")
    write_extension(folder / "threed.zip")
    around = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = Path(__file__).with_name("blender_desk.py")
    with pytest.MonkeyPatch.context() as patch, living(desk_in(folder)) as url:
        # by a process of its own; tests/test_serve_desk.py has that
        patch.setattr(uploads, "judge_mesh", lambda *_: {"kind": "mesh", "faces": 1})
        done = subprocess.run(
            [python, str(script), str(folder / "threed.zip"), url], capture_output=True, text=True,
            env={**around, "BLENDER_USER_RESOURCES": str(folder / "user")}, check=False,
        )  # fmt: skip
    answers = [line for line in done.stdout.splitlines() if line.startswith("found: ")]
    assert answers, done.stderr[-3000:]
    seen: dict[str, Any] = json.loads(answers[-1].removeprefix("found: "))
    return seen


def test_blender_installs_it_and_it_leaves_nothing(found: dict[str, Any]) -> None:
    assert found["left"] == []
    assert found["timer"] is False
    assert found["again"] is True


def test_blender_shows_what_the_server_offers(found: dict[str, Any]) -> None:
    assert found["link"] == ["on", "a red mug"]  # what was typed before stays
    assert found["systems"] == [f"system_{name}" for name in SYSTEMS]
    assert found["knob"] == [0, 1, 0.8, True]
    assert found["system"] == {"system": "rpg", "knob": ["base_ratio=0.3"], "inputs": {
        "region": ["0,0,0.5,1:a red mug", "0.5,0,1,1:a blue mug"]}}  # fmt: skip


def test_the_panel_is_drawn(found: dict[str, Any]) -> None:
    buttons = ["[Make]", "The selected mesh", "Keep UVs=True", "Shape, too=False", "[Paint]",
               "[Refine]", "[Edit]"]  # fmt: skip
    assert found["first"][:2] == ["[Connect]", "Prompt=a red mug"]
    assert found["first"][-len(buttons) :] == buttons
    assert "no server answers at" in found["trouble"][0]
    assert found["trouble"][-len(buttons) :] == buttons
    shown = found["shown"]
    assert shown[1] == "[Leave]"
    assert {"Preset=-", "System=rpg", "Region=0,0,0.5,1:a red mug", "Region=", "Planner=-"} <= set(
        shown
    )
    assert "[Cancel]" in shown[-4:]
    assert found["reason"][-4:] == ["no", "[Cancel]", "failed", "that cannot be made"]
    assert found["preferences"] == [f"Server={found['url']}", "Token=not-what-it-has",
                                    "Start a server where none answers=False", "Program=threed",
                                    "Folder="]  # fmt: skip


RED = pytest.approx([1, 0, 0, 1])


def test_assets_come_in_at_the_cursor_beside_each_other(found: dict[str, Any]) -> None:
    assert found["sent"] == 2
    size = pytest.approx([2, 1, 3], abs=1e-5)
    first, second = found["made"]
    for one in (first, second):
        assert (one["size"], one["faces"], one["color"], one["slots"]) == (size, 12, RED, 1)
    assert (first["place"], second["place"]) == ([1, 2, 3], pytest.approx([3.5, 2, 3]))
    assert {first["name"], second["name"]} == {"a-red-mug", "a-red-mug.001"}
    assert found["active"] in ("a-red-mug", "a-red-mug.001")
    assert found["scaled"]["size"] == pytest.approx([200, 100, 300], abs=1e-3)  # in centimetres


def test_painting_keeps_the_mesh_its_uvs_and_its_transform(found: dict[str, Any]) -> None:
    assert found["paint"] == ""
    painted = found["painted"]
    assert (painted["kept"], painted["objects"], painted["slots"]) == (True, 0, 1)
    assert (painted["color"], painted["indices"], painted["uv"]) == (RED, [0, 0], ["second"])


def test_what_is_changed_stands_where_it_stood(found: dict[str, Any]) -> None:
    assert found["mode"] == "EDIT_MESH"  # as it was
    assert found["waits"] == ["here", "EDIT_MESH"]
    bare = found["bare"]
    assert (bare["hidden"], bare["matrix"], bare["places"], bare["uv"]) == (True, True, True, 1)
    assert bare["color"] == RED
    assert found["gone"] == ["a-lost-grid", 2, [1, 2, 3]]  # at the cursor
    assert found["refine"] == ["a-fine-grid", True, True, True]
    assert found["edit"] == ["make-it-red", True, True, True]


def test_blender_says_in_words_what_is_wrong(found: dict[str, Any]) -> None:
    for name, said in {
        "unlinked": "connect to a server first", "offline": "Allow Online Access",
        "nobody": "no server answers at http://127.0.0.1:9", "wordless": "say in the prompt",
        "unselected": "select a mesh first", "empty": "empty has no faces",
        "wrong": "did you mean 'steps'",
    }.items():  # fmt: skip
        assert said in found[name]
    assert found["failed"] == ["failed", "that cannot be made"]
    assert (found["dismissed"], found["running"], found["cancelled"]) == (0, "running", 0)
