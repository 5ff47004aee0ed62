"""Exact edits: a scene, an instruction, and the scene after it, equal in everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from threed.toybox.world import pairs
from threed.toybox.world.captions import BACKGROUNDS, a
from threed.toybox.world.chance import Rng, choose, choose_other
from threed.toybox.world.figures import HAIR_COLORS, Identity, random_figure_scene
from threed.toybox.world.garments import CLASS, Garment
from threed.toybox.world.grounds import ground_of
from threed.toybox.world.pairs import Pair, Single, random_pair_scene, random_toy_scene
from threed.toybox.world.scenes import Scene, View, draw_scene
from threed.toybox.world.toys import COLORS, FINISHES, KINDS


@dataclass(frozen=True)
class Edit:
    """Two scenes that share every number but what the instruction names."""

    kind: str  # of EDITS
    before: Scene
    instruction: str
    after: Scene
    thing: int | None = 0  # index of the thing that changes; None: the background
    labels: tuple[str, ...] | None = None  # which parts of it, of CLASSES; None: all

    def draw(self, size: int = 64) -> DrawnEdit:
        """Draw both pictures with their truth."""
        return DrawnEdit(self, draw_scene(self.before, size), draw_scene(self.after, size))


@dataclass(frozen=True)
class DrawnEdit:
    """An edit as pictures."""

    edit: Edit
    before: View
    after: View

    @property
    def region(self) -> NDArray[np.bool_]:
        """[H, W] where the picture may change; all other pixels are equal."""
        both, thing = (self.before, self.after), self.edit.thing
        if thing is None:
            return np.logical_or(*(view.picture.alpha < 1 for view in both))
        return np.logical_or(*(view.mask(thing, self.edit.labels) > 0 for view in both))


RECOLOUR = ("make {name} {new}", "turn {name} {new}", "paint {name} {new}",
            "change the color of {name} to {new}")  # fmt: skip
REFINISH = ("make {name} {new}", "turn {name} {new}")


def recolour(rng: Rng) -> Edit:
    """Give a toy, or one of a pair, another colour: "make it blue"."""
    return _with_word(rng, "recolour", "color", COLORS, RECOLOUR)


def refinish(rng: Rng) -> Edit:
    """Give a toy another finish: "make it striped"."""
    return _with_word(rng, "finish", "finish", FINISHES, REFINISH)


def _with_word(rng: Rng, kind: str, field: str, words: Iterable[str], ways: Sequence[str]) -> Edit:
    """Change one word of a toy, or of one of a pair."""
    toy: Any
    scene, index, toy = _some_toy(rng)
    word = choose_other(rng, words, getattr(toy, field))
    name = _name(rng, scene, toy)
    text = choose(rng, ways).format(name=name, new=word)
    after = _with_toy(scene, index, replace(toy, **{field: word}))
    return Edit(kind, scene, text, after, index, (toy.kind,))


def swap(rng: Rng) -> Edit:
    """Make another kind of toy in the same colour and finish: "turn it into a chair"."""
    toy = pairs.random_single(rng)
    scene = replace(random_toy_scene(rng), subject=toy)
    kind = choose_other(rng, KINDS, toy.kind)
    name = _name(rng, scene, toy)
    ways = (f"turn {name} into {a(kind)}", f"replace the {toy.kind} with {a(kind)}",
            f"make {name} {a(kind)}")  # fmt: skip
    after = replace(scene, subject=replace(toy, kind=kind))
    return Edit("kind", scene, choose(rng, ways), after)


def hat(rng: Rng) -> Edit:
    """Put a hat on a toy, or take it off: "add a red hat"."""
    scene = random_toy_scene(rng)
    kinds = [kind for kind in KINDS if kind != "hat"]
    toy = pairs.in_hat(pairs.random_single(rng, kinds), choose(rng, COLORS))
    on, off = replace(scene, subject=toy), replace(scene, subject=replace(toy, hat=None))
    hat = f"{a(str(toy.hat))} hat"
    before, after = on, off
    ways = ["remove the hat", "take off the hat", f"remove the {toy.hat} hat"]
    if rng.uniform() < 0.5:
        before, after = off, on
        ways = [f"add {hat}", f"put {hat} on it", f"give it {hat}", f"put {hat} on the {toy.kind}"]
    return Edit("hat", before, choose(rng, ways), after, 0, ("hat",))


def background(rng: Rng) -> Edit:
    """Change what a toy or a pair stands before: "make the background blue"."""
    scene, _, _ = _some_toy(rng)
    name = choose_other(rng, BACKGROUNDS, scene.ground.names[0])
    pattern = "plain" if rng.uniform() < 0.7 or name == "white" else choose(rng, FINISHES[1:])
    words = name if pattern == "plain" else f"{pattern} {name}"
    ways = (f"make the background {words}", f"change the background to {words}",
            f"put it on {a(words)} background")  # fmt: skip
    after = replace(scene, ground=ground_of(name, rng, pattern))
    return Edit("background", scene, choose(rng, ways), after, None)


def garment(rng: Rng) -> Edit:
    """Change the colour or finish of what a person wears: "make the sweater blue"."""
    scene = random_figure_scene(rng)
    person: Any = scene.subject
    piece = "upper" if person.lower is None or rng.uniform() < 0.5 else "lower"
    old: Garment = getattr(person, piece)
    if rng.uniform() < 0.7:
        word = choose_other(rng, COLORS, old.color)
        new, ways = replace(old, color=word), [*REFINISH, RECOLOUR[-1]]
    else:
        word = choose_other(rng, FINISHES, old.finish)
        new, ways = replace(old, finish=word), [*REFINISH]
    after = replace(scene, subject=replace(person, **{piece: new}))
    instruction = choose(rng, ways).format(name=f"the {old.kind}", new=word)
    return Edit("garment", scene, instruction, after, 0, (CLASS[old.kind],))


def face(rng: Rng) -> Edit:
    """Change glasses, beard or hair of a person: "add glasses", "remove the beard"."""
    scene = random_figure_scene(rng)
    person: Any = scene.subject
    one: Identity = person.identity
    pick = choose(rng, ["glasses", "beard", "hair"])
    ways: Sequence[str]
    if pick == "hair":
        one = replace(one, hair="short") if one.hair == "bald" else one
        new = replace(one, hair_color=choose_other(rng, HAIR_COLORS, one.hair_color))
        ways = (f"make the hair {new.hair_color}", f"give it {new.hair_color} hair")
    elif pick == "glasses":
        new = replace(one, glasses=not one.glasses)
        on = ("add glasses", "put on glasses", "give it glasses")
        ways = on if new.glasses else ("remove the glasses", "take off the glasses")
    elif one.beard == "none":
        new, ways = replace(one, beard="beard"), ("add a beard", "give it a beard")
    else:
        new = replace(one, beard="none")
        ways = (f"remove the {one.beard}", f"shave off the {one.beard}")
    before = replace(scene, subject=replace(person, identity=one))
    after = replace(scene, subject=replace(person, identity=new))
    # a beard is of the colour of the hair, and moves the mouth
    labels = {"hair": ("hair", "beard"), "glasses": ("glasses",), "beard": ("beard", "skin")}
    return Edit("face", before, choose(rng, ways), after, 0, labels[pick])


EDITS: dict[str, Callable[[Rng], Edit]] = {
    "recolour": recolour, "kind": swap, "finish": refinish, "hat": hat, "background": background,
    "garment": garment, "face": face,
}  # fmt: skip
SHARES = {"recolour": 0.25, "kind": 0.15, "finish": 0.1, "hat": 0.2, "background": 0.12,
          "garment": 0.1, "face": 0.08}  # fmt: skip


def random_edit(rng: Rng, kind: str | None = None) -> Edit:
    """Make an edit of this kind of EDITS, or of any, by SHARES."""
    return EDITS[kind or choose(rng, SHARES, list(SHARES.values()))](rng)


def _some_toy(rng: Rng) -> tuple[Scene, int, Single]:
    """Make a scene of a toy or, in three of ten, of a pair, and choose a toy in it."""
    scene = random_pair_scene(rng) if rng.uniform() < 0.3 else random_toy_scene(rng)
    index = int(rng.integers(len(toys := _toys(scene))))
    return scene, index, toys[index]


def _toys(scene: Scene) -> tuple[Single, ...]:
    subject: Any = scene.subject
    return subject.toys if isinstance(subject, Pair) else (subject,)


def _with_toy(scene: Scene, index: int, toy: Single) -> Scene:
    """Put another toy in place of one of a scene."""
    pair = scene.subject
    if not isinstance(pair, Pair):
        return replace(scene, subject=toy)
    both = (toy, pair.second) if index == 0 else (pair.first, toy)
    return replace(scene, subject=Pair(*both, pair.relation))


def _name(rng: Rng, scene: Scene, toy: Single) -> str:
    """Call a toy "it" or "the mug"; one of a pair always by its kind."""
    alone = len(_toys(scene)) == 1
    return "it" if alone and rng.uniform() < 0.6 else f"the {toy.kind}"
