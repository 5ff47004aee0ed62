"""A run as data: which backbone, which stages, which asset; its YAML presets and name=value."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from threed.core.errors import InputError
from threed.core.schedule import Schedule
from threed.core.words import did_you_mean
from threed.settings.asset import AssetSettings
from threed.settings.base import Settings, Within, override, plain, read, read_yaml
from threed.settings.scenes import (
    SURFACE_LOSSES,
    FieldSettings,
    PaintSettings,
    SurfaceSettings,
    TexturedSettings,
)

DEFAULT_PRESET = "toybox-mvdream"
DEVICES = r"auto|cpu|cuda(:\d+)?"
Elevation = Annotated[float, Field(ge=-89, le=89)]
Angle = Annotated[float, Field(ge=5, le=120)]
Zoom = Annotated[float, Field(ge=0.5, le=4)]
GuidanceName = Literal["sds", "mvdream", "vsd", "dreamflow", "csd", "nfsd", "ism", "edit"]
WITH_CRITIC = ("vsd", "dreamflow")  # guidances that train a net of their own


def constant(value: float) -> Schedule:
    """A schedule that never changes."""
    return Schedule(((0, float(value)),))


class CameraSettings(Settings):
    """Where the random cameras of a step stand; azimuths are always all around."""

    elevation_deg: tuple[Elevation, Elevation] = Field(
        (-10.0, 45.0), description="degrees over the horizon, from and to"
    )
    fov_y_deg: tuple[Angle, Angle] = Field(
        (35.0, 45.0), description="vertical field of view in degrees, from and to"
    )
    zoom: tuple[Zoom, Zoom] = Field(
        (0.9, 1.1), description="distance, from and to; at 1 the unit ball just fits"
    )

    @model_validator(mode="after")
    def _check(self) -> CameraSettings:
        """InputError for a low above its high."""
        for name, (low, high) in self:
            if low > high:
                raise InputError(f"{name} must go from low to high, got {low:g} to {high:g}")
        return self


class CriticSettings(Settings):
    """What learns how the renders look, for the guidances vsd and dreamflow."""

    rank: int = Field(4, ge=1, le=256, description="rank of its LoRA")
    learning_rate: float = Field(1e-4, gt=0, le=1, description="learning rate of its AdamW")
    warmup: int = Field(500, ge=0, description="steps until that rate is reached")
    updates: int = Field(1, ge=1, le=100, description="steps of it a step of the scene")
    dropout: float = Field(
        0.1, ge=0, le=1, description="share of groups of views whose camera it is not told"
    )
    model: str | None = Field(
        None, description="another backbone of the same latents to adapt; null: the run's own"
    )


class EditSettings(Settings):
    """How pictures of an asset are edited, for the guidance edit."""

    views: int = Field(24, ge=1, le=1000, description="pictures of it, from all around")
    every: int = Field(10, ge=1, description="steps from the edit of a picture to the next")
    passes: int = Field(
        20, ge=1, le=1000, description="passes of an edit that began with noise alone"
    )
    image_scale: float = Field(
        1.5, ge=0, le=1000, description="guidance towards what the picture was"
    )


class SystemSettings(Settings):
    """An image system that guides a run, and what it is told."""

    name: str | None = Field(
        None, description="a name of `threed list systems`; null: the prompt alone guides"
    )
    inputs: Mapping[str, tuple[str, ...]] = Field({}, description="its inputs, by name")
    knobs: tuple[str, ...] = Field((), description="its knobs, NAME=VALUE each")


NEED_NORMALS = ("orientation", "smoothness")  # losses that a field has only with normals
# what weights can be given to, besides the guidance's own, by the scene of a stage
LOSSES: dict[str, tuple[str, ...]] = {
    "field": ("sparsity", "opaque", *NEED_NORMALS),
    "surface": SURFACE_LOSSES,
    "textured": (),
}


class Stage(Settings):
    """One optimisation of one scene."""

    scene: Literal["field", "surface", "textured"] = Field("field", description="what is optimised")
    backbone: str | None = Field(
        None, description="what guides this stage; null: the run's own backbone"
    )
    steps: int = Field(400, ge=1, le=1_000_000, description="optimisation steps")
    particles: int = Field(
        1, ge=1, le=16, description="scenes that take turns; they share the critic"
    )
    batch: int = Field(4, ge=1, le=256, description="views a step")
    resolution: Annotated[Schedule, Within(8, 2048)] = Field(
        constant(64), description="pixels a side of a view, by step"
    )
    lr: Annotated[Schedule, Within(above=0, high=1)] = Field(
        constant(0.01), description="learning rate of the table, by step; nets have a tenth of it"
    )
    guidance: GuidanceName = Field("mvdream", description="what judges the pictures")
    look: Literal["colours", "normals"] = Field(
        "colours", description="what the guidance is shown; only a surface has normals to show"
    )
    guidance_scale: float = Field(
        10.0, ge=0, le=1000, description="guidance towards the prompt; 1 is unguided"
    )
    t_min: Annotated[Schedule, Within(0, 1)] = Field(
        constant(0.02), description="least noise level, by step"
    )
    t_max: Annotated[Schedule, Within(0, 1)] = Field(
        constant(0.98), description="greatest noise level, by step"
    )
    rescale: float = Field(
        0.5, ge=0, le=1, description="how far guided x0 gets the spread of unguided x0"
    )
    weighting: Literal["sigma2", "uniform", "x0"] = Field(
        "x0", description="weight of noise levels (not in dreamflow)"
    )
    grad_clip: Annotated[Schedule, Within(above=0)] | None = Field(
        None, description="greatest norm of the latents' gradient, by step; null: no limit"
    )
    noise_levels: int = Field(
        100, ge=1, le=1000, description="noise levels from t_max to t_min (dreamflow only)"
    )
    critic: CriticSettings = Field(CriticSettings(), description="what learns how renders look")
    edit: EditSettings = Field(EditSettings(), description="how pictures are edited")
    view_words: bool = Field(True, description='add "front view" and the like to the prompt')
    view_blend: Literal["nearest", "linear", "perp_neg"] = Field(
        "nearest", description="how a view between two words is told of both"
    )
    random_background: float = Field(
        0.5, ge=0, le=1, description="share of steps with a random colour behind the scene"
    )
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


class Run(Settings):
    """All that decides what a prompt becomes."""

    backbone: str = Field(
        "toybox-multiview",
        description="what guides: a name of `threed list backbones`, a hub id, or a folder",
    )
    device: str = Field(
        "auto",
        description="where to compute: auto, cpu, cuda, or cuda:1 and so on",
        json_schema_extra={"pattern": f"^({DEVICES})$"},
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="decides every random number")
    check_fronts: bool = Field(
        True, description="look, at the end, whether the asset has several fronts"
    )
    best_of: int = Field(
        1, ge=1, le=64, description="seeds that are begun; the best of them goes on"
    )
    negative: str = Field("", description="negative prompt: what pictures must not show")
    system: SystemSettings = Field(SystemSettings(), description="an image system that guides")
    preview_every: int = Field(50, ge=1, description="steps between pictures in progress/")
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints")
    memory: float = Field(
        0.0, ge=0, description="GiB that a run may use; 0: what the device has free"
    )
    field: FieldSettings = Field(FieldSettings(), description="what fields are made of")
    surface: SurfaceSettings = Field(SurfaceSettings(), description="what surfaces are made of")
    textured: TexturedSettings = Field(
        TexturedSettings(), description="how textured meshes are painted"
    )
    paint: PaintSettings = Field(
        PaintSettings(), description="what colours of surfaces and textured meshes are made of"
    )
    stages: tuple[Stage, ...] = Field(
        (Stage(),), min_length=1, description="what is optimised, one after the other"
    )
    particle_assets: Literal["all", "first"] = Field(
        "all", description="which particles of the last stage become assets"
    )
    asset: AssetSettings = Field(AssetSettings(), description="how the scene becomes an asset")

    @model_validator(mode="after")
    def _check(self) -> Run:
        """InputError for an unknown device, or stages that cannot follow each other."""
        if not re.fullmatch(DEVICES, self.device):
            raise InputError(f"device must be auto, cpu, cuda or cuda:N, got {self.device!r}")
        for index, (before, then) in enumerate(pairwise(self.stages), 1):
            if then.scene == "field" != before.scene:
                raise InputError(f"stages.{index}: a field cannot follow a {before.scene}; fields "
                                 "come first")  # fmt: skip
            if then.particles > before.particles:
                raise InputError(f"stages.{index}: particles can only become fewer, got "
                                 f"{then.particles} after {before.particles}")  # fmt: skip
        return self

    def backbone_of(self, stage: Stage) -> str:
        """The name of what guides a stage."""
        return stage.backbone or self.backbone

    def to_yaml(self) -> str:
        """Every setting; `load_run` reads it back to an equal run."""
        text: str = yaml.safe_dump(plain(self), sort_keys=False, allow_unicode=True)
        return text

    def digest(self) -> str:
        """12 hexadecimal digits that change when any setting does."""
        text = json.dumps(plain(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def load_run(preset: str | Path = DEFAULT_PRESET, overrides: Sequence[str] = ()) -> Run:
    """The defaults, changed by a preset (a name or a YAML file), changed by name=value words.

    InputError says which setting is unknown or wrong, and what it takes.
    """
    return override(parse_run(_preset_text(str(preset)), str(preset)), overrides)


def parse_run(text: str, where: str) -> Run:
    """A run from the text of a preset; `where` begins the errors."""
    data = read_yaml(text, where)
    return read(Run, {} if data is None else data, where)


def preset_for(backbone: str, task: Literal["make", "refine", "texture", "edit"] = "make") -> str:
    """The preset that suits a backbone, judged by its name, or by the files of a local folder.

    The task is to make something of nothing, to refine a mesh, to paint one, or to edit one.
    """
    small = backbone.startswith("toybox")
    several = any(word in backbone.lower() for word in ("multiview", "mvdream"))
    config = Path(backbone) / "config.json"  # of a UNet's folder
    if not config.is_file():
        config = Path(backbone) / "unet" / "config.json"
    if config.is_file():
        try:
            unet = json.loads(config.read_text(encoding="utf-8"))
            small = int(unet.get("sample_size") or 64) <= 32
            several = unet.get("class_embed_type") == "projection"
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{config} is not the configuration of a UNet") from error
    return PRESETS[(task, small, several) if task == "make" else (task, small)]


# by what is to be done, whether the model is small, and for a start whether it sees several views
PRESETS: dict[tuple[str, bool] | tuple[str, bool, bool], str] = {
    ("make", True, True): "toybox-mvdream",
    ("make", True, False): "toybox-sds",
    ("make", False, True): "mvdream",
    ("make", False, False): "dreamfusion",
    ("refine", True): "toybox-magic3d",
    ("refine", False): "magic3d",
    ("texture", True): "toybox-texture",
    ("texture", False): "texture",
    ("edit", True): "toybox-edit",
    ("edit", False): "edit",
}


def presets() -> dict[str, str]:
    """Names of the presets that come with threed, and what their first line says they are."""
    found = {}
    for entry in files("configs").iterdir():
        if entry.name.endswith(".yaml"):
            first = entry.read_text(encoding="utf-8").partition("\n")[0]
            found[entry.name.removesuffix(".yaml")] = first.lstrip("# ").strip()
    return dict(sorted(found.items()))


def paper(name: str) -> str | None:
    """The first paper that a preset's comments cite, such as "arXiv:2209.14988"."""
    found = re.search(r"arXiv:\d+\.\d+", _preset_text(name))
    return found and found[0]


def _preset_text(name: str) -> str:
    entry = files("configs") / f"{name}.yaml"
    if re.fullmatch(r"[\w-]+", name) and entry.is_file():
        return entry.read_text(encoding="utf-8")
    path = Path(name)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the preset {name} cannot be read: {error}") from error
    raise InputError(f"no preset {name!r}, and no such file{did_you_mean(name, presets())}")
