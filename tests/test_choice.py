"""Fronts counted around a thing, the best of several seeds, and the views before a run."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from tests import tiny
from tests.test_particles import ASSET, make_run
from threed.core.errors import InputError
from threed.core.schedule import constant
from threed.diffusion import fronts
from threed.diffusion.catalog import load_backbone
from threed.diffusion.fronts import VIEWS, Fronts, chart, find_fronts, read_waves
from threed.runs import choose as choice
from threed.runs import loop as pipeline
from threed.runs.choose import Candidate, best
from threed.runs.folder import RunFolder, RunWarning
from threed.runs.generate import generate, resume
from threed.settings.base import replace
from threed.settings.run import Run
from threed.toybox.judge.measure import turntable
from threed.toybox.world.toys import random_toy

CIRCLE = torch.arange(VIEWS) / VIEWS * 2 * torch.pi


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny multi-view backbone with a tiny CLIP beside it."""
    unet = tiny.tiny_folder(tmp_path_factory.mktemp("models") / "tiny", "multiview")
    text = CLIPTextConfig(vocab_size=514, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                          num_attention_heads=2, max_position_embeddings=32, bos_token_id=512,
                          eos_token_id=513, pad_token_id=513)  # fmt: skip
    vision = CLIPVisionConfig(image_size=32, patch_size=8, hidden_size=16, intermediate_size=32,
                              num_hidden_layers=1, num_attention_heads=2)  # fmt: skip
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(),
                        projection_dim=16)  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(unet.parent / "clip")
    return str(unet)


def small_run(model: str, **changes: Any) -> Run:
    run = make_run("toybox", 1, steps=4)
    stage = replace(run.stages[0], guidance="mvdream", batch=4, resolution=constant(12))
    return replace(run, backbone=model, stages=(stage,), **changes)


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_wave_for_each_front(count: int) -> None:
    noise = torch.randn(12, VIEWS, generator=Generator().manual_seed(count))
    found = read_waves((count * CIRCLE).cos() + 0.3 * noise + 5.0)
    assert found.count == count
    assert found.certainty > 3
    assert int(found.likeness.argmax()) % (VIEWS // count) in (0, 1, VIEWS // count - 1)


def test_noise_alone_is_no_front() -> None:
    noises = [torch.randn(12, VIEWS, generator=Generator().manual_seed(i)) for i in range(200)]
    assert all(read_waves(fronts.HIGH * noise).count is None for noise in noises)
    assert [read_waves(noise).count for noise in noises].count(None) > 150, "however strong"
    assert read_waves(torch.zeros(12, VIEWS)).count is None


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("wide_deg", [20, 60])
def test_narrow_fronts_are_counted_too(count: int, wide_deg: int) -> None:
    noise = torch.randn(12, VIEWS, generator=Generator().manual_seed(0))
    away = (CIRCLE * count + torch.pi) % (2 * torch.pi) - torch.pi  # of the nearest front
    seen = (-0.5 * (away / count / math.radians(wide_deg / count)).square()).exp()
    found = read_waves((seen + 0.1 * noise) * 100 * fronts.HIGH)
    assert found.count == count


def test_a_low_wave_is_no_front_however_sure() -> None:
    noise = torch.randn(12, VIEWS, generator=Generator().manual_seed(0))
    wave = (2 * CIRCLE).cos() + 0.1 * noise
    high, low = (read_waves(wave * size * fronts.HIGH) for size in (4, 1))
    assert high.count == 2
    assert high.height == pytest.approx(2 * fronts.HIGH, rel=0.1)
    assert low.count is None
    assert low.certainty == pytest.approx(high.certainty)


def test_toybox_tells_one_front_from_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fronts, "LEVELS", (300, 450, 600, 750))  # a third of the work
    backbone = load_backbone("toybox", device="cpu")
    pictures = turntable(random_toy(np.random.default_rng(1), "bear", "red", "plain"), VIEWS)
    half = VIEWS // 2
    front = pictures.roll(half // 2, 0)[:half]  # from one side over the front to the other
    twice = torch.cat([front, front])
    assert find_fronts(backbone, "a red bear", pictures).waves == 1
    assert find_fronts(backbone, "a red bear", twice).waves == 2


def test_too_few_pictures_and_the_chart() -> None:
    with pytest.raises(ValueError, match="at least 8 pictures around, got 4"):
        find_fronts(load_backbone("toybox"), "a mug", torch.zeros(4, 3, 64, 64))
    likeness = torch.zeros(VIEWS)
    likeness[0], likeness[6] = 3.0, -3.0
    drawn = chart(torch.ones(VIEWS, 3, 16, 16), Fronts(likeness, 1, 1.0, 9.0))
    assert drawn.shape == (3, 20, 16 * VIEWS)
    bars = drawn[:, 16:, 8::16]
    red = (bars[0] - bars[1] > 0.3).sum(0)
    assert red.tolist() == [4] + [0] * 11
    assert bool((drawn[:, 16:, 6 * 16 + 8] < 0.8).all()), "grey where it is least like a front"


def test_the_best_is_near_the_prompt_and_has_one_front() -> None:
    two, one, none = Candidate(0, 0.9, 2), Candidate(1, 0.5, 1), Candidate(2, 0.4, None)
    assert best([two, one, none]) == one
    assert best([none, two]) == none
    assert best([two, dataclasses.replace(two, seed=5, clip=0.95)]).seed == 5


def test_the_best_seed_goes_on_as_if_it_had_been_alone(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rated: list[int] = []
    fronts = {seed: torch.full((1, 3, 4, 4), seed / 5) for seed in (3, 4, 5)}

    def rate(
        scene: Any, backbone: Any, clip: Any, prompt: str, seed: int
    ) -> tuple[Candidate, torch.Tensor]:
        rated.append(seed)
        assert clip.texts([prompt]).shape == clip.images(torch.rand(1, 3, 32, 32)).shape
        return Candidate(seed, {3: 0.2, 4: 0.3, 5: 0.1}[seed], 1), fronts[seed]

    monkeypatch.setattr(choice, "rate", rate)
    asset = generate("a red mug", small_run(model, best_of=3), out=tmp_path / "a")
    assert rated == [3, 4, 5]
    report = json.loads((asset.folder / "report.json").read_text())
    assert [one["seed"] for one in report["best_of"]] == [3, 4, 5]
    with Image.open(asset.folder / choice.CANDIDATES) as sheet:
        assert [sheet.getpixel((x, 0))[0] for x in (0, 4, 11)] == [153, 204, 255]
    run = RunFolder.open(asset.folder).run
    assert (run.seed, run.best_of) == (4, 1)
    assert not (asset.folder / "seeds").exists()
    alone = generate("a red mug", small_run(model, seed=4), out=tmp_path / "b")
    assert asset.glb.read_bytes() == alone.glb.read_bytes()
    steps = [json.loads(line).get("step") for line in
             (asset.folder / "log.jsonl").read_text().splitlines()]  # fmt: skip
    assert steps == [1, 2, 3, 4, None]


def test_choosing_goes_on_after_a_cut(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate, seen = choice.rate, list[int]()

    def cut(
        scene: Any, backbone: Any, clip: Any, prompt: str, seed: int
    ) -> tuple[Candidate, torch.Tensor]:
        seen.append(seed)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return rate(scene, backbone, clip, prompt, seed)

    monkeypatch.setattr(choice, "rate", cut)
    with pytest.raises(KeyboardInterrupt):
        generate("a red mug", small_run(model, best_of=2), out=tmp_path / "a")
    asset = resume(tmp_path / "a")
    assert seen == [3, 4, 3, 4]
    with Image.open(asset.folder / choice.CANDIDATES) as sheet:
        assert sheet.size == (2 * choice.SMALL, choice.SMALL)
    report = json.loads((asset.folder / "report.json").read_text())
    assert all(-1 <= one["clip"] <= 1 for one in report["best_of"])
    assert len({one["clip"] for one in report["best_of"]}) == 2


def test_seeds_need_a_clip(tmp_path: Path) -> None:
    folder = str(tiny.tiny_folder(tmp_path / "bare", "multiview"))
    with pytest.raises(InputError, match="clip"):
        generate("a red mug", small_run(folder, best_of=2), out=tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("count", [1, 2])
def test_several_fronts_are_warned_about_with_a_picture(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    waves = (count * CIRCLE).cos()
    monkeypatch.setattr(choice, "find_fronts", lambda *_: Fronts(waves, count, 1.0, 9.0))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asset = generate("a red mug", small_run(model), out=tmp_path / "a")
    told = [str(w.message) for w in caught if w.category is RunWarning]
    assert any("as if it had 2 fronts" in text for text in told) == (count == 2)
    assert json.loads((asset.folder / "report.json").read_text())["fronts"] == count
    picture = asset.folder / "fronts.png"
    assert picture.exists() == (count == 2)
    if count == 2:
        assert size_of(picture) == (128 * VIEWS, 160)


def test_the_check_can_be_left_out(tmp_path: Path, model: str) -> None:
    asset = generate("a red mug", small_run(model, check_fronts=False), out=tmp_path / "a")
    assert json.loads((asset.folder / "report.json").read_text())["fronts"] is None


def test_a_preview_is_what_the_backbone_makes_of_the_prompt(tmp_path: Path, model: str) -> None:
    said: list[str] = []
    run = small_run(model, asset=replace(ASSET, turntable_frames=2))
    asset = generate("a red mug", run, preview=True, out=tmp_path / "a",
                     progress=lambda p: said.append(p.message))  # fmt: skip
    path = asset.folder / "views.png"
    assert size_of(path) == (4 * 32, 32)
    assert any(str(path) in message for message in said)
    one = load_backbone(str(Path(model).parent), device="cpu")
    single = pipeline.sample_views(one, "a red mug", run)
    assert single.shape == (4, 3, 32, 32)
    assert not torch.equal(single[0], single[2]), "front and back are asked for by their words"
