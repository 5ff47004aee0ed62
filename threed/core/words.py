"""Words of people: whether a prompt can be meant, and what name they may have meant."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

from threed.core.errors import InputError

PUNCTUATION = ".,;:!?\"'()[]"
MAX_LENGTH = 1000  # characters of a prompt; models read a few hundred at most


def suggest(name: str, names: Iterable[object]) -> str:
    """Ask for the nearest of the names: "; did you mean 'steps'?", or "" if none is near."""
    near = difflib.get_close_matches(name, map(str, names), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def did_you_mean(name: str, names: Iterable[object]) -> str:
    """End an error about an unknown name: suggest the nearest one, then list all that exist."""
    known = [str(item) for item in names]
    return f"{suggest(name, known)} (there are: {', '.join(sorted(known))})"


def find_phrase(prompt: str, phrase: str) -> list[int]:
    """Where a word, or neighbouring words, begin in a prompt: which of its words that are.

    Case and the punctuation around a word do not matter. InputError if it is not there.
    """
    bare, wanted = ([word.strip(PUNCTUATION).lower() for word in text.split()]
                    for text in (prompt, phrase))  # fmt: skip
    starts = range(len(bare)) if wanted else range(0)
    places = [i for i in starts if bare[i : i + len(wanted)] == wanted]
    if not places:
        said = ", ".join(filter(None, bare))
        raise InputError(f"there is no word {phrase!r} in the prompt {prompt!r}; it has: {said}")
    return places


def check_prompt(prompt: str) -> str:
    """Return the prompt without the blanks around it. InputError if it cannot be meant.

    Any script is fine; empty, longer than MAX_LENGTH characters, or with control characters is not.
    """
    stripped = prompt.strip()
    if not stripped:
        raise InputError('the prompt is empty; say what to make, such as "a red mug"')
    if len(stripped) > MAX_LENGTH:
        raise InputError(
            f"the prompt has {len(stripped):,} characters; at most {MAX_LENGTH:,} are allowed "
            "(a model reads about 300)"
        )
    for place, character in enumerate(stripped):
        if unicodedata.category(character) in ("Cc", "Cs"):
            raise InputError(
                f"the prompt holds a control character (U+{ord(character):04X}, at position "
                f"{place + 1}); remove it"
            )
    return stripped
