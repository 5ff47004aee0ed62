"""What things with no name are learned from: folders of pictures, captions, words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.tiny import four_pictures
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.learned.names import spoken, unsaid
from threed.systems.personalization import dco, lora, subject
from threed.systems.personalization.teach import Rows, rare_rows, rows_of
from threed.toybox.family.examples import draw_subject


@pytest.fixture
def tiny(folder: Path) -> Any:
    return load_backbone(str(folder), device="cpu")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return four_pictures(tmp_path_factory.mktemp("toy"))


def test_dcos_own_config_is_understood(toy: Path, tmp_path: Path) -> None:
    for path in toy.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    listed = {
        "images": [f"dataset/dog/{n}.png" for n in range(4)],
        "prompts": ["a photo of a <dog>, macro"] * 4,
        "base_prompts": ["a photo of a dog, macro"] * 4,
        "inserting_tokens": ["<dog>"], "initializer_tokens": ["dog"],
    }  # fmt: skip
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"dreambooth": {"images": []}, "full_ti": listed}))
    options = dco.Options()
    examples = subject.read_subject(tmp_path, 32, options)
    assert subject.taught_words(options, tmp_path) == {"<dog>": "dog"}
    assert examples.texts("text", [3]) == ["a photo of a <dog>, macro"]
    assert examples.texts("base", [3]) == ["a photo of a dog, macro"]
    for wrong, said in (
        ("{", "is damaged"),
        ({"a": {"images": []}}, "no entry at all has the lists"),
        ({"a": listed, "b": listed}, "several entries: say config=a or config=b"),
        ({"a": listed | {"prompts": ["one"]}}, "images has 4 entries, and prompts has 1"),
        ({"a": listed | {"images": ["../x.png"] * 4}}, "names ../x.png, which is not in"),
    ):
        config.write_text(wrong if isinstance(wrong, str) else json.dumps(wrong))
        with pytest.raises(InputError, match=said):
            subject.read_subject(tmp_path, 32, options)


def test_masks_and_unreadable_pictures_are_told(toy: Path, tmp_path: Path) -> None:
    for path in toy.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "IMG_1.HEIC").write_bytes(b"not a picture")
    (tmp_path / "masks").mkdir()
    Image.new("L", (40, 48), 255).save(tmp_path / "masks" / "2.png")
    with pytest.warns(UserWarning, match="1 of 6 pictures .* IMG_1.HEIC"):
        examples = subject.read_subject(tmp_path, 32, lora.Options(name="<toy>", kind="mug"))
    assert subject.describe(examples) == "4 pictures of 40×48 pixels, 1 with a mask"
    assert examples.texts("base", [0]) == ["a photo of a mug"]
    assert float(examples.pictures("mask", [0, 1, 2]).min()) == 1.0


BAD: list[tuple[str, Callable[[Path], object], dict[str, str], str]] = [
    ("two", lambda p: [(p / f"{n}.png").unlink() for n in (1, 2)], {}, "holds 2 pictures that can"),
    ("several", lambda p: [(p / f"{n}.png").unlink() for n in range(4)] + [(p / "a").mkdir()], {},
     "holds no pictures but folders, a: one thing is taught"),
    ("caption", lambda p: (p / "2.txt").write_text("a mug"), {}, "does not say '<toy>'"),
    ("no name", lambda p: None, {"name": ""}, 'say name="<toy>"'),
    ("no kind", lambda p: None, {"kind": " "}, "say kind=mug"),
    ("prompt", lambda p: None, {"prompt": "a toy"}, "has no {}"),
    ("part of a word", lambda p: (p / "2.txt").write_text("a <toy>s"), {}, "does not say '<toy>'"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "spoil", "options", "said"), BAD, ids=[b[0] for b in BAD])
def test_what_cannot_be_taught_is_refused(
    case: str, spoil: Any, options: dict[str, str], said: str, toy: Path, tmp_path: Path
) -> None:
    for path in toy.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    spoil(tmp_path)
    told = lora.Options(**{"name": "<toy>", "kind": "mug", **options})
    with pytest.raises(InputError, match=said):
        subject.read_subject(tmp_path, 32, told)


def test_a_word_must_be_new_and_its_kind_known(tiny: Any) -> None:
    toybox = load_backbone("toybox", device="cpu")
    for model, name, kind, said in (
        (tiny, "two words", "mug", "must be one new word"),
        (tiny, "a", "mug", "is a word that backbone .* knows already"),
        (toybox, "mug", "mug", 'knows already, and would be lost: take a new one, such as "<mug>"'),
        (toybox, "<toy>", "dragon", "knows no 'dragon'"),
    ):
        with pytest.raises(InputError, match=said):
            subject.check_words(model, {name: kind})
    subject.check_words(toybox, {"<toy>": "mug"})


def test_words_are_read_as_what_they_began_as() -> None:
    words = {"<toy>": "mug", "<my-toy>": "hat"}
    assert spoken("a <my-toy> on a <toy>, <toyx>", words) == "a hat on a mug, <toyx>"
    assert unsaid(words, "a <toy>") == []
    assert unsaid([], "a mug") == []
    assert "does not say <toy> or <my-toy>" in unsaid(words, "a mug")[0]


def test_captions_say_where_the_word_stands(toy: Path) -> None:
    examples = subject.read_subject(toy, 32, lora.Options(name="<toy>", kind="mug"))
    assert examples.texts("text", range(4)) == [
        "a <toy> seen from above", "a <toy> from behind", *["a photo of a <toy>"] * 2,
    ]  # fmt: skip
    assert examples.texts("base", [1]) == ["a mug from behind"]


def test_toybox_draws_a_subject_to_learn_from(tmp_path: Path) -> None:
    one, again = (draw_subject(tmp_path / name, 4, 5, "duck") for name in ("a", "b"))
    assert one == again
    assert one.kind == "duck"
    assert sorted(p.name for p in (tmp_path / "a").glob("*.png")) == [f"0{i}.png" for i in range(4)]
    for path in (tmp_path / "a").rglob("*.png"):
        same = tmp_path / "b" / path.relative_to(tmp_path / "a")
        assert path.read_bytes() == same.read_bytes()
    examples = subject.read_subject(tmp_path / "a", 64, lora.Options(name="<toy>", kind="duck"))
    texts = examples.texts("text", range(4))
    assert all(re.fullmatch(r"a <toy> on an? .* background, \w+ view", text) for text in texts)
    masks = examples.pictures("mask", range(4)).mean((1, 2, 3))
    assert 0.05 < float(masks.min()) < float(masks.max()) < 0.8


def test_a_word_begins_as_its_kind(tiny: Any) -> None:
    rows = Rows({"<toy>": rows_of(tiny, "mug")})
    there = tiny.encode_text(["a mug on a box"])
    assert torch.equal(tiny.encode_text(["a <toy> on a box"], rows.words()).tokens, there.tokens)
    tokens = len(rows_of(tiny, "mug")[0])
    assert [len(rows_of(tiny, "mug", n)[0]) for n in (1, tokens, tokens + 2)] == [
        1, tokens, tokens + 2,
    ]  # fmt: skip
    torch.testing.assert_close(rows_of(tiny, "mug", 1)[0][0], rows_of(tiny, "mug")[0].mean(0))
    rare = rare_rows(tiny, "<toy>", "mug")[0]
    table = tiny.encoders[0].get_input_embeddings().weight
    assert torch.equal(rare[1:], rows_of(tiny, "mug")[0])
    torch.testing.assert_close(rare[0].norm(), table.norm(dim=-1).quantile(0.9))
    others = [rare_rows(tiny, name, "mug")[0] for name in ("<pot>", "<subject1>", "<subject2>")]
    assert not any(torch.equal(a, b) for a, b in combinations([rare, *others], 2))


def test_a_rare_word_is_heard_beside_its_kind() -> None:
    """toybox's text encoder hears a random row as next to nothing: such a word cannot be taught."""
    model = load_backbone("toybox", device="cpu")
    kinds, rows = ("mug", "sword", "teapot"), torch.randn(1, 128, generator=torch.manual_seed(0))
    length = model.encoders[0].get_input_embeddings().weight.norm(dim=-1).median()

    def heard(row: torch.Tensor, kind: str) -> float:
        told = model.with_words({"<toy>": (row,)}).encode_text(["a <toy>"]).tokens
        return float((told - model.encode_text([f"a {kind}"]).tokens).norm())

    for kind in kinds:
        (own,) = rows_of(model, kind)
        chance = heard(torch.cat([rows / rows.norm() * length, own]), kind)
        assert heard(rare_rows(model, "<toy>", kind)[0], kind) > 1.7 * chance
