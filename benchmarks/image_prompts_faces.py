"""What portraits say as prompts, on toybox: a part of benchmarks/image_prompts.py.

Persons are of seeds that nothing was trained on. Faces are compared by the judge of identity, which
is no part of any system, and found by toybox's own encoder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.alike import HELD, SEED, Bench, Told
from benchmarks.personalization import AT, METHODS, Ask, learn, obeyed, stacked
from threed.learning.data import read_picture
from threed.toybox.judge.alike import draw_face
from threed.toybox.world.faces import random_face
from threed.toybox.world.figures import listed
from threed.toybox.world.portraits import portrait_scene, random_portrait
from threed.toybox.world.scenes import draw_scene

PERSONS, TAUGHT = 40, 3  # persons; those that DreamBooth learns, too
MERGES = (0.0, 0.22, 0.4, 0.6)  # shares of the sampling in which PhotoMaker's words alone count
CAP = "a portrait of a person in a red cap"
LOOKS = (
    Ask(CAP),
    Ask("a portrait of a person on a green background", ground="green"),
    Ask("a portrait of a laughing person", {"expression": "laughing"}),
    Ask("a portrait of a person at night", {"style": "night"}),
    Ask("a portrait of a person made of clay", {"style": "clay"}),
    Ask("a portrait of a person in a blue sweater", {"upper_color": "blue"}),
)
PLAIN = "a portrait of a person"


@dataclass(frozen=True)
class Person:
    """Somebody held out: portraits that are prompts, others to measure by, and where to look."""

    images: tuple[Path, ...]  # four
    held: Tensor
    points: NDArray[np.floating[Any]]  # [5, 2] of another's face, as shares of the picture
    words: str  # a portrait with all that words can say of the face

    @classmethod
    def of(cls, bench: Bench, number: int) -> Person:
        """The person of a number."""
        rng = np.random.default_rng([SEED + number, 8])
        face = random_face(rng)
        images = tuple(bench.picture(f"person{number}-{i}", draw_face(rng, face)) for i in range(4))
        held = stacked([draw_face(rng, face) for _ in range(HELD)])
        points = draw_scene(portrait_scene(rng, random_portrait(rng))).keypoints[0][:, :2] / 64
        said = face.identity.words()
        return cls(images, held, points, PLAIN + (f" with {listed(said)}" if said else ""))


def instant_id(bench: Bench) -> None:
    """Whether the recogniser accepts the face, where it is, and what words still say."""
    rows: list[Tensor] = []
    for number in range(PERSONS):
        one = Person.of(bench, number)
        if len(bench.faces.faces(read_picture(one.images[0], 64))) != 1:
            missed = {"part": "instant_id", "number": number, "method": "both"}
            bench.measure(missed, lambda: {"accepted": 0.0})  # its face is not found
            continue
        where = bench.out / "pictures" / f"points{number}.json"
        where.write_text(json.dumps(one.points.tolist()), encoding="utf-8")
        inputs = {"image": one.images[:1], "points": (where,)}
        ways: dict[str, tuple[str | None, str, Told, Mapping[str, float] | None]] = {
            "both": ("instant_id", PLAIN, inputs, None),
            "no IdentityNet": ("instant_id", PLAIN, inputs, {"strength": 0.0}),
            "no attention": ("instant_id", PLAIN, inputs, {"scale": 0.0}),
            "words": (None, one.words, {}, None),
        }
        drawn = [one.held[:1]]
        for method, way in ways.items():
            about = {"part": "instant_id", "number": number, "method": method}
            bench.measure(about, partial(faced, bench, one, drawn, *way))
        ask = LOOKS[number % len(LOOKS)]
        about = {"part": "instant_id, words", "number": number, "method": ask.text}
        bench.measure(about, partial(looks, bench, one, ask, "instant_id", ask.text, inputs))
        rows += drawn if number < 8 and len(drawn) == 1 + len(ways) else []
        bench.sheet("instant_id", rows, 1 + len(ways))


def faced(
    bench: Bench, one: Person, drawn: list[Tensor], system: str | None, prompt: str, inputs: Told,
    knobs: Told | None,
) -> dict[str, Any]:  # fmt: skip
    """Whether pictures show the person's face, and where."""
    pictures = bench.draw(system, prompt, inputs, knobs=knobs)
    drawn.append(pictures[:1])
    alike = bench.who.likeness(pictures, one.held).mean(1)
    return {"accepted": float((alike > bench.face_bound).float().mean()),
            "likeness": float(alike.mean()), "away": away(bench, pictures, one.points)}  # fmt: skip


def away(bench: Bench, pictures: Tensor, points: NDArray[np.floating[Any]]) -> float | None:
    """The mean distance of faces' points from those asked for, of a picture's side."""
    pixels = (pictures * 255).round().byte().permute(0, 2, 3, 1).numpy()
    found = [bench.faces.faces(one) for one in pixels]
    off = [np.linalg.norm(faces[0].points / 64 - points, axis=1).mean() for faces in found if faces]
    return float(np.mean(off)) if off else None


def looks(
    bench: Bench, one: Person, ask: Ask, system: str | None, prompt: str, inputs: Told,
    knobs: Told | None = None,
) -> dict[str, float]:  # fmt: skip
    """How often a prompt is obeyed, and how like the person its pictures are."""
    pictures = bench.draw(system, prompt, inputs, knobs=knobs)
    hits = obeyed(bench.judge, ask, pictures)
    if ask.text == CAP:  # the judge reads no caps of portraits: red over the eyes
        top = pictures[:, :, 6:20, 22:42].mean((2, 3))
        hits = float((top[:, 0] > top[:, 1:].amax(1) + 0.1).float().mean())
    return {"obeyed": hits, "likeness": float(bench.who.likeness(pictures, one.held).mean())}


def photo_maker(bench: Bench) -> None:
    """Identity by how many pictures are shown, and by when the person comes in; DreamBooth's."""
    for number in range(PERSONS):
        one = Person.of(bench, number)
        ways = [("pictures", count, 0.22) for count in (1, 2, 4)]
        ways += [("merged from", merge, merge) for merge in MERGES]
        for method, at, merge in ways:
            images = one.images[: int(at)] if method == "pictures" else one.images
            about = {"part": "photo_maker", "number": number, "method": method, "at": at}
            bench.measure(about, partial(merged, bench, one, images, merge))
        about = {"part": "photo_maker", "number": number, "method": "words"}
        bench.measure(about, partial(looks, bench, one, LOOKS[2], None, one.words, {}))
        if number < TAUGHT:
            for at in AT:
                about = {"part": "photo_maker", "number": number, "method": "dreambooth", "at": at}
                bench.measure(about, partial(taught, bench, one, number, at))


def merged(bench: Bench, one: Person, images: tuple[Path, ...], merge: float) -> dict[str, float]:
    """What becomes of all prompts with a person in these pictures."""
    knobs, given = {"start_merge": merge}, {"image": images}
    return together([looks(bench, one, ask, "photo_maker",
                           ask.text.replace("person", "person img"), given, knobs)
                     for ask in LOOKS])  # fmt: skip


def taught(bench: Bench, one: Person, number: int, at: float) -> dict[str, float]:
    """The same of a model that DreamBooth taught the person, at a share of its steps."""
    home = bench.out / f"dreambooth{number}"
    for index, image in enumerate(one.images):
        copy = home / "pictures" / f"{index}.png"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(image.read_bytes())
        copy.with_suffix(".txt").write_text("a portrait of a {}\n", encoding="utf-8")
    word = "<one>"
    place = learn(METHODS["dreambooth"], home / "pictures", home / "taught", "person", word,
                       bench.base.name)  # fmt: skip
    weights = {"weights": ((place / f"at{at}", 1.0),)}
    return together([looks(bench, one, ask, "dreambooth", ask.text.replace("person", word), weights)
                     for ask in LOOKS])  # fmt: skip


def together(found: list[dict[str, float]]) -> dict[str, float]:
    """The means over all prompts."""
    return {name: float(np.mean([each[name] for each in found])) for name in found[0]}
