"""Several scenes that share a critic, and stages that have backbones of their own."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from guidance import Frozen
from tests import tiny
from tests.test_guides import SMALL
from threed.core.cameras import Cameras
from threed.core.errors import InputError
from threed.core.schedule import Schedule, constant
from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import facts, load_backbone
from threed.diffusion.fronts import LEVELS
from threed.runs import backbones as holding
from threed.runs import loop as pipeline
from threed.runs.backbones import COMPARED, Backbones
from threed.runs.folder import RunFolder
from threed.runs.generate import generate, resume
from threed.runs.optimise import StageRun, optimise
from threed.runs.plan import plan_run
from threed.runs.stages import Particles, each, first, following, unknown
from threed.runs.watch import PATIENCE, Failure, Watchdog
from threed.scenes.field import Field
from threed.settings.asset import AssetSettings
from threed.settings.base import replace
from threed.settings.presets import load_run
from threed.settings.run import Run
from threed.settings.scenes import PaintSettings, SurfaceSettings
from threed.settings.stage import CriticSettings, Stage

CPU = torch.device("cpu")
ASSET = AssetSettings(
    faces=200, texture=64, resolution=24, turntable_frames=2, turntable_size=32, preview_size=16
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    kinds: tuple[tiny.Kind, ...] = ("sd15", "sd21", "multiview")
    return {kind: str(tiny.tiny_folder(root / kind, kind)) for kind in kinds}


def make_run(backbone: str, *particles: int, steps: int = 4, **changes: Any) -> Run:
    stage = Stage(
        guidance="vsd", steps=steps, batch=2, resolution=constant(12), guidance_scale=2.0,
        critic=CriticSettings(warmup=0, learning_rate=1e-3),
    )  # fmt: skip
    stages = tuple(replace(stage, particles=count, **changes) for count in particles)
    return Run(
        backbone=backbone, device="cpu", seed=3, field=SMALL, surface=SurfaceSettings(grid=12),
        paint=PaintSettings(levels=2, log2_table=8, hidden=16, copy_steps=5),
        preview_every=100, checkpoint_every=2, stages=stages, asset=ASSET,
    )  # fmt: skip


class Seen(Frozen):
    """Guidance that makes pictures red and counts them by whose turn it is."""

    def __init__(self, scene: Particles) -> None:
        self.scene, self.turns = scene, list[int]()

    def __call__(
        self, image: Tensor, cameras: Cameras, step: int, generator: Generator
    ) -> dict[str, Tensor]:
        self.turns.append(self.scene.turn)
        return {"vsd": (image - torch.tensor([0.9, 0.1, 0.1])).square().mean()}


def test_particles_take_turns_and_each_goes_as_if_alone(tmp_path: Path) -> None:
    run = make_run("toybox", 2, steps=6)
    scene = first(run, None, CPU)
    assert isinstance(scene, Particles)
    guide = Seen(scene)
    optimise(StageRun(RunFolder.create(tmp_path / "a", "a mug", run), 0, scene, guide, 1))
    assert guide.turns == [0, 1, 0, 1, 0, 1]
    one, two = each(scene)
    begun = each(first(run, None, CPU))
    for now, before in zip((one, two), begun, strict=True):
        assert isinstance(now, Field)
        assert isinstance(before, Field)
        assert not torch.equal(now.table, before.table)
    assert not torch.equal(begun[0].table, begun[1].table), "they begin differently"  # type: ignore[union-attr]


def test_a_scene_learns_nothing_while_it_is_another_ones_turn(tmp_path: Path) -> None:
    run = make_run("toybox", 3, steps=2)
    scene = first(run, None, CPU)
    assert isinstance(scene, Particles)
    optimise(StageRun(RunFolder.create(tmp_path / "a", "a mug", run), 0, scene, Seen(scene), 1))
    begun = each(first(run, None, CPU))
    moved = [not torch.equal(a.table, b.table) for a, b in zip(each(scene), begun, strict=True)]  # type: ignore[union-attr]
    assert moved == [True, True, False]


def test_later_stages_keep_as_many_as_they_have(tmp_path: Path) -> None:
    run = make_run("toybox", 3, 2, 1)
    scene = first(run, None, CPU)
    assert [type(one) for one in each(scene)] == [Field] * 3
    fewer = following(scene, run, run.stages[1], CPU)
    assert each(fewer) == each(scene)[:2]
    last = following(fewer, run, run.stages[2], CPU)
    assert last is each(scene)[0]
    blank = unknown(run, run.stages[0], None)
    blank.load_state_dict(scene.state_dict())
    assert len(each(blank)) == 3


def test_particles_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="mvdream has none, got 2"):
        Stage(particles=2)
    with pytest.raises(InputError, match="use guidance=vsd or dreamflow, or several seeds"):
        load_run("toybox-sds", ["particles=4"])
    stages = (Stage(guidance="vsd"), Stage(guidance="vsd", particles=2))
    message = "stages.1: particles can only become fewer, got 2 after 1"
    with pytest.raises(InputError, match=message):
        Run(stages=stages)


def glb_extras(path: Path) -> dict[str, Any]:
    from exporters import load

    assert len(load(path).faces) > 0
    data = path.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    extras: dict[str, Any] = json.loads(data[20 : 20 + length])["asset"]["extras"]
    return extras


@pytest.mark.parametrize("which", ["all", "first"])
def test_every_particle_becomes_an_asset_or_the_first(
    tmp_path: Path, folders: dict[str, str], which: str
) -> None:
    run = replace(make_run(folders["sd15"], 2, steps=4), particle_assets=which)  # type: ignore[arg-type]
    asset = generate("a red mug", run, out=tmp_path / "a")
    others = sorted(path.parent.name for path in asset.folder.glob("*/asset.glb"))
    assert others == (["particle2"] if which == "all" else [])
    assert glb_extras(asset.glb)["particle"] == 1
    if which == "all":
        second = tmp_path / "a/particle2/asset.glb"
        assert glb_extras(second)["particle"] == 2
        assert second.read_bytes() != asset.glb.read_bytes()
        # cut after the last step, the same files come again
        saved = RunFolder.open(tmp_path / "a").latest_checkpoint()
        assert saved is not None
        assert saved.step == 4
        before = second.read_bytes()
        resume(tmp_path / "a")
        assert second.read_bytes() == before


def test_each_stage_is_guided_by_its_backbone(
    tmp_path: Path, folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    used: list[str] = []

    def counted(name: str, **options: Any) -> Backbone:
        loaded.append(name)
        return load_backbone(name, **options)

    def noted(part: StageRun, *rest: Any) -> None:
        used.append(part.guide.prompts.backbone.name)  # type: ignore[attr-defined]
        optimise(part, *rest)

    monkeypatch.setattr(holding, "load_backbone", counted)
    monkeypatch.setattr(pipeline, "optimise", noted)
    run = make_run(folders["sd15"], 1, 1, steps=2)
    then = replace(run.stages[1], scene="surface", backbone=folders["sd21"], guidance="sds")
    run = replace(run, stages=(run.stages[0], then))
    asset = generate("a red mug", run, out=tmp_path / "a")
    assert used == [folders["sd15"], folders["sd21"]]
    assert loaded == [folders["sd15"], folders["sd21"]], "the last counts the fronts, too"
    assert glb_extras(asset.glb)["backbone"] == f"{folders['sd15']}, {folders['sd21']}"


def test_a_stages_backbone_is_judged_before_anything_is_made(
    tmp_path: Path, folders: dict[str, str]
) -> None:
    run = make_run(folders["sd15"], 1, 1, guidance="sds")
    then = replace(run.stages[1], backbone=folders["multiview"])
    with pytest.raises(InputError, match="is multi-view, but guidance is 'sds'"):
        generate("a mug", replace(run, stages=(run.stages[0], then)), out=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_models_are_held_as_long_as_they_are_needed(folders: dict[str, str]) -> None:
    run = make_run(folders["sd15"], 1, 1, 1)
    critic = replace(run.stages[0].critic, model=folders["sd21"])
    first, second, third = run.stages
    first = replace(first, critic=critic)
    last = replace(third, backbone=folders["multiview"])
    models = Backbones(replace(run, stages=(first, second, last)))
    guide, judge = models.of(0)
    assert (guide.name, judge.name) == (folders["sd15"], folders["sd21"])
    assert models.of(0) == (guide, judge), "nothing is loaded twice"
    assert models.of(1) == (guide,)
    (other,) = models.of(2)
    assert models.witness() is other
    gone = weakref.ref(judge)
    del judge
    gc.collect()
    assert gone() is None, "the critic's model was let go"
    gone = weakref.ref(guide)
    del guide
    gc.collect()
    assert gone() is None, "the first was let go when the last stage began"


def test_two_names_of_one_folder_are_one_model(folders: dict[str, str]) -> None:
    run = make_run(folders["sd15"], 1, 1)
    critic = replace(run.stages[0].critic, model=f"{folders['sd15']}/unet")
    run = replace(run, stages=tuple(replace(stage, critic=critic) for stage in run.stages))
    models = Backbones(run)
    guide, judge = models.of(0)
    assert guide is judge
    assert models.of(1) == (guide, guide)
    assert [known.name for known in models.together(0)] == [f"{folders['sd15']}/unet"]


def test_fronts_are_counted_by_the_last_model_that_knows_the_noise(
    folders: dict[str, str],
) -> None:
    assert max(LEVELS) == COMPARED
    run = make_run(folders["sd15"], 1, 1)
    critic = replace(run.stages[0].critic, model=folders["multiview"])
    last = replace(run.stages[1], backbone=folders["sd21"], critic=critic)
    models = Backbones(replace(run, stages=(run.stages[0], last)))
    guide, _ = models.of(1)
    assert models.witness() is guide, "it is not loaded again"
    refined = replace(last, t_max=Schedule(((0, 0.3), (9, 0.2))))
    refiner = Backbones(replace(run, stages=(run.stages[0], refined)))
    (known,) = refiner.of(0)
    refiner.of(1)
    assert refiner.witness() is known, "it was held, for the end"
    assert known.name == folders["sd15"]


def test_the_plan_knows_particles_and_all_that_is_held(folders: dict[str, str]) -> None:
    def peaks(run: Run) -> list[int]:
        return [stage.peak for stage in plan_run(run).stages]

    run = replace(make_run(folders["sd15"], 1, 1), memory=64.0)
    plain = peaks(run)
    several = replace(run, stages=tuple(replace(s, particles=4) for s in run.stages))
    table = 4 * 4 * SMALL.levels * 2**SMALL.log2_table * SMALL.features
    for one, four in zip(plain, peaks(several), strict=True):
        assert four - one == pytest.approx(1.15 * 3 * table, rel=1e-3)
    judge = facts(folders["sd21"])
    critic = replace(run.stages[0].critic, model=folders["sd21"])
    second = replace(run, stages=(replace(run.stages[0], critic=critic), run.stages[1]))
    assert peaks(second) == [plain[0] + judge.bytes, plain[1]]
    refined = replace(run.stages[1], backbone=folders["sd21"], t_max=constant(0.3))
    held = replace(run, stages=(run.stages[0], refined))
    assert peaks(held)[1] == plain[1] + judge.bytes, "the first waits for the end"
    assert peaks(replace(held, check_fronts=False))[1] == plain[1]


def test_the_watchdog_counts_each_scene_by_itself() -> None:
    dog = Watchdog(2)
    for _ in range(PATIENCE - 1):
        dog.look({"opacity": 0.0}, 1)
        dog.look({"opacity": 0.5}, 0)
    assert dog.alarmed
    with pytest.raises(Failure, match="empty"):
        dog.look({"opacity": 0.0}, 1)
