"""Prompts: what is refused, what is warned of, what each view is told."""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from guidance.prompts import Prompts, prompt_warnings
from guidance.views import negative_weights, shares
from threed.core.cameras import Cameras, at
from threed.core.errors import InputError
from threed.core.words import check_prompt
from threed.diffusion.backbone import Backbone
from threed.diffusion.condition import Condition
from threed.diffusion.reading import Vocabulary


def cameras(*places: tuple[float, float]) -> Cameras:
    azimuth, elevation = torch.tensor(places).unbind(1)
    one = torch.ones(len(places))
    return at(azimuth, elevation, 3 * one, 40 * one, 8)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", "the prompt is empty"),
        ("  \n\t ", "the prompt is empty"),
        ("x" * 10_000, "has 10,000 characters; at most 1,000"),
        ("a red\x00mug", r"control character \(U\+0000, at position 6\)"),
        ("a red\nmug", r"control character \(U\+000A, at position 6\)"),
        ("a \x1b[31mred mug", r"U\+001B"),
        ("a \ud800mug", r"U\+D800"),
    ],
)
def test_prompts_that_cannot_be_meant_are_refused(prompt: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        check_prompt(prompt)


@pytest.mark.parametrize(
    "prompt", ["a red mug", "红色的杯子", "чашка", "كوب أحمر", "🫖", "x" * 1000]
)
def test_any_script_is_a_prompt(backbone: Backbone, prompt: str) -> None:
    assert check_prompt(f"  {prompt} ") == prompt
    condition = backbone.encode_text([prompt])
    assert bool(torch.isfinite(condition.tokens).all())


def test_each_view_is_told_its_name(backbone: Backbone) -> None:
    prompts = Prompts(backbone, "a red mug", negative="blurry")
    places = [(0.0, 0.0), (90.0, 10.0), (180.0, 0.0), (-90.0, 0.0), (20.0, 80.0), (40.0, 30.0)]
    names = ["front", "side", "back", "side", "overhead", "front"]
    text = prompts.text(cameras(*places))
    negative = prompts.same("blurry", cameras(*places))
    expected = backbone.encode_text([f"a red mug, {name} view" for name in names])
    torch.testing.assert_close(text.tokens, expected.tokens)
    torch.testing.assert_close(negative.tokens, backbone.encode_text(["blurry"] * 6).tokens)


def test_without_view_words_all_views_are_told_the_prompt(backbone: Backbone) -> None:
    prompts, seen = Prompts(backbone, "a red mug", view_words=False), cameras((0, 0), (180, 0))
    text, negative = prompts.text(seen), prompts.same("", seen)
    torch.testing.assert_close(text.tokens, backbone.encode_text(["a red mug"] * 2).tokens)
    torch.testing.assert_close(negative.tokens, backbone.encode_text([""] * 2).tokens)


PLACES = [(az, 10.0) for az in (0.0, 30.0, 60.0, 90.0, 120.0, 150.0, 180.0, -120.0)]


def test_a_front_is_as_wide_as_asked(backbone: Backbone) -> None:
    narrow, there = (
        Prompts(backbone, "a red mug", front_deg=30),
        cameras((35.0, 20.0), (25.0, 20.0)),
    )
    side, front = backbone.encode_text(["a red mug, side view", "a red mug, front view"]).tokens
    torch.testing.assert_close(narrow.text(there).tokens, torch.stack([side, front]))


def test_between_two_views_their_embeddings_are_mixed(backbone: Backbone) -> None:
    prompts = Prompts(backbone, "a red mug", blend="linear")
    tokens = prompts.text(cameras(*PLACES, (100.0, 70.0))).tokens
    names = ("front", "side", "back", "overhead")
    front, side, back, overhead = backbone.encode_text(
        [f"a red mug, {n} view" for n in names]
    ).tokens
    mixed = [front, (2 * front + side) / 3, (front + 2 * side) / 3, side, (2 * side + back) / 3,
             (side + 2 * back) / 3, back, (2 * side + back) / 3, overhead]  # fmt: skip
    torch.testing.assert_close(tokens, torch.stack(mixed))


def test_a_camera_that_moves_is_told_it_without_a_jump() -> None:
    around = cameras(*((az + 0.5, 20.0) for az in range(-180, 180)))
    soft, hard = shares(around, "linear"), shares(around, "nearest")
    torch.testing.assert_close(soft.sum(1), torch.ones(360))
    assert float(soft.diff(dim=0).abs().max()) < 0.012
    assert float(hard.diff(dim=0).abs().max()) == 1
    assert torch.equal(soft.argmax(1) == hard.argmax(1), torch.ones(360, dtype=torch.bool))
    weights = negative_weights(around)
    # continuous too, but for f_sf, which is 1.574 at the side's end and meets f_sb at 0 there
    assert float(weights.diff(dim=0).abs().max()) < 0.03


def test_perp_negs_weights_are_threestudios() -> None:
    """Its decaying weights of views (the defaults of f_sb, f_fsb, f_fs), written out here."""
    weights = -negative_weights(cameras(*PLACES, (100.0, 70.0)))

    def f(r: float, a: float, b: float, c: float) -> float:
        return a * math.exp(-b * r) + c

    front_side, side_back, both_back = (4, 0.5, -2.426), (1, 0.5, -0.606), (1, 0.5, 0.967)
    expected = [(f(r, *front_side), f(1 - r, *front_side)) for r in (1, 2 / 3, 1 / 3)]
    expected += [(f(r, *both_back), f(r, *side_back)) for r in (1, 2 / 3, 1 / 3, 0, 2 / 3)]
    torch.testing.assert_close(weights, torch.tensor([*expected, (0, 0)]), atol=1e-3, rtol=1e-3)
    assert float(weights.min()) >= 0


def test_perp_neg_keeps_a_view_from_its_neighbours(backbone: Backbone) -> None:
    seen = cameras((30.0, 10.0), (150.0, 10.0))
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([300, 700])
    prompts = Prompts(backbone, "a red mug", negative="blurry", blend="perp_neg")
    result = prompts.score(seen, 7.0)(x, t)

    def noise(condition: Condition) -> Tensor:
        return backbone.predict_noise(x, t, condition)

    other = noise(prompts.same("blurry", seen))
    main = noise(prompts.text(seen)) - other
    total = main.clone()
    for name, weight in zip(("front", "side"), negative_weights(seen).unbind(1)):
        away = noise(prompts.same(f"a red mug, {name} view", seen)) - other
        for i in range(2):
            along = (away[i] * main[i]).sum() / main[i].square().sum()
            total[i] += weight[i] * (away[i] - along * main[i])
    torch.testing.assert_close(result, other + 7 * total, atol=1e-4, rtol=1e-4)
    above = cameras((0.0, 80.0), (90.0, 80.0))
    plain = Prompts(backbone, "a red mug", negative="blurry")
    expected = plain.score(above, 7.0)(x, t)
    torch.testing.assert_close(prompts.score(above, 7.0)(x, t), expected, atol=1e-5, rtol=1e-4)


@dataclass
class Counting:
    """Counts the texts that are encoded."""

    inner: Backbone
    views: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    texts: list[str] = field(default_factory=list)

    def encode_text(self, prompts):  # type: ignore[no-untyped-def]
        self.texts += prompts
        return replace(self.inner.encode_text(prompts))


def test_texts_are_encoded_once(backbone: Backbone) -> None:
    counting = Counting(backbone)
    prompts = Prompts(counting, "a red mug")  # type: ignore[arg-type]
    for _ in range(3):
        prompts.text(cameras((0, 0), (90, 0)))
        prompts.bare(cameras((0, 0)))
        prompts.same("", cameras((0, 0)))
    assert sorted(counting.texts) == sorted(
        ["a red mug", "a red mug, front view", "a red mug, side view", "a red mug, back view",
         "a red mug, overhead view", ""]
    )  # fmt: skip


def test_unknown_words_and_a_cut_end_are_warned_of(backbone: Backbone, folder: Path) -> None:
    assert prompt_warnings(backbone, "a red mug of jade", {"the negative prompt": "ugly"}) == []
    shown = Vocabulary(frozenset({"a", "red", "mug"}), ("mug",))
    few = copy(backbone)
    few.vocabulary = shown
    others = {"the negative prompt": "ugly, red", "--source": "a jade mug"}
    two, negative, source = prompt_warnings(few, "a dragon mug of jade", others)
    assert "never shown 'dragon', 'of', 'jade', so the prompt reads: \"a mug\"; sd15" in two
    assert "never shown 'ugly', so the negative prompt reads: \"red\"" in negative
    assert "never shown 'jade', so --source reads: \"a mug\"" in source
    _, nothing, kind = prompt_warnings(few, "something red", {"the negative prompt": "ugly"})
    assert "never shown 'ugly', so nothing is left of the negative prompt" in nothing
    assert "names no thing that backbone" in kind
    assert "it knows mug" in kind
    assert len(prompt_warnings(few, "something red", instructs=True)) == 1
    (cut,) = prompt_warnings(few, "a red mug, a red mug, a red mug, a red mug, a red mug")
    assert "reads the first 32: its end is ignored" in cut
