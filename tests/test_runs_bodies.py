"""Bodies of toy persons' assets: how they stand, what views show of them, and who is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.toys import solid, toy
from threed.core.cameras import Cameras, orbit
from threed.core.errors import InputError
from threed.core.mesh import Mesh
from threed.diffusion.bodies import is_of
from threed.runs.bodies import find_body, sights
from threed.toybox.world.conditions import keypoints
from threed.toybox.world.draw import Light
from threed.toybox.world.dressed import Dressed, dense, regions, to_paint
from threed.toybox.world.figures import Identity
from threed.toybox.world.garments import WHITE, Garment
from threed.toybox.world.poses import Pose
from threed.toybox.world.scenes import Scene, View, draw_scene

LONG = Identity("dark", "long", "red", "blue", True, "none", 0.95)
BUN = replace(LONG, hair="bun", glasses=False)
SHIRT, SKIRT = Garment("shirt", "green", "plain"), Garment("skirt", "orange", "plain")
DRESS, SHORTS = Garment("dress", "purple", "plain"), Garment("shorts", "blue", "plain")
PERSONS = [
    Dressed(LONG, SHIRT, SKIRT, Pose("standing", (5.0, -4.0, 3.0, 0.0))),
    Dressed(BUN, DRESS, None, Pose("waving", (0.0, 6.0, -5.0, 0.0), mirrored=True)),
    Dressed(LONG, SHIRT, SHORTS, Pose("arms out", (-6.0, 3.0, 2.0, 5.0)),
            hat=Garment("top hat", "red", "plain")),
]  # fmt: skip


def mesh_of(person: Dressed) -> Mesh:
    (thing,) = person.things()
    return solid(thing.rows, resolution=40, texture=64)


def truth(person: Dressed, camera: Cameras) -> View:
    return draw_scene(Scene(person, Light(), WHITE, camera))


def over(one: Any, two: Any) -> float:
    """What both have, of what one has."""
    return float((one & two).sum() / (one | two).sum())


@pytest.mark.parametrize("person", PERSONS, ids=lambda person: person.pose.name)
def test_a_person_is_found_as_it_stands_and_seen_from_all_sides(person: Dressed) -> None:
    mesh, cameras = mesh_of(person), orbit(3, 64, elevation_deg=10.0, start_deg=20.0)
    body = find_body(mesh)
    assert (body.pose.name, body.pose.mirrored) == (person.pose.name, person.pose.mirrored)
    for number, sight in enumerate(sights(mesh, cameras, 64)):
        view = truth(person, cameras[number : number + 1])
        known = regions(view)
        assert over(sight.regions > 0, known > 0) > 0.85
        for garment in person.worn()[:1]:
            painted = sight.mask(["dress" if garment.kind == "dress" else "upper"])
            goal = to_paint(view, garment)
            assert over(painted[0, 0].numpy() > 0, goal) > 0.7
            face = is_of(known, "face", "hair")
            assert float((painted[0, 0].numpy() > 0)[face].mean() if face.any() else 0) < 0.15
        for found, true in ((sight.dense, dense(view)), (sight.pose, keypoints(view))):
            pixels = torch.from_numpy(np.asarray(true)).movedim(-1, 0)[None].clamp(0, 1)
            assert found.shape == pixels.shape
            assert over((found > 0).any(1).numpy(), (pixels > 0).any(1).numpy()) > 0.4
        assert float(sight.person[..., :3, :3].min()) == 1, "over white"


@pytest.mark.parametrize("kind", ["mug", "car"])
def test_what_is_no_person_is_refused(kind: str) -> None:
    with pytest.raises(InputError, match=r"the asset shows no toy person \(its outline is \d+% "):
        find_body(toy(kind, "red", resolution=32, texture=32))
