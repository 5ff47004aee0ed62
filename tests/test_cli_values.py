"""Every command with every kind of value that cannot be meant: one sentence, before any work.

Which option is of which kind is read from the commands themselves, so a new one is tested, too.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

import exporters
from tests.conftest import Answer
from tests.shapes import cube
from tests.test_cli import assert_refused
from tests.test_core_saved import fuzzed, saved
from tests.tiny import tiny_folder
from threed.apps.cli import main as cli
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.models import latent
from threed.runs import jobs
from threed.runs.do import do

LONG = "x" * 300
# a call that would do something, without the options of the table below; {here} is a folder
CALLS = {
    "generate": ["a red mug"],
    "texture": ["{here}/cube.glb", "a red mug"],
    "edit3d": ["{here}/cube.glb", "make it blue"],
    "resume": ["{here}/empty"],
    "image": ["a red mug", "--out", "{here}/new.png", "--backbone", "{here}/model"],
    "train": ["controlnet", "--data", "{here}/empty", "--out", "{here}/new",
              "--backbone", "{here}/model"],
    "export": ["{here}/cube.glb", "--to", "{here}/new.obj"],
    "repair": ["{here}/cube.glb", "--out", "{here}/new.obj"],
    "turntable": ["{here}/cube.glb", "--to", "{here}/new.mp4"],
    "render": ["{here}/cube.glb", "--protocol", "mate3d", "--out", "{here}/new"],
    "report": ["{here}/cube.glb"],
    "blender": ["{here}/cube.glb", "--render", "{here}/new.png"],
    "comfyui": ["--nodes", "{here}/new"],
    "convert": ["{here}/text.pt", "--out", "{here}/new", "--like", "{here}/model"],
    "pack": ["{here}/empty", "--out", "{here}/new"],
    "weights lora": ["{here}/none.safetensors", "--to", "{here}/new.safetensors",
                     "--backbone", "{here}/model"],
    "weights words": ["{here}/none.safetensors", "--to", "{here}/new.safetensors"],
    "edit-pairs": ["toybox", "--out", "{here}/new", "--backbone", "{here}/model"],
    "evaluate": ["--out", "{here}/new", "--limit", "1"],
    "serve": ["{here}/new"],
    "queue add": ["{here}/prompts.txt", "--queue", "{here}/new"],
    "queue status": ["--queue", "{here}/empty"],
    "queue work": ["--queue", "{here}/empty"],
    "queue retry": ["--queue", "{here}/empty"],
    "queue cancel": ["--queue", "{here}/empty"],
    "toybox world": ["--out", "{here}/new.png"],
    "toybox subject": ["--out", "{here}/new"],
    "toybox fitting": ["--out", "{here}/new"],
    "toybox sample": ["a red mug", "--out", "{here}/new.png"],
    "toybox train": ["vae", "--work", "{here}/new", "--weights", "{here}/new", "--sets", "1"],
    "toybox evaluate": ["--weights", "{here}/empty", "--sets", "1"],
}  # fmt: skip
QUIET = ("list", "doctor", "schema")  # take nothing but names
NO_FILE = {
    "{here}/none": "cannot read|no |here, not",
    f"{{here}}/{LONG}": "cannot read|no |must end|here, not",
    "{here}/empty": "no |cannot read|must end|here, not",
    "{here}/text.pt": "no |not |cannot read|must (be|end)|damaged|single file",
}
MESHES = NO_FILE | {"{here}/text.glb": "text.glb is not a whole GLB file",
                    "{here}/a.blend": "must end in one of",
                    "{here}/picture.png": "must end in one of"}  # fmt: skip
OUT = {f"{{here}}/{LONG}{{end}}": "too long; choose a shorter name",
       "{here}/text.pt/x{end}": "not a directory; choose",
       "/proc/none/x{end}": "cannot write /proc/none/x"}  # fmt: skip
OUT_FILE = OUT | {"{here}/folder{end}": "is a directory; choose another name",
                  "{here}/new.txt": r"its name must end in one of \."}  # fmt: skip
OUT_FOLDER = OUT | {"{here}/text.pt": "text.pt: file exists; choose another name"}
# kind -> what cannot be meant: what is said of it
KINDS: dict[str, dict[str, str]] = {
    "seed": dict.fromkeys(("-1", str(2**31), str(2**32 + 3), "7" * 23, "x", "1.5", "", "nan",
                           "9" * 5000), r"seed must be in 0\.\.2,147,483,647|'--seed'"),
    "device": dict.fromkeys(("mps", "xpu", "meta", "gpu", "", "cpu:0", "cuda:x", "CUDA"),
                            "device must be auto, cpu, cuda or cuda:N, got")
              | {"cuda:99": "'cuda:99' was asked for, but this PyTorch sees"},
    "size": dict.fromkeys(("0", "-64", "x", "64x", "1e9", "9" * 5000), "size must be|'--size'")
            | {"1000000": "at once need about|size must be in"},
    "mesh": MESHES,
    "prompt": {"": "the prompt is empty", "a\x07": "control character", "mug " * 999: "characters"},
    "backbone": NO_FILE | {"toybocs": "did you mean 'toybox'"},
    "preset": NO_FILE,
    "list": {"{here}/none.txt": "no file", f"{{here}}/{LONG}.txt": "cannot read",
             "{here}/empty": "must end", "{here}/text.pt": "must end"},
    "folder": NO_FILE,
    "weights": NO_FILE | {"{here}/none.safetensors": "is missing"},
    "data": NO_FILE,
    "budget": dict.fromkeys(("", "x", "faces=x", "faces=1", "faces=" + "9" * 5000),
                            "^error: budget"),
    "number": dict.fromkeys(("", "x", "nan", "inf", "1e999"), "must be|Invalid value for"),
    "out file": OUT_FILE,
    "out folder": OUT_FOLDER,
}  # fmt: skip
OF_OPTIONS = {
    "seed": "seed", "device": "device", "size": "size", "backbone": "backbone", "preset": "preset",
    "mesh": "mesh", "asset": "mesh", "init": "mesh", "source": "mesh", "prompt": "prompt",
    "instruction": "prompt", "folder": "folder", "data": "data", "budget": "budget",
    "to": "out file", "render": "out file", "heat": "out file", "like": "backbone",
    "work": "out folder", "loras": "weights", "file": "weights", "entries": "list",
    "queue": "folder", "nodes": "out folder",
}  # fmt: skip


def commands() -> dict[str, click.Command]:
    """Every command by its name, those of groups too."""
    found = {}
    context = click.Context(cli.app)
    for name in cli.app.list_commands(context):
        command = cli.app.get_command(context, name)
        inner = command.commands if isinstance(command, click.Group) else {"": command}
        found.update({f"{name} {under}".strip(): one for under, one in inner.items()})
    return found


def kind_of(name: str, param: click.Parameter) -> str | None:
    """What an option of a command takes; None where its values are judged elsewhere."""
    option = str(param.name)
    if option == "out":
        return "out file" if any(word.startswith("{here}/new.") for word in CALLS[name]) else (
            "out folder")  # fmt: skip
    if (name, option) in (("queue add", "queue"), ("serve", "folder")):
        return "out folder"
    # judged together with --out, and where the job is done
    if (name, option) in (("image", "heat"), ("queue add", "backbone")):
        return None
    if (name, option) in (
        ("convert", "source"),
        ("blender", "source"),
        ("toybox sample", "weights"),
    ):
        return "folder"
    if param.type in (click.INT, click.FLOAT) and option not in OF_OPTIONS:
        return "number"
    return OF_OPTIONS.get(option)


def cases() -> Iterator[tuple[str, list[str], str]]:
    """Command, words with one that cannot be meant, what is said."""
    for name, command in commands().items():
        if name in QUIET:
            continue
        words = CALLS[name]
        arguments = [param.name for param in command.params if isinstance(param, click.Argument)]
        for param in command.params:
            kind = kind_of(name, param)
            ends = {Path(word).suffix for word in words if word.startswith("{here}/new.")}
            for value, said in KINDS.get(kind or "", {}).items():
                bad = value.replace("{end}", next(iter(ends), ""))
                if isinstance(param, click.Argument):
                    place = arguments.index(param.name)
                    yield name, [*words[:place], bad, *words[place + 1 :]], said
                else:
                    yield name, [*words, param.opts[0], bad], said


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the calls name."""
    path = tmp_path_factory.mktemp("here")
    exporters.save(cube(), path / "cube.glb")
    (path / "prompts.txt").write_text("a red mug\n")
    for name in ("text.pt", "text.glb", "a.blend"):
        (path / name).write_text("a text\n" * 9)
    for end in ("png", "obj", "mp4", "safetensors"):
        (path / f"folder.{end}").mkdir()
    (path / "empty").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path / "picture.png")
    tiny_folder(path / "model")
    return path


def test_every_command_is_in_the_table() -> None:
    assert {*CALLS, *QUIET} == commands().keys()
    tested = {(name, kind_of(name, param)) for name, command in commands().items()
              if name in CALLS for param in command.params}  # fmt: skip
    assert {kind for _, kind in tested} - {None} == KINDS.keys()


def test_no_command_takes_what_cannot_be_meant(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("a model is loaded before all that was typed is judged")

    monkeypatch.setattr(latent, "load_net", load)
    monkeypatch.chdir(here)
    before, wrong = sorted(here.rglob("*")), []
    for name, words, said in cases():
        typed = [*name.split(), *(word.replace("{here}", str(here)) for word in words)]
        capsys.readouterr()
        problem = None
        try:
            cli.main(typed)
        except SystemExit as exit_:
            answer = capsys.readouterr()
            lines = [line for line in answer.err.splitlines() if not line.startswith("warning: ")]
            if exit_.code != 2:
                problem = f"status {exit_.code}"
            elif not re.search(said, answer.err):
                problem = "another reason"
            elif len(lines) != 1 and not answer.err.startswith("Usage: "):
                problem = "several lines"
            problem = problem and f"{problem}: {answer.err}"
        except BaseException as error:
            problem = repr(error)
        if problem is not None:
            wrong.append(f"{' '.join(typed)[:150]!r}: {problem[:300]}")
    assert not wrong, "\n".join(wrong)
    assert sorted(here.rglob("*")) == before


NETS = {
    "controlnet": ("--control", "edges-map:{here}/picture.png"),
    "instruct_pix2pix": ("--image", "{here}/picture.png"),
    "ip_adapter": ("--image", "{here}/picture.png"),
    "kosmos_g": (),
    "ms_diffusion": ("--image", "{here}/picture.png", "--subject", "a mug"),
    "uni_controlnet": ("--control", "edges-map:{here}/picture.png"),
}


@pytest.mark.parametrize("system", NETS)
def test_weights_that_are_none_are_refused(
    system: str, here: Path, tmp_path: Path, threed: Callable[..., Answer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    model = load_backbone(str(here / "model"), device="cpu")
    monkeypatch.setattr("threed.runs.image.load_backbone", lambda *_, **__: model)
    words = [word.replace("{here}", str(here)) for word in NETS[system]]
    (tmp_path / "folder" / "local").mkdir(parents=True)
    for name in ("diffusion_pytorch_model.safetensors", "local/adapter.safetensors"):
        (tmp_path / "folder" / name).write_bytes(save({"a": torch.ones(1)}))
    file, config = tmp_path / "file.ckpt", tmp_path / "folder" / "config.json"
    contents = [*fuzzed()[::40], saved({"control_model.input_hint_block.99.bias": torch.ones(1)}),
                saved({"global_adapter.a": torch.ones(1), "local_adapter.b": torch.ones(1)}),
                saved({"model.diffusion_model.x": torch.ones(1)})]  # fmt: skip
    configs = [b"", b"[]", b"[" * 9000, b'{"in_channels": "x"}', b'{"kinds": 5}', b"\xff"]
    places = [file] * len(contents) + [config.parent] * len(configs)
    for place, content in zip(places, contents + configs):
        (file if place == file else config).write_bytes(content)
        if place != file:
            (config.parent / "local" / "config.json").write_bytes(content)
        answer = threed("image", "a mug", "--out", tmp_path / "x.png", "--system", system, *words,
                        "--weights", place)  # fmt: skip
        assert_refused(answer)
        assert str(tmp_path) in answer.err or "is no tensor of a UNet" in answer.err
    for name in ("none", LONG, "none/none"):
        answer = threed("image", "a mug", "--out", tmp_path / "x.png", "--system", system, *words,
                        "--weights", tmp_path / name)  # fmt: skip
        assert_refused(answer, "there are no weights at")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_what_is_said_goes_into_any_pipe(
    encoding: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", pipe)
    monkeypatch.chdir(here)
    name = "a→b×.obj"
    with pytest.raises(SystemExit) as exit_:
        cli.main(["export", "cube.glb", "--to", name])
    assert exit_.value.code == 0
    assert (here / name).is_file()
    pipe.seek(0)
    plain = {"ascii": "a->bx.obj", "cp1252": "a->b×.obj", "utf-8": "a→b×.obj"}
    assert pipe.read() == f"{plain[encoding]}\n"
    for path in here.glob("a*.obj"):
        path.unlink()


LATER = {"cuda:99", "1000000", "1e9"}  # by what the machine has, when the job is done
JOBS = {
    "generate": {"prompt": "a red mug"},
    "texture": {"mesh": "{here}/cube.glb", "prompt": "a red mug"},
    "edit3d": {"asset": "{here}/cube.glb", "instruction": "make it blue"},
    "resume": {},
    "image": {"prompt": "a red mug"},
    "train": {"system": "controlnet", "data": "{here}/empty"},
    "export": {"source": "{here}/cube.glb"},
}  # fmt: skip


def test_jobs_are_judged_like_commands_and_where_they_write(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("a model is loaded before the place is judged")

    monkeypatch.setattr(latent, "load_net", load)
    assert JOBS.keys() == jobs.JOBS.keys()
    for kind, fields in JOBS.items():
        data = {"job": kind} | {name: value.replace("{here}", str(here))
                                for name, value in fields.items()}  # fmt: skip
        for name in jobs.JOBS[kind].model_fields:
            option = OF_OPTIONS.get(name)
            if option in ("seed", "device", "prompt", "budget", "size"):
                for value in KINDS[option].keys() - LATER:
                    with pytest.raises(InputError, match=f"{name}|prompt"):
                        jobs.read_job(data | {name: value})
        if kind != "resume":
            for place, said in (("text.pt/x", "not a directory"), (LONG, "file name too long")):
                with pytest.raises(InputError, match=f"cannot write .*: {said}; choose"):
                    do(jobs.read_job(data), here / place)
