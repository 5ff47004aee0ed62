"""From a prompt and cameras to conditions: view words, a negative prompt, everything cached."""

from __future__ import annotations

import unicodedata

import torch

from threed.cameras import VIEWS, view_name
from threed.core import Cameras, InputError
from threed.diffusion.backbone import KNOWN, Backbone
from threed.diffusion.condition import Condition

MAX_LENGTH = 1000  # characters; models read a few hundred at most


def check_prompt(prompt: str) -> str:
    """The prompt without the blanks around it. InputError if it cannot be meant.

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


def prompt_warnings(backbone: Backbone, prompt: str) -> list[str]:
    """What a user should know before a long run: words the backbone never saw, words it drops."""
    warnings = []
    if unknown := backbone.unknown_words(prompt):
        wide = [known.name for known in KNOWN if known.repos]
        named = ", ".join(repr(word) for word in unknown)
        warnings.append(
            f"backbone {backbone.name!r} was never shown {named}, so the result may ignore "
            f"{'it' if len(unknown) == 1 else 'them'}; these know far more words: "
            f"{', '.join(wide)} (threed list toybox shows what toybox knows)"
        )
    count, limit = backbone.token_count(prompt)
    if count > limit:
        warnings.append(
            f"the prompt has {count} tokens, and backbone {backbone.name!r} reads the first "
            f"{limit}: its end is ignored"
        )
    return warnings


class Prompts:
    """Conditions for the views of one prompt.

    With view_dependent, ", front view" and the like (threed.cameras.view_name) follow the prompt;
    the negative prompt has no view. Texts are encoded once, when this is made.
    """

    def __init__(
        self, backbone: Backbone, prompt: str, *, negative: str = "", view_dependent: bool = True
    ) -> None:
        endings = [f", {view} view" for view in VIEWS] if view_dependent else [""]
        self.texts = [prompt + ending for ending in endings]
        self.view_dependent = view_dependent
        self.encoded = backbone.encode_text([*self.texts, negative])

    def __call__(self, cameras: Cameras) -> tuple[Condition, Condition]:
        """The conditions of the text and of the negative prompt, an item for each camera."""
        if self.view_dependent:
            angles = zip(cameras.azimuth_deg.tolist(), cameras.elevation_deg.tolist())
            which = [VIEWS.index(view_name(*angle)) for angle in angles]
        else:
            which = [0] * len(cameras)
        device = self.encoded.tokens.device
        negative = torch.full((len(cameras),), len(self.texts), device=device)
        return (
            self.encoded.select(torch.tensor(which, device=device)),
            self.encoded.select(negative),
        )
