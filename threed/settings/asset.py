"""How a scene becomes an asset."""

from __future__ import annotations

from dataclasses import dataclass

from threed.core.budget import LODS, levels
from threed.core.errors import InputError


@dataclass(frozen=True)
class AssetSettings:
    """How a scene becomes an asset."""

    faces: int = 20_000  # at most about so many
    texture: int = 1024  # texels a side
    resolution: int = 128  # cells a side of the grid that the surface is found in
    turntable_frames: int = 120  # of one turn, at 30 a second
    turntable_size: int = 512  # pixels a side
    preview_size: int = 256  # pixels a side of each of its 16 pictures
    normal_map: bool = True  # for the shape that fewer faces lose, where it shows
    lods: int = 0  # coarser copies, asset_lod1.glb and on: each a quarter of the faces

    def __post_init__(self) -> None:
        """InputError for a number out of its range."""
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"asset: {name} must be in {low}..{high}, got {value}")
        if self.turntable_size % 2:
            raise InputError(f"asset: turntable_size must be even, got {self.turntable_size}")
        levels(self.faces, self.texture, self.lods)


_RANGES = {
    "faces": (4, 2_000_000),
    "texture": (16, 8192),
    "resolution": (16, 512),
    "turntable_frames": (2, 3600),
    "turntable_size": (16, 4096),
    "preview_size": (16, 2048),
    "lods": (0, LODS),
}
