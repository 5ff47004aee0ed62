"""Outside judges: what they say is understood, and what fails is an error, not silence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from exporters import judges, save
from exporters.judges import Finding, ask_judges
from tests.shapes import cube
from threed.apps.cli.compare import about_files

CERTIFICATE = {  # as 3dqa 1.0 prints it
    "verdict": "FAIL",
    "summary": {"errors": 1, "warnings": 1, "checks_run": 3},
    "findings": [
        {"code": "UV_OK", "severity": "error", "passed": True, "message": "UVs present"},
        {"code": "NORMALS", "severity": "warning", "passed": False, "message": "no normals"},
        {"code": "WATERTIGHT", "severity": "error", "passed": False, "message": "4 open edges"},
    ],
}


@pytest.fixture
def asset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A box, with no judge but what a test puts there."""
    monkeypatch.delenv("THREED_NODE", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.chdir(tmp_path)
    save(cube(), tmp_path / "box.glb")
    return tmp_path / "box.glb"


def linter(place: Path, answer: str, status: int) -> None:
    """Put a program there that answers like 3dqa, if it is asked to lint one file."""
    program = place / "bin" / "3dqa"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n[ \"$1\" = lint ] && [ -f \"$2\" ] || exit 9\n"
                       f"echo '{answer}'\nexit {status}\n")  # fmt: skip
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("certificate", "wanted"),
    [
        (CERTIFICATE, Finding(1, 1, "WATERTIGHT: 4 open edges")),
        ({**CERTIFICATE, "summary": {"errors": 0, "warnings": 0}, "findings": []}, Finding(0, 0)),
        ({"verdict": "ERROR", "error": {"message": "cannot load"}}, Finding(1, 0, "cannot load")),
    ],
)
def test_a_certificate_of_3dqa_is_read(
    certificate: dict[str, Any], wanted: Finding, asset: Path
) -> None:
    linter(asset.parent, json.dumps(certificate), 1)
    assert ask_judges(asset) == {"3dqa": wanted}


@pytest.mark.parametrize("answer", ["", "oops", "[]", "{}"])
def test_a_judge_that_fails_is_an_error(answer: str, asset: Path) -> None:
    linter(asset.parent, answer, 2)
    (found,) = ask_judges(asset).values()
    assert found.errors == 1
    assert found.first.startswith("3dqa could not be run: ")


def test_judges_that_are_not_installed_are_not_asked(asset: Path) -> None:
    assert ask_judges(asset) == {}
    assert about_files({asset: {}}) == []


def test_khronos_issues_are_counted(asset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [{"severity": 2, "code": "UNUSED", "message": "unused"},
                {"severity": 0, "code": "BAD", "message": "bad magic"}]  # fmt: skip
    issues = {"numErrors": 1, "numWarnings": 0, "numInfos": 1, "numHints": 2, "messages": messages}
    asked = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, json.dumps(issues), "")

    monkeypatch.setattr(judges.subprocess, "run", run)
    assert judges.validate(asset) == Finding(1, 3, "BAD: bad magic")
    assert asked[0][0] == "node"
    assert asked[0][-1] == str(asset)


def test_the_report_names_what_fails(tmp_path: Path) -> None:
    good, bad = tmp_path / "a.glb", tmp_path / "b.glb"
    found = {good: {"3dqa": Finding(0, 0)}, bad: {"3dqa": Finding(2, 0, "HOLES: 2 holes")}}
    (line,) = about_files(found)
    assert line == f"3dqa: 1 of 2 files fail, 1 without a warning; {bad}: HOLES: 2 holes"
