"""PhotoMaker's trigger: the word that says which word of a prompt is the person of the pictures."""

from __future__ import annotations

import re

from threed.core.errors import InputError
from threed.diffusion.reading import ARTICLES, LINKS

TRIGGER = "img"
_FOUND = re.compile(rf"(?<!\w){TRIGGER}(?!\w)")
HOW = f"say it once, behind what the person is, as in 'a man {TRIGGER} in a garden'"


def class_word(prompt: str) -> str:
    """The word before TRIGGER. InputError unless it is there once, behind one that can be meant."""
    found = [*_FOUND.finditer(prompt)]
    if len(found) != 1:
        often = "twice or more" if found else "nowhere"
        raise InputError(f"the prompt says {TRIGGER!r} {often}, got {prompt[:80]!r}: {HOW}")
    before = prompt[: found[0].start()]
    word = re.search(r"(\w+)\s+$", before)
    if word is None or word[1].lower() in (*ARTICLES, *LINKS) or word[1].isdigit():
        last = repr(before.split()[-1]) if before.split() else "nothing"
        raise InputError(f"{TRIGGER!r} stands behind {last}, which says no kind of person, in "
                         f"{prompt[:80]!r}: {HOW}")  # fmt: skip
    return word[1]


def with_trigger(text: str, kind: str) -> str:
    """A caption with TRIGGER behind the first `kind` in it, unless it says it already.

    InputError for one that says neither.
    """
    if _FOUND.search(text) is None:
        text, times = re.subn(
            rf"(?<!\w){re.escape(kind)}(?!\w)", rf"\g<0> {TRIGGER}", text, count=1
        )
        if not times:
            raise InputError(f"the caption {text[:80]!r} does not say {kind!r}, which is to be the "
                             "person: kind= says which word is")  # fmt: skip
    class_word(text)
    return text
