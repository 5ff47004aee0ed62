"""A run as data: which backbone, which stages, which asset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import yaml
from pydantic import Field, model_validator

from threed.core.errors import InputError
from threed.settings.asset import AssetSettings
from threed.settings.base import Device, Seed, Settings, plain
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


class Run(Settings):
    """All that decides what a prompt becomes."""

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
        """The name of what guides a stage."""
        return stage.backbone or self.backbone

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
