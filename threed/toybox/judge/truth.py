"""What the judge should read from a scene: the truth by the names of its heads."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from threed.toybox.judge.net import HEADS, SCENE_HEADS
from threed.toybox.world.figures import Figure, Identity
from threed.toybox.world.garments import Garment
from threed.toybox.world.pairs import ABOVE, Pair, Single
from threed.toybox.world.scenes import Scene

UNKNOWN = -100  # label of what a picture does not show; torch's losses skip it


def truths(scene: Scene) -> dict[str, str]:
    """Name what the judge should read from a scene, by head; heads without a name are left out."""
    subject = scene.subject
    if isinstance(subject, Pair):
        found = {"scene": "pair above" if subject.relation == ABOVE else "pair beside"}
        for place, toy in (("first", subject.first), ("second", subject.second)):
            found |= {f"{place}_kind": toy.kind, f"{place}_color": toy.color}
        return found
    if isinstance(subject, Figure):
        return _truths_of_person(subject)
    if isinstance(subject, Garment):
        return {"scene": "garment"} | truths_of_garment(subject)
    assert isinstance(subject, Single)
    return {"scene": "toy", "kind": subject.kind, "color": subject.color, "finish": subject.finish,
            "hat": subject.hat or "none"}  # fmt: skip


def _truths_of_person(person: Figure) -> dict[str, str]:
    found = {"scene": "person", "skin": person.identity.skin} | truths_of_face(person.identity)
    found |= truths_of_garment(person.upper)
    if not person.portrait:
        lower = truths_of_garment(person.lower) if person.lower else {"lower": "none"}
        found |= lower | {"pose": person.pose.name}
    return found


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
