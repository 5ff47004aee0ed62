"""What a toybox picture is called: templates with synonyms, dropped attributes and view words."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

from threed.core.cameras import VIEWS
from threed.toybox.world import phrases
from threed.toybox.world.chance import Rng, choose
from threed.toybox.world.phrases import reordered, seen_from
from threed.toybox.world.toys import COLORS, FINISHES, KINDS, TINTS

SYNONYMS: dict[str, tuple[str, ...]] = {
    "mug": ("cup",), "car": ("toy car",), "ball": ("sphere",), "cube": ("box",),
    "television": ("tv",), "airplane": ("plane",), "donut": ("doughnut",), "bear": ("teddy bear",),
    "hat": ("top hat",), "tree": ("fir tree",), "boat": ("sailing boat",),
    "clock": ("alarm clock",), "house": ("hut",), "lamp": ("table lamp",), "duck": ("rubber duck",),
}  # fmt: skip
BACKGROUNDS = ("white", "grey", *TINTS)
OPENINGS = ("a", "the", "a photo of a", "a picture of a", "a toy", "one", "")
REORDERED = 0.12  # share of toys whose words stand in another order
SPARE_WORDS = (
    "asset", "render", "of", "on", "and", "with", "background", "view", "toy", "small", "simple",
    "gray", "left", "right", "next", "to", "top", "in", "an",
)  # fmt: skip

# words of scenes and of instructions
SCENE_WORDS = (
    "person", "portrait", "wearing", "hair", "short", "long", "curly", "spiky", "bun", "bald",
    "blonde", "glasses", "beard", "moustache", "shirt", "sweater", "trousers", "shorts", "skirt",
    "dress", "standing", "waving", "arms", "out", "cheering", "hands", "hips", "walking", ",",
    "make", "it", "turn", "into", "paint", "change", "color", "replace", "add", "put", "give",
    "remove", "take", "off", "shave", "cap", "beanie", "smiling", "laughing", "sad", "angry",
    "surprised", "winking", "calm", "sepia", "at", "night", "made", "clay", "pixel", "art", "some",
    "style",
)  # fmt: skip

SCENE_KINDS = ("person", "portrait", "shirt", "sweater", "trousers", "shorts", "skirt", "dress")


@dataclass(frozen=True)
class Label:
    """What there is to say about a picture, as indices into the names."""

    kind: int  # of KINDS
    color: int  # of COLORS
    finish: int  # of FINISHES
    background: int  # of BACKGROUNDS


def caption(rng: Rng, label: Label, view: str | None = None) -> str:
    """Say a label in one of many ways: "a striped blue teapot on a white background, side view".

    The view word is said only where it is given; the finish, the colour and the background are
    left out now and then, so that prompts may be short.
    """
    color, finish = list(COLORS)[label.color], FINISHES[label.finish]
    text = toy_words(rng, KINDS[label.kind], color, finish)
    opening = choose(rng, OPENINGS, (0.6, 0.08, 0.06, 0.06, 0.08, 0.04, 0.08))
    opening += "n" if opening.endswith("a") and text[0] in "aeiou" else ""
    text = f"{opening} {text}".strip()
    if rng.uniform() < 0.3:
        text += f" on {a(BACKGROUNDS[label.background])} background"
    return f"{text}, {seen_from(rng, view)}" if view else text


def toy_words(rng: Rng, kind: str, color: str, finish: str, drop: float = 0.08) -> str:
    """Say what a toy is called, without an article: "striped blue teapot".

    The kind may be a synonym; the colour is left out in a share `drop`, the finish now and then.
    """
    if kind in SYNONYMS and rng.uniform() < 0.15:
        kind = choose(rng, SYNONYMS[kind])
    said = color if rng.uniform() < 1 - drop else None
    pattern = finish if rng.uniform() < (0.1 if finish == "plain" else 0.85) else None
    if rng.uniform() < REORDERED:
        return reordered(rng, kind, said, pattern)
    extra = [word for word in (pattern, said) if word]
    if pattern != "plain" and rng.uniform() < 0.5:
        extra.reverse()
    return " ".join([*extra, kind])


def a(text: str) -> str:
    """Put its article before a text."""
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def kinds() -> list[str]:
    """List every word that names what a picture shows: toys, persons and garments."""
    other = (name.split()[-1] for name in chain(*SYNONYMS.values()))
    return [*dict.fromkeys([*KINDS, *other, *SCENE_KINDS])]


def vocabulary() -> list[str]:
    """List every word that captions and instructions use, sorted."""
    texts = [*KINDS, *COLORS, *FINISHES, *BACKGROUNDS, *OPENINGS, *VIEWS, *SPARE_WORDS]
    texts += [*SCENE_WORDS, *chain(*SYNONYMS.values()), *phrases.words()]
    return sorted(set(" ".join(texts).split()))
