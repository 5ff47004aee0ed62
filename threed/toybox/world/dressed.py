"""Toy persons for try-on: what can be known of how they wear what they wear."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from threed.diffusion.bodies import CATEGORIES, GREY, NAMES, margin_of, paint_mask, to_colors
from threed.toybox.world.captions import a
from threed.toybox.world.chance import Rng, choose
from threed.toybox.world.conditions import grey, keypoints, palette, where
from threed.toybox.world.draw import CENTER, GROUP, ROTATION, SIZE, Array, draw
from threed.toybox.world.figures import Figure, random_identity
from threed.toybox.world.garments import (
    CLASS,
    HATS,
    LOWERS,
    TUCKED,
    UPPERS,
    Garment,
    random_garment,
    tailored,
)
from threed.toybox.world.parts import Vector, place
from threed.toybox.world.poses import ACROSS, POSES, Pose, random_pose
from threed.toybox.world.scenes import Point, Scene, Thing, View, places, random_camera, staged

# what the first parts of a person are: neck, trunk and hips, each side's limbs, and the head
SIDE = ("arms", "arms", "hands", "legs", "legs", "shoes")
LIMBS = ("neck", "neck", "legs", *SIDE, *SIDE, "face")
HANDS = [i for i, name in enumerate(LIMBS) if name == "hands"]  # each after its forearm
REGION = {"skin": "face", "eyes": "face", "glasses": "face", "beard": "face", "hair": "hair",
          "top": "upper", "trousers": "lower", "skirt": "lower", "dress": "dress",
          "hat": "hat"}  # fmt: skip
KINDS = {"upper": UPPERS, "lower": LOWERS, "dress": ("dress",), "hat": HATS}
SHARES = {"upper": 0.6, "lower": 0.25, "dress": 0.15}
UNDER_HATS = ("bald", "short", "long")  # hair that no hat is too small for
NEAR, CHEST = 1.5, 0.17  # how much larger a person is from near, and what is in the middle then
HIDDEN = 0.06  # how far behind what a picture shows a point of a garment is hidden, world units


@dataclass(frozen=True)
class Dressed(Figure):
    """A person in two or three garments; seen whole, or from the knees up."""

    hat: Garment | None = None
    near: bool = False

    def worn(self) -> tuple[Garment, ...]:
        """List the garments: the upper one, the lower one, the hat."""
        return (*super().worn(), *([self.hat] if self.hat else []))

    def things(self) -> tuple[Thing, ...]:
        """Place the person."""
        (person,) = super().things()
        if not self.near:
            return (person,)
        return (moved(person, NEAR, (0.0, 0.0, -NEAR * CHEST)),)

    def words(self, rng: Rng) -> str:
        """Say it as of any person, who stands if no caption has words for the pose."""
        named = self.pose if self.pose.name in POSES else replace(self.pose, name="standing")
        return Figure.words(replace(self, pose=named), rng)

    def garment(self, category: str) -> Garment:
        """Say which garment is of a category: upper, lower, dress or hat."""
        (found,) = (one for one in self.worn() if one.kind in KINDS[category])
        return found

    def wearing(self, garment: Garment) -> Dressed:
        """Put on a garment in the place of the one of its category."""
        category = category_of(garment)
        change: Any = {"upper" if category == "dress" else category: garment}
        return replace(self, **change)


@dataclass(frozen=True)
class Fitting:
    """A person, seen, and a garment that may come in the place of one that is worn."""

    scene: Scene  # of `person`
    person: Dressed
    category: str  # of CATEGORIES
    other: Garment

    @property
    def garment(self) -> Garment:
        """What is worn."""
        return self.person.garment(self.category)

    def changed(self) -> Scene:
        """The same person in the same pose, light and place, in the other garment."""
        return replace(self.scene, subject=self.person.wearing(self.other))


def moved(person: Thing, scale: float, shift: Vector) -> Thing:
    """Place a thing anew: every point x of it at scale * x + shift."""

    def spot(point: Point) -> Point:
        x, y, z = (scale * value + by for value, by in zip(point.position, shift))
        return replace(point, position=(x, y, z), depth=scale * point.depth)

    points = tuple(map(spot, person.points))
    return replace(person, rows=place(person.rows, scale, shift), points=points)


def category_of(garment: Garment) -> str:
    """Say which category a garment is of: upper, lower, dress or hat."""
    return next(name for name, kinds in KINDS.items() if garment.kind in kinds)


def random_wear(rng: Rng, category: str) -> Garment:
    """Choose a garment of a category, with a length of its own, and perhaps an emblem."""
    garment = tailored(rng, random_garment(rng, KINDS[category]))
    return replace(garment, waist=TUCKED) if garment.kind == "skirt" else garment


def random_dressed(rng: Rng, category: str, *, hat: float = 0.2) -> Dressed:
    """Dress any person in a garment of a category and what goes with it, in any pose.

    hat: how often it wears one.
    """
    identity = random_identity(rng)
    upper = random_wear(rng, "dress" if category == "dress" else "upper")
    lower = None if category == "dress" else random_wear(rng, "lower")
    names = (*POSES, *ACROSS) if rng.uniform() < 0.5 else ("standing", "hands on hips", *ACROSS)
    pose: Pose = random_pose(rng, names)
    on = random_wear(rng, "hat") if rng.uniform() < hat else None
    if on and identity.hair not in UNDER_HATS:
        identity = replace(identity, hair="short")
    near = category == "upper" and bool(rng.uniform() < 0.5)
    return Dressed(identity, upper, lower, pose, hat=on, near=near)


def random_fitting(rng: Rng, category: str | None = None, *, turned: float = 0.0) -> Fitting:
    """Make up a person and another garment of this category, or of any.

    turned: how often it is seen from anywhere around, and not from about the front.
    """
    category = category or choose(rng, CATEGORIES, [SHARES[name] for name in CATEGORIES])
    person = random_dressed(rng, category)
    old, new = person.garment(category), random_wear(rng, category)
    while new.color == old.color:
        new = random_wear(rng, category)
    reach = 180.0 if turned and rng.uniform() < turned else 18.0
    camera = random_camera(rng, (-reach, reach), (-4, 10), (1.03, 1.1))
    return Fitting(staged(rng, person, camera), person, category, new)


def random_outfit(rng: Rng) -> Scene:
    """Stage a person in two or three garments, a dress and a hat counted, seen whole."""
    category = "dress" if rng.uniform() < 0.2 else "upper"
    hat = 1.0 if category == "dress" else 0.5
    person = replace(random_dressed(rng, category, hat=hat), near=False)
    return staged(rng, person, random_camera(rng, (-18, 18), (-4, 10), (1.03, 1.1)))


def said(garment: Garment) -> str:
    """Say all that there are words for: "a striped red sweater"."""
    finish = "" if garment.finish == "plain" else f"{garment.finish} "
    text = f"{finish}{garment.color} {garment.kind}"
    return text if garment.kind in ("trousers", "shorts") else a(text)


def regions(view: View) -> NDArray[np.int64]:
    """[H, W] numbers of `threed.diffusion.bodies.REGIONS`: the parse map of a person.

    A hand is what of it lies beyond the wrist.
    """
    (person,), picture = view.things, view.picture
    names = [LIMBS[i] if i < len(LIMBS) else REGION[label]
             for i, label in enumerate(person.labels)]  # fmt: skip
    table = np.array([NAMES.index(name) for name in names])
    found = np.where((picture.part >= 0) & (picture.alpha >= 0.5), table[picture.part], 0)
    seen = places(picture, view.scene.camera)
    for hand in HANDS:
        wrist, forearm = person.rows[hand], person.rows[hand - 1]
        beyond = (seen - wrist[CENTER : CENTER + 3]) @ forearm[ROTATION + 6 : ROTATION + 9]
        found[(picture.part == hand) & (beyond < 0) & (found > 0)] = NAMES.index("arms")
    return found


def to_paint(view: View, garment: Garment) -> NDArray[np.bool_]:
    """[H, W] what is painted anew of a person for another garment of this one's category.

    Wider than published where a skirt may come for trousers, and with every pixel of the garment,
    though there be more of something else in it.
    """
    category = category_of(garment)
    mask = paint_mask(regions(view), category, margin_of(category))
    return mask | (view.mask(0, (CLASS[garment.kind],)) > 0)


def dense(view: View) -> Array:
    """[H, W, 3] the body under the clothes: a colour for each limb, brighter towards its end."""
    rows, camera = view.things[0].rows[: len(LIMBS)].copy(), view.scene.camera
    rows[:, GROUP] = 0
    size, ground = len(view.picture.alpha), np.zeros((2, 3), np.float32)
    seen = draw(rows, camera.c2w[0].numpy(), float(camera.fov_y[0]), size, view.scene.light, ground)
    own = rows[seen.part]
    away = places(seen, camera) - own[..., CENTER : CENTER + 3]
    along = (away * own[..., ROTATION + 6 : ROTATION + 9]).sum(-1) / own[..., SIZE + 2]
    share = 0.7 + 0.3 * along.clip(-1, 1)
    return where(seen.part >= 0, palette(len(rows))[seen.part] * share[..., None])


def correspondence(view: View, garment: Garment, flat: View) -> Array:
    """[H, W, 2] where the flat picture of a worn garment shows what each pixel shows: x, y.

    In pixels from left and top; NaN where the garment is not seen, or where what is seen of it is
    hidden in the flat picture. Sleeves and legs go along with their limbs, turned no more than
    they must; a pattern stays where it is in space.
    """
    (person,), picture = view.things, view.picture
    start, spread = person.labels.index(CLASS[garment.kind]), flat.things[0].rows
    seen = places(picture, view.scene.camera)
    found = np.full((*picture.part.shape, 2), np.nan, np.float32)
    for row, goal in enumerate(spread):
        here = (picture.part == start + row) & (picture.alpha >= 0.5)
        if not here.any():
            continue
        own = person.rows[start + row]
        turn = _least_turn(own[ROTATION + 6 : ROTATION + 9], goal[ROTATION + 6 : ROTATION + 9])
        away = (seen[here] - own[CENTER : CENTER + 3]) @ turn.T * (goal[SIZE] / own[SIZE])
        spots = flat.project(away + goal[CENTER : CENTER + 3], np.full(len(away), HIDDEN))
        found[here] = np.where(spots[:, 2:] > 0, spots[:, :2], np.nan)
    return found


def _least_turn(one: Array, two: Array) -> Array:
    """[3, 3] the least rotation that takes a unit vector to another."""
    x, y, z = np.cross(one, two)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn: Array = np.eye(3) + cross + cross @ cross / max(1 + float(one @ two), 1e-6)
    return turn


def on_white(view: View, garment: Garment) -> tuple[Array, NDArray[np.bool_]]:
    """[H, W, 3] what a picture shows of a worn garment, the rest white, and [H, W] where that is.

    Nothing where it is hidden.
    """
    share = view.mask(0, (CLASS[garment.kind],))
    seen = share >= 0.5
    shown = np.where(seen[..., None], view.picture.rgb, 1)
    return shown, seen


def fitting_pictures(view: View, garment: Garment, flat: View) -> dict[str, Array]:
    """What try-on learns from, by role: pictures [H, W, 3] in [0, 1].

    image: the person. garment, garment_mask: the garment laid flat on white, and where it is there.
    parse: where body and clothes are. mask, agnostic: white where the garment is painted anew, and
    the image grey there. pose: keypoints. dense: the body under the clothes. warped: the image's
    garment on white.
    """
    mask, (worn, _) = to_paint(view, garment), on_white(view, garment)
    return {
        "image": view.picture.rgb, "garment": flat.picture.rgb,
        "garment_mask": grey(flat.picture.alpha >= 0.5), "mask": grey(mask),
        "agnostic": np.where(mask[..., None], np.float32(GREY), view.picture.rgb),
        "pose": keypoints(view).clip(0, 1), "dense": dense(view),
        "parse": to_colors(regions(view)).astype(np.float32) / 255, "warped": worn,
    }  # fmt: skip
