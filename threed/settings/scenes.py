"""What the scenes are made of: fields, surfaces, textured meshes, and their paint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from threed.core.errors import InputError

SURFACE_LOSSES = ("normal_consistency", "laplacian", "sign_changes", "deviation")


class Grid(Protocol):
    """The settings that make a hash grid."""

    @property
    def levels(self) -> int:
        """Grids of different resolution."""

    @property
    def features(self) -> int:
        """Numbers a grid point holds."""

    @property
    def log2_table(self) -> int:
        """Rows a level, as a power of two."""

    @property
    def base_resolution(self) -> int:
        """Cells a side of the coarsest grid."""

    @property
    def max_resolution(self) -> int:
        """Cells a side of the finest."""


def check_grid(settings: Grid, where: str, counts: Sequence[str]) -> None:
    """InputError, begun by `where`, for a grid that cannot be, or a named count below 1."""
    for name in counts:
        if getattr(settings, name) < 1:
            raise InputError(f"{where}: {name} must be at least 1, got {getattr(settings, name)}")
    if settings.max_resolution < settings.base_resolution:
        raise InputError(f"{where}: max_resolution must be at least base_resolution "
                         f"{settings.base_resolution}, got {settings.max_resolution}")  # fmt: skip
    if not 4 <= settings.log2_table <= 24:
        raise InputError(f"{where}: log2_table must be in 4..24, got {settings.log2_table}")


@dataclass(frozen=True)
class FieldSettings:
    """What a Field is made of. The defaults suit pictures of 64 to 128 pixels on a CPU."""

    levels: int = 10  # grids of different resolution
    features: int = 2  # numbers a grid point holds
    log2_table: int = 15  # rows a level, as a power of two
    base_resolution: int = 8  # cells a side of the coarsest grid
    max_resolution: int = 128  # of the finest
    start_levels: int = 6  # levels in use at step 0 ...
    level_every: int = 40  # ... and steps until the next one joins
    hidden: int = 32  # neurons of the one hidden layer
    blob_bias: float = 10.0  # added before the softplus: bias * (1 - |x| / radius)
    blob_radius: float = 0.5  # world units
    density_gain: float = 5.0  # density per world unit = gain * softplus
    occupancy: int = 32  # cells a side of the grid that knows what is empty
    occupancy_every: int = 8  # steps between its updates
    occupancy_decay: float = 0.9  # of a cell's remembered density, each update
    occupancy_alpha: float = 2e-3  # a cell is empty if a step through it is less opaque
    samples: int = 96  # along the unit ball's diameter
    background: Literal["white", "learned"] = "white"  # what rays see behind the ball

    def __post_init__(self) -> None:
        """InputError for values that make no field."""
        check_grid(
            self,
            "field",
            ("levels", "features", "base_resolution", "hidden", "occupancy", "samples",
             "level_every", "occupancy_every", "start_levels"),
        )  # fmt: skip


@dataclass(frozen=True)
class SurfaceSettings:
    """What a Surface is made of."""

    grid: int = 64  # cells a side
    radius: float = 0.5  # world units, of the ball that it is if nothing comes before it
    shape_lr: float = 1.0  # of distances, in cells, and moves, as a multiple of the table's lr
    shading: float = 0.0  # most of a picture's brightness that a lamp, new each step, decides
    mesher: Literal["tetrahedra", "flexicubes"] = "tetrahedra"  # the latter needs kaolin

    def __post_init__(self) -> None:
        """InputError for values that make no surface."""
        if not 4 <= self.grid <= 256:
            raise InputError(f"surface: grid must be in 4..256, got {self.grid}")
        if not 0 < self.radius < 1:
            raise InputError(f"surface: radius must be between 0 and 1, got {self.radius:g}")
        if self.shape_lr < 0:
            raise InputError(f"surface: shape_lr must be at least 0, got {self.shape_lr:g}")
        if not 0 <= self.shading <= 1:
            raise InputError(f"surface: shading must be in 0..1, got {self.shading:g}")
        if self.mesher not in ("tetrahedra", "flexicubes"):
            raise InputError("surface: mesher must be tetrahedra or flexicubes, "
                             f"got {self.mesher!r}")  # fmt: skip


@dataclass(frozen=True)
class TexturedSettings:
    """How a Textured mesh is painted."""

    keep_uv: bool = False  # bake into the mesh's own texture coordinates
    shading: float = 0.0  # most of a picture's brightness that a lamp, new each step, decides
    gloss: bool = False  # learn roughness and metallic as well, from what the lamp shows

    def __post_init__(self) -> None:
        """InputError for values that make no texture."""
        if self.gloss and self.shading == 0:
            raise InputError("textured: gloss shows under a lamp only, so that it needs shading "
                             "above 0, such as textured.shading=0.8")  # fmt: skip
        if not 0 <= self.shading <= 1:
            raise InputError(f"textured: shading must be in 0..1, got {self.shading:g}")


@dataclass(frozen=True)
class PaintSettings:
    """What the colours of a surface are made of. The defaults suit pictures of 128 pixels."""

    levels: int = 12  # grids of different resolution
    features: int = 2  # numbers a grid point holds
    log2_table: int = 15  # rows a level, as a power of two
    base_resolution: int = 8  # cells a side of the coarsest grid
    max_resolution: int = 256  # of the finest
    hidden: int = 32  # neurons of the one hidden layer
    copy_steps: int = 200  # steps of learning the colours of what a stage begins with

    def __post_init__(self) -> None:
        """InputError for values that make no paint."""
        check_grid(self, "paint", ("levels", "features", "base_resolution", "hidden"))
        if self.copy_steps < 0:
            raise InputError(f"paint: copy_steps must be at least 0, got {self.copy_steps}")
