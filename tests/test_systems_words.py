"""Words, tokens, and how the tokens of two prompts correspond."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from threed.core.errors import InputError
from threed.diffusion.parts.words import common, refine, swap, word_tokens

LENGTH = 12


@dataclass
class Reader:
    """A tokenizer that makes a token of every two letters, and one of each punctuation mark."""

    name: str = "reader"

    def token_ids(self, prompt: str) -> tuple[int, ...]:
        pieces = []
        for word in prompt.replace(",", " ,").split():
            pieces += [word[i : i + 2] for i in range(0, len(word), 2)]
        ids = [1000 + sum(ord(c) * 256**k for k, c in enumerate(piece)) for piece in pieces]
        return (*[0, *ids][: LENGTH - 1], 1)

    def reads(self, prompt: str) -> str:
        return prompt

    def token_count(self, prompt: str) -> tuple[int, int]:
        return len(self.token_ids(prompt)), LENGTH


READER = Reader()


@pytest.mark.parametrize(
    ("prompt", "phrase", "places"),
    [
        ("a red mug", "red", [2, 3]),
        ("a red mug", "RED", [2, 3]),
        ("a red, mug", "mug", [5, 6]),
        ("a red, mug", "red", [2, 3]),
        ("a hat, a hat", "hat", [2, 3, 6, 7]),
        ("a red mug", "red mug", [2, 3, 4, 5]),
        ("a mug too far to read", "far", [6, 7]),
    ],
)
def test_a_word_has_its_tokens_wherever_it_is(prompt: str, phrase: str, places: list[int]) -> None:
    assert word_tokens(READER, prompt, phrase) == places  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prompt", "phrase", "message"),
    [
        (
            "a red, mug",
            "cup",
            "no word 'cup' in the prompt 'a red, mug'; .* a, red, mug",
        ),
        ("a red mug", "mug red", "no word 'mug red'"),
        ("a red mug", "", "no word ''"),
        ("a red mug", "re", "no word 're'"),
        ("one that is far too long to be read", "read", "'read' comes after the 12 tokens"),
    ],
)
def test_words_that_are_not_there(prompt: str, phrase: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        word_tokens(READER, prompt, phrase)  # type: ignore[arg-type]


def test_a_swap_among_equally_many_tokens_is_the_identity() -> None:
    alignment = swap(READER, "a red mug", "a hot cup", LENGTH)  # type: ignore[arg-type]
    assert torch.equal(alignment.matrix, torch.eye(LENGTH))
    assert torch.equal(alignment.taken, torch.ones(LENGTH))


def test_a_swap_shares_a_words_attention_and_what_follows_keeps_its_word() -> None:
    # start, a, purple (3), mug (2), end, padding | start, a, red (2), mug (2), end, padding
    alignment = swap(READER, "a purple mug", "a red mug", LENGTH)  # type: ignore[arg-type]
    expected = torch.zeros(LENGTH, LENGTH)
    expected[0, 0] = expected[1, 1] = 1
    expected[2:5, 2:4] = 0.5
    for i in range(5, LENGTH):
        expected[i, i - 1] = 1
    assert torch.equal(alignment.matrix, expected)
    # each source token's attention is given away once, but for what runs over the end
    back = swap(READER, "a red mug", "a purple mug", LENGTH).matrix  # type: ignore[arg-type]
    torch.testing.assert_close(back.sum(1), torch.tensor([1.0] * (LENGTH - 1) + [0.0]))
    assert back[4, 5] == back[5, 6] == back[6, 7] == 1  # mug, mug, end


def test_a_swap_needs_equally_many_words() -> None:
    message = "equally many words: 'a mug' has 2, 'a red mug' has 3; mode=refine"
    with pytest.raises(InputError, match=message):
        swap(READER, "a mug", "a red mug", LENGTH)  # type: ignore[arg-type]


def test_a_refinement_keeps_common_tokens_and_marks_new_ones() -> None:
    # start, a, mu, g, end, padding | start, a, re, d, mu, g, end, padding
    alignment = refine(READER, "a mug", "a red mug", LENGTH)  # type: ignore[arg-type]
    taken = [1, 1, 0, 0, *[1] * (LENGTH - 4)]
    assert torch.equal(alignment.taken, torch.tensor(taken, dtype=torch.float32))
    for old, new in [(0, 0), (1, 1), (2, 4), (3, 5), (4, 6), (7, 7), (11, 11)]:
        assert alignment.matrix[old, new] == 1
    assert torch.equal(alignment.matrix.sum(0), alignment.taken)


@pytest.mark.parametrize(
    ("a", "b", "pairs"),
    [
        ([], [1], []),
        ([1, 2, 3], [1, 2, 3], [(0, 0), (1, 1), (2, 2)]),
        ([1, 2, 3], [1, 9, 3], [(0, 0), (2, 2)]),
        ([0, 5, 6, 1], [0, 7, 5, 6, 1], [(0, 0), (1, 2), (2, 3), (3, 4)]),
        ([0, 5, 5, 1], [0, 5, 1], [(0, 0), (1, 1), (3, 2)]),  # of two, the first: gap before diag
        ([0, 5, 1], [0, 5, 5, 1], [(0, 0), (1, 1), (2, 3)]),
        ([1, 2], [2, 1], [(1, 0)]),
    ],
)
def test_common_subsequences(a: list[int], b: list[int], pairs: list[tuple[int, int]]) -> None:
    assert common(a, b) == pairs
