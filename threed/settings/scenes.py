"""What the scenes are made of: fields, surfaces, textured meshes, and their paint."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from threed.core.errors import InputError
from threed.settings.base import Settings, Share

SURFACE_LOSSES = ("normal_consistency", "laplacian", "sign_changes", "deviation")


SHADING = "most of a picture's brightness that a lamp, new each step, decides"


class GridSettings(Settings):
    """What a hash grid is made of, and the net that reads it."""

    ADDED: ClassVar = frozenset({"net_rate"})

    levels: int = Field(10, ge=1, description="grids of different resolution")
    features: int = Field(2, ge=1, description="numbers a grid point holds")
    log2_table: int = Field(15, ge=4, le=24, description="rows a level, as a power of two")
    base_resolution: int = Field(8, ge=1, description="cells a side of the coarsest grid")
    max_resolution: int = Field(128, ge=1, description="cells a side of the finest grid")
    hidden: int = Field(32, ge=1, description="neurons of the one hidden layer")
    net_rate: float = Field(0.1, gt=0, le=10, description="rate of the net, as a multiple of lr")

    @model_validator(mode="after")
    def _check_resolutions(self) -> GridSettings:
        """InputError for a finest grid that is coarser than the coarsest."""
        if self.max_resolution < self.base_resolution:
            raise InputError(f"max_resolution must be at least base_resolution "
                             f"{self.base_resolution}, got {self.max_resolution}")  # fmt: skip
        return self


class FieldSettings(GridSettings):
    """What a Field is made of. The defaults suit pictures of 64 to 128 pixels on a CPU."""

    ADDED: ClassVar = frozenset({"net_rate", "level_from", "shading"})

    start_levels: int = Field(6, ge=1, description="grids in use at step 0")
    level_from: int = Field(0, ge=0, description="step from which the others begin to join")
    level_every: int = Field(40, ge=1, description="steps until the next grid joins")
    blob_bias: float = Field(
        10.0, description="density begins as bias * (1 - |x| / blob_radius), before its softplus"
    )
    blob_radius: float = Field(0.5, gt=0, description="radius of that blob, in world units")
    density_gain: float = Field(5.0, gt=0, description="density per world unit = gain * softplus")
    occupancy: int = Field(32, ge=1, description="cells a side of the grid of what is empty")
    occupancy_every: int = Field(8, ge=1, description="steps between updates of that grid")
    occupancy_decay: Share = Field(0.9, description="share of a density that an update keeps")
    occupancy_alpha: Share = Field(2e-3, description="a cell is empty if a step is less opaque")
    samples: int = Field(96, ge=1, description="samples along the unit ball's diameter")
    background: Literal["white", "learned"] = Field("white", description="what is behind the ball")
    shading: Share = Field(0.0, description=SHADING)


class SurfaceSettings(Settings):
    """What a Surface is made of."""

    grid: int = Field(64, ge=4, le=256, description="cells a side")
    radius: float = Field(0.5, gt=0, lt=1, description="world units, of the ball that it begins as")
    shape_lr: float = Field(1.0, ge=0, description="rate of the shape, as a multiple of lr")
    shading: Share = Field(0.0, description=SHADING)
    mesher: Literal["tetrahedra", "flexicubes"] = Field(
        "tetrahedra", description="what makes the mesh; flexicubes needs kaolin"
    )


class TexturedSettings(Settings):
    """How a Textured mesh is painted."""

    keep_uv: bool = Field(False, description="bake into the mesh's own texture coordinates")
    shading: Share = Field(0.0, description=SHADING)
    gloss: bool = Field(False, description="learn roughness and metallic from what the lamp shows")

    @model_validator(mode="after")
    def _check(self) -> TexturedSettings:
        """InputError for gloss that no lamp shows."""
        if self.gloss and self.shading == 0:
            raise InputError("gloss shows under a lamp only, so that it needs shading above 0, "
                             "such as textured.shading=0.8")  # fmt: skip
        return self


class PaintSettings(GridSettings):
    """What the colours of a surface are made of. The defaults suit pictures of 128 pixels."""

    levels: int = Field(12, ge=1, description="grids of different resolution")
    max_resolution: int = Field(256, ge=1, description="cells a side of the finest grid")
    copy_steps: int = Field(
        200, ge=0, description="steps to learn the colours that a stage begins with"
    )
