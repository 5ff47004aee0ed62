"""What waits for a GPU: the script's parts, their rows, and the page that is made of them."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_page, gpu_parts

ROOT = Path(__file__).resolve().parent.parent
PARTS = ["about", "libraries", "tests", "library-tests", "device", "steps", "default", "memory"]
# an interpreter that writes one row a part, fails in one, and is Python for the page alone
STUB = """#!/bin/sh
case $1 in *gpu_page.py) exec {python} "$@" ;; esac
for word in "$@"; do last=$word; done
echo '{{"script": "'"$1"'"}}' >>"$last"
case $1 in *steps.py) exit 3 ;; esac
"""
ABOUT = {
    "device": "NVIDIA H100",
    "driver": "580.1",
    "torch": "2.11.0",
    "cuda": "13.0",
    "triton": None,
    "python": "3.12.1",
    "cores": 16,
    "load": 0.5,
    "commit": "abc1234",
}


def on_gpu(*words: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the script on the CPU."""
    told = [str(ROOT / "benchmarks" / "on_gpu.sh"), *map(str, words)]
    environment = os.environ | {"PYTHON": sys.executable} | settings
    return subprocess.run(told, capture_output=True, text=True, check=False, env=environment)


def rows_of(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_script_lists_its_parts(tmp_path: Path) -> None:
    done = on_gpu("--list", "--out", tmp_path)
    assert (done.returncode, done.stdout.split()) == (0, PARTS)
    assert on_gpu("--list", "--only", "steps,about", "--out", tmp_path).stdout.split() == [
        "about", "steps",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []
    assert on_gpu("--wet", "--out", tmp_path).returncode == 2


def test_a_dry_part_runs_on_the_cpu_and_writes_its_rows_and_the_page(tmp_path: Path) -> None:
    done = on_gpu("--dry", "--only", "device", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (part,) = rows_of(tmp_path / "parts.jsonl")
    assert (part["part"], part["status"], part["limit"]) == ("device", 0, 500)
    found = {(row["work"], row["kind"]) for row in rows_of(tmp_path / "device.jsonl")}
    measured = {(work, "reference") for work in ("hash grid", "rays", "rasterizer")}
    assert found == measured | {("mesher", "tetrahedra"), ("mesher", "flexicubes")}
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| rays | reference | " in page
    assert "| device | whole | " in page


def test_a_part_may_fail_alone(tmp_path: Path) -> None:
    stub = tmp_path / "python"
    stub.write_text(STUB.format(python=sys.executable))
    stub.chmod(0o755)
    out = tmp_path / "out"
    done = on_gpu("--out", out, "--only", "about,libraries,tests,steps,memory", PYTHON=str(stub))
    # the page cannot be made of such rows; each part ran all the same
    assert done.returncode == 1
    ended = {row["part"]: (row["status"], row["limit"]) for row in rows_of(out / "parts.jsonl")}
    assert ended == {"about": (0, 30), "libraries": (0, 170), "tests": (0, 170), "steps": (3, 110),
                     "memory": (0, 40)}  # fmt: skip
    assert rows_of(out / "steps.jsonl") == [{"script": "benchmarks/steps.py"}]
    assert rows_of(out / "memory.jsonl") == [{"script": "benchmarks/memory.py"}]


def test_no_part_begins_when_the_time_is_over(tmp_path: Path) -> None:
    done = on_gpu("--out", tmp_path, SECONDS_LEFT="0")
    assert done.returncode == 1
    ended = rows_of(tmp_path / "parts.jsonl")
    assert sorted(str(row["part"]) for row in ended) == sorted(PARTS)
    assert all(row["status"] == gpu_page.CUT for row in ended)
    assert all(row["limit"] == 0 for row in ended)
    assert "| steps | cut | " in (tmp_path / "page.md").read_text(encoding="utf-8")


def write(folder: Path, part: str, *rows: dict[str, object]) -> None:
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / f"{part}.jsonl").write_text(text, encoding="utf-8")


def test_the_tables_say_what_the_rows_say(tmp_path: Path) -> None:
    write(tmp_path, "about", ABOUT)
    write(
        tmp_path, "tests",
        {"test": "a::b", "outcome": "passed", "seconds": 1.0, "why": ""},
        {"test": "a::c", "outcome": "failed", "seconds": 2.0, "why": "assert 1 == 2 | 3"},
        {"test": "a::d", "outcome": "skipped", "seconds": 0.0, "why": "no kaolin"},
        {"test": "a::e", "outcome": "skipped", "seconds": 0.0, "why": "no kaolin"},
    )  # fmt: skip
    write(
        tmp_path, "device",
        {"work": "hash grid", "kind": "tinycudann", "problem": "not installed"},
        {"work": "hash grid", "kind": "reference", "ms": 12.0},
        {"work": "hash grid", "kind": "triton", "ms": 2.0},
    )  # fmt: skip
    start = {"preset": "magic3d", "stage": "0: field, sds", "pixels": "64²", "views": 1}
    write(
        tmp_path, "steps",
        {**start, "steps": 9, "seconds": 0.0671, "taken": 4.0, "planned": 5.0, "outside": 0.62,
         "note": ""},
        {**start, "problem": "RuntimeError: only 2 steps were made"},
    )  # fmt: skip
    command = 'threed generate "a red mug"'
    write(tmp_path, "default", {"command": command, "seconds": 30.5, "steps": 40, "taken": 0.5,
                                "planned": 0.75})  # fmt: skip
    write(tmp_path, "memory", {"stage": "field, mvdream", "pictures": "4 of 64²",
                               "planned_mib": 1500.0, "taken_mib": 1000.0})  # fmt: skip
    write(tmp_path, "parts", {"part": "steps", "status": 124, "seconds": 110, "limit": 110})
    assert (
        gpu_page.measured(tmp_path)
        == """\
NVIDIA H100: driver 580.1, torch 2.11.0, CUDA 13.0, Python 3.12.1, 16 cores with load 0.5 before, \
commit abc1234.

**Tests that need a GPU**: 1 failed, 1 passed, 2 skipped, in 3 s.

| skipped | why |
|---|---|
| 2 | no kaolin |

| failed | why |
|---|---|
| `a::c` | assert 1 == 2 \\| 3 |

**Kernels, forward and backward (`python benchmarks/device.py`)**

| work | kernels | ms | ratio |
|---|---|---|---|
| hash grid | triton | 2.00 | 1.00 |
| hash grid | reference | 12.00 | 6.00 |
| hash grid | tinycudann | not installed |  |

**Steps of the presets for large models, at random weights (`python benchmarks/steps.py`)**

| preset | stage | pixels | views | s a step | GiB taken | GiB planned | not the denoiser |
|---|---|---|---|---|---|---|---|
| magic3d | 0: field, sds | 64² | 1 | 0.067 | 4.00 | 5.00 | 62% |
| magic3d | 0: field, sds | 64² | 1 | RuntimeError: only 2 steps were made |  |  |  |

What is planned is 1.25 to 1.25 of what is taken.

**The default command**

| command | steps logged | s | GiB taken | GiB planned |
|---|---|---|---|---|
| `threed generate "a red mug"` | 40 | 30.5 | 0.50 | 0.75 |

**Memory of toybox's stages (`python benchmarks/memory.py`)**

| stage | pictures | MiB taken | MiB planned |
|---|---|---|---|
| field, mvdream | 4 of 64² | 1,000 | 1,500 |

What is planned is 1.50 to 1.50 of what is taken.

| part | ended | s | s allowed |
|---|---|---|---|
| steps | cut | 110 | 110 |

"""
    )


def test_only_what_is_between_the_marks_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{gpu_page.BEGIN}old\n{gpu_page.END}after\n", encoding="utf-8")
    write(tmp_path, "about", ABOUT)
    assert gpu_page.main([str(tmp_path), "--page", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{gpu_page.BEGIN}\nNVIDIA H100: ")
    assert text.endswith(f"commit abc1234.\n\n{gpu_page.END}after\n")
    for wrong in ("no marks", f"{gpu_page.END}{gpu_page.BEGIN}", 2 * text):
        with pytest.raises(ValueError, match="the page needs one line"):
            gpu_page.replace(wrong, "new")


def test_the_page_of_the_docs_has_its_marks() -> None:
    page = gpu_page.PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(gpu_page.BEGIN)
    assert gpu_page.replace(page, "new\n") == (
        f"{before}{gpu_page.BEGIN}\nnew\n{gpu_page.END}{rest.partition(gpu_page.END)[2]}"
    )


def test_a_dry_run_does_not_get_into_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    old = f"{gpu_page.BEGIN}old\n{gpu_page.END}"
    page.write_text(old, encoding="utf-8")
    assert gpu_page.main([str(tmp_path), "--page", str(page)]) == 2
    write(tmp_path, "about", ABOUT | {"device": "CPU"})
    assert gpu_page.main([str(tmp_path), "--page", str(page)]) == 2
    assert page.read_text(encoding="utf-8") == old
    assert "holds no run on a GPU; --out FILE shows it" in capsys.readouterr().err


def test_a_row_that_was_cut_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "device.jsonl").write_text('{"work": "rays"}\n{"work": "ra', encoding="utf-8")
    assert gpu_page.read_rows(tmp_path, "device") == [{"work": "rays"}]
    assert gpu_page.read_rows(tmp_path, "steps") == []


def test_libraries_are_sought_among_wheels_first() -> None:
    assert gpu_parts.sources("tinycudann", "wheels", offline=True) == [
        ["--no-index", "--find-links", "wheels", "tiny-cuda-nn"]
    ]
    wheel, network = gpu_parts.sources("nerfacc", "wheels", offline=False)
    assert wheel == ["--no-index", "--find-links", "wheels", "nerfacc"]
    assert network == ["nerfacc==0.5.3"]
    (kaolin,) = gpu_parts.sources("kaolin", None, offline=False)
    assert "{" not in "".join(kaolin)


TESTS = """
import os, signal
import pytest
def test_good(): assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 45
def test_bad(): assert 1 == 2
def test_long(): os.kill(os.getpid(), signal.SIGALRM)
@pytest.mark.skip(reason="no device")
def test_none(): pass
@pytest.fixture
def broken(): raise OSError("no file")
def test_set_up(broken): pass
"""


def test_every_test_has_a_row_and_long_ones_are_cut(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    program = (
        "import pathlib, sys, pytest\n"
        "from benchmarks import gpu_tests\n"
        "watch = gpu_tests.Watch(pathlib.Path('rows.jsonl'))\n"
        "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', 'test_it.py'], plugins=[watch]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)  # fmt: skip
    assert done.returncode == 1
    found = [(row["test"], row["outcome"], row["why"]) for row in rows_of(tmp_path / "rows.jsonl")]
    assert found == [
        ("test_it.py::test_good", "passed", ""),
        ("test_it.py::test_bad", "failed", "assert 1 == 2"),
        ("test_it.py::test_long", "failed", "TimeoutError: cut after 45 s"),
        ("test_it.py::test_none", "skipped", "no device"),
        ("test_it.py::test_set_up", "failed", "OSError: no file"),
    ]


def test_the_default_command_is_set_beside_its_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[tuple[str, ...]] = []

    def threed(*words: str) -> str:
        lines.append(words)
        if "--plan" not in words:
            folder = Path(words[words.index("--out") + 1])
            folder.mkdir()
            rows = [
                {"step": 1, "memory_mb": 512.0},
                {"step": 9, "memory_mb": 256.0},
                {"event": "x"},
            ]
            write(folder, "log", *rows)
        return json.dumps({"peak": 2**30})

    monkeypatch.setattr(gpu_parts, "threed", threed)
    asked = argparse.Namespace(device="cuda", quick=False, json=tmp_path / "default.jsonl")
    assert gpu_parts.default(asked) == 0
    (row,) = rows_of(asked.json)
    assert row.pop("seconds") is not None
    command = 'threed generate "a red mug"'
    assert row == {"command": command, "steps": 2, "taken": 0.5, "planned": 1.0}
    common = ("generate", "a red mug", "--device", "cuda", "--json")
    assert lines[0] == (*common, "--plan")
    assert lines[1][:-1] == (*common, "--out")
