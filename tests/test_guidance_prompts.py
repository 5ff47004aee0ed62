"""Prompts: what is refused, what is warned of, what each view is told."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from guidance.prompts import Prompts, check_prompt, prompt_warnings
from tests.tiny import tiny_folder
from threed.cameras import at
from threed.core import Cameras, InputError
from threed.diffusion.backbone import Backbone, load_backbone


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("tiny") / "sd15")


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return load_backbone(str(folder), device="cpu")


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
    text, negative = prompts(cameras(*places))
    expected = backbone.encode_text([f"a red mug, {name} view" for name in names])
    torch.testing.assert_close(text.tokens, expected.tokens)
    torch.testing.assert_close(negative.tokens, backbone.encode_text(["blurry"] * 6).tokens)


def test_without_view_words_all_views_are_told_the_prompt(backbone: Backbone) -> None:
    text, negative = Prompts(backbone, "a red mug", view_dependent=False)(cameras((0, 0), (180, 0)))
    torch.testing.assert_close(text.tokens, backbone.encode_text(["a red mug"] * 2).tokens)
    torch.testing.assert_close(negative.tokens, backbone.encode_text([""] * 2).tokens)


@dataclass
class Counting:
    """Counts the texts that are encoded."""

    inner: Backbone
    texts: list[str] = field(default_factory=list)

    def encode_text(self, prompts):  # type: ignore[no-untyped-def]
        self.texts += prompts
        return replace(self.inner.encode_text(prompts))


def test_texts_are_encoded_once(backbone: Backbone) -> None:
    counting = Counting(backbone)
    prompts = Prompts(counting, "a red mug")  # type: ignore[arg-type]
    for _ in range(3):
        prompts(cameras((0, 0), (90, 0)))
    assert sorted(counting.texts) == sorted(
        ["a red mug, front view", "a red mug, side view", "a red mug, back view",
         "a red mug, overhead view", ""]
    )  # fmt: skip


def test_unknown_words_and_a_cut_end_are_warned_of(backbone: Backbone, folder: Path) -> None:
    assert prompt_warnings(backbone, "a red mug") == []
    words = folder / "tokenizer" / "words.txt"
    words.write_text("a\nred\nmug\n")
    try:
        (one,) = prompt_warnings(backbone, "a red dragon")
        (two,) = prompt_warnings(backbone, "a dragon mug of jade")
        _, cut = prompt_warnings(backbone, "a red mug, and more words than ever fit")
    finally:
        words.unlink()
    assert "never shown 'dragon', so the result may ignore it; these know far more" in one
    assert "sd15" in one
    assert "never shown 'dragon', 'of', 'jade', so the result may ignore them" in two
    assert "reads the first 32: its end is ignored" in cut
