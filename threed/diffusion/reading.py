"""What a model of few words reads of a prompt: words that it was never shown are left out.

A model says which words it was shown in tokenizer/words.txt, one a line, and which of them name
things that it draws in tokenizer/kinds.txt. Toybox does, and one word that it was never shown can
turn its picture into something else; a model without the files reads everything.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path

from threed.core.errors import InputError

ARTICLES = ("a", "an", "the")
LINKS = (
    "and", "&", "+", "or", "on", "in", "into", "at", "of", "with", "without", "to", "from", "for",
    "next", "beside", "near", "by", "under", "over", "above", "below", "behind", "left", "right",
    "top", "wearing", "holding",
)  # fmt: skip
PLACES = ("left", "right", "top", "front", "next", "side", "back")  # links before "of" and "to"
NOT_DRAWN = ("without", "no", "not", "like", "than", "as", "made")  # what follows is not there
PROMPT, NEGATIVE = "the prompt", "the negative prompt"  # what texts are called
POINTER = re.compile(r"<([1-9]\d{0,2})>")  # a picture among the words: "<1> on <2>"
SEPARATORS = ",.;:!?|\n"
WIDER = "sd15, sd21 and sdxl know far more words (threed list toybox shows what toybox knows)"


@dataclass
class Phrase:
    """Words that belong together: "a red teapot", with what ties them to the words before."""

    links: list[str] = field(default_factory=list)  # "on", "top", "of"
    words: list[str] = field(default_factory=list)  # what is read of them
    lost: list[bool] = field(default_factory=list)  # of each of its words, articles left out
    comma: bool = False  # before it
    not_drawn: bool = False  # what it names is not to be seen

    @property
    def content(self) -> list[str]:
        """Its words without articles, in lower case."""
        return [word.lower() for word in self.words if word.lower() not in ARTICLES]


@dataclass(frozen=True)
class Vocabulary:
    """The words that a model was shown, in lower case, and of them those that name a thing."""

    words: frozenset[str]
    kinds: tuple[str, ...] = ()
    own: tuple[str, ...] = ()  # words of one's own, as they are written

    @classmethod
    def of(cls, folder: Path) -> Vocabulary | None:
        """That of a model's folder; None if it does not say."""
        words, kinds = (folder / "tokenizer" / f"{name}.txt" for name in ("words", "kinds"))
        if not words.is_file():
            return None
        named = kinds.read_text(encoding="utf-8").split() if kinds.is_file() else ()
        return cls(frozenset(words.read_text(encoding="utf-8").split()), tuple(named))

    def unknown(self, prompt: str) -> tuple[str, ...]:
        """The words of a prompt that the model was never shown, each once, in lower case."""
        words = dict.fromkeys(self._words(prompt))
        return tuple(word for word in words if word not in self.words and word not in self.own)

    def knows(self, prompt: str) -> bool:
        """Whether a word of a prompt, other than an article, says something to the model."""
        return any(word not in ARTICLES for word in self._words(self.read(prompt)))

    def has_kind(self, prompt: str) -> bool:
        """Whether what is read of a prompt names a thing; so if the model has no list of them."""
        return not self.kinds or any(
            word in self.kinds or word in self.own for word in self._words(self.read(prompt))
        )

    def read(self, prompt: str) -> str:
        """What is left of a prompt without unknown words; the prompt itself if it has none.

        Articles, "on" and "with" go with what they stood before, an unknown plural becomes a
        thing's name, and two things stay two: what tied them together is "and" if it was lost. What
        is read is read again as it is.
        """
        return _Reader(self).read(prompt) if self.unknown(prompt) else prompt

    def tokens(self, prompt: str) -> list[str]:
        """Words with their hyphens and apostrophes, and single other characters."""
        longest_first = "|".join(map(re.escape, sorted(self.own, key=len, reverse=True)))
        own = rf"(?<!\w)(?:{longest_first})(?!\w)|" if self.own else ""
        return re.findall(rf"{own}[^\W_]+(?:['’_\-][^\W_]+)*|[^\w\s]|_|\n", prompt)

    def _words(self, prompt: str) -> Iterator[str]:
        """The words of a prompt, in lower case but for one's own."""
        for token in self.tokens(prompt):
            if token in self.own:
                yield token
            else:
                yield from filter(_is_word, _parts(token.lower()))


@dataclass(frozen=True)
class _Reader:
    vocabulary: Vocabulary

    @cached_property
    def kinds(self) -> frozenset[str]:
        """What names things, words of one's own included, in lower case."""
        return frozenset(self.vocabulary.kinds).union(map(str.lower, self.vocabulary.own))

    def read(self, prompt: str) -> str:
        """What is left of a prompt in which there are unknown words."""
        kept: list[Phrase] = []
        gone: Phrase | None = None  # what was left out just before
        for phrase in self.phrases(self.vocabulary.tokens(prompt)):
            if self._is_left_out(phrase, gone, first=not kept):
                gone = phrase
                continue
            if kept:
                self._tie(kept[-1], phrase, gone)
            else:
                phrase.comma = False
                if gone is not None or not self._are_known(phrase.links):
                    phrase.links = []
            kept.append(phrase)
            gone = None
        return self._joined(kept)

    def phrases(self, tokens: Iterable[str]) -> list[Phrase]:
        """A prompt's phrases: what commas, prepositions and articles part."""
        found, tokens = [Phrase()], [*tokens]
        for token, following in zip(tokens, [*tokens[1:], ""]):
            now, word = found[-1], token.lower()
            known = word in self.vocabulary.words
            begun = bool(now.lost)
            if token in SEPARATORS:
                found.append(Phrase(comma=True))
            elif word in NOT_DRAWN and (not known or self._has_kind(found)):
                found.append(Phrase(not_drawn=True))
            elif following.lower() in LINKS if word in PLACES else word in LINKS:
                if begun:
                    found.append(Phrase([token]))
                else:  # "to the left of": an article between two of them is one of them
                    now.links, now.words = [*now.links, *now.words, token], []
            elif word in ARTICLES and known:
                found += [Phrase()] if begun else []
                found[-1].words.append(token)
            elif _is_word(token) or token in self.vocabulary.own:
                read = self._word(token)
                now.words += read
                now.lost.append(not read)
        return found

    def _has_kind(self, phrases: Iterable[Phrase]) -> bool:
        return any(self.kinds.intersection(phrase.content) for phrase in phrases)

    def _word(self, token: str) -> list[str]:
        """What is read of one word: itself, the thing of a plural, a compound's known parts."""
        word, shown = token.lower(), self.vocabulary.words
        if token in self.vocabulary.own or word in shown:
            return [token]
        singular = [word.removesuffix(end) for end in ("s", "es") if word.endswith(end)]
        if named := [one for one in singular if one in self.kinds]:
            return named[:1]
        *first, last = _parts(token)
        if not first or not self._word(last):
            return []
        return [*chain(*map(self._word, first)), *self._word(last)]

    def _is_left_out(self, phrase: Phrase, gone: Phrase | None, *, first: bool) -> bool:
        """Whether nothing is left that could be drawn: "with blue" of "with blue flowers".

        gone: the phrase before it, if that was left out, as "with icing" of "with icing on top".
        """
        if phrase.not_drawn or not phrase.content:
            return True
        if self.kinds.intersection(phrase.content):
            return False
        if first and not phrase.links:
            if phrase.lost[-1]:  # "a blue" of "a blue dragon"
                phrase.words = [w for w in phrase.words if w.lower() not in ARTICLES]
            return False
        loose = gone is not None and {*phrase.content} <= {*PLACES}
        return loose or phrase.lost[-1] or not self._are_known(phrase.links)

    def _tie(self, before: Phrase, phrase: Phrase, gone: Phrase | None) -> None:
        """Say how a phrase follows the one before, where words between them were left out."""
        thing, things = (bool(self.kinds.intersection(p.content)) for p in (before, phrase))
        torn = gone is not None or before.lost[-1] or phrase.lost[0]
        if gone is not None and phrase.links[:1] == ["of"]:  # "on top of a pile of red apples"
            phrase.links = gone.links
        if not self._are_known(phrase.links) or (
            torn and thing and things and not phrase.links and not phrase.comma
        ):
            phrase.links = [w for w in ("and",) if w in self.vocabulary.words]
        if torn and things and not thing and phrase.links in ([], ["and"]):
            phrase.links, phrase.comma = [], False  # "a red, shiny teapot" is one

    def _are_known(self, links: Iterable[str]) -> bool:
        return all(link.lower() in self.vocabulary.words for link in links)

    def _joined(self, phrases: Iterable[Phrase]) -> str:
        """The text of phrases, with "a" and "an" as the words want them."""
        text = ""
        for phrase in phrases:
            text += f"{',' if phrase.comma else ''} {' '.join([*phrase.links, *phrase.words])}"
        return re.sub(r"\ban?(?= (\w))", self._article, text.strip(), flags=re.IGNORECASE)

    def _article(self, found: re.Match[str]) -> str:
        fitting = found[0][0] + ("n" if found[1].lower() in "aeiou" else "")
        return fitting if self._are_known([fitting]) else found[0]


def check_known(name: str, vocabulary: Vocabulary | None, said: Mapping[str, str]) -> None:
    """InputError if a backbone knows no word of a prompt; said has them by what they are called."""
    for what, prompt in said.items():
        if vocabulary is not None and not vocabulary.knows(prompt):
            kinds = f"; it draws {', '.join(vocabulary.kinds)}" if vocabulary.kinds else ""
            raise InputError(f"backbone {name!r} knows no word of {what}, {prompt!r}{kinds}; "
                             f"{WIDER}")  # fmt: skip


def notes(name: str, vocabulary: Vocabulary | None, said: Mapping[str, str]) -> list[str]:
    """What a backbone makes of prompts in which there are words that it was never shown."""
    if vocabulary is None:
        return []
    found = []
    for what, prompt in said.items():
        if unknown := vocabulary.unknown(prompt):
            left = vocabulary.read(prompt)
            reads = f'{what} reads: "{left}"' if left else f"nothing is left of {what}"
            named = ", ".join(map(repr, unknown))
            found.append(f"backbone {name!r} was never shown {named}, so {reads}; {WIDER}")
    return found


def note_of_many(name: str, vocabulary: Vocabulary | None, texts: Iterable[str]) -> list[str]:
    """The same of many texts, in one sentence with one of them; nothing if all are known."""
    if vocabulary is None:
        return []
    unknown = {text: words for text in texts if (words := vocabulary.unknown(text))}
    if not unknown:
        return []
    named, text = [*dict.fromkeys(chain(*unknown.values()))], next(iter(unknown))
    return [f"{len(unknown)} texts have words that backbone {name!r} was never shown and that are "
            f"left out: {', '.join(named[:10])}{', ...' if len(named) > 10 else ''}. {text!r} "
            f'reads: "{vocabulary.read(text)}"']  # fmt: skip


def _parts(word: str) -> list[str]:
    """The words of a compound: "light-blue" has two."""
    return re.split(r"[-_]", word) if len(word) > 1 else [word]


def _is_word(token: str) -> bool:
    """Whether a token says something: a word or a symbol (an emoji), and no punctuation."""
    return len(token) > 1 or token.isalnum() or not (
        token.isascii() or unicodedata.category(token).startswith("P")
    )  # fmt: skip
