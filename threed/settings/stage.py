"""A stage of a run: what is optimised, who judges its pictures, and where cameras stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from threed.core.errors import InputError
from threed.core.schedule import Counts, Schedule, constant
from threed.core.words import did_you_mean
from threed.settings.base import Settings, Share, Within
from threed.settings.scenes import SURFACE_LOSSES

Elevation = Annotated[float, Field(ge=-89, le=89)]
Angle = Annotated[float, Field(ge=5, le=120)]
Shares = Annotated[Schedule, Within(0, 1)]
Zoom = Annotated[float, Field(ge=0.5, le=4)]
GuidanceName = Literal[
    "sds", "mvdream", "vsd", "dreamflow", "csd", "nfsd", "ism", "denoise", "edit"
]
WITH_CRITIC = ("vsd", "dreamflow")  # guidances that train a net of their own
NEED_NORMALS = ("orientation", "smoothness")  # losses that a field has only with normals
# what weights can be given to, besides the guidance's own, by the scene of a stage
LOSSES: dict[str, tuple[str, ...]] = {
    "field": ("sparsity", "opaque", *NEED_NORMALS),
    "surface": SURFACE_LOSSES,
    "textured": (),
}


class CameraSettings(Settings):
    """Where the random cameras of a step stand; azimuths are always all around."""

    ADDED: ClassVar = frozenset({"distance_by", "jitter", "aim", "up"})

    elevation_deg: tuple[Elevation, Elevation] = Field(
        (-10.0, 45.0), description="degrees over the horizon, from and to"
    )
    fov_y_deg: tuple[Angle, Angle] = Field(
        (35.0, 45.0), description="vertical field of view in degrees, from and to"
    )
    zoom: tuple[Zoom, Zoom] = Field(
        (0.9, 1.1), description="distance, from and to; at 1 the unit ball just fits"
    )
    distance_by: Literal["sin", "tan", "none"] = Field(
        "sin",
        description="function of half the field of view that divides zoom; none: world units",
    )
    jitter: float = Field(0.0, ge=0, le=0.5, description="how far a camera may be moved, an axis")
    aim: float = Field(0.0, ge=0, le=0.5, description="spread of the point that it looks at")
    up: float = Field(0.0, ge=0, le=0.5, description="spread of the direction that is up for it")

    @model_validator(mode="after")
    def _check(self) -> CameraSettings:
        """InputError for a low above its high."""
        for name in ("elevation_deg", "fov_y_deg", "zoom"):
            low, high = getattr(self, name)
            if low > high:
                raise InputError(f"{name} must go from low to high, got {low:g} to {high:g}")
        return self


class LampSettings(Settings):
    """When a lamp lights the scene, whose `shading` says how much of the brightness is its own."""

    share: Shares = Field(constant(1.0), description="share of steps with the lamp on, by step")
    textureless: Share = Field(0.0, description="share of those that show white, not the colours")
    soft: bool = Field(True, description="draw its part of the brightness anew, up to shading")
    place: Literal["cone", "normal", "even"] = Field(
        "cone",
        description="within 60 degrees of the cameras; their place and as much noise; or none, all "
        "is as dim",
    )

    @property
    def still(self) -> bool:
        """Whether it is the same in every step."""
        always = {share for _, share in self.share.points} == {1.0}
        return always and self.place == "even" and not self.soft and not self.textureless


class CriticSettings(Settings):
    """What learns how the renders look, for the guidances vsd and dreamflow."""

    rank: int = Field(4, ge=1, le=256, description="rank of its LoRA")
    learning_rate: float = Field(1e-4, gt=0, le=1, description="learning rate of its AdamW")
    warmup: int = Field(500, ge=0, description="steps until that rate is reached")
    updates: int = Field(1, ge=1, le=100, description="steps of it a step of the scene")
    dropout: Share = Field(0.1, description="share of views whose camera it is not told")
    model: str | None = Field(
        None, description="another backbone of the same latents to adapt; null: the run's own"
    )


class DenoiseSettings(Settings):
    """How renders are denoised, for the guidance denoise."""

    every: int = Field(10, ge=1, description="steps from a group of pictures to the next")
    passes: int = Field(8, ge=1, le=1000, description="steps of DDIM for each")


class EditSettings(Settings):
    """How pictures of an asset are edited, for the guidance edit."""

    views: int = Field(24, ge=1, le=1000, description="pictures of it, from all around")
    every: int = Field(10, ge=1, description="steps from the edit of a picture to the next")
    passes: int = Field(20, ge=1, le=1000, description="steps of an edit that began as noise")
    image_scale: float = Field(1.5, ge=0, le=1000, description="guidance towards the old picture")


class Stage(Settings):
    """One optimisation of one scene."""

    ADDED: ClassVar = frozenset({"optimizer", "front_deg", "lamp", "grey_background", "denoise"})

    scene: Literal["field", "surface", "textured"] = Field("field", description="what is optimised")
    backbone: str | None = Field(None, description="what guides; null: the run's own backbone")
    steps: int = Field(400, ge=1, le=1_000_000, description="optimisation steps")
    particles: int = Field(1, ge=1, le=16, description="scenes that learn with one critic")
    batch: Annotated[Counts, Within(1, 256)] = Field(
        Counts(((0, 4),)), description="views a step, by step"
    )
    resolution: Annotated[Schedule, Within(8, 2048)] = Field(
        constant(64), description="pixels a side of a view, by step"
    )
    lr: Annotated[Schedule, Within(above=0, high=1)] = Field(
        constant(0.01), description="learning rate of the table, by step; of nets see net_rate"
    )
    optimizer: Literal["adam", "adamw"] = Field(
        "adam", description="adamw also lets all weights decay, by lr / 100 a step"
    )
    guidance: GuidanceName = Field("mvdream", description="what judges the pictures")
    look: Literal["colours", "normals"] = Field(
        "colours", description="what the guidance is shown; only a surface has normals to show"
    )
    guidance_scale: Annotated[Schedule, Within(0, 1000)] = Field(
        constant(10.0), description="guidance towards the prompt, by step; 1 is unguided"
    )
    t_min: Shares = Field(constant(0.02), description="least noise level, by step")
    t_max: Shares = Field(constant(0.98), description="greatest noise level, by step")
    rescale: Shares = Field(
        constant(0.5), description="how far to give x0 its unguided spread, by step"
    )
    weighting: Literal["sigma2", "uniform", "x0"] = Field(
        "x0", description="weight of each noise level, but for dreamflow"
    )
    grad_clip: Annotated[Schedule, Within(above=0)] | None = Field(
        None, description="greatest norm of the latents' gradient, by step; null: no limit"
    )
    noise_levels: int = Field(100, ge=1, le=1000, description="how many, for dreamflow alone")
    critic: CriticSettings = Field(CriticSettings(), description="what learns how renders look")
    denoise: DenoiseSettings = Field(DenoiseSettings(), description="how renders are denoised")
    edit: EditSettings = Field(EditSettings(), description="how pictures are edited")
    view_words: bool = Field(True, description='add "front view" and the like to the prompt')
    view_blend: Literal["nearest", "linear", "perp_neg"] = Field(
        "nearest", description="how a view between two words is told of both"
    )
    front_deg: float = Field(
        45.0, ge=5, le=90, description="degrees from its middle to which a view is front or back"
    )
    random_background: Shares = Field(
        constant(0.5), description="share of steps before a random colour, by step"
    )
    grey_background: Shares = Field(
        constant(0.0), description="share of steps before a middle grey, by step"
    )
    lamp: LampSettings = Field(LampSettings(), description="when a lamp lights the scene")
    losses: Mapping[str, Schedule] = Field({}, description="weights of losses, by name")
    cameras: CameraSettings = Field(CameraSettings(), description="where cameras stand")

    @model_validator(mode="after")
    def _check(self) -> Stage:
        """InputError for settings that do not go together."""
        for step in sorted({s for s, _ in self.t_min.points + self.t_max.points}):
            if self.t_min(step) > self.t_max(step):
                raise InputError(f"t_min must not exceed t_max, got {self.t_min(step):g} and "
                                 f"{self.t_max(step):g} at step {step}")  # fmt: skip
        if self.look == "normals" and self.scene != "surface":
            raise InputError(f"look must be colours for a {self.scene}: only a surface has normals "
                             "that learn from pictures of them")  # fmt: skip
        if self.particles > 1 and self.guidance not in WITH_CRITIC:
            raise InputError(f"particles share a critic, and {self.guidance} has none, got "
                             f"{self.particles}: use guidance=vsd or dreamflow, or several "
                             "seeds")  # fmt: skip
        known = {*LOSSES[self.scene], self.guidance, "critic"}
        for name in self.losses:
            if name not in known:
                raise InputError(f"losses: a {self.scene} guided by {self.guidance} has no loss "
                                 f"{name!r}{did_you_mean(name, known)}")  # fmt: skip
        return self
