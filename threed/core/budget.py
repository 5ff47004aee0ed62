"""What an asset may cost: faces, texels, coarser copies."""

from __future__ import annotations

import re
from dataclasses import dataclass

from threed.core.errors import InputError

FEWEST = 4  # faces of a closed mesh
SIZES = (16, 8192)  # texels a side

LODS = 8  # at most so many coarser copies
QUADS = (100, 200_000)  # that can be asked for
OF_QUADS = (".obj", ".usdz", ".fbx")  # files that hold them


@dataclass(frozen=True)
class Budget:
    """At most about so many faces, and texels a side; None is as many as there are."""

    faces: int | None = None
    texture: int | None = None

    def __post_init__(self) -> None:
        """InputError for what no mesh can have."""
        if self.faces is not None and self.faces < FEWEST:
            raise InputError(f"budget: faces must be at least {FEWEST}, got {self.faces}")
        if self.texture is not None and not SIZES[0] <= self.texture <= SIZES[1]:
            raise InputError(f"budget: texture must be in {SIZES[0]}..{SIZES[1]}, "
                             f"got {self.texture}")  # fmt: skip

    @staticmethod
    def parse(text: str) -> Budget:
        """From words such as faces=5000,texture=512; InputError for any others."""
        values: dict[str, int] = {}
        for word in text.split(","):
            name, _, value = (part.strip() for part in word.partition("="))
            if name not in ("faces", "texture") or not re.fullmatch(r"\d{1,12}", value):
                raise InputError(f"budget: {word.strip()[:60]!r} is not understood; it takes "
                                 "faces=5000, texture=512, or both with a comma")  # fmt: skip
            values[name] = int(value)
        return Budget(**values)

    def given(self) -> dict[str, int]:
        """What is limited, by name."""
        pairs = {"faces": self.faces, "texture": self.texture}
        return {name: value for name, value in pairs.items() if value is not None}


def check_quads(quads: int | None, suffix: str, budget: Budget | None, lods: int) -> None:
    """InputError for a number of quads that cannot be, or not in such a file or beside the rest."""
    if quads is None:
        return
    if not QUADS[0] <= quads <= QUADS[1]:
        raise InputError(f"quads must be in {QUADS[0]}..{QUADS[1]}, got {quads}")
    if suffix.lower() not in OF_QUADS:
        raise InputError(f"quads are written as {', '.join(OF_QUADS)}, not as {suffix}, which "
                         "holds triangles")  # fmt: skip
    if lods or (budget is not None and budget.faces is not None):
        raise InputError(f"quads={quads} says how many faces there are: leave lods, and of a "
                         "budget the faces")  # fmt: skip


@dataclass(frozen=True)
class Level:
    """What a mesh, or a coarser copy of it, is made with."""

    faces: int  # at most about so many
    texture: int  # texels a side


def levels(faces: int, texture: int, lods: int) -> list[Level]:
    """The levels of a mesh and of its `lods` coarser copies, finest first.

    Each is for twice the distance: with half the size in the picture, a quarter of the faces and
    half the texels a side look the same. InputError where nothing would be left of a copy.
    """
    if not 0 <= lods <= LODS:
        raise InputError(f"lods must be in 0..{LODS}, got {lods}")
    found = [(faces // 4**level, max(texture // 2**level, SIZES[0])) for level in range(lods + 1)]
    if found[-1][0] < FEWEST:
        raise InputError(f"lods={lods} would leave {found[-1][0]} faces of {faces:,}; "
                         f"ask for fewer, or for more faces")  # fmt: skip
    return [Level(*pair) for pair in found]
