"""Scenes under image systems: what a view is told, whose Score guides it, runs that go on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Generator, Tensor

from guidance import Frozen
from guidance.prompts import Prompts
from guidance.sds import SDS
from tests import tiny
from tests.systems import asked
from threed.core.cameras import Cameras, orbit
from threed.core.errors import InputError
from threed.core.schedule import constant
from threed.diffusion.catalog import facts
from threed.diffusion.guide import Guide
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.control import new_controlnet
from threed.diffusion.parts.plans import split_plan
from threed.runs.folder import RunFolder
from threed.runs.generate import generate, resume
from threed.runs.guide import make_guide
from threed.runs.steer import (
    LARGEST,
    Pictured,
    Steered,
    kept,
    located,
    read_steering,
    reference,
    settled,
)
from threed.settings.asset import AssetSettings
from threed.settings.base import replace
from threed.settings.presets import parse_run
from threed.settings.run import Run, SystemSettings
from threed.settings.scenes import FieldSettings
from threed.settings.stage import Stage
from threed.systems.control import rpg
from threed.systems.inputs import PICTURED, View
from threed.systems.table import SYSTEMS

SMALL = FieldSettings(
    levels=3, start_levels=3, log2_table=10, max_resolution=24, hidden=16, samples=24, occupancy=12
)
ASSET = AssetSettings(
    faces=200, texture=32, resolution=24, turntable_frames=2, turntable_size=16, preview_size=16
)
PAIR = SystemSettings(name="rpg", inputs={"split": ("1,1",), "region": ("a cup", "a hat")})


@pytest.fixture(scope="module")
def control(
    backbone: StableDiffusion, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[str, ...]]:
    """A small random ControlNet and a picture for it, as inputs."""
    path = tmp_path_factory.mktemp("control")
    net = new_controlnet(backbone)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    net.save_pretrained(path / "net")
    Image.new("RGB", (32, 32), "white").save(path / "edges.png")
    return {"control": (f"edges:{path / 'edges.png'}",), "weights": (str(path / "net"),)}


def make_run(folder: Path, system: SystemSettings, **changes: Any) -> Run:
    stage = Stage(steps=4, batch=2, resolution=constant(12), guidance="sds")
    return Run(
        backbone=str(folder), device="cpu", seed=3, field=SMALL, checkpoint_every=2, asset=ASSET,
        system=system, check_fronts=False, stages=(replace(stage, **changes),),
    )  # fmt: skip


def noisy(n: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 4, 8, 8, generator=Generator().manual_seed(0))
    return x, torch.full((n,), 600)


# what a view is told


def test_garments_are_told_from_all_sides_and_with_a_view_s_words(
    backbone: StableDiffusion, tmp_path: Path
) -> None:
    backbone.unet.save_pretrained(tmp_path / "comp")
    names = ("shirt", "skirt")
    for left, name in enumerate(names):
        picture = Image.new("RGB", (32, 32), "white")
        picture.paste((200, 30, 90 * left), (8 * left + 2, 8, 20, 24))
        picture.save(tmp_path / f"{name}.png")
    garments = tuple(f"{name}:{tmp_path / name}.png" for name in names)
    told = SystemSettings(name="bootcomp", inputs={"garment": garments,
                                                   "weights": (str(tmp_path),)})  # fmt: skip
    prompts = Steered(backbone, "a toy person", told, scale=5.0)
    cameras, (x, t) = orbit(2, 12), noisy(2)
    both = prompts.score(cameras, 5.0)(x, t)
    words = Prompts(backbone, "a toy person").score(cameras, 5.0)(x, t)
    for row in (0, 1):
        assert not torch.allclose(both[row], words[row], atol=1e-3), "seen from behind, too"
        alone = prompts.score(cameras[row : row + 1], 5.0)(x[row : row + 1], t[:1])
        torch.testing.assert_close(alone[0], both[row], atol=1e-5, rtol=1e-4)
    plain = Steered(backbone, "a toy person", told, scale=5.0, view_words=False)
    assert not torch.allclose(plain.score(cameras, 5.0)(x, t)[1], both[1], atol=1e-5)


def test_left_is_right_from_behind_and_nothing_from_the_side() -> None:
    request = rpg.settle(asked("a cup and a hat", split="1,1", region=("a cup", "a hat")))
    front = rpg.SYSTEM.of_view(request, View("front", ", front view"))
    back = rpg.SYSTEM.of_view(request, View("back", ", back view"))
    assert front is not None
    assert back is not None
    assert rpg.plan_of(front) == split_plan(
        "a cup and a hat, front view", "1,1", ["a cup, front view", "a hat, front view"]
    )
    assert [r.box[0] for r in rpg.plan_of(back).regions] == [0.5, 0]
    assert rpg.SYSTEM.of_view(request, View("side")) is None
    assert rpg.SYSTEM.of_view(request, View("overhead")) is None
    rows = rpg.settle(asked("a cup and a hat", split="1;1", region=("a cup", "a hat")))
    assert rpg.SYSTEM.of_view(rows, View("side")) is not None
    assert rpg.SYSTEM.of_view(rows, View("overhead")) is None


def test_moves_turn_with_the_view() -> None:
    of_view = SYSTEMS["self_guidance"].of_view
    request = asked("a ball", move=(("ball", (0.2, 0.1)),))
    moves = {view: told and told.all("move") for view in ("front", "back", "side", "overhead")
             for told in [of_view(request, View(view))]}  # fmt: skip
    assert moves == {
        "front": (("ball", (0.2, 0.1)),), "back": (("ball", (-0.2, 0.1)),),
        "side": (("ball", (0.0, 0.1)),), "overhead": None,
    }  # fmt: skip
    assert of_view(asked("a ball", move=(("ball", (0.2, 0.0)),)), View("side")) is None


def test_pictures_hold_for_the_camera_that_took_them() -> None:
    system = SYSTEMS["controlnet"]
    request = asked("a ball", control=(("edges", Path("e.png")),))
    assert system.of_view(request, View("front")) is None
    assert system.is_pictured(request)
    told = system.of_view(request, View(PICTURED, ", front view"))
    assert told == dataclasses.replace(request, prompt="a ball, front view")


def test_both_prompts_are_told_the_view() -> None:
    system, request = SYSTEMS["prompt_to_prompt"], asked("a blue cup", source="a red cup")
    told = system.of_view(request, View("side", ", side view"))
    assert told == asked("a blue cup, side view", source="a red cup, side view")
    assert not system.is_pictured(request)


# whose Score guides


def test_each_view_gets_its_own_score(backbone: StableDiffusion) -> None:
    steered = Steered(backbone, "a cup and a hat", PAIR, scale=4.0)
    plain = Prompts(backbone, "a cup and a hat")
    cameras = orbit(4, 8)  # front, side, back, side
    x, t = noisy(4)
    noise = steered.score(cameras, 4.0)(x, t)
    ordinary = plain.score(cameras, 4.0)(x, t)
    assert torch.allclose(noise[[1, 3]], ordinary[[1, 3]], atol=1e-5)
    for row, view, things in ((0, "front", ("cup", "hat")), (2, "back", ("hat", "cup"))):
        told = [f"a {thing}, {view} view" for thing in things]
        plan = split_plan(f"a cup and a hat, {view} view", "1,1", told)
        own = rpg.build(backbone, plan, guide=Guide(4.0))
        assert torch.allclose(noise[[row]], own(x[[row]], t[[row]]), atol=1e-5)
        assert (noise[row] - ordinary[row]).abs().max() > 1e-3


def test_rescaled_it_has_the_contrast_of_the_prompt_alone(backbone: StableDiffusion) -> None:
    steered = Steered(backbone, "a cup and a hat", PAIR, scale=9.0)
    x, t = noisy(1)
    cameras = orbit(1, 8)
    text = Prompts(backbone, "a cup and a hat").score(cameras, 1.0)(x, t)
    sigma = (1 - backbone.alphas_cumprod[600]).sqrt()

    def spread(noise: Tensor) -> float:
        return float((x - sigma * noise).std())

    assert spread(steered.score(cameras, 9.0, 1.0)(x, t)) == pytest.approx(spread(text), rel=1e-3)
    assert spread(steered.score(cameras, 9.0)(x, t)) != pytest.approx(spread(text), rel=1e-3)


def test_a_controlled_scene_has_the_pictures_view_in_every_step(
    backbone: StableDiffusion, folder: Path, control: dict[str, tuple[str, ...]]
) -> None:
    run = make_run(folder, SystemSettings(name="controlnet", inputs=control))
    guide = make_guide(run.stages[0], backbone, run, "a cup")
    assert isinstance(guide, Pictured)
    assert isinstance(guide.guide, SDS)
    drawn = orbit(3, 12, start_deg=50.0)
    cameras = guide.cameras(0, drawn)
    assert torch.equal(cameras.c2w[:1], reference(12).c2w)
    assert torch.equal(cameras.c2w[1:], drawn.c2w[1:])
    steered = guide.guide.prompts
    assert isinstance(steered, Steered)
    assert steered.views(cameras) == [PICTURED, "back", "side"]
    x, t = noisy(3)
    change = steered.score(cameras, 5.0)(x, t) - Prompts(backbone, "a cup").score(cameras, 5.0)(
        x, t
    )
    assert change[0].abs().max() > 1e-3
    assert change[1:].abs().max() < 1e-5


# runs


def test_a_run_keeps_the_system_and_goes_on(folder: Path, tmp_path: Path) -> None:
    system = SystemSettings(name="rpg", inputs={"planner": ("rules",)}, knobs=("base_ratio=0.1",))
    run = make_run(folder, system, random_background=0.0)
    whole = start(run, tmp_path / "whole")
    read = parse_run((tmp_path / "whole" / "config.yaml").read_text(), "there")
    assert read.system.inputs == {"region": ("0,0,0.5,1:a cup", "0.5,0,1,1:a hat")}
    assert read.system.knobs == ("base_ratio=0.1",)
    cut = start(run, tmp_path / "cut", stop=2)
    assert not torch.equal(whole["table"], cut["table"])
    assert torch.equal(whole["table"], goes_on(tmp_path / "cut")["table"])


class Interrupting(Frozen):
    """A guide that is interrupted after some steps."""

    def __init__(self, guide: Any, stop: int) -> None:
        self.guide, self.stop = guide, stop

    def cameras(self, step: int, drawn: Cameras) -> Cameras:
        return self.guide.cameras(step, drawn) if isinstance(self.guide, Pictured) else drawn

    def __call__(self, image: Tensor, cameras: Cameras, step: int, generator: Generator) -> Any:
        if step == self.stop:
            raise KeyboardInterrupt
        return self.guide(image, cameras, step, generator)


def start(run: Run, path: Path, stop: int | None = None) -> dict[str, Tensor]:
    """The scene of a run after its steps, or when it was interrupted; assets are left out."""
    from threed.runs import loop as pipeline

    patch = pytest.MonkeyPatch()
    made = pipeline.make_guide
    with patch.context() as at:
        at.setattr(pipeline, "_build_assets", lambda *_: None)
        at.setattr(pipeline, "_judge", lambda *_: None)
        if stop is not None:
            at.setattr(pipeline, "make_guide", lambda *a, **k: Interrupting(made(*a, **k), stop))
        try:
            generate("a cup and a hat", run, out=path)
        except KeyboardInterrupt:
            assert stop is not None
    return last(path)


def goes_on(path: Path) -> dict[str, Tensor]:
    from threed.runs import loop as pipeline

    with pytest.MonkeyPatch().context() as at:
        at.setattr(pipeline, "_build_assets", lambda *_: None)
        at.setattr(pipeline, "_judge", lambda *_: None)
        resume(path)
    return last(path)


def last(path: Path) -> dict[str, Tensor]:
    checkpoint = RunFolder.open(path).latest_checkpoint()
    assert checkpoint is not None
    return dict(checkpoint.scene)


def test_files_are_kept_by_their_full_names(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edges.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    inputs = {"control": ("edges:edges.png",), "weights": ("owner/name",)}
    run = settled(make_run(folder, SystemSettings(name="controlnet", inputs=inputs)), "a cup")
    assert run.system.inputs == {
        "control": (f"edges:{tmp_path / 'edges.png'}",), "weights": ("owner/name",)
    }  # fmt: skip


def test_a_run_goes_on_without_the_pictures_it_was_given(
    folder: Path, tmp_path: Path, control: dict[str, tuple[str, ...]]
) -> None:
    picture = tmp_path / "mine.png"
    Image.new("RGB", (32, 32), "white").save(picture)
    inputs = control | {"control": (f"edges-map:{picture}",)}
    run = make_run(folder, SystemSettings(name="controlnet", inputs=inputs), random_background=0.0)
    whole = start(run, tmp_path / "whole")
    cut = start(run, tmp_path / "cut", stop=2)
    picture.unlink()
    (tmp_path / "cut").rename(tmp_path / "moved")
    assert not torch.equal(whole["table"], cut["table"])
    assert torch.equal(whole["table"], goes_on(tmp_path / "moved")["table"])
    config = (tmp_path / "moved/config.yaml").read_text()
    assert parse_run(config, "there").system.inputs == inputs | {
        "control": ("edges-map:inputs/control1.png",)
    }


def test_each_picture_is_kept_and_weights_are_not(folder: Path, tmp_path: Path) -> None:
    places = [tmp_path / side / "a.png" for side in ("left", "right")]
    for number, place in enumerate(places):
        place.parent.mkdir()
        place.write_bytes(b"picture" + bytes([number]))
    inputs = {
        "layout": tuple(f"cup:{place}" for place in places),
        "weights": (str(places[0]),), "move": ("cup:1,0",),
    }  # fmt: skip
    own, files = kept(
        make_run(folder, SystemSettings(name="self_guidance", inputs=inputs)), "inputs"
    )
    names = ["inputs/layout1.png", "inputs/layout2.png"]
    assert files == dict(zip(names, [b"picture\0", b"picture\1"]))
    assert own.system.inputs == inputs | {"layout": tuple(f"cup:{name}" for name in names)}
    made = RunFolder.create(tmp_path / "run", "a cup", own, files)
    assert made.files() == files
    there = {"layout": tuple(f"cup:{tmp_path / 'run' / name}" for name in names)}
    assert located(own, made.path).system.inputs == inputs | there


# what is refused


def test_a_picture_that_is_too_large_is_not_kept(folder: Path, tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(LARGEST + 2**20)
    system = SystemSettings(
        name="controlnet", inputs={"control": (f"edges:{tmp_path / 'large.png'}",)}
    )
    with pytest.raises(InputError, match=r"large.png has 65 MiB; a run keeps a copy of at most 64"):
        kept(make_run(folder, system), "inputs")


@pytest.mark.parametrize(
    ("system", "changes", "message"),
    [
        (SystemSettings(name="rgp"), {}, "no system 'rgp'; did you mean 'rpg'"),
        (SystemSettings(name=None, inputs={"move": ("cup:1,0",)}), {}, "--move is for a system"),
        (SystemSettings(name="rpg", inputs={"move": ("cup:1,0",)}), {}, "takes no --move"),
        (
            SystemSettings(name="rpg", inputs={}, knobs=("base=1",)),
            {}, "knobs of system 'rpg': base: no such setting",
        ),
        (
            SystemSettings(name="rpg", inputs={"split": ("1", "1,1")}),
            {}, "--split takes one value, got 1, 1,1",
        ),
        (
            SystemSettings(name="rpg", inputs={"region": ("0,0,2,1:a cup",)}),
            {}, "is not in the picture",
        ),
        (
            SystemSettings(name="self_guidance", inputs={"move": ("dog:0.5,0",)}),
            {}, "no word 'dog'",
        ),
        (
            SystemSettings(name="instruct_pix2pix", inputs={"image": ("a.png",)}),
            {}, "threed edit3d changes",
        ),
        (PAIR, {"guidance": "csd"}, "guidance=csd takes prompts apart"),
    ],
)  # fmt: skip
def test_mistakes_show_before_any_step(
    folder: Path, tmp_path: Path, system: SystemSettings, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        generate("a cup", make_run(folder, system, **changes), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_several_views_at_once_cannot_be_steered_by_every_system(tmp_path: Path) -> None:
    several = facts(str(tiny.tiny_folder(tmp_path / "m", "multiview")))
    with pytest.raises(InputError, match=r"'rpg' sees one view at a time.* --backbone toybox"):
        SYSTEMS["rpg"].check_backbone(several, scene=True)
    with pytest.raises(InputError, match=r"'lora' makes one picture at a time"):
        SYSTEMS["lora"].check_backbone(several)
    SYSTEMS["lora"].check_backbone(several, scene=True)


def test_a_system_without_a_name_is_none() -> None:
    with pytest.raises(InputError, match=r"say which by system\.name, or --system"):
        read_steering(SystemSettings(), "a cup")
