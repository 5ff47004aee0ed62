"""Command lines that make assets under a system, or change one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import exporters
from tests import shapes
from threed.apps.cli import main as cli
from threed.runs import generate as pipeline
from threed.settings.run import Run, SystemSettings


def status(*words: object) -> int:
    """How a command line ends."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """What the functions behind the commands are given; they make nothing."""
    calls: list[dict[str, Any]] = []

    class Made:
        folder, glb = tmp_path, tmp_path / "asset.glb"

    def note(*words: Any, **options: Any) -> type[Made]:
        calls.append({"words": words, **options})
        return Made

    monkeypatch.setattr(pipeline, "generate", note)
    monkeypatch.setattr(pipeline, "edit3d", note)
    monkeypatch.setattr(pipeline, "texture", note)
    return calls


def test_a_systems_options_reach_the_run(asked: list[dict[str, Any]]) -> None:
    assert 0 == status(
        "generate", "a ball and a cube", "--system", "rpg", "--split", "1,1", "--region", "a ball",
        "--region", "a cube", "--knob", "base_ratio=0.3", "steps=7",
    )  # fmt: skip
    prompt, run = asked[0]["words"]
    assert prompt == "a ball and a cube"
    assert run.system == SystemSettings(
        name="rpg",
        inputs={"split": ("1,1",), "region": ("a ball", "a cube")},
        knobs=("base_ratio=0.3",),
    )
    assert (run.backbone, run.stages[0].guidance, run.stages[0].steps) == ("toybox", "sds", 7)


def test_without_a_system_nothing_changes(asked: list[dict[str, Any]]) -> None:
    assert status("generate", "a ball") == 0
    run = asked[0]["words"][1]
    assert isinstance(run, Run)
    assert run.system == SystemSettings()
    assert run.backbone == "toybox-multiview"


@pytest.mark.parametrize("words", [("generate", "a mug", "--init", "a.glb"),
                                   ("texture", "a.glb", "a mug")])  # fmt: skip
def test_where_a_mesh_stands_and_faces_is_passed_on(
    asked: list[dict[str, Any]], words: tuple[str, ...]
) -> None:
    assert status(*words, "--up", "y", "--front", "-90") == 0
    assert (asked[0]["up"], asked[0]["front"]) == ("y", -90.0)
    assert status(*words) == 0
    assert (asked[1]["up"], asked[1]["front"]) == (None, 0.0)


def test_an_edits_options_reach_the_run(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    assert status("edit3d", "a.glb", "make it blue", "--weights", tmp_path, "--shape") == 0
    mesh, instruction, run = asked[0]["words"]
    assert (str(mesh), instruction, asked[0]["shape"]) == ("a.glb", "make it blue", True)
    assert run.system == SystemSettings(
        name="instruct_pix2pix", inputs={"weights": (str(tmp_path),)}
    )
    assert run.stages[0].guidance == "edit"


def test_what_dresses_an_asset_reaches_the_run(asked: list[dict[str, Any]]) -> None:
    assert 0 == status(
        "edit3d", "a.glb", "a red shirt", "--system", "idm_vton", "--garment", "g.png", "--weights",
        "idm", "--knob", "picture=0", "steps=9",
    )  # fmt: skip
    _, instruction, run = asked[0]["words"]
    assert instruction == "a red shirt"
    assert run.system == SystemSettings(
        name="idm_vton", inputs={"garment": ("g.png",), "weights": ("idm",)}, knobs=("picture=0",)
    )
    assert (run.stages[0].guidance, run.stages[0].steps) == ("edit", 9)


def test_an_edit_without_weights_says_how_to_train_them(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exporters.save(shapes.sphere(0.6, 8, 10), tmp_path / "ball.glb")
    assert 2 == status(
        "edit3d", tmp_path / "ball.glb", "make it blue", "--preset", "toybox-edit", "--backbone",
        folder, "--out", tmp_path / "out", "--device", "cpu",
    )  # fmt: skip
    said = " ".join(capsys.readouterr().err.split())
    assert "threed train instruct_pix2pix --data DIR --out DIR" in said
    assert not (tmp_path / "out").exists()


def test_inputs_without_a_system_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 2 == status(
        "generate", "a ball", "--move", "ball:0.1,0", "--preset", "toybox-sds", "--backbone",
        folder, "--out", tmp_path / "out", "--device", "cpu",
    )  # fmt: skip
    assert "--move is for a system" in " ".join(capsys.readouterr().err.split())
