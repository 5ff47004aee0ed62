"""Words that a backbone was never shown: what each face says of them, and what it makes then."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.test_pipeline import make_run
from tests.tiny import tiny_folder
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.parts.heat import heat_maps
from threed.diffusion.parts.words import swap, word_tokens
from threed.learning.data import write_examples
from threed.runs.check import check_run
from threed.runs.folder import RunWarning
from threed.runs.generate import generate
from threed.runs.image import image
from threed.runs.steer import Steered, settled
from threed.runs.train import train
from threed.settings.base import replace
from threed.settings.run import SystemSettings

TOLD = {"steps": 2, "device": "cpu", "seed": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that was shown few words."""
    path = tiny_folder(tmp_path_factory.mktemp("tiny") / "few")
    words = "a and red blue mug hat make it on front back side overhead view ,"
    (path / "tokenizer" / "words.txt").write_text(words.replace(" ", "\n"), encoding="utf-8")
    (path / "tokenizer" / "kinds.txt").write_text("mug\nhat\n", encoding="utf-8")
    return str(path)


def told(call: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What a call gives, and what it says."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    return result, [str(w.message) for w in caught if issubclass(w.category, RunWarning)]


def test_a_picture_is_that_of_what_is_read_and_each_text_is_told_once(folder: str) -> None:
    p2p = {"system": "prompt_to_prompt", "backbone": folder, **TOLD}
    made, said = told(lambda: image("a blue mug on the moon", source="a shiny red mug",
                                    negative="ugly hat", weigh="blue:2", **p2p))  # fmt: skip
    reads = [text.partition("so ")[2].partition("; ")[0] for text in said]
    assert reads == ['the prompt reads: "a blue mug"', '--source reads: "a red mug"',
                     'the negative prompt reads: "hat"']  # fmt: skip
    plain, quiet = told(lambda: image("a blue mug", source="a red mug", negative="hat",
                                      weigh="blue:2", **p2p))  # fmt: skip
    assert torch.equal(made, plain)
    assert quiet == []


@pytest.mark.parametrize(("prompt", "inputs", "what"), [
    ("ein Becher", {}, "the prompt, 'ein Becher'; it draws mug, hat"),
    ("a mug", {"system": "prompt_to_prompt", "source": "ein Becher"}, "--source, 'ein Becher'"),
    ("two mugs", {"system": "rpg", "region": ("0,0,0.5,1:a mug", "0.5,0,1,1:龙")},
     "--region (2), '龙'"),
    ("two mugs", {"system": "rpg", "split": "1,1", "region": ("龙", "a mug")}, "--region, '龙'"),
])  # fmt: skip
def test_what_says_nothing_is_refused_before_anything_is_loaded(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompt: str, inputs: Any,
    what: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("threed.runs.image.load_backbone", None)
    monkeypatch.setattr("threed.runs.backbones.load_backbone", None)
    with pytest.raises(InputError) as error:
        image(prompt, backbone=folder, **inputs)
    assert f"knows no word of {what}" in str(error.value)
    system = SystemSettings(
        name=inputs.get("system"),
        inputs={name: (value,) if isinstance(value, str) else value
                for name, value in inputs.items() if name != "system"},
    )  # fmt: skip
    run = replace(make_run(guidance="sds"), backbone=folder, system=system)
    with pytest.raises(InputError) as error:
        generate(prompt, run, out=tmp_path / "run")
    assert f"knows no word of {what}" in str(error.value)
    assert not (tmp_path / "run").exists()
    check_run(run)


def test_an_instruction_needs_no_kind(folder: str) -> None:
    _, said = told(lambda: image("make it blue", backbone=folder, **TOLD))
    assert [text[:47] for text in said] == [
        "the prompt names no thing that backbone " + repr(folder)[:7]
    ]


def test_words_are_found_in_what_is_read(folder: str) -> None:
    model = load_backbone(folder, device="cpu")
    assert word_tokens(model, "my red mugs", "mugs") == word_tokens(model, "red mug", "mug")
    with pytest.raises(InputError, match="no word 'moon' in the prompt 'a mug'"):
        word_tokens(model, "a mug on the moon", "moon")
    both = (swap(model, *pair, 12) for pair in (
        ("a shiny red mug", "a blue mug of jade"), ("a red mug", "a blue mug")))  # fmt: skip
    one, other = both
    assert torch.equal(one.matrix, other.matrix)
    assert [*heat_maps(model, "a red mug on the moon", steps=1)[1]] == ["a", "red", "mug"]


def test_plans_are_of_what_is_read(folder: str) -> None:
    prompt = "a red mug and a dragon"
    run = replace(make_run(guidance="sds"), backbone=folder, system=SystemSettings(name="rpg"))
    assert settled(run, prompt).system.inputs["region"] == ("0,0,1,1:a red mug",)
    model = load_backbone(folder, device="cpu")
    assert Steered(model, prompt, run.system, scale=5.0).request.all("region") == (
        "0,0,1,1:a red mug",
    )
    rpg = {"system": "rpg", "backbone": folder, **TOLD}
    assert torch.equal(told(lambda: image(prompt, **rpg))[0], image("a red mug", **rpg))


def test_a_training_says_which_words_it_leaves_out(folder: str, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), "white").save(tmp_path / "0.png")
    write_examples(tmp_path, [{"image": "0.png", "text": "a red bar"}])
    options = {"backbone": folder, "steps": 1, "batch": 1, "accumulate": 1, "device": "cpu"}
    _, said = told(lambda: train("controlnet", tmp_path, tmp_path / "out", **options))
    (note,) = said
    assert note.endswith("left out: bar. 'a red bar' reads: \"red\"")
