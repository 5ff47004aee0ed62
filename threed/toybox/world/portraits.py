"""Portraits: head and shoulders of a toy person, so large that a face can be told from another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from threed.toybox.world.captions import a
from threed.toybox.world.chance import Rng, choose
from threed.toybox.world.draw import Array
from threed.toybox.world.faces import Face, head_parts, random_expression, random_face
from threed.toybox.world.figures import SKINS, listed
from threed.toybox.world.garments import UPPERS, Garment, random_garment
from threed.toybox.world.paint import main
from threed.toybox.world.parts import Part, ball, box, pack, place, ring, rod, rotation
from threed.toybox.world.scenes import Point, Scene, Thing, random_camera, staged
from threed.toybox.world.toys import COLORS, FINISHES, second_color

HATS = ("none", "cap", "beanie", "top hat")
SCALE, DROP = 1.08, 0.22  # of a head around the origin, and how far up it goes
HEAD_TURN = 32.0  # degrees that a head may be turned to either side
WHITE_SHIRT = Garment("shirt", "white", "plain")
NECK = -0.5  # z of the shoulders, before scaling


@dataclass(frozen=True)
class Portrait:
    """A person as the subject of a scene: the face stays, all else is today's."""

    face: Face
    expression: str = "calm"  # of EXPRESSIONS
    turn_deg: float = 0.0  # of the head, to its left
    upper: Garment = WHITE_SHIRT
    hat: str = "none"  # of HATS
    hat_color: str = "black"  # of COLORS

    def things(self) -> tuple[Thing, ...]:
        """Place head and shoulders, the head in the middle of the picture."""
        head = [*head_parts(self.face, self.expression)]
        head += [("hat", part) for part in self._hat()]
        bust = [*self._bust()]
        rows = np.concatenate([
            place(pack([part for _, part in head]), SCALE, (0, 0, DROP), self.turn_deg),
            place(self._dressed([part for _, part in bust]), SCALE, (0, 0, DROP)),
        ])  # fmt: skip
        labels = tuple(label for label, _ in (*head, *bust))
        return (Thing("person", rows, labels, self._points()),)

    def words(self, rng: Rng, known: float = 0.85) -> str:
        """Say it: "a portrait of a smiling person with glasses in a red shirt and a blue cap".

        known: how often it is said what the person looks like.
        """
        one = self.face.identity
        bald = one.hair == "bald" and known > 0.5
        person = "bald person" if bald else "person"
        if self.expression != "calm" and rng.uniform() < 0.7:
            person = f"{self.expression} {person}"
        text = f"a portrait of {a(person)}"
        said = one.words() if rng.uniform() < known else []
        if said:
            text += f" with {listed(said)}"
        if rng.uniform() < 0.8:
            hat = [f"{a(self.hat_color)} {self.hat}"] * (self.hat != "none")
            text += f" in {listed([self.upper.words(rng), *hat])}"
        return text

    def _bust(self) -> list[tuple[str, Part]]:
        skin, color = SKINS[self.face.identity.skin], COLORS[self.upper.color]
        return [
            ("skin", rod((-0.04, 0, NECK - 0.04), 0.2, 0.2, 0.2, skin)),
            ("top", ball((-0.08, 0, NECK - 0.5), (0.4, 0.72, 0.42), **main(color))),
            ("top", box((-0.08, 0, NECK - 0.75), (0.36, 0.7, 0.4), rounding=0.3, **main(color))),
            ("top", ring((-0.04, 0, NECK - 0.13), 0.21, 0.06, **main(color))),
        ]

    def _dressed(self, parts: list[Part]) -> Array:
        finish = FINISHES.index(self.upper.finish)
        return pack(parts, finish=finish, second=second_color(self.upper.color))

    def _hat(self) -> list[Part]:
        a_, b, c = self.face.size()
        color = COLORS[self.hat_color]
        dome = ball((-0.04, 0, 0.24), (a_ * 1.08, b * 1.16, c * 0.78), color)
        above = box((0, 0, -0.72), (1, 1, 1.0), color, cut=True)  # leaves what is over the brows
        if self.hat == "beanie":
            band = rod((-0.03, 0, 0.33), b * 1.2, b * 1.16, 0.06, color, rounding=0.05)
            return [dome, above, band, ball((-0.04, 0, c * 0.78 + 0.26), 0.1, color)]
        if self.hat == "cap":
            visor = ball((0.4, 0, 0.3), (0.34, 0.36, 0.05), color, turn_deg=(0, 8, 0))
            return [dome, above, visor]
        if self.hat == "top hat":
            return [rod((-0.05, 0, 0.34), 0.68, 0.68, 0.035, color),
                    rod((-0.05, 0, 0.58), b * 0.95, b * 1.0, 0.26, color)]  # fmt: skip
        return []

    def _points(self) -> tuple[Point, ...]:
        turn = rotation((0.0, 0.0, self.turn_deg))
        found = []
        for name, at in self.face.points().items():
            x, y, z = (SCALE * turn @ np.array(at) + (0, 0, DROP)).tolist()
            found.append(Point(name, (x, y, z), 0.2 if name == "nose" else 0.16))
        return tuple(found)


def random_portrait(rng: Rng, face: Face | None = None) -> Portrait:
    """Show this face, or any, as it looks today: expression, turn, clothes, a hat in a third."""
    return Portrait(
        face or random_face(rng),
        random_expression(rng),
        float(rng.uniform(-HEAD_TURN, HEAD_TURN)),
        random_garment(rng, UPPERS),
        choose(rng, HATS, (0.67, 0.12, 0.11, 0.1)),
        choose(rng, COLORS),
    )


def portrait_scene(rng: Rng, portrait: Portrait) -> Scene:
    """Stage a portrait, seen from about the front, under a random light, on a random ground."""
    return staged(rng, portrait, random_camera(rng, (-12, 12), (-8, 14), (0.97, 1.06)))
