"""Optimising: what is added up, what a seed decides, kills, and scenes that die."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from guidance import Frozen
from tests import tiny
from threed.core.cameras import Cameras
from threed.core.errors import InputError
from threed.core.render import RenderOutput
from threed.core.schedule import Schedule, constant
from threed.runs import loop as pipeline
from threed.runs import watch as keeper
from threed.runs.check import check_run
from threed.runs.folder import RunFolder
from threed.runs.generate import generate, resume
from threed.runs.optimise import StageRun, optimise, step_generator, weighted
from threed.runs.progress import Listener
from threed.runs.watch import Failure, Progress, Watchdog
from threed.scenes.field import Field
from threed.settings.base import replace
from threed.settings.run import Run
from threed.settings.scenes import FieldSettings
from threed.settings.stage import Stage

SMALL = FieldSettings(
    levels=3, start_levels=3, log2_table=10, max_resolution=24, hidden=16, samples=24, occupancy=12
)


class Redder(Frozen):
    """Guidance that knows what it wants, and may misbehave at a step."""

    def __init__(self, poison: int | None = None, times: int = 1) -> None:
        self.poison, self.times, self.seen = poison, times, []

    def __call__(
        self, image: Tensor, cameras: Cameras, step: int, generator: Generator
    ) -> dict[str, Tensor]:
        self.seen.append(step)
        noise = 0.1 * torch.randn(image.shape, generator=generator)
        loss = (image + noise - torch.tensor([0.9, 0.1, 0.1])).square().mean()
        if step == self.poison and self.times > 0:
            self.times -= 1
            loss = loss * float("nan")
        return {"redder": loss}


def make_run(steps: int = 12, every: int = 4, **changes: Any) -> Run:
    stage = Stage(steps=steps, batch=2, resolution=constant(12), losses={"sparsity": constant(0.1)})
    stage = replace(stage, **changes)
    return Run(seed=3, field=SMALL, preview_every=100, checkpoint_every=every, stages=(stage,))


def start(path: Path, run: Run, guide: Any, progress: Listener | None = None) -> Field:
    """Optimise from the beginning, or go on, and return the scene."""
    folder = RunFolder.open(path) if path.exists() else RunFolder.create(path, "a mug", run)
    scene = Field(folder.run.field, seed=folder.run.seed)
    optimise(StageRun(folder, 0, scene, guide, 1), folder.latest_checkpoint(), progress)
    return scene


def assert_same(a: Field, b: Field) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]


# what is added up


def picture(**losses: float) -> RenderOutput:
    empty = torch.zeros(1, 2, 2, 1)
    return RenderOutput(empty, empty, empty, empty, {k: torch.tensor(v) for k, v in losses.items()})


def test_the_loss_is_the_weighted_sum_of_what_is_named() -> None:
    weights = {"sparsity": Schedule(((0, 1.0), (10, 3.0))), "sds": constant(0.5)}
    losses = {"sds": torch.tensor(4.0), "extra": torch.tensor(1.0)}
    total = weighted(losses, picture(sparsity=2.0, opaque=100.0), weights, step=5)
    assert float(total) == 0.5 * 4 + 1 + 2 * 2


def test_weights_of_losses_that_nobody_returns_are_refused() -> None:
    message = "losses.sparsty: there is no loss .*opaque, orientation, sds, smoothness, sparsity"
    with pytest.raises(InputError, match=message):
        weighted({"sds": torch.tensor(1.0)}, picture(sparsity=1.0, opaque=1.0),
                 {"sparsty": constant(1)}, 0)  # fmt: skip


def test_losses_on_normals_come_with_normals(tmp_path: Path) -> None:
    run = make_run(steps=2, losses={"orientation": constant(1), "smoothness": constant(0.1)})
    start(tmp_path / "run", run, Redder())
    assert {"orientation", "smoothness"} <= lines(tmp_path / "run")[0].keys()


# what a seed decides


def test_random_numbers_of_a_step_depend_on_nothing_else() -> None:
    def draw(*key: int) -> float:
        return float(torch.rand((), generator=step_generator(*key)))

    assert draw(0, 0, 5) == draw(0, 0, 5)
    values = {draw(*key) for key in ((0, 0, 5), (1, 0, 5), (0, 1, 5), (0, 0, 6), (0, 0, 5, 1))}
    assert len(values) == 5


def test_optimising_twice_gives_the_same_scene_and_it_moves(tmp_path: Path) -> None:
    one = start(tmp_path / "a", make_run(), Redder())
    two = start(tmp_path / "b", make_run(), Redder())
    assert_same(one, two)
    other = start(tmp_path / "c", replace(make_run(), seed=4), Redder())
    assert not torch.equal(one.table, other.table)
    log = lines(tmp_path / "a")
    assert [line["step"] for line in log] == list(range(1, 13))
    assert log[-1]["redder"] < log[0]["redder"]
    assert all(line["seconds"] > 0 and line["memory_mb"] > 10 for line in log)
    assert log[0]["loss"] == pytest.approx(log[0]["redder"] + 0.1 * log[0]["sparsity"])


def test_lr_follows_its_schedule(tmp_path: Path) -> None:
    frozen = make_run(lr=Schedule(((0, 1e-30), (10**6, 1e-29))))
    scene = start(tmp_path / "run", frozen, Redder())
    assert torch.allclose(scene.table, Field(SMALL, seed=3).table, atol=1e-20)


# interruptions


@pytest.mark.parametrize("stop", [1, 4, 6])
def test_ctrl_c_leaves_a_checkpoint_and_resuming_ends_the_same(tmp_path: Path, stop: int) -> None:
    class Impatient(Redder):
        def __call__(self, *args: Any) -> dict[str, Tensor]:
            if args[2] == stop and self.times:
                self.times = 0
                os.kill(os.getpid(), signal.SIGINT)
            return super().__call__(*args)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "a", make_run(), Impatient())
    assert signal.getsignal(signal.SIGINT) is before
    saved = RunFolder.open(tmp_path / "a").latest_checkpoint()
    assert saved is not None
    assert saved.step == stop + 1, "the step that was under way has been ended"
    again = Redder()
    scene = start(tmp_path / "a", make_run(), again)
    assert again.seen == list(range(stop + 1, 12))
    assert_same(scene, start(tmp_path / "b", make_run(), Redder()))
    numbers = [{k: v for k, v in line.items() if k not in ("seconds", "memory_mb")}
               for path in ("a", "b") for line in lines(tmp_path / path)]  # fmt: skip
    assert numbers[:12] == numbers[12:], "the log is that of an uninterrupted run"


def test_a_crash_between_checkpoints_changes_nothing(tmp_path: Path) -> None:
    class Crash(Redder):
        def __call__(self, *args: Any) -> dict[str, Tensor]:
            if args[2] == 11 and self.times:
                raise RuntimeError("power cut")
            return super().__call__(*args)

    with pytest.raises(RuntimeError, match="power cut"):
        start(tmp_path / "a", make_run(), Crash())
    again = Redder()
    scene = start(tmp_path / "a", make_run(), again)
    assert again.seen[0] == 8
    assert_same(scene, start(tmp_path / "b", make_run(), Redder()))


def test_what_the_guidance_has_learned_is_kept_and_rolled_back(tmp_path: Path) -> None:
    class Learner(Redder):
        learned = 0.0

        def __call__(self, *args: Any) -> dict[str, Tensor]:
            losses = super().__call__(*args)
            self.learned += float(losses["redder"].detach())
            return {"redder": losses["redder"] + self.learned * args[0].mean()}

        def state_dict(self) -> dict[str, Any]:
            return {"nested": {"learned": torch.tensor(self.learned, dtype=torch.float64)}}

        def load_state_dict(self, state: Mapping[str, Any]) -> None:
            self.learned = float(state["nested"]["learned"])

    class Cut(Learner):
        def __call__(self, *args: Any) -> dict[str, Tensor]:
            if args[2] == 10:
                raise RuntimeError("power cut")
            return super().__call__(*args)

    with pytest.raises(RuntimeError, match="power cut"):
        start(tmp_path / "a", make_run(), Cut())
    again, whole = Learner(), Learner()
    assert_same(start(tmp_path / "a", make_run(), again), start(tmp_path / "b", make_run(), whole))
    assert again.learned == whole.learned
    spoilt = Learner(poison=6)
    start(tmp_path / "c", make_run(), spoilt)
    assert math.isfinite(spoilt.learned)


# scenes that die


def test_nan_rolls_back_and_another_seed_goes_on(tmp_path: Path) -> None:
    guide, messages = Redder(poison=6), []
    scene = start(tmp_path / "a", make_run(), guide, lambda p: messages.append(p.message))
    assert bool(torch.isfinite(scene.table).all())
    # noticed before the next checkpoint, back to the last one
    assert guide.seen == [0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 8, 9, 10, 11]
    (event,) = [line for line in lines(tmp_path / "a") if "event" in line]
    assert event == {"event": "rollback", "stage": 0, "step": 4, "attempt": 1,
                     "reason": "loss is not a number"}  # fmt: skip
    assert any("back to step 4 with another seed" in message for message in messages)
    plain = start(tmp_path / "b", make_run(), Redder())
    assert not torch.equal(scene.table, plain.table), "the seed has changed"


def test_nan_that_stays_is_reported(tmp_path: Path) -> None:
    guide = Redder(poison=6, times=99)
    with pytest.raises(
        InputError, match=r"loss is not a number near step 8 of stage 0.*smaller lr"
    ):
        start(tmp_path / "a", make_run(), guide)
    assert guide.seen.count(6) == 3
    saved = RunFolder.open(tmp_path / "a").latest_checkpoint()
    assert saved is not None
    assert saved.step == 4
    assert bool(torch.isfinite(saved.scene["table"]).all()), "no bad checkpoint is kept"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (replace(SMALL, blob_radius=0.02), "the scene is empty"),
        (replace(SMALL, blob_bias=0.0, density_gain=0.7), "the scene is full of fog"),
    ],
)
def test_dead_scenes_are_noticed_within_50_steps(
    tmp_path: Path, settings: FieldSettings, reason: str
) -> None:
    run = replace(make_run(steps=60, every=7, lr=constant(1e-9)), field=settings)
    guide = Redder()
    with pytest.raises(InputError, match=reason):
        start(tmp_path / "a", run, guide)
    assert max(guide.seen) < 50
    assert guide.seen.count(0) == 3, "tried with two other seeds"


def test_living_scenes_do_not_alarm_the_watchdog() -> None:
    dog = Watchdog()
    for _ in range(keeper.PATIENCE - 1):
        dog.look({"loss": 1.0, "opacity": 0.0, "opaque": 0.0})
    dog.look({"loss": 1.0, "opacity": 0.02, "opaque": 0.1})
    for _ in range(keeper.PATIENCE - 1):
        dog.look({"loss": 1.0, "opacity": 0.5, "opaque": 0.6})
    with pytest.raises(Failure, match="fog"):
        dog.look({"loss": 1.0, "opacity": 0.5, "opaque": 0.6})
    with pytest.raises(Failure, match="sds is not a number"):
        Watchdog().look({"sds": float("inf"), "opacity": 0.5})


# with a diffusion model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {kind: str(tiny.tiny_folder(root / kind, kind)) for kind in ("sd15", "multiview")}


def tiny_run(backbone: str, steps: int = 5, every: int = 2, **changes: Any) -> Run:
    run = make_run(steps=steps, every=every, batch=4, **changes)
    asset = replace(run.asset, faces=200, texture=64, resolution=24, turntable_frames=4,
                    turntable_size=32, preview_size=16)  # fmt: skip
    return replace(run, backbone=backbone, device="cpu", asset=asset)


def test_guidance_and_backbone_must_fit(folders: dict[str, str]) -> None:
    def check(kind: str, message: str, **changes: Any) -> None:
        with pytest.raises(InputError, match=message):
            check_run(replace(make_run(**changes), backbone=folders[kind]))

    many, one = "multiview", "sd15"
    check(many, "is multi-view, but guidance is 'sds': use guidance=mvdream", guidance="sds")
    check(one, "is single-view, but guidance is 'mvdream': use guidance=sds", guidance="mvdream")
    check(many, "batch must be a multiple of the 4 views of .*, got 6", batch=6)


@pytest.mark.parametrize(("kind", "guidance"), [("multiview", "mvdream"), ("sd15", "sds")])
def test_a_prompt_becomes_files_and_the_same_bytes_again(
    tmp_path: Path, folders: dict[str, str], kind: str, guidance: str
) -> None:
    run, seen = replace(tiny_run(folders[kind], guidance=guidance), preview_every=3), []
    asset = generate("a red mug", run, out=tmp_path / "a", progress=seen.append)
    assert asset.folder == tmp_path / "a"
    names = {path.name for path in asset.folder.iterdir()}
    assert {"asset.glb", "asset.obj", "turntable.mp4", "preview.png", "report.json", "config.yaml",
            "log.jsonl", "prompt.txt", "checkpoint.pt"} <= names  # fmt: skip
    assert RunFolder.open(asset.folder).finished
    assert [path.name for path in sorted((asset.folder / "progress").iterdir())] == [
        "stage0-000003.png",
        "stage0-000005.png",
    ]
    last = [p for p in seen if p.steps][-1]
    assert isinstance(last, Progress)
    assert (last.step, last.steps) == (5, 5)
    assert guidance in last.losses
    generate("a red mug", run, out=tmp_path / "b")
    assert (tmp_path / "a" / "asset.glb").read_bytes() == (tmp_path / "b/asset.glb").read_bytes()


def test_stages_follow_one_another_and_can_be_cut_between(
    tmp_path: Path, folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(folders["multiview"], steps=2)
    run = replace(run, stages=(run.stages[0], replace(run.stages[0], steps=3)))
    whole = generate("a red mug", run, out=tmp_path / "a")
    assert [(line["stage"], line["step"]) for line in lines(tmp_path / "a") if "step" in line] == [
        (0, 1), (0, 2), (1, 1), (1, 2), (1, 3),
    ]  # fmt: skip

    def cut(part: StageRun, *rest: Any) -> None:
        if part.index == 1:
            raise KeyboardInterrupt
        optimise(part, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "optimise", cut)
        with pytest.raises(KeyboardInterrupt):
            generate("a red mug", run, out=tmp_path / "b")
    assert resume(tmp_path / "b").glb.read_bytes() == whole.glb.read_bytes()


def test_what_cannot_work_is_said_before_a_folder_is_made(
    tmp_path: Path, folders: dict[str, str]
) -> None:
    out = tmp_path / "a"
    with pytest.raises(InputError, match="the prompt is empty"):
        generate(" \n", tiny_run(folders["multiview"]), out=out)
    with pytest.raises(InputError, match="use guidance=mvdream"):
        generate("a mug", tiny_run(folders["multiview"], guidance="sds"), out=out)
    with pytest.raises(InputError, match="toybix"):
        generate("a mug", tiny_run("toybix"), out=out)
    assert not out.exists()


def test_sigkill_at_any_moment_changes_nothing(tmp_path: Path, folders: dict[str, str]) -> None:
    run = tiny_run(folders["multiview"], steps=400, every=3)
    path = tmp_path / "killed"
    config = tmp_path / "run.yaml"
    config.write_text(run.to_yaml())
    words = ["generate", "a red mug", "--preset", str(config), "--out", str(path)]
    process = subprocess.Popen([sys.executable, "-m", "threed.apps.cli.main", *words])
    try:
        deadline = time.monotonic() + 300
        # both: the second checkpoint is whole (between its two renames only step 0 is there)
        saves = (path / "checkpoint.previous.pt", path / "checkpoint.pt")
        while not all(save.exists() for save in saves):
            assert process.poll() is None, "it ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    folder = RunFolder.open(path)
    saved = folder.latest_checkpoint()
    assert saved is not None
    assert 0 < saved.step < 400
    # the same in little: the end comes soon after where it was killed
    steps = saved.step + 4
    shorter = replace(run, stages=(replace(run.stages[0], steps=steps),))
    (path / "config.yaml").write_text(shorter.to_yaml())
    short = RunFolder.open(path)
    short.save_checkpoint(saved)
    resume(path)
    generate("a red mug", shorter, out=tmp_path / "whole")
    ours, theirs = (RunFolder.open(p).latest_checkpoint() for p in (path, tmp_path / "whole"))
    assert ours is not None
    assert theirs is not None
    assert ours.step == theirs.step == steps
    for name, value in ours.scene.items():
        assert torch.equal(value, theirs.scene[name]), name
    assert (path / "asset.glb").read_bytes() == (tmp_path / "whole/asset.glb").read_bytes()


def test_unknown_words_are_warned_about(
    tmp_path: Path, folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "prompt_warnings", lambda *_, **__: ["never shown 'dragon'"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        generate("a dragon", tiny_run(folders["multiview"], steps=1), out=tmp_path / "a")
    assert "never shown 'dragon'" in [str(w.message) for w in caught]


def test_running_out_of_memory_says_what_to_lower(
    tmp_path: Path, folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_big(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pipeline, "optimise", too_big)
    with pytest.raises(InputError, match=r"out of memory: lower batch \(now 4\), resolution"):
        generate("a mug", tiny_run(folders["multiview"]), out=tmp_path / "a")
