"""A run as data: which backbone, which stages, which asset; its YAML presets and name=value."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import yaml

from threed.core.errors import InputError
from threed.core.schedule import Schedule
from threed.core.words import did_you_mean
from threed.settings.asset import AssetSettings
from threed.settings.base import Range, build, check_ranges, override, plain, read_yaml
from threed.settings.scenes import (
    SURFACE_LOSSES,
    FieldSettings,
    PaintSettings,
    SurfaceSettings,
    TexturedSettings,
)

DEFAULT_PRESET = "toybox-mvdream"
Bounds = tuple[float, float]
GuidanceName = Literal["sds", "mvdream", "vsd", "dreamflow", "csd", "nfsd", "ism", "edit"]
WITH_CRITIC = ("vsd", "dreamflow")  # guidances that train a net of their own


def constant(value: float) -> Schedule:
    """A schedule that never changes."""
    return Schedule(((0, float(value)),))


@dataclass(frozen=True)
class CameraSettings:
    """Where the random cameras of a step stand; azimuths are always all around."""

    elevation_deg: Annotated[Bounds, Range(-89, 89)] = (-10.0, 45.0)  # degrees over the horizon
    fov_y_deg: Annotated[Bounds, Range(5, 120)] = (35.0, 45.0)  # field of view, degrees
    zoom: Annotated[Bounds, Range(0.5, 4)] = (0.9, 1.1)  # distance; at 1 the unit ball just fits

    def __post_init__(self) -> None:
        """InputError for values out of range, or a low above its high."""
        check_ranges(self)
        for name in ("elevation_deg", "fov_y_deg", "zoom"):
            low, high = getattr(self, name)
            if low > high:
                raise InputError(f"{name} must go from low to high, got {low:g} to {high:g}")


@dataclass(frozen=True)
class CriticSettings:
    """What learns how the renders look, for the guidances vsd and dreamflow."""

    rank: Annotated[int, Range(1, 256)] = 4  # of its LoRA
    learning_rate: Annotated[float, Range(above=0, high=1)] = 1e-4  # of its AdamW
    warmup: Annotated[int, Range(0)] = 500  # steps until that rate is reached
    updates: Annotated[int, Range(1, 100)] = 1  # steps of it a step of the scene
    dropout: Annotated[float, Range(0, 1)] = 0.1  # share of groups whose camera it is not told
    model: str | None = None  # another backbone of the same latents to adapt; null: the run's own

    def __post_init__(self) -> None:
        """InputError for values out of range."""
        check_ranges(self)


@dataclass(frozen=True)
class EditSettings:
    """How pictures of an asset are edited, for the guidance edit."""

    views: Annotated[int, Range(1, 1000)] = 24  # pictures of it, from all around
    every: Annotated[int, Range(1)] = 10  # steps from the edit of a picture to the next
    passes: Annotated[int, Range(1, 1000)] = 20  # of an edit that began with noise alone
    image_scale: Annotated[float, Range(0, 1000)] = 1.5  # towards what the picture was

    def __post_init__(self) -> None:
        """InputError for values out of range."""
        check_ranges(self)


@dataclass(frozen=True)
class SystemSettings:
    """An image system that guides a run, and what it is told."""

    name: str | None = None  # of `threed list systems`; null: the prompt alone guides
    inputs: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)  # its options
    knobs: tuple[str, ...] = ()  # NAME=VALUE each


NEED_NORMALS = ("orientation", "smoothness")  # losses that a field has only with normals
# what weights can be given to, besides the guidance's own, by the scene of a stage
LOSSES: dict[str, tuple[str, ...]] = {
    "field": ("sparsity", "opaque", *NEED_NORMALS),
    "surface": SURFACE_LOSSES,
    "textured": (),
}


@dataclass(frozen=True)
class Stage:
    """One optimisation of one scene."""

    scene: Literal["field", "surface", "textured"] = "field"  # what is optimised
    backbone: str | None = None  # what guides this stage; null: the run's own
    steps: Annotated[int, Range(1, 1_000_000)] = 400  # optimisation steps
    particles: Annotated[int, Range(1, 16)] = 1  # scenes that take turns; they share the critic
    batch: Annotated[int, Range(1, 256)] = 4  # views a step
    resolution: Annotated[Schedule, Range(8, 2048)] = constant(64)  # pixels a side, by step
    lr: Annotated[Schedule, Range(above=0, high=1)] = constant(0.01)  # of the table; nets a tenth
    guidance: GuidanceName = "mvdream"  # what judges the pictures
    look: Literal["colours", "normals"] = "colours"  # what it is shown; normals of surfaces only
    guidance_scale: Annotated[float, Range(0, 1000)] = 10.0  # towards the prompt; 1 is unguided
    t_min: Annotated[Schedule, Range(0, 1)] = constant(0.02)  # least noise level, by step
    t_max: Annotated[Schedule, Range(0, 1)] = constant(0.98)  # greatest noise level, by step
    rescale: Annotated[float, Range(0, 1)] = 0.5  # of guided x0 to the spread of unguided x0
    weighting: Literal["sigma2", "uniform", "x0"] = "x0"  # of noise levels (not in dreamflow)
    grad_clip: Annotated[Schedule, Range(above=0)] | None = None  # of the latents' gradient
    noise_levels: Annotated[int, Range(1, 1000)] = 100  # from t_max to t_min (dreamflow only)
    critic: CriticSettings = CriticSettings()
    edit: EditSettings = EditSettings()
    view_words: bool = True  # add "front view" and the like to the prompt
    view_blend: Literal["nearest", "linear", "perp_neg"] = "nearest"  # of the words of two views
    random_background: Annotated[float, Range(0, 1)] = 0.5  # share of steps before a random colour
    losses: Mapping[str, Schedule] = dataclasses.field(default_factory=dict)  # weights, by name
    cameras: CameraSettings = CameraSettings()

    def __post_init__(self) -> None:
        """InputError for values out of range, or noise levels that leave nothing between them."""
        check_ranges(self)
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


@dataclass(frozen=True)
class Run:
    """All that decides what a prompt becomes."""

    backbone: str = "toybox-multiview"  # a name of `threed list backbones`, a hub id, or a folder
    device: str = "auto"  # auto, cpu, cuda, or cuda:1 and so on
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0  # decides every random number
    check_fronts: bool = True  # look, at the end, whether the asset has several
    best_of: Annotated[int, Range(1, 64)] = 1  # seeds that are begun; the best of them goes on
    negative: str = ""  # negative prompt
    system: SystemSettings = SystemSettings()
    preview_every: Annotated[int, Range(1)] = 50  # steps between pictures in progress/
    checkpoint_every: Annotated[int, Range(1)] = 50  # steps between checkpoints
    memory: Annotated[float, Range(0)] = 0.0  # GiB that a run may use; 0: what the device has free
    field: FieldSettings = FieldSettings()
    surface: SurfaceSettings = SurfaceSettings()
    textured: TexturedSettings = TexturedSettings()
    paint: PaintSettings = PaintSettings()  # of surfaces and textured meshes
    stages: tuple[Stage, ...] = (Stage(),)  # optimised one after the other
    particle_assets: Literal["all", "first"] = "all"  # which of the last stage's become assets
    asset: AssetSettings = AssetSettings()

    def __post_init__(self) -> None:
        """InputError for values out of range, an unknown device, or stages that cannot follow."""
        check_ranges(self)
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise InputError(f"device must be auto, cpu, cuda or cuda:N, got {self.device!r}")
        if not self.stages:
            raise InputError("stages must hold at least one stage, got none")
        kinds = [stage.scene for stage in self.stages]
        for index, (before, kind) in enumerate(pairwise(kinds), 1):
            if kind == "field" != before:
                raise InputError(f"stages.{index}: a field cannot follow a {before}; fields come "
                                 "first")  # fmt: skip
        for index, (first, then) in enumerate(pairwise(self.stages), 1):
            if then.particles > first.particles:
                raise InputError(f"stages.{index}: particles can only become fewer, got "
                                 f"{then.particles} after {first.particles}")  # fmt: skip

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
    try:
        return build(Run, {} if data is None else data)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


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
    known = presets()
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(f"there is no preset {name!r}, and no such file; {hint}"
                     f"The presets are {', '.join(known)}")  # fmt: skip
