"""What a run begins with: a mesh file, or nothing; and what becomes of its stages then."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from threed.core.errors import InputError
from threed.core.schedule import constant
from threed.settings.base import replace
from threed.settings.run import Run
from threed.settings.stage import Stage

Up = Literal["y", "z"]
# of a surface's shape, against edits that disagree about it
SMOOTH = {"normal_consistency": constant(1.0), "laplacian": constant(0.2)}


@dataclass(frozen=True)
class Start:
    """A mesh file to begin with instead of a field: GLB, OBJ, PLY or STL."""

    mesh: Path
    up: Up | None = None  # its upward axis; None: its format's own
    front: float = 0.0  # where it faces: degrees from its format's front, against the clock


def for_mesh(run: Run) -> Run:
    """Leave out the fields that a run without a mesh would begin with; InputError if all are."""
    kinds = [stage.scene for stage in run.stages]
    rest = run.stages[sum(kind == "field" for kind in kinds) :]
    if not rest:
        raise InputError("a field cannot begin with a mesh, and this run has no stage of another "
                         "scene: use --preset toybox-magic3d or magic3d")  # fmt: skip
    return replace(run, stages=rest)


def shaped(stage: Stage) -> Stage:
    """Give a stage of edits a surface, so that the shape follows them too."""
    return replace(stage, scene="surface", losses={**SMOOTH, **stage.losses})
