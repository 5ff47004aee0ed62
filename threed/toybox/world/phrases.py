"""Captions as people write prompts: other word orders and view words, and words that mean nothing.

The family learns from them that what stands beside the words that count does no harm.
"""

from __future__ import annotations

from threed.toybox.world.chance import Rng, choose

REWORDED = 0.35  # share of captions with words of FILLERS around them
OPENINGS = (
    "a drawing of {}", "a 3d model of {}", "a render of {}", "an image of {}", "a close up of {}",
    "please draw {}", "show me {}", "i want {}", "here is {}", "a nice photo of {}", "draw {}",
    "a picture with {}", "{} please", "an illustration of {}", "a rendering of {}", "create {}",
)  # fmt: skip
OWNERS = ("my", "your", "our", "her", "his", "this", "that", "some", "my new", "my old",
          "my grandmother's", "the child's", "another", "the same")  # fmt: skip
PRAISES = ("cute", "beautiful", "shiny", "old", "new", "little", "big", "tiny", "funny", "lovely",
           "nice", "pretty", "modern", "vintage", "cartoon", "realistic", "plastic", "wooden",
           "very", "detailed")  # fmt: skip
ENDINGS = (
    ", highly detailed", ", 4k", ", 8k", ", trending on artstation", ", best quality",
    ", studio lighting", ", masterpiece", ", high quality", ", product shot", ", 3d asset",
    ", isolated", ", sharp focus", " on the moon", " in the garden", " in space", " in a room",
    " in the kitchen", " with flowers", " for my child", " from the shop", " that i like",
    " under a tree of light", " at the beach", " made of plastic", " made of wood",
)  # fmt: skip
VIEW_WORDS: dict[str, tuple[str, ...]] = {
    "front": ("seen from the front", "from the front", "viewed from the front", "frontal view"),
    "side": ("seen from the side", "from the side", "viewed from the side", "in profile"),
    "back": ("seen from the back", "from behind", "seen from behind", "rear view",
             "viewed from the back"),
    "overhead": ("seen from above", "from above", "top view", "viewed from above", "top down view"),
}  # fmt: skip
PATTERNS = {"striped": "with stripes", "dotted": "with dots", "checkered": "with checks"}


def reordered(rng: Rng, kind: str, color: str | None, finish: str | None) -> str:
    """Say a toy in another order of words, without an article: "mug with stripes that is red"."""
    parts = [] if color is None else [choose(rng, (
        f"that is {color}", f"in {color}", f"of {color} color", f", {color}", f"colored {color}",
    ))]  # fmt: skip
    if finish is not None:
        parts.insert(int(rng.integers(len(parts) + 1)), PATTERNS.get(finish, f"that is {finish}"))
    return " ".join([kind, *parts]).replace(" ,", ",")


def seen_from(rng: Rng, view: str) -> str:
    """Say the view, of VIEWS, in one of many ways: "back view", "from behind"."""
    return f"{view} view" if rng.uniform() < 0.6 else choose(rng, VIEW_WORDS[view])


def reworded(rng: Rng, text: str) -> str:
    """Put words around a caption that change nothing that it says; most stay as they are."""
    if rng.uniform() >= REWORDED:
        return text
    article, _, rest = text.partition(" ")
    if article in ("a", "an", "the") and rest:
        praise = [choose(rng, PRAISES) for _ in range(int(rng.integers(0, 3)))]
        owner = choose(rng, OWNERS) if rng.uniform() < 0.3 else "the" if article == "the" else "a"
        phrase = " ".join([*praise, rest])
        owner += "n" if owner == "a" and phrase[0] in "aeiou" else ""
        text = f"{owner} {phrase}" if rng.uniform() < 0.85 else phrase
    if rng.uniform() < 0.3:
        text = choose(rng, OPENINGS).format(text)
    for _ in range(int(rng.integers(0, 3))):
        text += ending(rng)
    return text


def ending(rng: Rng) -> str:
    """Make up an ending: one of ENDINGS, or a word that nobody knows."""
    if rng.uniform() < 0.75:
        return choose(rng, ENDINGS)
    letters = "".join(choose(rng, "abcdefghiklmnoprstuvwz") for _ in range(int(rng.integers(3, 7))))
    return choose(rng, (" with {}", ", {}", " on the {}", " in {}", " {}")).format(letters)


def words() -> list[str]:
    """List every word of this file that a caption may hold."""
    texts = [*OWNERS, *PRAISES, *ENDINGS, *OPENINGS, *PATTERNS.values(), "that is of color colored"]
    texts += [way for ways in VIEW_WORDS.values() for way in ways]
    return " ".join(texts).replace("{}", " ").replace(",", " , ").replace("'s", " 's ").split()
