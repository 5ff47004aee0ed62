"""Which tokens the words of a prompt become, and how the tokens of two prompts correspond.

Token 0 is the start; words begin at 1; the end and the padding follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from threed.core.errors import InputError
from threed.core.words import PUNCTUATION, find_phrase
from threed.diffusion.backbone import Backbone
from threed.diffusion.reading import LINKS

ARTICLES = ("a", "an", "the", "one", "its", "his", "her", "their")


@dataclass(frozen=True)
class Alignment:
    """Where the attention of an edited prompt's tokens comes from in the source prompt."""

    matrix: Tensor  # [S, S] weight of source token (row) for edited token (column)
    taken: Tensor  # [S] 1 where an edited token has a source, 0 where it is new


def word_tokens(backbone: Backbone, prompt: str, phrase: str) -> list[int]:
    """The places of a word's tokens, or of neighbouring words', wherever it is in the prompt.

    Case and the punctuation around a word do not matter. InputError if it is not there, or only
    beyond what the backbone reads.
    """
    prompt, phrase = backbone.reads(prompt), backbone.reads(phrase) or phrase
    words, count = prompt.split(), len(phrase.split())
    places = find_phrase(prompt, phrase)
    spans = word_spans(backbone, prompt)
    found: list[int] = []
    for i in (i + k for i in places for k in range(count)):
        before = words[i][: len(words[i]) - len(words[i].lstrip(PUNCTUATION))]
        first = spans[i].start + _count(backbone, before)
        found += range(first, first + _count(backbone, words[i].strip(PUNCTUATION)))
    limit = backbone.token_count(prompt)[1] - 1  # the last token read is the end
    read = [place for place in found if place < limit]
    if not read:
        raise InputError(f"the word {phrase!r} comes after the {limit + 1} tokens that backbone "
                         f"{backbone.name!r} reads; make the prompt shorter")  # fmt: skip
    return read


def word_spans(backbone: Backbone, prompt: str) -> list[range]:
    """The places of the tokens of each word that is read, words being what blanks part."""
    words = backbone.reads(prompt).split()
    ends = accumulate((_count(backbone, word) for word in words), initial=1)
    return [range(start, end) for start, end in pairwise(ends)]


def _count(backbone: Backbone, word: str) -> int:
    """Tokens of a word; CLIP's tokens never reach across a blank or into punctuation."""
    return len(backbone.token_ids(word)) - 2 if word else 0


def swap(backbone: Backbone, source: str, edited: str, length: int) -> Alignment:
    """Word for word: a changed word's tokens share the attention of the word in its place.

    Prompt-to-Prompt's replacement: among so many tokens on both sides one to one, else equal
    shares. What follows keeps its word, also when the changed one has other many tokens, where the
    published code takes the tail at the edited prompt's own places. InputError if the prompts
    differ in their number of words.
    """
    source, edited = backbone.reads(source), backbone.reads(edited)
    words = source.split(), edited.split()
    if len(words[0]) != len(words[1]):
        raise InputError(f"a word swap needs prompts of equally many words: {source!r} has "
                         f"{len(words[0])}, {edited!r} has {len(words[1])}; mode=refine adds or "
                         "drops words")  # fmt: skip
    matrix = torch.zeros(length, length)
    spans = [word_spans(backbone, prompt) for prompt in (source, edited)]
    for old, new in zip(*spans):
        if len(old) == len(new):
            _connect(matrix, old, new)
        else:
            matrix[old.start : old.stop, new.start : new.stop] = 1 / len(new)
    _connect(matrix, range(1), range(1))
    ends = [span[-1].stop if span else 1 for span in spans]
    _connect(matrix, range(ends[0], length), range(ends[1], length))
    return Alignment(matrix, torch.ones(length))


def _connect(matrix: Tensor, old: range, new: range) -> None:
    """One to one, as far as both go and there is room."""
    for i, j in zip(old, new):
        if max(i, j) < len(matrix):
            matrix[i, j] = 1


def refine(backbone: Backbone, source: str, edited: str, length: int) -> Alignment:
    """Token for token along the longest common subsequence; tokens without a partner are new.

    Prompt-to-Prompt's refinement (Needleman and Wunsch: gap 0, match 1, mismatch -1).
    """
    old, new = backbone.token_ids(source), backbone.token_ids(edited)
    matrix, taken = torch.zeros(length, length), torch.zeros(length)
    pairs = common(old, new) + [(j, j) for j in range(len(new), length)]
    for i, j in pairs:
        matrix[i, j] = taken[j] = 1
    return Alignment(matrix, taken)


def common(a: Sequence[int], b: Sequence[int]) -> list[tuple[int, int]]:
    """Index pairs of a longest common subsequence, in order; of several, the published code's."""
    best = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            best[i + 1][j + 1] = max(best[i + 1][j], best[i][j + 1], best[i][j] + (x == y))
    pairs, i, j = [], len(a), len(b)
    while i and j:
        if best[i][j] == best[i][j - 1]:
            j -= 1
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]


def phrases(prompt: str) -> list[list[str]]:
    """The things that a prompt names, each as its words, without articles, in lower case.

    "a red ball and a blue cube on a white background" names three.
    """
    found: list[list[str]] = [[]]
    for word in prompt.lower().split():
        bare = word.strip(PUNCTUATION)
        if bare in LINKS:
            found.append([])
        elif bare not in ARTICLES and bare:
            found[-1].append(bare)
        if word[-1] in ",.;:":
            found.append([])
    return [phrase for phrase in found if phrase]
