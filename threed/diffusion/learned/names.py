"""Which words were learned in a folder or a file; found without torch, if a training made it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from threed.core.errors import InputError
from threed.diffusion.files import EMBEDDINGS, SETTINGS, header, read_json
from threed.diffusion.reading import POINTER

Learned = tuple[Path, float]
"""Where something was learned, and how strongly it counts."""


def own_words(places: Iterable[Path]) -> dict[str, str]:
    """The words that were learned there, by name, with what each began as: {"<toy>": "mug"}.

    "" for one whose file does not say. InputError if two of them have one name.
    """
    found: dict[str, tuple[Path, str]] = {}
    for place in places:
        for name, began in words_of(place.expanduser()).items():
            if name in found:
                raise InputError(f"{found[name][0]} and {place} both learned a word {name!r}: "
                                 "one of them must be taught again under another name")  # fmt: skip
            found[name] = place, began
    return {name: began for name, (_, began) in found.items()}


def words_of(place: Path) -> dict[str, str]:
    """The words of one folder or file; none where it holds no words, or is not there."""
    settings = place / SETTINGS
    if settings.is_file():
        return dict(read_json(settings).get("words", {}))
    if place.is_dir():
        place /= EMBEDDINGS
    if not place.is_file() or (
        place.suffix == ".safetensors" and any("lora" in key for key in header(place)[1])
    ):
        return {}
    from threed.diffusion.learned.words import words_in

    return dict.fromkeys(words_in(place), "")


def unsaid(words: Iterable[str], prompt: str) -> list[str]:
    """What to warn of: learned words, none of which the prompt says."""
    words = list(words)
    if not words or any(re.search(_pattern(name), prompt) for name in words):
        return []
    return [f"the prompt does not say {' or '.join(words)}, which was learned, so what was learned "
            "is hardly seen"]  # fmt: skip


def _pattern(name: str) -> str:
    return rf"(?<!\w){re.escape(name)}(?!\w)"


def spoken(prompt: str, words: Mapping[str, str]) -> str:
    """The prompt with what each word began as in its place: what a model without them reads.

    What stands for a picture, such as <1>, is "toy".
    """
    prompt = POINTER.sub("toy", prompt)
    for name, began in words.items():
        prompt = re.sub(_pattern(name), began, prompt)
    return " ".join(prompt.split())
