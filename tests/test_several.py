"""Scores of single views, predicted together by a multi-view model."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from guidance.prompts import Prompts
from tests.systems import CASES
from tests.tiny import tiny_folder
from threed.core.cameras import orbit
from threed.diffusion.catalog import load_backbone
from threed.diffusion.condition import Condition
from threed.diffusion.learned.equip import equipped
from threed.diffusion.models.multiview import MultiViewDiffusion
from threed.diffusion.parts.control import new_controlnet
from threed.diffusion.score import Score, cfg, guided, plain, score
from threed.diffusion.several import OneView, together
from threed.runs.steer import Pictured, Steered
from threed.settings.run import SystemSettings
from threed.systems.table import SYSTEMS

LEARNED = ("textual_inversion", "dreambooth", "lora", "dco")  # put into the model before
EVERY = ("photo_maker", "bootcomp")  # tell each view the same, with a LoRA, with garments
FITTING = [name for name in SYSTEMS if SYSTEMS[name].several and name not in LEARNED]
X = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(3))
T = torch.full((8,), 700)
CAMERAS = orbit(8, 32)
SAID = ("a red mug, front view", "a red mug, side view", "a hat", "a blue boat") * 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MultiViewDiffusion:
    folder = tiny_folder(tmp_path_factory.mktemp("several") / "tiny", "multiview")
    loaded = load_backbone(str(folder), device="cpu")
    assert isinstance(loaded, MultiViewDiffusion)
    return loaded


class Blind:
    """A model that is told no cameras, so that each view is on its own."""

    def __init__(self, model: MultiViewDiffusion) -> None:
        self.model, self.unet, self.calls = model, model.unet, 0

    def predict_noise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.calls += 1
        return self.model.predict_noise(x, t, replace(condition, cameras=None))


def test_views_are_what_one_condition_of_them_all_is(model: MultiViewDiffusion) -> None:
    one, nothing = OneView(model), model.encode_text([""] * 8)
    each = [guided(one, one.encode_text([text]), one.encode_text([""]), 5.0) for text in SAID]
    texts = replace(model.encode_text(SAID), cameras=CAMERAS)
    expected = score(model, [texts, replace(nothing, cameras=CAMERAS)], cfg(5.0))(X, T)
    torch.testing.assert_close(together(one, each, CAMERAS)(X, T), expected, atol=1e-5, rtol=1e-5)


def test_a_view_that_asks_for_less_waits_for_the_others(model: MultiViewDiffusion) -> None:
    one, blind = OneView(model), Blind(model)
    one.model = blind  # type: ignore[assignment]
    text, other = (one.encode_text([said]) for said in ("a red mug", ""))
    first = score(one, [text, other], cfg(3.0))

    def twice(x: Tensor, t: Tensor) -> Tensor:
        noise = first(x, t)
        return noise + first(x - noise, t)

    alone = score(one, [text], plain())
    made = together(one, [twice, first, alone, alone], orbit(4, 32))(X[:4], T[:4])
    assert blind.calls == 2
    seen = score(model, [text, other], cfg(3.0))
    noise = seen(X[:1], T[:1])
    expected = [noise + seen(X[:1] - noise, T[:1]), seen(X[1:2], T[1:2]),
                score(model, [text], plain())(X[2:4], T[2:4])]  # fmt: skip
    torch.testing.assert_close(made, torch.cat(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", FITTING)
def test_a_system_tells_each_view_what_it_tells_one(name: str, model: MultiViewDiffusion) -> None:
    one, blind = OneView(model), Blind(model)

    def scores(backbone: MultiViewDiffusion) -> list[Score]:
        telling = CASES[name].typical(backbone).alone()
        if name in EVERY:
            return [telling] * 4
        text, other = (backbone.encode_text([said]) for said in ("a hat", ""))
        return [telling, guided(backbone, text, other, 5.0)] * 2

    x, t, cameras = X[:4], T[:4], orbit(4, 32)
    seen = together(one, scores(one), cameras)(x, t)
    alone = [told(x[i : i + 1], t[i : i + 1]) for i, told in enumerate(scores(model))]
    one.model = blind  # type: ignore[assignment]
    apart = together(one, scores(one), cameras)(x, t)
    torch.testing.assert_close(apart, torch.cat(alone), atol=1e-4, rtol=1e-3)
    assert float((seen - apart).norm() / apart.norm()) > 0.01  # views see each other


# scenes


def controlled(model: MultiViewDiffusion, place: Path, *knobs: str) -> Steered:
    """A cup whose outlines from the front are told."""
    net = new_controlnet(model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    net.save_pretrained(place / "net")
    Image.new("RGB", (32, 32), "white").save(place / "edges.png")
    inputs = {"control": (f"edges:{place / 'edges.png'}",), "weights": (str(place / "net"),)}
    told = SystemSettings(name="controlnet", inputs=inputs, knobs=knobs)
    return Steered(model, "a cup", told, scale=5.0)


def test_a_picture_guides_its_view_and_through_it_the_others(
    model: MultiViewDiffusion, tmp_path: Path
) -> None:
    cameras, (x, t) = orbit(4, 32), (X[:4], T[:4])
    plainly = Prompts(model, "a cup").score(cameras, 5.0)(x, t)
    ready, silent = controlled(model, tmp_path), controlled(model, tmp_path, "strength=0")
    change = (ready.score(cameras, 5.0)(x, t) - plainly).flatten(1).norm(dim=1)
    assert float(change[0]) > 3 * float(change[1:].max()) > 1e-4
    for rescale in (0.0, 0.7):
        expected = Prompts(model, "a cup").score(cameras, 5.0, rescale)(x, t)
        made = silent.score(cameras, 5.0, rescale)(x, t)
        torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-3)


def test_the_pictured_view_comes_with_its_group_in_half_of_the_steps() -> None:
    drawn = orbit(8, 12, start_deg=50.0)
    guide: Any = Pictured(lambda *_: {}, together=4)  # type: ignore[arg-type]
    there = orbit(4, 12)
    for every in (1, 2, 8):
        seen = [guide.cameras(step, drawn) for step in range(0, 64 * every, every)]
        shown = [cameras for cameras in seen if torch.equal(cameras.c2w[:4], there.c2w)]
        assert len(shown) == 32
        assert all(torch.equal(cameras.c2w[4:], drawn.c2w[4:]) for cameras in seen)
        assert sum(torch.equal(cameras.c2w, drawn.c2w) for cameras in seen) == 32


@torch.no_grad()
def test_a_whole_unet_that_was_learned_moves_that_of_several_views(
    model: MultiViewDiffusion, tmp_path: Path
) -> None:
    single = load_backbone(str(model.folder), device="cpu")
    net: Any = copy.deepcopy(single.unet)  # type: ignore[attr-defined]
    net.conv_out.bias.add_(0.25)
    net.save_pretrained(tmp_path / "unet")
    for weight in (1.0, 0.5):
        moved = equipped(model, [(tmp_path, weight)], "dreambooth")
        changes = {name: float((value - model.unet.get_parameter(name)).abs().max())
                   for name, value in moved.unet.named_parameters()}  # fmt: skip
        assert changes.pop("conv_out.bias") == pytest.approx(0.25 * weight, abs=1e-6)
        assert max(changes.values()) == 0
        assert isinstance(moved, MultiViewDiffusion)
