"""The plan of memory before a run: what it counts, how it fits, what it refuses, how it looks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import tiny
from threed.apps.cli import main as cli
from threed.core.errors import InputError
from threed.core.schedule import constant
from threed.runs import plan as planning
from threed.runs.memory import LARGEST, SMALLEST, Chunk, is_short
from threed.runs.plan import GIB, free_memory, plan_run
from threed.scenes import flexicubes
from threed.settings.base import replace
from threed.settings.presets import load_run
from threed.settings.run import Run
from threed.settings.stage import Stage


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.tiny_folder(tmp_path_factory.mktemp("models") / "tiny", "multiview"))


@pytest.mark.parametrize(
    ("name", "peaks", "chunks", "tight"),
    [
        ("toybox-dreamflow", [1136748918], [1024], [798504515]),
        ("toybox-edit", [745928914], [1024], [733634770]),
        (
            "toybox-magic3d",
            [1075982710, 1184431272, 778493636, 823054629],
            [65536, 1024, 2**20, 2**20],
            [821304571, 970626216, 778493636, 823054629],
        ),
        (
            "toybox-mvdream",
            [1075982710, 748922680, 823054629],
            [8192, 2**20, 1024],
            [747023447, 748922680, 770232204],
        ),
        ("toybox-sds", [1075702134], [8192], [746742871]),
        ("toybox-texture", [746209490, 746209490], 2 * [1024], 2 * [733915346]),
        ("toybox-vsd", [1136748918], [1024], [798504515]),
    ],
)
def test_files_predict_what_loaded_nets_did(
    name: str, peaks: list[int], chunks: list[int], tight: list[int]
) -> None:
    """The bytes that were planned when the nets were loaded to count their parameters."""
    run = replace(load_run(name), memory=1000.0, device="cpu")
    plenty = plan_run(run)
    assert [stage.peak for stage in plenty.stages] == peaks
    assert all(stage.chunk == LARGEST for stage in plenty.stages)
    less = plan_run(replace(run, memory=plenty.peak * 0.7 / GIB))
    assert [(stage.chunk, stage.peak) for stage in less.stages] == list(zip(chunks, tight))


def test_more_of_anything_needs_more(model: str) -> None:
    stage = Stage(resolution=constant(64))
    run = Run(backbone=model, memory=1000, stages=(stage,))
    least = plan_run(run).peak
    for larger in (
        replace(run, stages=(replace(stage, resolution=constant(96)),)),
        replace(run, stages=(replace(stage, batch=8),)),
        replace(run, stages=(replace(stage, losses={"orientation": constant(1)}),)),
        replace(run, stages=(replace(stage, guidance="vsd"),)),
        replace(run, field=replace(run.field, samples=192)),
        replace(run, field=replace(run.field, log2_table=19)),
        replace(run, stages=(stage, replace(stage, scene="surface", resolution=constant(512)))),
    ):
        assert plan_run(larger).peak > least


def test_what_flexicubes_learns_is_counted(model: str) -> None:
    assert planning.CUBE == flexicubes.WEIGHTS
    run = Run(backbone=model, memory=1000, stages=(Stage(scene="surface"),))
    other = replace(run, surface=replace(run.surface, mesher="flexicubes"))
    learned = 4 * 4 * flexicubes.WEIGHTS * run.surface.grid**3
    assert plan_run(other).peak - plan_run(run).peak == pytest.approx(1.15 * learned, abs=2)


def test_chunks_are_halved_until_it_fits(model: str) -> None:
    stage = Stage(resolution=constant(256))
    plenty = plan_run(Run(backbone=model, memory=1000, stages=(stage,)))
    assert plenty.stages[0].chunk == LARGEST
    assert plenty.limit == 1000 * GIB
    limit = 0.6 * plenty.peak / GIB
    tight = plan_run(Run(backbone=model, memory=limit, stages=(stage,)))
    chunk = tight.stages[0].chunk
    assert SMALLEST <= chunk < LARGEST
    assert LARGEST % chunk == 0
    assert tight.peak <= tight.limit
    tight.check()


def test_what_cannot_fit_is_refused_with_the_reason(model: str) -> None:
    plan = plan_run(Run(backbone=model, memory=0.1))
    message = r"stage 0: field needs about 0\.\d GiB on cpu, even in chunks of 1024, and 0\.1 may"
    with pytest.raises(InputError, match=message):
        plan.check()
    assert plan.stages[0].chunk == SMALLEST


def test_the_limit_is_what_is_free(model: str, monkeypatch: pytest.MonkeyPatch,
                                   tmp_path: Path) -> None:  # fmt: skip
    free = free_memory("cpu")
    assert free > 2**28
    cgroup = tmp_path / "memory.max"
    monkeypatch.setattr("threed.runs.plan.CGROUP", cgroup)
    cgroup.write_text(str(2**28))
    assert plan_run(Run(backbone=model, device="cpu")).limit == 2**28
    cgroup.write_text("max\n")
    assert free_memory("cpu") > 2**28


def test_chunks_end_and_errors_of_memory_are_known() -> None:
    chunk = Chunk(SMALLEST * 2)
    assert chunk.halve()
    assert not chunk.halve()
    assert chunk.size == SMALLEST
    assert is_short(MemoryError())
    assert is_short(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not is_short(RuntimeError("shapes differ"))


@pytest.mark.parametrize("as_json", [False, True])
def test_the_plan_is_printed_and_nothing_is_made(
    as_json: bool, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    words = ["generate", "a mug", "--plan", "--backbone", model, "--preset",
             "toybox-magic3d", "memory=3", *(["--json"] if as_json else [])]  # fmt: skip
    with pytest.raises(SystemExit) as exit_:
        cli.main(words)
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    if as_json:
        said = json.loads(out)
        names = ["0: field", "1: surface", "2: textured", "3: textured"]
        assert [stage["name"] for stage in said["stages"]] == names
        assert said["limit"] == 3 * GIB
        assert said["peak"] == max(stage["peak"] for stage in said["stages"])
    else:
        first, second, *painted, last = out.splitlines()
        assert first.startswith("0: field\t4 of 64²")
        assert second.startswith("1: surface\t4 of 256²")
        assert [line.split()[1] for line in painted] == ["textured", "textured"]
        assert last.endswith("GiB of 3.00 on cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "used"], "used is not empty; choose another --out"),
        (["--init", "broken.glb"], "broken.glb"),
    ],
)
def test_the_plan_refuses_what_the_run_would(
    words: list[str], said: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("used").mkdir()
    Path("used/notes.txt").write_text("mine")
    Path("broken.glb").write_bytes(b"glTF no more")
    with pytest.raises(SystemExit) as exit_:
        cli.main(["generate", "a mug", "--plan", "--backbone", model, *words])
    assert exit_.value.code == 2
    asked, complaint = capsys.readouterr()
    assert asked == ""
    assert said in complaint
