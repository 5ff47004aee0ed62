"""From a stage's settings to its guidance, and what a trained guidance adds to a run."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from guidance import Frozen
from guidance.dreamflow import DreamFlow
from guidance.vsd import VSD
from tests import tiny
from threed.apps.cli import main as cli
from threed.core.errors import InputError
from threed.core.schedule import constant
from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import load_backbone
from threed.runs import optimise as optimising
from threed.runs.check import check_run
from threed.runs.folder import RunFolder
from threed.runs.guide import make_critic, make_guide
from threed.runs.memory import Chunk
from threed.runs.optimise import StageRun, Taught, optimise, random_cameras, teach
from threed.scenes.field import Field
from threed.scenes.surface import Surface
from threed.settings.base import replace
from threed.settings.presets import FACTS, load_run, presets
from threed.settings.run import Run
from threed.settings.scenes import FieldSettings, PaintSettings, SurfaceSettings
from threed.settings.stage import CriticSettings, Stage

SMALL = FieldSettings(
    levels=3, start_levels=3, log2_table=10, max_resolution=24, hidden=16, samples=24, occupancy=12
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    kinds: tuple[tiny.Kind, ...] = ("sd15", "sd21", "multiview")
    return {kind: str(tiny.tiny_folder(root / kind, kind)) for kind in kinds}


def load(folders: dict[str, str], kind: str) -> Backbone:
    return load_backbone(folders[kind], device="cpu")


def make_run(backbone: str, guidance: Any, **changes: Any) -> Run:
    stage = Stage(
        steps=6, batch=4, resolution=constant(12), guidance=guidance, noise_levels=3,
        critic=CriticSettings(warmup=2, learning_rate=1e-3),
    )  # fmt: skip
    return Run(
        backbone=backbone, device="cpu", seed=3, field=SMALL, checkpoint_every=2,
        stages=(replace(stage, **changes),),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["sd15", "multiview"])
def test_settings_reach_the_guidance(folders: dict[str, str], kind: str) -> None:
    backbone = load(folders, kind)
    critic = CriticSettings(rank=3, learning_rate=2e-3, warmup=7, updates=2, dropout=0.3)
    run = make_run(folders[kind], "vsd", critic=critic, view_blend="perp_neg", front_deg=30,
                   guidance_scale=7.5)  # fmt: skip
    guide = make_guide(run.stages[0], backbone, run, "a red mug")
    assert isinstance(guide, VSD)
    assert guide.updates == 2
    assert (guide.pull.guidance_scale(0), guide.prompts.blend) == (7.5, "perp_neg")
    assert guide.prompts.front_deg == 30
    made = make_critic(run.stages[0], guide.prompts, run)
    assert (made.learning_rate, made.warmup, made.dropout) == (2e-3, 7, 0.3)
    assert {p.shape[0] for k, p in made.lora.parameters.items() if "lora_A" in k} == {3}
    run = make_run(folders[kind], "dreamflow", t_min=constant(0.2), t_max=constant(1.0))
    guide = make_guide(run.stages[0], backbone, run, "a red mug")
    assert isinstance(guide, DreamFlow)
    assert guide.schedule.tolist() == [999, 733, 466, 200]


def test_a_second_model_can_be_the_critic_if_its_latents_are_the_same(
    folders: dict[str, str],
) -> None:
    backbone = load(folders, "sd15")
    run = make_run(folders["sd15"], "vsd", critic=CriticSettings(model=folders["sd21"]))
    check_run(run)
    judge = load(folders, "sd21")
    guide = make_guide(run.stages[0], backbone, run, "a red mug", judge)
    assert isinstance(guide, VSD)
    critic = make_critic(run.stages[0], guide.prompts, run, judge)
    assert guide.critic.backbone is critic.backbone is judge  # type: ignore[attr-defined]
    assert critic.backbone.prediction == "v_prediction"
    assert critic.prompts.backbone is critic.backbone


def test_a_critic_of_other_latents_is_refused(folders: dict[str, str], tmp_path: Path) -> None:
    others = {"multiview": folders["multiview"]}
    for name, file, change in (
        ("channels", "vae/config.json", {"latent_channels": 16}),
        ("factor", "vae/config.json", {"block_out_channels": [8, 8]}),
        ("noise", "scheduler/scheduler_config.json", {"beta_end": 0.02}),
    ):
        path = Path(shutil.copytree(folders["sd15"], tmp_path / name)) / file
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        others[name] = str(tmp_path / name)
    for name, message in (
        ("multiview", "cannot judge the latents of .*: views is 4, not 1"),
        ("channels", "cannot judge the latents of .*: latent_channels is 16, not 4"),
        ("factor", "cannot judge the latents of .*: factor is 2, not 4"),
        ("noise", "has other noise levels than"),
    ):
        run = make_run(folders["sd15"], "vsd", critic=CriticSettings(model=others[name]))
        with pytest.raises(InputError, match=f"critic.model .* {message}"):
            check_run(run)


def optimised(path: Path, run: Run, cut: int | None = None) -> Field:
    """Optimise from the beginning or from where it was cut, as a new process would."""
    folder = RunFolder.open(path) if path.exists() else RunFolder.create(path, "a mug", run)
    backbone = load_backbone(run.backbone, device="cpu")
    scene = Field(run.field, seed=run.seed)
    guide = make_guide(run.stages[0], backbone, run, "a mug")

    class Cut:
        state_dict, load_state_dict = guide.state_dict, guide.load_state_dict

        def __call__(self, image: Any, cameras: Any, step: int, generator: Any) -> Any:
            if step == cut:
                raise RuntimeError("power cut")
            return guide(image, cameras, step, generator)

    optimise(StageRun(folder, 0, scene, Cut(), backbone.views), folder.latest_checkpoint())
    return scene


@pytest.mark.parametrize(("kind", "guidance"), [("sd15", "vsd"), ("multiview", "dreamflow")])
def test_a_run_with_a_critic_goes_on_as_if_never_cut(
    tmp_path: Path, folders: dict[str, str], kind: str, guidance: str
) -> None:
    run = make_run(folders[kind], guidance)
    with pytest.raises(RuntimeError, match="power cut"):
        optimised(tmp_path / "cut", run, cut=5)
    saved = RunFolder.open(tmp_path / "cut").latest_checkpoint()
    assert saved is not None
    assert saved.step == 4
    assert {"lora", "camera", "optimizer"} == saved.guide.keys()
    ours, theirs = optimised(tmp_path / "cut", run), optimised(tmp_path / "whole", run)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name
    ends = [RunFolder.open(tmp_path / p).latest_checkpoint() for p in ("cut", "whole")]
    learned = [end.guide["lora"] for end in ends if end is not None]
    assert all(torch.equal(value, learned[1][key]) for key, value in learned[0].items())
    assert any(float(value.abs().max()) > 0 for key, value in learned[0].items() if "lora_B" in key)
    log = [json.loads(line) for line in (tmp_path / "cut/log.jsonl").read_text().splitlines()]
    assert all({guidance, "critic"} <= line.keys() for line in log)


@pytest.mark.parametrize(
    ("name", "paper", "stages"),
    [
        (
            "prolificdreamer",
            "arXiv:2305.16213",
            ["field by vsd", "surface by sds", "textured by vsd"],
        ),
        (
            "dreamflow",
            "arXiv:2403.14966",
            ["field by dreamflow", "surface by dreamflow", "surface by dreamflow"],
        ),
        ("toybox-vsd", "arXiv:2305.16213", ["field by vsd"]),
        ("toybox-dreamflow", "arXiv:2403.14966", ["field by dreamflow"]),
        (
            "toybox-mvdream",
            None,
            ["field by mvdream", "textured by mvdream", "textured by denoise"],
        ),
    ],
)
def test_presets_say_what_they_are_made_of(name: str, paper: str | None, stages: list[str]) -> None:
    answer = CliRunner().invoke(cli.app, ["list", "presets", "--json"])
    (row,) = [row for row in json.loads(answer.stdout) if row["preset"] == name]
    assert row["paper"] == paper
    assert row["stages"] == stages
    assert row["steps"] == sum(stage.steps for stage in load_run(name).stages)


@pytest.mark.parametrize("name", ["dreamflow", "toybox-dreamflow"])
def test_the_levels_of_dreamflow_presets_fit_their_stages(
    folders: dict[str, str], name: str
) -> None:
    backbone, run = load(folders, "sd15"), load_run(name)
    for stage in run.stages:
        guide = make_guide(stage, backbone, run, "a mug")
        assert isinstance(guide, DreamFlow)
        assert bool((guide.schedule.diff() < 0).all())


def test_normals_alone_teach_a_surface_its_shape_and_not_its_colours(
    tmp_path: Path, folders: dict[str, str]
) -> None:
    stage = Stage(scene="surface", look="normals", steps=1, batch=2, resolution=constant(16))
    run = Run(backbone=folders["sd15"], device="cpu", stages=(stage,))
    folder = RunFolder.create(tmp_path / "run", "a mug", run)
    scene = Surface(SurfaceSettings(grid=12), PaintSettings(levels=2, log2_table=8), seed=0)
    seen: list[torch.Tensor] = []

    class Left(Frozen):
        """Wants every normal to point to the left."""

        def __call__(self, image: Any, cameras: Any, step: int, generator: Any) -> Any:
            seen.append(image.detach())
            return {"mvdream": image[..., 1].mean()}

    part = StageRun(folder, 0, scene, Left(), 1)
    generator = torch.Generator().manual_seed(0)
    teach(part, 0, random_cameras(stage, 0, 1, generator), generator)
    (image,) = seen
    assert float(image.min()) >= 0
    assert float(image.max()) <= 1
    assert float(image[0, 0, 0].abs().sum()) == 0, "nothing is black"
    middle = image[:, 8, 8] * 2 - 1
    torch.testing.assert_close(middle.norm(dim=-1), torch.ones(2), atol=0.05, rtol=0)
    moved = {name for name, p in scene.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved
    assert not any(name.startswith("paint") for name in moved)
    with pytest.raises(InputError, match="look must be colours for a field"):
        Stage(look="normals")


def test_a_step_that_ran_out_of_memory_teaches_the_critic_once(
    tmp_path: Path, folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(folders["sd15"], "vsd", steps=2)

    def learned(path: Path, chunk: Chunk) -> dict[str, torch.Tensor]:
        backbone = load_backbone(run.backbone, device="cpu")
        guide = make_guide(run.stages[0], backbone, run, "a mug")
        folder, scene = RunFolder.create(path, "a mug", run), Field(run.field, seed=run.seed)
        optimise(StageRun(folder, 0, scene, guide, 1, chunk))
        lora: dict[str, torch.Tensor] = copy.deepcopy(guide.state_dict()["lora"])
        return lora | {"table": scene.table.detach()}

    whole = learned(tmp_path / "whole", Chunk(2048))
    tries: list[int] = []

    def short_after_learning(part: StageRun, step: int, *rest: Any) -> Taught:
        taught = teach(part, step, *rest)
        tries.append(step)
        if tries == [0, 1]:  # the second step's first try
            raise torch.OutOfMemoryError("CUDA out of memory")
        return taught

    monkeypatch.setattr(optimising, "teach", short_after_learning)
    again = learned(tmp_path / "again", Chunk(4096))
    assert tries == [0, 1, 1]
    for name, value in whole.items():
        torch.testing.assert_close(again[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_every_preset_says_what_it_is_good_at_and_takes() -> None:
    rows = {row["preset"]: row for row in json.loads(
        CliRunner().invoke(cli.app, ["list", "presets", "--json"]).stdout
    )}  # fmt: skip
    assert rows["mvdream"]["backbone"] == "mvdream"
    assert rows["dreamflow"]["backbone"] == (
        "stable-diffusion-v1-5/stable-diffusion-v1-5, stabilityai/stable-diffusion-xl-refiner-1.0"
    )
    for name in presets():
        row = rows[name]
        assert all(row[fact] for fact in FACTS), name
        known = ("measured", "estimate", "toybox-results")
        assert any(word in row["on a GPU"] for word in known), name
        assert any(word in row["on a CPU"] for word in known), name
