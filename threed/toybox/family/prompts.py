"""Toybox's pictures that are prompts: subjects with another picture of theirs, and portraits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from threed.diffusion.keypoints import draw_points
from threed.learning.data import Row
from threed.toybox.world.captions import a
from threed.toybox.world.chance import Rng, choose
from threed.toybox.world.faces import random_face
from threed.toybox.world.mix import in_style, maybe_style, random_scene
from threed.toybox.world.pairs import ABOVE, BESIDE, BROAD, Pair, random_single
from threed.toybox.world.portraits import portrait_scene, random_portrait
from threed.toybox.world.scenes import View, draw_scene, random_camera, staged
from threed.toybox.world.subjects import Keepsake, random_subject
from threed.toybox.world.toys import COLORS, KINDS, view_words

PERSONS, SITTINGS = "persons", 6  # the set of portraits, and how many there are of one person
KNOWN = 0.3  # how often a portrait's text says what the face looks like
PROMPTED: dict[str, float] = {"alone": 0.45, "other color": 0.1, "with a toy": 0.35, "scene": 0.1}
"""How often an example of a picture that is a prompt is so."""
UNNAMED, UNSAID = 0.25, 0.6  # how often a subject is "a toy"; how often a ground is not said
Example = tuple[Row, dict[str, Tensor]]  # texts, and pictures [3, H, W] by role


def prompted(rng: Rng) -> Example:
    """Draw what a picture shows, and that picture: another side of it, in another light.

    What the text says of its colour, its ground and the toy beside it is not in that picture.
    """
    way = choose(rng, PROMPTED, [*PROMPTED.values()])
    if way == "scene":
        first = random_scene(rng)
        view = draw_scene(first)
        other = draw_scene(staged(rng, first.subject, first.camera))
        return {"text": first.caption(rng)}, {"image": shown(view), "shown": shown(other)}
    subject = random_subject(rng)
    made, said = subject_in(rng, subject, way)
    pair = isinstance(made, Pair)
    camera = random_camera(rng, *(((-15, 15), (0, 30)) if pair else ((-180, 180), (-10, 45))))
    view = draw_scene(staged(rng, made, camera))
    text = said if rng.uniform() >= UNNAMED else said.replace(a(subject.kind), "a toy", 1)
    text += "" if rng.uniform() < UNSAID else f" on {view.scene.ground.words()}"
    text += f", {view_words(camera)[0]} view" if not pair and rng.uniform() < 0.5 else ""
    other = draw_scene(staged(rng, subject, random_camera(rng, (-60, 60), (-10, 45))))
    return {"text": text}, {"image": shown(view), "shown": shown(other)}


def subject_in(rng: Rng, subject: Keepsake, way: str) -> tuple[Keepsake | Pair, str]:
    """A subject as it is, of another colour, or with a toy that has a name; and its words."""
    if way == "other color":
        color = choose(rng, COLORS)
        red = replace(subject, colors=(COLORS[color], *subject.colors[1:]))
        return red, a(f"{color} {subject.kind}")
    if way == "alone":
        return subject, subject.words(rng)
    above = rng.uniform() < 0.4
    kinds = [kind for kind in (BROAD if above else KINDS) if kind != subject.kind]
    toy: Any = random_single(rng, kinds)
    one, two = (replace(each, scale=float(rng.uniform(0.8, 1)), turn_deg=float(turn))
                for each, turn in zip((subject, toy), rng.uniform(-35, 35, 2)))  # fmt: skip
    first, second = (one, two) if above or rng.uniform() < 0.5 else (two, one)
    pair = Pair(first, second, ABOVE if above else BESIDE)
    return pair, pair.words(rng)


def sitting(rng: Rng, whose: Rng) -> Example:
    """Draw somebody's portrait: what words say of the face is mostly left out of its text."""
    face, name = random_face(whose), str(whose.integers(2**31))
    portrait, style = random_portrait(rng, face), maybe_style(rng)
    view = draw_scene(portrait_scene(rng, portrait))
    text = portrait.words(rng, known=KNOWN)
    text += f" on {view.scene.ground.words()}" if rng.uniform() < 0.4 else ""
    image = view.picture.rgb if style is None else style.paint(view)
    points = draw_points(view.keypoints[0][:, :2], view.picture.rgb.shape[0])
    pictures = {"image": torch.from_numpy(image).permute(2, 0, 1),
                "mask": torch.from_numpy(view.mask()).expand(3, -1, -1),
                "points": torch.from_numpy(points).permute(2, 0, 1) / 255}  # fmt: skip
    return {"text": in_style(text, style), "person": name}, pictures


def shown(view: View) -> Tensor:
    """[3, H, W] in [0, 1] the picture of a view."""
    return torch.from_numpy(view.picture.rgb).permute(2, 0, 1)
