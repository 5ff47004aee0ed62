"""What the judge should read from a scene: the truth by the names of its heads."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from threed.toybox.judge.net import HEADS, SCENE_HEADS
from threed.toybox.world.figures import Figure, Identity
from threed.toybox.world.garments import Garment
from threed.toybox.world.pairs import ABOVE, Pair, Single
from threed.toybox.world.portraits import Portrait
from threed.toybox.world.scenes import Scene
from threed.toybox.world.styles import Style

COLORLESS = ("palette", "hatched", "dotted", "clay", "sepia")  # styles without the colours
TINTED = ("color", "finish", "skin", "hat")  # ends of the heads that read colours and patterns
UNKNOWN = -100  # label of what a picture does not show; torch's losses skip it


def truths(scene: Scene) -> dict[str, str]:
    """Name what the judge should read from a scene, by head; heads without a name are left out."""
    subject = scene.subject
    if isinstance(subject, Pair):
        found = {"scene": "pair above" if subject.relation == ABOVE else "pair beside"}
        for place, toy in (("first", subject.first), ("second", subject.second)):
            found |= {f"{place}_kind": toy.kind, f"{place}_color": toy.color}
        return found
    if isinstance(subject, Figure | Portrait):
        return _truths_of_person(subject)
    if isinstance(subject, Garment):
        return {"scene": "garment"} | truths_of_garment(subject)
    assert isinstance(subject, Single)
    return {"scene": "toy", "kind": subject.kind, "color": subject.color, "finish": subject.finish,
            "hat": subject.hat or "none"}  # fmt: skip


def truths_in_style(scene: Scene, style: Style | None) -> dict[str, str]:
    """Name what can be read from a scene in a style; some leave no colours to be read."""
    found = truths(scene)
    if style is not None and style.name in COLORLESS:
        found = {head: name for head, name in found.items() if not head.endswith(TINTED)}
    return found | {"style": style.name if style else "none"}


def _truths_of_person(person: Figure | Portrait) -> dict[str, str]:
    one = person.identity if isinstance(person, Figure) else person.face.identity
    found = {"scene": "person", "skin": one.skin} | truths_of_face(one)
    found |= truths_of_garment(person.upper)
    if isinstance(person, Figure):
        lower = truths_of_garment(person.lower) if person.lower else {"lower": "none"}
        return found | lower | {"pose": person.pose.name}
    if person.hat != "none":  # hides most of the hair
        found = {head: name for head, name in found.items() if not head.startswith("hair")}
    return found | {"expression": person.expression}


def truths_of_face(one: Identity) -> dict[str, str]:
    """Name what can be seen of a face, by head: no colour of hair that is not there."""
    found = {"hair": one.hair, "beard": one.beard, "glasses": "glasses" if one.glasses else "none"}
    if one.hair != "bald" or one.beard != "none":
        found["hair_color"] = one.hair_color
    return found


def truths_of_garment(garment: Garment) -> dict[str, str]:
    """Name a garment, its colour and, of an upper one, its finish, by head."""
    place = "upper" if garment.kind in SCENE_HEADS["upper"] else "lower"
    found = {place: garment.kind, f"{place}_color": garment.color}
    return found | ({"upper_finish": garment.finish} if place == "upper" else {})


def indices(named: Mapping[str, str]) -> NDArray[np.int64]:
    """[heads] the index of each name in HEADS, UNKNOWN where there is none."""
    found = {head: HEADS[head].index(name) for head, name in named.items()}
    return np.array([found.get(head, UNKNOWN) for head in HEADS])
