"""How a scene becomes an asset."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from threed.core.budget import FEWEST, LODS, SIZES, levels
from threed.core.length import RANGE
from threed.core.profile import Target
from threed.settings.base import Settings


class AssetSettings(Settings):
    """How a scene becomes an asset."""

    ADDED: ClassVar = frozenset({"height", "profile", "splats"})

    faces: int = Field(20_000, ge=FEWEST, le=2_000_000, description="at most about so many")
    texture: int = Field(1024, ge=SIZES[0], le=SIZES[1], description="texels a side")
    resolution: int = Field(128, ge=16, le=512, description="cells a side of the surface grid")
    turntable_frames: int = Field(120, ge=2, le=3600, description="pictures of a turn, 30 a second")
    turntable_size: int = Field(
        512, ge=16, le=4096, multiple_of=2, description="pixels a side; even"
    )
    preview_size: int = Field(256, ge=16, le=2048, description="pixels a side of each of 16 views")
    normal_map: bool = Field(True, description="map the shape that fewer faces lose")
    lods: int = Field(0, ge=0, le=LODS, description="coarser copies, each a quarter of the faces")
    height: float | None = Field(
        None, ge=RANGE[0], le=RANGE[1], description="metres; the asset stands on the origin then"
    )
    profile: Target | None = Field(
        None, description="what it is for; only --profile sets faces, texture, lods and height, too"
    )
    splats: int | None = Field(
        None, ge=100, le=10_000_000, description="so many splats of its surface: asset.spz"
    )

    @model_validator(mode="after")
    def _check(self) -> AssetSettings:
        """InputError for copies that would have nothing left."""
        levels(self.faces, self.texture, self.lods)
        return self
