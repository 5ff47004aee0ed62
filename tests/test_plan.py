"""The plan of memory before a run: what it counts, how it fits, what it refuses, how it looks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import tiny
from threed.apps.cli import main as cli
from threed.core.errors import InputError
from threed.core.schedule import constant
from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import load_backbone
from threed.runs.memory import SMALLEST, Chunk, is_short
from threed.runs.plan import BUDGET, GIB, free_memory, plan_run
from threed.settings.base import replace
from threed.settings.run import Run
from threed.settings.stage import Stage


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = tiny.tiny_folder(tmp_path_factory.mktemp("models") / "tiny", "multiview")
    return load_backbone(str(folder))


def peak(run: Run, backbone: Backbone) -> int:
    return plan_run(run, lambda _: [backbone]).peak


def test_more_of_anything_needs_more(backbone: Backbone) -> None:
    stage = Stage(resolution=constant(64))
    run = Run(memory=1000, stages=(stage,))
    least = peak(run, backbone)
    for larger in (
        replace(run, stages=(replace(stage, resolution=constant(96)),)),
        replace(run, stages=(replace(stage, batch=8),)),
        replace(run, stages=(replace(stage, losses={"orientation": constant(1)}),)),
        replace(run, stages=(replace(stage, guidance="vsd"),)),
        replace(run, field=replace(run.field, samples=192)),
        replace(run, field=replace(run.field, log2_table=19)),
        replace(run, stages=(stage, replace(stage, scene="surface", resolution=constant(512)))),
    ):
        assert peak(larger, backbone) > least


def test_chunks_are_halved_until_it_fits(backbone: Backbone) -> None:
    stage = Stage(resolution=constant(256))
    plenty = plan_run(Run(memory=1000, stages=(stage,)), lambda _: [backbone])
    assert plenty.stages[0].chunk == BUDGET
    assert plenty.limit == 1000 * GIB
    limit = 0.6 * plenty.peak / GIB
    tight = plan_run(Run(memory=limit, stages=(stage,)), lambda _: [backbone])
    chunk = tight.stages[0].chunk
    assert SMALLEST <= chunk < BUDGET
    assert BUDGET % chunk == 0
    assert tight.peak <= tight.limit
    tight.check()


def test_what_cannot_fit_is_refused_with_the_reason(backbone: Backbone) -> None:
    plan = plan_run(Run(memory=0.1), lambda _: [backbone])
    message = r"stage 0: field needs about 0\.\d GiB on cpu, even in chunks of 1024, and 0\.1 may"
    with pytest.raises(InputError, match=message):
        plan.check()
    assert plan.stages[0].chunk == SMALLEST


def test_the_limit_is_what_is_free(backbone: Backbone, monkeypatch: pytest.MonkeyPatch,
                                   tmp_path: Path) -> None:  # fmt: skip
    free = free_memory(backbone.device)
    assert free > 2**28
    cgroup = tmp_path / "memory.max"
    monkeypatch.setattr("threed.runs.plan.CGROUP", cgroup)
    cgroup.write_text(str(2**28))
    assert plan_run(Run(), lambda _: [backbone]).limit == 2**28
    cgroup.write_text("max\n")
    assert free_memory(backbone.device) > 2**28


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
    as_json: bool, backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    words = ["generate", "a mug", "--plan", "--backbone", backbone.name, "--preset",
             "toybox-magic3d", "memory=3", *(["--json"] if as_json else [])]  # fmt: skip
    with pytest.raises(SystemExit) as exit_:
        cli.main(words)
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    if as_json:
        said = json.loads(out)
        assert [stage["name"] for stage in said["stages"]] == ["0: field", "1: surface"]
        assert said["limit"] == 3 * GIB
        assert said["peak"] == max(stage["peak"] for stage in said["stages"])
    else:
        first, second, last = out.splitlines()
        assert first.startswith("0: field\t4 of 64²")
        assert second.startswith("1: surface\t4 of 256²")
        assert last.endswith("GiB of 3.00 on cpu")
    assert list(tmp_path.iterdir()) == []
