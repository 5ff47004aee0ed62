"""The skeleton of a toy person: where its joints are in a pose.

Its front is +x, its right is -y, up is +z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from threed.toybox.world.chance import Rng, choose
from threed.toybox.world.parts import Part, Vector, rod

KEYPOINTS = (
    "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow",
    "left wrist", "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle",
    "right eye", "left eye",
)  # fmt: skip
BONES = ((0, 1), (1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11),
         (11, 12), (12, 13), (0, 14), (0, 15))  # fmt: skip
HEAD: Vector = (0.0, 0.0, 0.62)
SIDES = {"right": -1.0, "left": 1.0}
ARM, LEG = ("shoulder", "elbow", "wrist"), ("hip", "knee", "ankle")


@dataclass(frozen=True)
class Limbs:
    """Angles in degrees of one side: away from hanging down, outwards or forwards."""

    upper: float = 14.0  # of the upper arm, outwards
    fore: float = 8.0  # of the forearm, outwards
    leg: float = 5.0  # outwards
    arm_swing: float = 0.0  # forwards
    leg_swing: float = 0.0


POSES: dict[str, tuple[Limbs, Limbs]] = {  # right and left
    "standing": (Limbs(), Limbs()),
    "waving": (Limbs(125, 165), Limbs()),
    "arms out": (Limbs(86, 90, 8), Limbs(86, 90, 8)),
    "cheering": (Limbs(140, 165, 13), Limbs(140, 165, 13)),
    "hands on hips": (Limbs(50, -45, 8), Limbs(50, -45, 8)),
    "walking": (Limbs(10, 6, 3, 28, -30), Limbs(10, 6, 3, -28, 30)),
}
ACROSS: dict[str, tuple[Limbs, Limbs]] = {  # an arm before the body; no caption names them
    "hand on chest": (Limbs(10, -115, 5, 26), Limbs()),
    "arms folded": (Limbs(10, -95, 5, 26), Limbs(10, -80, 5, 34)),
}


@dataclass(frozen=True)
class Pose:
    """One of POSES or ACROSS, a little different each time."""

    name: str
    bent: tuple[float, float, float, float]  # degrees added to the arms, right then left
    mirrored: bool = False

    def joints(self) -> dict[str, Vector]:
        """Place KEYPOINTS and the feet of a person between z = -0.95 and about 1."""
        right, left = (POSES | ACROSS)[self.name]
        if self.mirrored:
            right, left = left, right
        found: dict[str, Vector] = {
            "nose": (0.3, 0.0, 0.58), "neck": (0.0, 0.0, 0.3),
            "right eye": (0.24, -0.1, 0.66), "left eye": (0.24, 0.1, 0.66),
        }  # fmt: skip
        sides = zip(SIDES.items(), (right, left), (self.bent[:2], self.bent[2:]))
        for (side, sign), limbs, bent in sides:
            shoulder = (0.0, sign * 0.24, 0.22)
            elbow = _along(shoulder, sign, limbs.upper + bent[0], limbs.arm_swing, 0.26)
            wrist = _along(elbow, sign, limbs.fore + bent[1], 1.4 * limbs.arm_swing, 0.24)
            hip = (0.0, sign * 0.115, -0.22)
            knee = _along(hip, sign, limbs.leg, limbs.leg_swing, 0.3)
            ankle = _along(knee, sign, limbs.leg, min(limbs.leg_swing, 5.0), 0.32)
            for joint, place in zip((*ARM, *LEG), (shoulder, elbow, wrist, hip, knee, ankle)):
                found[f"{side} {joint}"] = place
        return found


def random_pose(rng: Rng, names: tuple[str, ...] = tuple(POSES)) -> Pose:
    """Choose one of these poses, and bend the arms a little."""
    one, two, three, four = rng.uniform(-7, 7, 4).tolist()
    return Pose(choose(rng, names), (one, two, three, four), bool(rng.uniform() < 0.5))


def limb(
    one: Vector, two: Vector, radius: float, end: float, color: Vector, *, patterned: bool = False
) -> Part:
    """Make a rod from one joint to another."""
    x, y, z = (b - a for a, b in zip(one, two))
    length = math.sqrt(x * x + y * y + z * z)
    turn = (0.0, math.degrees(math.acos(z / length)), math.degrees(math.atan2(y, x)))
    middle = ((one[0] + two[0]) / 2, (one[1] + two[1]) / 2, (one[2] + two[2]) / 2)
    half = length / 2 + 0.02
    return rod(middle, radius, end, half, color, rounding=0.04, turn_deg=turn, patterned=patterned)


def between(one: Vector, two: Vector, share: float) -> Vector:
    """Find a place on the way from one to two."""
    x, y, z = ((1 - share) * a + share * b for a, b in zip(one, two))
    return (x, y, z)


def _along(start: Vector, sign: float, out_deg: float, swing_deg: float, length: float) -> Vector:
    """Find the place `length` away from start in a direction that hangs down at 0, 0."""
    out, swing = math.radians(out_deg), math.radians(swing_deg)
    return (
        start[0] + length * math.sin(swing),
        start[1] + sign * length * math.sin(out) * math.cos(swing),
        start[2] - length * math.cos(out) * math.cos(swing),
    )
