"""The commands as a person or a script meets them: output, exit status, mistakes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests import tiny
from tests.conftest import Answer
from threed.apps.cli import main as cli
from threed.core.errors import InputError
from threed.runs import generate as commands
from threed.runs import loop as pipeline
from threed.runs.folder import RunFolder

SMALL = """
preview_every: 100
checkpoint_every: 2
field: {levels: 3, start_levels: 3, log2_table: 10, max_resolution: 24, samples: 24, occupancy: 12}
stages: [{steps: 4, batch: 4, resolution: 12}]
asset: {faces: 200, texture: 64, resolution: 24, turntable_frames: 4, turntable_size: 32,
        preview_size: 16}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_folder(tmp_path_factory.mktemp("models") / "tiny", "multiview")


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    path = tmp_path_factory.mktemp("presets") / "small.yaml"
    path.write_text(f"backbone: {model}\n{SMALL}")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, preset: Path) -> Path:
    """The folder of a run that has ended."""
    out = tmp_path_factory.mktemp("runs") / "mug"
    with pytest.raises(SystemExit) as exit_:
        cli.main(["generate", "a red mug", "--preset", str(preset), "--out", str(out)])
    assert exit_.value.code == 0
    return out


def assert_refused(answer: Answer, *parts: str) -> None:
    """One line on standard error, nothing on standard output, exit status 2."""
    assert answer.status == 2
    assert answer.out == ""
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1, answer.err
    for part in parts:
        assert part in answer.err


# what works


def test_generate_writes_everything_and_says_where(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {"asset.glb", "asset.obj", "asset.mtl", "asset.png", "turntable.mp4", "preview.png",
            "report.json", "config.yaml", "log.jsonl"} <= names  # fmt: skip


def test_generate_takes_settings_options_and_answers_in_json(
    threed: Callable[..., Answer], tmp_path: Path, preset: Path, model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    answer = threed("generate", "a red mug", "steps=3", "guidance_scale=7", "--preset", preset,
                    "--seed", 5, "--device", "cpu", "--backbone", model, "--json")  # fmt: skip
    assert answer.status == 0
    assert answer.err == "", "quiet when not a terminal"
    said = json.loads(answer.out)
    folder = Path(said["folder"])
    assert folder.parent == Path("outputs")
    assert folder.name.startswith("a-red-mug-")
    assert said["asset"] == str(folder / "asset.glb")
    assert str(folder / "report.json") in said["files"]
    run = RunFolder.open(folder).run
    stage = run.stages[0]
    assert (run.seed, run.device, stage.steps, stage.guidance_scale(0)) == (5, "cpu", 3, 7.0)


def test_resuming_a_finished_run_changes_nothing(
    threed: Callable[..., Answer], finished: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
    answer = threed("resume", finished)
    assert (answer.status, answer.out) == (0, f"{finished / 'asset.glb'}\n")
    assert answer.err == f"note: {finished} is finished already\n"
    assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before


def test_assets_can_be_exported_filmed_and_measured(
    threed: Callable[..., Answer], finished: Path, tmp_path: Path
) -> None:
    ply, film = tmp_path / "mug.ply", tmp_path / "mug.mp4"
    assert threed("export", finished, "--to", ply) == Answer(0, f"{ply}\n", "")
    assert ply.read_bytes().startswith(b"ply")
    options = ("--to", film, "--frames", 4, "--size", 32)
    assert threed("turntable", finished / "asset.glb", *options) == Answer(0, f"{film}\n", "")
    assert film.read_bytes()[4:8] == b"ftyp"
    figures = json.loads(threed("report", finished, "--json").out)
    assert figures == json.loads((finished / "report.json").read_text())
    assert "watertight" in threed("report", ply).out


def test_assets_can_be_made_and_exported_within_a_budget(
    threed: Callable[..., Answer], finished: Path, preset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mug"
    words = ("generate", "a red mug", "--preset", preset, "--out", out)
    answer = threed(*words, "--budget", "faces=100,texture=32", "--lods", 1)
    assert (answer.status, answer.err) == (0, "")
    assert (out / "asset_lod1.glb").is_file()
    asset = RunFolder.open(out).run.asset
    assert (asset.faces, asset.texture, asset.lods) == (100, 32, 1)
    small = tmp_path / "small.glb"
    answer = threed("export", finished, "--to", small, "--budget", "faces=80", "--lods", 1)
    assert answer == Answer(0, f"{small}\n{tmp_path / 'small_lod1.glb'}\n", "")
    assert json.loads(threed("report", small, "--json").out)["faces"] <= 82
    answer = threed("export", finished, "--to", small, "--budget", "triangles=80")
    assert_refused(answer, "'triangles=80' is not understood", "faces=5000")


def test_blender_that_is_not_there_is_said(
    threed: Callable[..., Answer], finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("THREED_BLENDER_PYTHON", "no/python")
    answer = threed("blender", finished, "--render", tmp_path / "mug.png")
    assert_refused(answer, "THREED_BLENDER_PYTHON is 'no/python'")
    answer = threed("blender", finished, "--render", tmp_path / "mug.jpg")
    assert_refused(answer, "its name must end in one of .png")


def test_image_draws_four_sides_with_a_multi_view_backbone(
    threed: Callable[..., Answer], model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mug.png"
    answer = threed("image", "a red mug", "--out", path, "--backbone", model, "--steps", 2)
    assert answer == Answer(0, f"{path}\n", "")
    with Image.open(path) as picture:
        assert picture.size == (4 * 32, 32)


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ("presets", "toybox-mvdream"),
        ("backbones", "toybox-multiview"),
        ("toybox", "mug"),
        ("settings", "stages.0.guidance_scale"),
    ],
)
def test_lists(threed: Callable[..., Answer], what: str, word: str) -> None:
    plain, as_json = threed("list", what), threed("list", what, "--json")
    assert (plain.status, as_json.status, plain.err) == (0, 0, "")
    assert word in plain.out
    rows = json.loads(as_json.out)
    assert len(rows) == len(plain.out.splitlines())
    assert word in as_json.out


def test_doctor_says_what_there_is_and_why_the_rest_is_not(threed: Callable[..., Answer]) -> None:
    findings = json.loads(threed("doctor", "--json").out)
    assert {"devices", "kernels", "libraries", "optional", "backbones", "disk"} <= findings.keys()
    assert findings["kernels"]["cpu tensors"] in ("cpu", "reference")
    assert {"not nvdiffrast", "not nerfacc", "not tinycudann"} <= findings["kernels"].keys()
    assert "toybox" in findings["backbones"]
    plain = threed("doctor")
    assert plain.status == 0
    assert all(part in plain.out for part in findings)


def test_help_is_there_for_every_command(threed: Callable[..., Answer]) -> None:
    answer = threed("--help")
    assert answer.status == 0
    for name in ("generate", "resume", "image", "export", "repair", "turntable", "report",
                 "blender", "list", "evaluate", "doctor", "toybox"):  # fmt: skip
        assert name in answer.out


# what does not


@pytest.mark.parametrize(
    ("prompt", "part"),
    [
        ("", "the prompt is empty"),
        (" \t ", "the prompt is empty"),
        ("mug " * 2500, "characters; at most 1,000 are allowed"),
        ("a red\x07mug", "control character (U+0007"),
    ],
)
def test_prompts_that_cannot_be_meant(
    threed: Callable[..., Answer], preset: Path, tmp_path: Path, prompt: str, part: str
) -> None:
    out = tmp_path / "run"
    assert_refused(threed("generate", prompt, "--preset", preset, "--out", out), part)
    assert not out.exists()
    assert_refused(threed("image", prompt, "--out", tmp_path / "x.png"), part)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--preset", "toybox-mvdrem"), ("no preset 'toybox-mvdrem'", "'toybox-mvdream'")),
        (("--backbone", "toybocs"), ("no backbone 'toybocs'", "'toybox'")),
        (("--backbone", "./nowhere/x"), ("no backbone folder at ./nowhere/x",)),
        (("--draft", "--preset", "toybox-sds"), ("leave draft out, or preset",)),
        (("--draft", "--backbone", "sd15"), ("no draft by backbone 'sd15'",)),
        (("stpes=3",), ("stpes: no such setting", "'steps'")),
        (("steps=three",), ("stages.0.steps must be a whole number in", "got 'three'")),
        (("steps=-3",), ("steps must be in 1..", "got -3")),
        (("--seed", "-1"), ("seed must be in 0..", "got -1")),
        (("--device", "gpu"), ("device must be auto, cpu, cuda", "got 'gpu'")),
        (("resolution=32",), ("stages.2.resolution or asset.resolution",)),
    ],
)
def test_settings_that_cannot_be_meant(
    threed: Callable[..., Answer], tmp_path: Path, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    out = tmp_path / "run"
    assert_refused(threed("generate", "a red mug", *words, "--out", out), *parts)
    assert not out.exists()


def test_weights_of_unknown_losses_name_those_that_exist(
    threed: Callable[..., Answer], preset: Path, tmp_path: Path
) -> None:
    words = ("generate", "a red mug", "losses.sparsty=1", "--preset", preset)
    answer = threed(*words, "--out", tmp_path / "run")
    assert_refused(answer, "sparsty", "did you mean 'sparsity'", "mvdream, opaque, orientation")


def test_usage_mistakes_exit_with_2(threed: Callable[..., Answer]) -> None:
    assert threed("generate").status == 2
    assert threed("image", "x").status == 2
    assert threed("list", "nonsense").status == 2
    assert threed("nonsense").status == 2


def test_folders_that_hold_a_run_are_kept(threed: Callable[..., Answer], finished: Path) -> None:
    before = (finished / "asset.glb").read_bytes()
    answer = threed("generate", "a blue hat", "--out", finished)
    assert_refused(answer, f"{finished} already holds a run", f"threed resume {finished}")
    assert (finished / "asset.glb").read_bytes() == before


def test_folders_without_a_run_cannot_be_resumed(
    threed: Callable[..., Answer], tmp_path: Path
) -> None:
    assert_refused(threed("resume", tmp_path), f"{tmp_path} holds no run")
    assert_refused(threed("resume", tmp_path / "x"), "holds no run")


def test_files_that_are_no_meshes(threed: Callable[..., Answer], tmp_path: Path) -> None:
    fake = tmp_path / "fake.glb"
    fake.write_bytes(b"glTF but not really" * 10)
    for words in (("report", fake), ("turntable", fake), ("export", fake, "--to", "x.obj")):
        assert_refused(threed(*words), "fake.glb")
    assert_refused(threed("report", tmp_path / "nowhere.glb"), "nowhere.glb")
    assert_refused(threed("report", tmp_path), "holds no asset.glb")
    assert_refused(threed("export", fake, "--to", tmp_path / "x.dae"), "x.dae", ".glb")


def test_damaged_checkpoints_are_said_and_the_one_before_taken(
    threed: Callable[..., Answer], preset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert threed("generate", "a red mug", "--preset", preset, "--out", out).status == 0
    log = (out / "log.jsonl").read_text().splitlines()[:-1]  # as if killed before it was finished
    (out / "log.jsonl").write_text("".join(line + "\n" for line in log))
    glb = (out / "asset.glb").read_bytes()
    newest = out / "checkpoint.pt"
    newest.write_bytes(newest.read_bytes()[:100])
    code = f"from threed.apps.cli.main import main; main(['resume', {str(out)!r}])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "warning: " in result.stderr
    assert "checkpoint.pt is damaged" in result.stderr
    assert "going on from step 2" in result.stderr
    assert (out / "asset.glb").read_bytes() == glb
    log = (out / "log.jsonl").read_text().splitlines()[:-1]
    (out / "log.jsonl").write_text("".join(line + "\n" for line in log))
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (out / name).write_bytes(b"\x80\x04cposix\nsystem\n")
    assert_refused(threed("resume", out), "No checkpoint is whole", "nothing in it was executed")
    assert (out / "asset.glb").read_bytes() == glb


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_disks_that_take_no_more_are_said_in_one_line(
    threed: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, number: int, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "log.jsonl")

    monkeypatch.setattr(commands, "generate", fail)
    answer = threed("generate", "a red mug", "--out", tmp_path / "run")
    assert_refused(answer, "cannot write log.jsonl", os.strerror(number), "is whole")


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(commands, "generate", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["generate", "a red mug", "--out", str(tmp_path / "run")])


@pytest.mark.filterwarnings("always")
def test_unknown_words_are_named(
    threed: Callable[..., Answer], preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "prompt_warnings", lambda *_, **__: ["never shown 'dragon'"])
    words = ("generate", "a red dragon", "--preset", preset, "--out", tmp_path / "run")
    answer = threed(*words)
    assert answer.status == 0
    assert "warning: never shown 'dragon'\n" in answer.err


def test_ctrl_c_says_how_to_go_on_and_that_works(
    threed: Callable[..., Answer], preset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ["generate", "a red mug", "steps=100000", "--preset", str(preset), "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "threed.apps.cli.main", *words], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not (out / "checkpoint.previous.pt").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, complained = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said == ""
    assert complained == f"interrupted: go on with: threed resume {out}\n"
    saved = RunFolder.open(out).latest_checkpoint()
    assert saved is not None
    assert saved.step > 0


def test_ctrl_c_before_anything_was_begun(
    threed: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "generate", stop)
    answer = threed("generate", "a red mug", "--out", tmp_path / "run")
    assert answer == Answer(130, "", "interrupted: nothing was begun\n")


def test_input_errors_are_one_line_whatever_they_say(
    threed: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise InputError("first\nsecond")

    monkeypatch.setattr(commands, "generate", fail)
    answer = threed("generate", "a red mug", "--out", tmp_path / "run")
    assert answer == Answer(2, "", "error: first second\n")
