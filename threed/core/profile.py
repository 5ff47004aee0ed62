"""What the programs that assets are for ask of them: docs/assets.md has the sources."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from threed.core.budget import Budget
from threed.core.errors import InputError
from threed.core.length import read_length

Target = Literal["unity", "unreal", "godot", "web", "print"]
# names by which engines, and we, know a part of a file that is there to collide with only
COLLIDERS = re.compile(r"U(CX|BX|SP|CP)_.+|.+[-$_](conv)?colonly|.+_collider_\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Profile:
    """Budget, coarser copies and colliders of an asset that is made for a program."""

    faces: int
    texture: int
    lods: int = 0
    collider: str | None = None  # what its convex parts are called, by {name} and {number}
    height: float | None = None  # metres, where no other is asked for
    suffix: str = ".glb"  # of the file
    small: bool = False  # compressed


PROFILES: dict[Target, Profile] = {
    "unity": Profile(10_000, 1024, 2, "{name}_collider_{number:02}"),
    "unreal": Profile(20_000, 2048, 3, "UCX_{name}_{number:02}"),
    "godot": Profile(10_000, 1024, 0, "{name}-{number:02}-convcolonly"),
    "web": Profile(10_000, 1024, small=True),
    "print": Profile(50_000, 1024, height=0.1, suffix=".3mf"),
}


def given(target: Target | None) -> dict[str, float | str]:
    """What a profile sets of an asset's settings, by their names."""
    if target is None:
        return {}
    profile = PROFILES[target]
    names = ("faces", "texture", "lods", "height")
    values = {name: getattr(profile, name) for name in names}
    return {"profile": target} | {k: v for k, v in values.items() if v is not None}


def limits(
    target: Target | None, budget: str | None, lods: int | None
) -> tuple[Budget | None, int]:
    """The budget and the coarser copies of an export: what is asked for, else the profile's.

    InputError for a budget that cannot be.
    """
    own = None if budget is None else Budget.parse(budget)
    if target is None:
        return own, lods or 0
    profile, said = PROFILES[target], {} if own is None else own.given()
    found = Budget(**{"faces": profile.faces, "texture": profile.texture} | said)
    return found, profile.lods if lods is None else lods


def stature(target: Target | None, height: str | None) -> float | None:
    """How high, in metres, an export stands, if that is asked for or its profile says so.

    InputError for what is no height.
    """
    if height is not None:
        return read_length(height)
    return None if target is None else PROFILES[target].height


def check_target(target: Target, suffix: str, lods: int | None) -> None:
    """InputError unless a file of that suffix, with so many copies, is what a profile asks for."""
    right = PROFILES[target].suffix
    if target == "print" and lods:
        raise InputError(f"profile=print has no coarser copies, got lods={lods}")
    if suffix.lower() != right:
        raise InputError(f"profile={target} is written as {right}, not as {suffix or 'no format'}")


def check_tools(target: Target | None) -> None:
    """InputError where a package that a profile needs is not installed."""
    if target is None:
        return
    profile = PROFILES[target]
    for asked, package, extra in (
        (profile.collider, "coacd", "engine"),
        (profile.small, "meshoptimizer", "gltf"),
    ):
        if asked and find_spec(package) is None:
            raise InputError(f"profile={target} needs {package}: pip install 'threed[{extra}]'")
