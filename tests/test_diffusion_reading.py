"""What a model of few words reads of a prompt."""

from __future__ import annotations

import re
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from threed.core.errors import InputError
from threed.diffusion.reading import LINKS, NOT_DRAWN, Vocabulary, check_known, note_of_many
from threed.toybox.world.captions import kinds, vocabulary

with patch("threed.toybox.world.phrases.words", list):  # without the words that say nothing
    WORDS = vocabulary()
TOYBOX = Vocabulary(frozenset(WORDS), tuple(kinds()))
FILLED = Vocabulary(frozenset(vocabulary()), tuple(kinds()))
STRANGE = ("moon", "highly", "grandmother's", "flowers", "4k", "mugs", "fire-red", "t-shirt",
           "红色", "🫖", "3", "&", "like", "no", "without", "near", "under", "boxes", "cups",
           "very", "a-b_c", "robot’s", "<toy>")  # fmt: skip
MARKS = (",", ".", "!", "(", ")", "'", '"', ":", ";", "-", "—", "\n", "_")

READ = {  # one line a kind of leftover
    "a red teapot on the moon": "a red teapot",
    "a red teapot, highly detailed": "a red teapot",
    "my grandmother's red teapot": "red teapot",
    "a red teapot with flowers": "a red teapot",
    "a red teapot with shiny blue flowers": "a red teapot",
    "a green duck, 4k, trending": "a green duck",
    "highly detailed, a green duck": "a green duck",
    "A Cute Yellow Duck!": "A Yellow Duck",
    "an old red teapot": "a red teapot",
    "a shiny orange bottle": "an orange bottle",
    "two red mugs": "red mug",
    "many boxes": "box",
    "a pile of red apples": "red apple",
    "a red mug on top of a pile of red apples": "a red mug on top of red apple",
    "a red, shiny teapot": "a red teapot",
    "a red and golden teapot": "a red teapot",
    "a pink cupcake with icing on top": "a pink cupcake",
    "a duck wearing a shiny top hat": "a duck wearing a top hat",
    "a white mug on a shiny white background": "a white mug on a white background",
    "a light-blue car": "a blue car",
    "a teapot-shaped lamp": "a lamp",
    "a (shiny:1.2) red rocket": "red rocket",
    "a robot's hat": "a hat",
    "a red teapot in front of a castle": "a red teapot",
    "a red ball to the left of a shiny blue cube": "a red ball to the left of a blue cube",
    "a red ball to the left of a unicorn": "a red ball",
    "a red ball on the left and a shiny cube on the right":
        "a red ball on the left and a cube on the right",
    "a red ball near a blue cube": "a red ball and a blue cube",
    "a red ball fighting a blue cube": "a red ball and a blue cube",
    "a red ball & a blue cube, 8k": "a red ball and a blue cube",
    "a red ball and, of course, a blue cube": "a red ball, a blue cube",
    "a bear without a hat": "a bear",
    "a house that looks like a mushroom": "a house",
    "a robot made of red boxes": "a robot",
    "near a red ball": "a red ball",
    "make the teapot crimson": "make the teapot",
    "turn it into a dragon": "turn it",
    "something blue": "blue",
    "a green dragon": "green",
    "ein roter Becher": "",
    "红色的茶壶": "",
    "blurry, low quality": "",
}  # fmt: skip


READ_WITH_FILLERS = {  # words that toybox has learned to paint nothing for stay
    "a red teapot on the moon": "a red teapot on the moon",
    "a red teapot, highly detailed": "a red teapot, highly detailed",
    "a red teapot on the iceberg": "a red teapot",
    "a shiny teapot with metallic blue flowers": "a shiny teapot with blue flowers",
    "a house that looks like a mushroom": "a house that",
    "a brown table made of oak": "a brown table",
    "a red mug that i like": "a red mug that i like",
}


@pytest.mark.parametrize(("prompt", "read"), READ.items())
def test_what_is_left_has_no_loose_ends(prompt: str, read: str) -> None:
    assert TOYBOX.read(prompt) == read
    assert TOYBOX.knows(prompt) == bool(read)


@pytest.mark.parametrize(("prompt", "read"), READ_WITH_FILLERS.items())
def test_words_that_say_nothing_stay(prompt: str, read: str) -> None:
    assert FILLED.read(prompt) == read


def test_kinds_are_what_can_be_drawn() -> None:
    assert TOYBOX.has_kind("a photo of two mugs on the moon")
    assert not TOYBOX.has_kind("something blue")
    assert Vocabulary(TOYBOX.words).has_kind("something blue")  # no list of kinds


def drawn(rng: np.random.Generator, words: list[str]) -> str:
    """A prompt of up to ten words and marks, with blanks or without."""
    count = int(rng.integers(1, 11))
    return "".join(word if word in MARKS else f" {word}" for word in rng.choice(words, count))


def test_prompts_of_known_words_stay_as_they_are() -> None:
    rng = np.random.default_rng(0)
    known = [*WORDS, *map(str.title, WORDS), *MARKS]
    for _ in range(300):
        prompt = drawn(rng, known)
        assert TOYBOX.read(prompt) == prompt


@pytest.mark.parametrize("shown", [
    TOYBOX, Vocabulary(TOYBOX.words), Vocabulary(TOYBOX.words - {"a", "and", "the"}, TOYBOX.kinds),
    Vocabulary(TOYBOX.words, TOYBOX.kinds, ("<toy>",)), FILLED,
])  # fmt: skip
def test_what_is_read_is_known_short_and_read_again_as_it_is(shown: Vocabulary) -> None:
    rng = np.random.default_rng(1)
    words = [*WORDS, *4 * STRANGE, *4 * LINKS, *NOT_DRAWN, *4 * ("a", "the", "an"), *MARKS]
    for _ in range(600):
        prompt = drawn(rng, words)
        read = shown.read(prompt)
        assert not shown.unknown(read), prompt
        assert shown.read(read) == read, prompt
        given = [*re.findall(r"[^\W_]+", prompt.lower()), "a", "an", "and"]
        assert all(any(word in (w, w.removesuffix("s"), w.removesuffix("es")) for w in given)
                   for word in re.findall(r"[^\W_]+", read.lower())), prompt  # fmt: skip
        tail = ", front view"  # of a view in 3D
        if shown.knows(prompt) and shown.unknown(prompt) and shown.kinds:
            assert shown.read(prompt + tail) == read + tail


def test_two_things_stay_two() -> None:
    rng = np.random.default_rng(2)
    between = [word for word in (*STRANGE, *LINKS) if word not in NOT_DRAWN]
    for _ in range(200):
        middle = " ".join(rng.choice(between, int(rng.integers(1, 4))))
        if not {*middle.split()} & {*NOT_DRAWN}:
            read = TOYBOX.read(f"a red ball {middle} a blue cube of jade")
            assert {"red", "ball", "blue", "cube"} <= {*read.replace(",", "").split()}, middle


def test_words_of_ones_own_are_read() -> None:
    own = Vocabulary(TOYBOX.words, TOYBOX.kinds, ("<toy>", "sks-toy"))
    assert own.read("my <toy> on the moon, a sks-toy & a hat") == "<toy>, a sks-toy and a hat"
    assert own.has_kind("a shiny <toy>")
    assert own.unknown("a <toy>s") == ("s",)


def test_a_prompt_without_a_known_word_is_refused_with_what_is_known() -> None:
    for prompt in ("ein Becher", "红色的茶壶", "🫖", "the of unicorns", "!!!"):
        with pytest.raises(
            InputError, match=r"'toybox' knows no word of the prompt, .* mug, apple"
        ):
            check_known("toybox", TOYBOX, {"the prompt": prompt})
    check_known("toybox", TOYBOX, {"the prompt": "ein orange Becher"})
    check_known("sd15", None, {"the prompt": "红色的茶壶"})


def test_many_texts_have_one_note() -> None:
    assert note_of_many("toybox", TOYBOX, ["a red mug"] * 3) == []
    assert note_of_many("sd15", None, ["a jade mug"]) == []
    (note,) = note_of_many("toybox", TOYBOX, ["a mug", "a jade mug", "a mug of gold", "a jade mug"])
    assert note.startswith("2 texts have words that backbone 'toybox' was never shown")
    assert "jade, gold. 'a jade mug' reads: \"a mug\"" in note


def test_a_folder_says_what_it_was_shown(tmp_path: Path) -> None:
    assert Vocabulary.of(tmp_path) is None
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "words.txt").write_text("a\nmug\nred\n", encoding="utf-8")
    assert Vocabulary.of(tmp_path) == Vocabulary(frozenset({"a", "mug", "red"}))
    (tmp_path / "tokenizer" / "kinds.txt").write_text("mug\n", encoding="utf-8")
    assert Vocabulary.of(tmp_path) == Vocabulary(frozenset({"a", "mug", "red"}), ("mug",))
