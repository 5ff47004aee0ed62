"""Editing assets: the pictures, the editor, a run from mesh to mesh, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

import exporters
from exporters import load
from renderers.raster import render_mesh
from tests import shapes
from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.core.schedule import constant
from threed.diffusion.catalog import load_backbone
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.channels import widened
from threed.runs import loop as pipeline
from threed.runs.check import check_run
from threed.runs.edit import album, around, instructed
from threed.runs.folder import RunFolder
from threed.runs.generate import edit3d, resume
from threed.runs.given import read_given
from threed.runs.start import shaped
from threed.settings.asset import AssetSettings
from threed.settings.base import replace
from threed.settings.presets import load_run
from threed.settings.run import Run, SystemSettings
from threed.settings.scenes import PaintSettings, SurfaceSettings
from threed.settings.stage import EditSettings, Stage
from threed.systems.editing import instruct_pix2pix

STAGE = Stage(
    scene="textured", steps=24, batch=2, resolution=constant(16), lr=constant(0.05),
    guidance="edit", random_background=0.0, edit=EditSettings(views=6, every=2, passes=4),
)  # fmt: skip
ASSET = AssetSettings(faces=500, texture=64, turntable_frames=2, turntable_size=16, preview_size=16)


@pytest.fixture(scope="module")
def ball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ball") / "ball.glb"
    exporters.save(shapes.sphere(0.6, 12, 16), path)
    return path


def make_run(folder: Path, **changes: Any) -> Run:
    return Run(
        backbone=str(folder), device="cpu", seed=1, checkpoint_every=10, asset=ASSET,
        paint=PaintSettings(levels=4, log2_table=10, max_resolution=32, hidden=16, copy_steps=60),
        surface=SurfaceSettings(grid=16), stages=(replace(STAGE, **changes),),
    )  # fmt: skip


def blue(before: Tensor, now: Tensor, level: float, generator: Generator) -> Tensor:
    """An editor that can do one thing: what is not white becomes blue."""
    thing = (before.amin(1, keepdim=True) < 0.9).to(now)
    color = torch.tensor([0.1, 0.2, 0.9]).view(1, 3, 1, 1).to(now)
    return torch.lerp(torch.ones_like(now), color, thing)


def seen(path: Path) -> tuple[Tensor, Tensor]:
    """Mean colour of an asset, and its silhouettes."""
    picture = render_mesh(load(path), orbit(4, 32), look="albedo")
    inside = picture.opacity > 0.5
    return picture.rgb[inside.squeeze(-1)].mean(0), inside


# a run


@pytest.mark.parametrize("shape", [False, True])
def test_an_asset_takes_the_colour_that_its_edits_have(
    folder: Path, ball: Path, tmp_path: Path, shape: bool
) -> None:
    out = tmp_path / "out"
    asset = edit3d(ball, "make it blue", make_run(folder), edit=blue, shape=shape, out=out)
    before, there = seen(ball)
    after, here = seen(asset.glb)
    assert before[0] > 0.3
    assert after[2] > 0.65
    assert after[0] < 0.3
    assert float((there & here).sum() / (there | here).sum()) > 0.9
    for name in ("asset.glb", "asset.obj", "turntable.mp4", "preview.png", "report.json",
                 "config.yaml", "log.jsonl"):  # fmt: skip
        assert (out / name).is_file(), name
    assert (out / "prompt.txt").read_text() == "make it blue"
    steps = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    losses = [step["edit"] for step in steps if "edit" in step]
    assert len(losses) == 24
    assert max(losses[:12]) > 1.5 * losses[-1], "the scene follows its pictures"


def test_it_goes_on_after_an_interruption_as_if_there_had_been_none(
    folder: Path, ball: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_build_assets", "_judge"):
        monkeypatch.setattr(pipeline, name, lambda *_: None)
    calls: list[float] = []

    def impatient(before: Tensor, now: Tensor, level: float, generator: Generator) -> Tensor:
        calls.append(level)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return blue(before, now, level, generator)

    run = make_run(folder)
    edit3d(ball, "make it blue", run, edit=blue, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        edit3d(ball, "make it blue", run, edit=impatient, out=tmp_path / "cut")
    resume(tmp_path / "cut", edit=blue)
    whole, cut = (RunFolder.open(tmp_path / name).latest_checkpoint() for name in ("whole", "cut"))
    assert whole is not None
    assert cut is not None
    assert torch.equal(whole.guide["pictures"], cut.guide["pictures"])
    assert all(torch.equal(value, cut.scene[name]) for name, value in whole.scene.items())


# the pictures


def test_the_album_is_of_the_given_mesh_from_all_around() -> None:
    mesh = shapes.sphere()
    book = album(mesh, around(STAGE, STAGE.cameras))
    assert book.pictures.shape == (6, 16, 16, 3)
    assert book.cameras.azimuth_deg.sort().values.diff().tolist() == pytest.approx(
        [60] * 5, abs=0.1
    )
    low, high = STAGE.cameras.elevation_deg
    assert book.cameras.elevation_deg.min() >= low
    assert book.cameras.elevation_deg.max() <= high
    assert book.cameras.elevation_deg.diff().abs().min() > 5
    one = render_mesh(
        mesh, around(STAGE, STAGE.cameras)[3:4], look="albedo", antialias_factor=2
    ).rgb
    assert torch.equal(book.pictures[3:4], one)
    assert bool((book.pictures[:, 0, 0] == 1).all()), "over white"


# the editor


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random net of InstructPix2Pix that listens to the picture."""
    backbone = load_backbone(str(folder), device="cpu")
    assert isinstance(backbone, StableDiffusion)
    unet = widened(backbone.unet, 4)
    torch.nn.init.normal_(unet.conv_in.weight[:, 4:], std=0.1)
    path = tmp_path_factory.mktemp("trained")
    instruct_pix2pix.save(unet, path)
    return path


def test_instructions_reach_the_pictures(folder: Path, trained: Path) -> None:
    run = replace(
        make_run(folder),
        system=SystemSettings(name="instruct_pix2pix", inputs={"weights": (str(trained),)}),
    )
    backbone = load_backbone(str(folder), device="cpu")
    before, now = torch.rand(2, 1, 3, 32, 32)

    def edited(what: str, level: float, first: Tensor = before, seed: int = 0) -> Tensor:
        edit = instructed(backbone, what, run, STAGE)
        return edit(first, now, level, Generator().manual_seed(seed))

    blue_one = edited("make it blue", 0.9)
    assert blue_one.shape == now.shape
    assert torch.equal(blue_one, edited("make it blue", 0.9))
    for other in (
        edited("make it red", 0.9), edited("make it blue", 0.5),
        edited("make it blue", 0.9, first=1 - before), edited("make it blue", 0.9, seed=1),
    ):  # fmt: skip
        assert (blue_one - other).abs().max() > 1e-3


def test_pictures_of_another_size_come_back_as_large(folder: Path, trained: Path) -> None:
    run = replace(
        make_run(folder),
        system=SystemSettings(name="instruct_pix2pix", inputs={"weights": (str(trained),)}),
    )
    edit = instructed(load_backbone(str(folder), device="cpu"), "make it blue", run, STAGE)
    for size in (16, 48):
        picture = torch.rand(1, 3, size, size)
        fitted = F.interpolate(picture, (32, 32), mode="bilinear", antialias=size > 32)
        own = edit(fitted, fitted, 0.8, Generator().manual_seed(0))
        expected = F.interpolate(own, (size, size), mode="bilinear", antialias=True)
        made = edit(picture, picture, 0.8, Generator().manual_seed(0))
        torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


def test_a_trained_editor_changes_an_asset(
    folder: Path, trained: Path, ball: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_build_assets", "_judge"):
        monkeypatch.setattr(pipeline, name, lambda *_: None)
    run = replace(
        make_run(folder, steps=3),
        system=SystemSettings(name="instruct_pix2pix", inputs={"weights": (str(trained),)}),
    )
    edit3d(ball, "make it blue", run, out=tmp_path / "out")
    made = RunFolder.open(tmp_path / "out")
    assert made.run.system.inputs == {"weights": (str(trained),)}
    checkpoint = made.latest_checkpoint()
    assert checkpoint is not None
    stage = run.stages[0]
    first = album(read_given(ball).mesh, around(stage, stage.cameras)).pictures
    changed = (checkpoint.guide["pictures"] != first).flatten(1).any(1)
    assert int(changed.sum()) == 2, "one each second step"


# what is refused


def test_without_weights_it_says_how_to_train_them(
    folder: Path, ball: Path, tmp_path: Path
) -> None:
    message = "instruct_pix2pix.* needs --weights.*threed train instruct_pix2pix --data DIR"
    with pytest.raises(InputError, match=message):
        edit3d(ball, "make it blue", make_run(folder), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_backgrounds_are_refused(folder: Path, ball: Path, tmp_path: Path) -> None:
    run = make_run(folder, random_background=0.5)
    message = "random_background must be 0 with guidance=edit.*got 0.5"
    with pytest.raises(InputError, match=message):
        edit3d(ball, "make it blue", run, edit=blue, out=tmp_path / "out")


def test_there_has_to_be_something_to_edit(folder: Path) -> None:
    with pytest.raises(InputError, match="guidance=edit changes an asset: use threed edit3d"):
        check_run(make_run(folder, scene="surface"))


@pytest.mark.parametrize("name", ["toybox-edit", "edit"])
def test_the_presets_fit_the_guidance(name: str) -> None:
    (stage,) = load_run(name).stages
    assert (stage.guidance, stage.scene) == ("edit", "textured")
    assert stage.random_background == constant(0)
    assert shaped(stage).scene == "surface"
    assert len(around(stage, stage.cameras)) == stage.edit.views
