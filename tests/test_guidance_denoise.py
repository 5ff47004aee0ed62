"""Denoised pictures of a scene: diffusers' own numbers, whose turn it is, light, and resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from torch import Generator, Tensor

from guidance.denoise import KEPT, Denoise, evenly
from guidance.distill import Pull, encode_render
from guidance.prompts import Prompts
from tests.tiny import tiny_folder
from threed.core.cameras import Cameras, orbit
from threed.core.errors import InputError
from threed.core.schedule import constant
from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import load_backbone
from threed.diffusion.sampler import make_scheduler
from threed.runs.check import check_run
from threed.runs.optimise import look
from threed.runs.steer import Pictured, reference
from threed.settings.presets import load_run
from threed.settings.stage import Stage

PROMPT, LEVEL = "a red mug", 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("tiny") / "sd15", "sd15")


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load_backbone(str(folder), device="cpu")


def chance(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def make(backbone: Backbone, every: int = 4, passes: int = 2) -> Denoise:
    pull = Pull(guidance_scale=constant(3.0), weighting="x0", t_min=constant(LEVEL),
                t_max=constant(LEVEL), rescale=constant(0.0))  # fmt: skip
    prompts = Prompts(backbone, PROMPT, view_words=False)
    return Denoise(prompts, pull, every=every, passes=passes)


def views(step: int) -> Cameras:
    """Two cameras, others in each step."""
    return orbit(2, 32, elevation_deg=float(step % 40))


def image(seed: int = 0) -> Tensor:
    return torch.rand(2, 32, 32, 3, generator=chance(seed))


def test_a_denoised_picture_is_diffusers_image_to_image(backbone: Backbone, folder: Path) -> None:
    guide, generator = make(backbone, passes=4), chance(3)
    ours = guide.denoised(image()[:1], views(0)[:1], 0, generator)
    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = make_scheduler("ddim", dict(pipe.scheduler.config))
    generator = chance(3)
    torch.rand((), generator=generator)  # the level
    with torch.no_grad():
        latents = encode_render(backbone, image()[:1])
    theirs = pipe(
        PROMPT, image=latents, strength=LEVEL, num_inference_steps=8, guidance_scale=3.0,
        generator=generator, output_type="pt",
    ).images  # fmt: skip
    assert theirs.std() > 0.01
    torch.testing.assert_close(ours, theirs.movedim(1, -1), atol=1e-4, rtol=0)


def test_pictures_are_new_every_so_many_steps_and_shown_again_between(backbone: Backbone) -> None:
    guide = make(backbone, every=4)
    shown = []
    for step in range(12):
        seen = guide.cameras(step, views(step))
        new = step % 4 == 0
        assert torch.equal(seen.c2w, views(step).c2w) == new
        before = len(guide.seen)
        guide(image(step), seen, step, chance(step))
        assert len(guide.seen) == before + new
        shown.append(next(i for i, (at, _) in enumerate(guide.seen) if at.c2w is seen.c2w))
    assert shown[::2] == [0, 0, 1, 1, 2, 2], "every other step the newest"
    assert shown[9::2] == [0, 1], "between them those before, by turns"


def test_under_a_system_the_first_view_is_the_reference_and_old_pictures_keep_theirs(
    backbone: Backbone,
) -> None:
    guide = make(backbone, every=2)
    posed = Pictured(guide)
    first = posed.cameras(0, views(0))
    torch.testing.assert_close(first.c2w[:1], reference(32).c2w)
    assert torch.equal(first.c2w[1:], views(0).c2w[1:])
    posed(image(), first, 0, chance())
    assert posed.cameras(1, views(1)) is first


def test_more_steps_than_there_are_levels_are_not_asked_for(backbone: Backbone) -> None:
    guide = make(backbone, passes=1000)
    guide.pull = replace(guide.pull, t_min=constant(0.002), t_max=constant(0.002))
    made = guide.denoised(image(), views(0), 0, chance())
    assert made.shape == image().shape
    assert bool(made.isfinite().all())


def test_only_the_last_pictures_are_kept(backbone: Backbone) -> None:
    guide = make(backbone, every=1, passes=1)
    for step in range(KEPT + 2):
        guide(image(), views(step), step, chance(step))
    assert len(guide.seen) == KEPT
    assert torch.equal(guide.seen[-1][0].c2w, views(KEPT + 1).c2w)
    assert torch.equal(guide.seen[0][0].c2w, views(2).c2w)


def test_the_loss_pulls_every_pixel_towards_the_picture(backbone: Backbone) -> None:
    guide, render = make(backbone), image().requires_grad_()
    loss = guide(render, views(0), 0, chance())["denoise"]
    loss.backward()  # type: ignore[no-untyped-call]
    wanted = guide.seen[0][1]
    torch.testing.assert_close(loss, (render - wanted).abs().mean())
    assert render.grad is not None
    assert torch.equal(render.grad.sign(), (render - wanted).sign())
    assert not wanted.requires_grad


def test_it_goes_on_from_its_state_as_if_never_cut(backbone: Backbone) -> None:
    guide, again = make(backbone), make(backbone)
    for step in range(6):
        guide(image(step), guide.cameras(step, views(step)), step, chance(step))
    again.load_state_dict(guide.state_dict())
    for step in range(6, 10):
        seen = [g.cameras(step, views(step)) for g in (guide, again)]
        assert torch.equal(seen[0].c2w, seen[1].c2w)
        one, other = (
            g(image(step), at, step, chance(step))["denoise"] for g, at in zip((guide, again), seen)
        )
        assert torch.equal(one, other)


def test_light_goes_and_patterns_and_colours_stay() -> None:
    """A grey wall, of which the model made a red one with fine stripes, lit from the left."""
    before = torch.full((2, 64, 64, 3), 0.5)
    stripes = torch.tensor([0.9, 0.3]).repeat(32)[:, None, None]
    red = torch.tensor([0.8, 0.1, 0.1])
    lamp = torch.linspace(1.0, 0.6, 64)[None, :, None]
    after = evenly((stripes * red * lamp).expand(2, 64, 64, 3), before)
    columns = after.mean((1, 3))  # whose stripes are evened out
    assert float(columns.std(1).max() / columns.mean()) < 0.05, "0.15 before"
    assert abs(float(after.mean() / (stripes * red * lamp).mean()) - 1) < 0.02
    bright, dark = after[:, ::2].mean(), after[:, 1::2].mean()
    assert float(bright / dark) == pytest.approx(3.0, abs=0.1)
    assert float(after[..., 0].mean() / after[..., 1].mean()) == pytest.approx(8.0, abs=0.1)
    torch.testing.assert_close(evenly(before, before), before, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("stages.2.random_background=0.5", "random_background 0, .*, got 0.5 and 1"),
        ("stages.2.grey_background=0.5", "grey_background 0 or 1, got 0.0 and 0.5"),
        ("stages.2.lamp.place=cone", "with textured.shading=0.3 lamp.place must be even"),
        ("stages.2.lamp.soft=true", "lamp.soft false; or set it to 0"),
        ("stages.2.lamp.share=0.5", "no lamp may change"),
        ("textured.gloss=true", "lamp.place must be cone or normal, got even"),
    ],
)
def test_a_background_or_a_light_that_changes_is_refused(word: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_run(load_run("toybox-mvdream", [word]), "a red mug", mesh=False)


def test_a_step_stands_before_a_colour_a_middle_grey_or_white() -> None:
    seen: list[Tensor | None] = []
    scene = SimpleNamespace(render=lambda *_, background, **__: seen.append(background))
    folder = SimpleNamespace(run=SimpleNamespace(shading_of=lambda _: 0.0))
    stage = Stage(random_background=0.2, grey_background=0.3)
    part: Any = SimpleNamespace(stage=stage, folder=folder, scene=scene,
                                chunk=SimpleNamespace(size=1))  # fmt: skip
    for step in range(400):
        look(part, step, views(0), chance(step))
    grey = [b is not None and b.shape == (3,) and bool((b == 0.5).all()) for b in seen]
    white = [b is None for b in seen]
    assert sum(grey) / 400 == pytest.approx(0.3, abs=0.06)
    assert sum(white) / 400 == pytest.approx(0.5, abs=0.06)
    assert all(b is None or b.shape in {(3,), (2, 3)} for b in seen)
