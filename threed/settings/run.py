"""A run as data: which backbone, which stages, which asset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar, Literal

import yaml
from pydantic import Field, model_validator

from threed.core.errors import InputError
from threed.settings.asset import AssetSettings
from threed.settings.base import Device, Seed, Settings, Share, plain
from threed.settings.scenes import FieldSettings, PaintSettings, SurfaceSettings, TexturedSettings
from threed.settings.stage import Stage

DEFAULT_BACKBONE = "toybox-multiview"


class SystemSettings(Settings):
    """An image system that guides a run, and what it is told."""

    name: str | None = Field(
        None, description="a name of `threed list systems`; null: the prompt alone guides"
    )
    inputs: Mapping[str, tuple[str, ...]] = Field({}, description="its inputs, by name")
    knobs: tuple[str, ...] = Field((), description="its knobs, NAME=VALUE each")


class PartSettings(Settings):
    """Which part of a mesh is to change, by one of three; all of it if none is said."""

    word: str | None = Field(None, description="a word of the prompt, found by what looks at it")
    heat: Share = Field(0.5, description="of the hottest places, what the word's have at least")
    mask: str | None = Field(
        None, description="a picture that lies as the mesh's texture does; what is white changes"
    )
    box: tuple[float, float, float, float, float, float] | None = Field(
        None, description="low x, y, z and high x, y, z, as `threed report` has them"
    )

    @model_validator(mode="after")
    def _check(self) -> PartSettings:
        """InputError for a part that is said twice, or a box that holds nothing."""
        ways = [name for name in ("word", "mask", "box") if getattr(self, name) is not None]
        if len(ways) > 1:
            raise InputError(f"a part is said in one way, got {' and '.join(ways)}")
        if self.box is not None and any(a >= b for a, b in zip(self.box[:3], self.box[3:])):
            raise InputError(f"box must go from low x, y, z to high x, y, z, got {self.box}")
        return self

    @property
    def said(self) -> bool:
        """Whether it is a part, and not all."""
        return (self.word, self.mask, self.box) != (None, None, None)


class Run(Settings):
    """All that decides what a prompt becomes."""

    ADDED: ClassVar = frozenset({"part"})

    backbone: str = Field(
        DEFAULT_BACKBONE,
        description="what guides: a name of `threed list backbones`, a hub id, or a folder",
    )
    device: Device = Field(
        "auto", description="where to compute: auto, cpu, cuda, or cuda:1 and so on"
    )
    seed: Seed = Field(0, description="decides every random number")
    check_fronts: bool = Field(True, description="look whether the asset has several fronts")
    best_of: int = Field(1, ge=1, le=64, description="seeds to begin; the best goes on")
    negative: str = Field("", description="negative prompt: what pictures must not show")
    system: SystemSettings = Field(SystemSettings(), description="an image system that guides")
    preview_every: int = Field(50, ge=1, description="steps between pictures in progress/")
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints")
    memory: float = Field(0.0, ge=0, description="GiB to use; 0: what the device has free")
    field: FieldSettings = Field(FieldSettings(), description="what fields are made of")
    surface: SurfaceSettings = Field(SurfaceSettings(), description="what surfaces are made of")
    textured: TexturedSettings = Field(TexturedSettings(), description="how meshes are painted")
    paint: PaintSettings = Field(PaintSettings(), description="what colours are made of")
    stages: tuple[Stage, ...] = Field(
        (Stage(),), min_length=1, description="what is optimised, one after the other"
    )
    particle_assets: Literal["all", "first"] = Field(
        "all", description="which particles of the last stage become assets"
    )
    part: PartSettings = Field(PartSettings(), description="which part of a mesh is to change")
    asset: AssetSettings = Field(AssetSettings(), description="how the scene becomes an asset")

    @model_validator(mode="after")
    def _check(self) -> Run:
        """InputError for stages that cannot follow each other."""
        for index, (before, then) in enumerate(pairwise(self.stages), 1):
            if then.scene == "field" != before.scene:
                raise InputError(f"stages.{index}: a field cannot follow a {before.scene}; fields "
                                 "come first")  # fmt: skip
            if then.particles > before.particles:
                raise InputError(f"stages.{index}: particles can only become fewer, got "
                                 f"{then.particles} after {before.particles}")  # fmt: skip
        return self

    def backbone_of(self, stage: Stage) -> str:
        """The name of what guides a stage: under a system the run's own, which its nets are of."""
        alone = self.system == SystemSettings()
        return (stage.backbone if alone else None) or self.backbone

    def shading_of(self, stage: Stage) -> float:
        """The shading of what a stage optimises."""
        if stage.scene == "field":
            return self.field.shading
        return (self.surface if stage.scene == "surface" else self.textured).shading

    def to_yaml(self) -> str:
        """Every setting; `load_run` reads it back to an equal run."""
        text: str = yaml.safe_dump(plain(self), sort_keys=False, allow_unicode=True)
        return text

    def digest(self) -> str:
        """12 hexadecimal digits that change when any setting does."""
        text = json.dumps(plain(self, brief=True), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
