"""Jobs: what a person wants done, as plain data that every face can make, send and keep.

A job is read from what people type or from JSON, is judged before anything heavy is loaded, and
`runs.do` does it. The command line, the web page, a queue and Blender differ in how they make one,
and in how they show its progress, and in nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from threed.core.budget import LODS, QUADS, Budget, check_quads
from threed.core.errors import InputError
from threed.core.files import check_name
from threed.core.length import read_length
from threed.core.pictures import FORMATS, read_size
from threed.core.profile import Target, check_target, given, limits, stature
from threed.core.words import check_prompt
from threed.diffusion.guide import Guide
from threed.settings.base import Device, Seed, Settings, replace
from threed.settings.presets import Task, load_run, preset_for
from threed.settings.run import DEFAULT_BACKBONE, Run, SystemSettings
from threed.systems.system import Request, System
from threed.systems.table import find_system

SINGLE = "toybox"  # of pictures, and of what guides single views, if none is said
FIRST: dict[str, Any] = {"argument": 1}  # fields that are typed without their names
SECOND: dict[str, Any] = {"argument": 2}
LAST: dict[str, Any] = {"argument": 9}
PROFILE = "what it is for: sets budget and copies, adds colliders, or makes a solid to print"
BACKBONE = "a name of `threed list backbones`, a hub id, or a folder"
Words = tuple[str, ...]
Inputs = Mapping[str, Words]


class Job(Settings):
    """Something to be done. Its subclasses say what; `jobs.read_job` makes one of plain data."""

    kind: ClassVar[str]

    def check(self) -> None:
        """InputError for what is wrong about it, without loading anything heavy."""

    def plain(self) -> dict[str, Any]:
        """The data that `read_job` reads, as JSON has it."""
        return {"job": self.kind, **json.loads(self.model_dump_json())}


def typed(value: Any) -> str:
    """Say a value of Python as it would be typed in NAME=VALUE."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_own(name: str, endings: Words = ()) -> None:
    """InputError unless a file's name is one: a job writes in its own folder only."""
    check_name(Path(name), endings)
    if Path(name).name != name:
        raise InputError(f"a file of a job lies in the job's folder: a name is needed, got {name}")


class Told(Job):
    """A job that a system may guide."""

    system: str | None = Field(None, description="what guides it: see `threed list systems`")
    inputs: Inputs = Field(default={}, description="what the system is told: texts by input")

    def asked(self, prompt: str, knobs: Words) -> tuple[System | None, Request]:
        """The system and what it is asked for. InputError for inputs or knobs without a system."""
        inputs = {name: words for name, words in self.inputs.items() if words}
        if self.system is not None:
            system = find_system(self.system)
            return system, system.request(prompt, inputs, knobs)
        if inputs or knobs:
            first = f"--{next(iter(inputs))}" if inputs else knobs[0]
            raise InputError(f"{first} is for a system: say which with --system "
                             "(threed list systems)")  # fmt: skip
        return None, Request(prompt)


class Asset(Told):
    """A job that makes an asset: it has a run's preset, settings, and the commonest of them."""

    settings: Words = Field(
        (), description="NAME=VALUE settings; see `threed list settings`", json_schema_extra=LAST
    )
    preset: str | None = Field(None, description="a name of `threed list presets`, or a YAML file")
    backbone: str | None = Field(None, description=BACKBONE)
    seed: Seed | None = Field(None, description="decides every random number")
    device: Device | None = Field(None, description="auto, cpu, cuda or cuda:N")

    def to_run(self, task: Task, settings: Words, **named: Any) -> Run:
        """The run of the preset that is named or suits the task, changed by NAME=VALUE words."""
        backbone = self.backbone or (SINGLE if self._sees_one(task) else None)
        named = {"backbone": backbone, "seed": self.seed, "device": self.device, **named}
        said = {name: value for name, value in named.items() if value is not None}
        words = [f"{name}={json.dumps(value)}" for name, value in said.items()]
        preset = self.preset or preset_for(backbone or DEFAULT_BACKBONE, task)
        return load_run(preset, [*settings, *words])

    def _sees_one(self, task: Task) -> bool:
        """Whether what is asked for can be guided one view at a time alone."""
        if self.preset or not self.system:
            return False
        return task == "edit" or not find_system(self.system).several


class Start(Asset):
    """A job that may be about a mesh."""

    up: Literal["y", "z"] | None = Field(
        None, description="the mesh's upward axis, where it is not its format's own"
    )
    part: str | None = Field(None, description="a word of the prompt: only what it names changes")
    part_mask: Path | None = Field(
        None, description="a picture that lies as the mesh's texture does: only white changes"
    )
    part_box: str | None = Field(
        None, description="X,Y,Z,X,Y,Z from and to, as in `threed report`: only in there it changes"
    )

    def to_run(self, task: Task, settings: Words, **named: Any) -> Run:
        """The run, with the part of the mesh that is to change."""
        said = {"part.word": self.part, "part.mask": self.part_mask and str(self.part_mask)}
        if self.part_box is not None:
            settings = (f"part.box=[{self.part_box}]", *settings)
        return super().to_run(task, settings, **said, **named)


class Faced(Start):
    """A job that may be about a mesh, and tells views of it apart by words."""

    front: float = Field(
        0.0,
        description="degrees, against the clock from above, from where the mesh's format faces to "
        "where the mesh does",
    )


class Generate(Faced):
    """Make a 3D asset of a prompt: GLB, OBJ, turntable, preview, report.

    With a system, one of `threed list systems` guides.
    """

    kind: ClassVar[str] = "generate"

    prompt: str = Field(description='what to make, such as "a red mug"', json_schema_extra=FIRST)
    init: Path | None = Field(None, description="a mesh to refine: .glb, .gltf, .obj, .ply or .stl")
    profile: Target | None = Field(None, description=PROFILE)
    budget: str | None = Field(None, description="at most so much, as in faces=5000,texture=512")
    lods: int | None = Field(None, ge=0, le=LODS, description="coarser copies: asset_lod1 and on")
    height: str | None = Field(
        None, description="as in 12cm: how high it stands, its base's centre on the origin"
    )
    knob: Words = Field((), description="NAME=VALUE of the system")
    best_of: int | None = Field(
        None, ge=1, le=64, description="begin so many seeds; the best of them goes on"
    )
    preview: bool = Field(False, description="sample four views of it first: views.png")
    draft: bool = Field(False, description="a first look at it, in a third of the time")

    def run(self) -> Run:
        """All settings of the run."""
        first = given(self.profile)
        words = tuple(f"asset.{name}={value}" for name, value in first.items()) + self.settings
        if self.budget is not None:
            said = Budget.parse(self.budget).given()
            words += tuple(f"asset.{name}={value}" for name, value in said.items())
        if self.lods is not None:
            words += (f"asset.lods={self.lods}",)
        if self.height is not None:
            words += (f"asset.height={read_length(self.height)}",)
        task: Task = "draft" if self.draft else "make" if self.init is None else "refine"
        if self.draft and (self.preset is not None or self.init is not None):
            other = "preset" if self.preset is not None else "init"
            raise InputError("draft is a quick run of its own, from nothing: leave draft out, or "
                             f"{other}")  # fmt: skip
        run = self.to_run(task, words, best_of=self.best_of)
        if not (self.system or self.inputs or self.knob):
            return run
        self.asked(self.prompt, self.knob)
        told = SystemSettings(name=self.system, inputs=self.inputs, knobs=self.knob)
        return replace(run, system=told)

    def check(self) -> None:
        """InputError for a prompt, settings, or inputs of a system that are wrong."""
        check_prompt(self.prompt)
        part = self.run().part.said
        if self.init is None and (self.up is not None or self.front or part):
            raise InputError("up, front and part are of a mesh to begin with: name it as init, or "
                             "leave them")  # fmt: skip


class Texture(Faced):
    """Paint a mesh as a prompt says; its shape stays. Writes the same files as generate."""

    kind: ClassVar[str] = "texture"

    mesh: Path = Field(
        description="the mesh: .glb, .gltf, .obj, .ply or .stl", json_schema_extra=FIRST
    )
    prompt: str = Field(
        description='what it is, such as "a dotted red mug"', json_schema_extra=SECOND
    )
    keep_uv: bool = Field(False, description="bake into the mesh's own texture coordinates")

    def run(self) -> Run:
        """All settings of the run."""
        return self.to_run("texture", self.settings)

    def check(self) -> None:
        """InputError for a prompt or settings that are wrong."""
        check_prompt(self.prompt)
        self.run()


class Edit3d(Start):
    """Change an asset as an instruction says, by InstructPix2Pix. Writes what generate does.

    Pictures of it from all around are edited one after the other while it follows them. A system of
    try-on dresses a toy person; then the instruction is what the garment is.
    """

    kind: ClassVar[str] = "edit3d"

    asset: Path = Field(
        description="the asset: .glb, .gltf, .obj, .ply or .stl", json_schema_extra=FIRST
    )
    instruction: str = Field(
        description='what to do, such as "make it blue"', json_schema_extra=SECOND
    )
    weights: str | None = Field(None, description="what InstructPix2Pix or the system learned")
    knob: Words = Field((), description="NAME=VALUE of the system")
    shape: bool = Field(False, description="change the shape too, not its colours alone")

    def run(self) -> Run:
        """All settings of the run."""
        backbone = self.backbone or (None if self.preset else SINGLE)
        told, run = self.told(), self.to_run("edit", self.settings, backbone=backbone)
        return run if told == SystemSettings() else replace(run, system=told)

    def told(self) -> SystemSettings:
        """What edits, and what it is told; InstructPix2Pix where only its weights are said."""
        if self.system is None and (self.inputs or self.knob):
            self.asked(self.instruction, self.knob)  # an InputError
        inputs = {**self.inputs, **({"weights": (self.weights,)} if self.weights else {})}
        name = self.system or ("instruct_pix2pix" if inputs else None)
        return SystemSettings(name=name, inputs=inputs, knobs=self.knob)

    def check(self) -> None:
        """InputError for an instruction or settings that are wrong."""
        check_prompt(self.instruction)
        if (told := self.run().system).name is not None:
            find_system(told.name).of_asset(self.instruction, told.inputs, told.knobs)


class Resume(Job):
    """Go on with a run that was interrupted; the result is as if it had not been."""

    kind: ClassVar[str] = "resume"


class Image(Told):
    """Make pictures of a prompt. A multi-view backbone shows four sides of one thing.

    With a system, one of `threed list systems` guides; one that edits shows its source first.
    """

    kind: ClassVar[str] = "image"

    prompt: str = Field(description='what to make, such as "a red mug"', json_schema_extra=FIRST)
    knobs: Words = Field(
        (), description="NAME=VALUE knobs of the system, such as cross_replace=0.6",
        json_schema_extra=LAST,
    )  # fmt: skip
    file: str = Field("picture.png", description="the picture's name: .png, .jpg or .webp")
    backbone: str | None = Field(None, description=BACKBONE)
    views: int | None = Field(
        None, ge=1, description="4: sides of one thing, by toybox-multiview if not said"
    )
    seed: Seed = Field(0, description="decides every random number")
    steps: int = Field(30, ge=1, le=1000, description="of the sampler")
    guidance: float = Field(5.0, ge=0, description="towards the prompt; 1 is none")
    negative: str = Field("", description="what to keep away from")
    n: int = Field(1, ge=1, le=64, description="pictures, side by side")
    size: str | None = Field(
        None, description="SIDE or WIDTHxHEIGHT in pixels; the backbone's own if not given"
    )
    device: Device = Field("auto", description="auto, cpu, cuda or cuda:N")
    heat: str | None = Field(
        None, description="the name of a second picture: where the first looked at each word"
    )

    def check(self) -> None:
        """InputError for a prompt, a file's name, or inputs of a system that are wrong."""
        check_prompt(self.prompt)
        for name in (self.file, self.heat or self.file):
            check_own(name, FORMATS)
        if self.size is not None:
            read_size(self.size)
        system, _ = self.asked(self.prompt, self.knobs)
        if self.heat is not None and (system is not None or (self.views or 1) > 1):
            raise InputError("--heat is of a single picture without a system")
        if system is not None and self.views not in (None, 1):
            raise InputError(f"--views {self.views}: a system makes single pictures")

    def request(self) -> tuple[System | None, Request]:
        """The system, and what it is asked for, but for the size of the picture."""
        from dataclasses import replace as changed

        system, request = self.asked(self.prompt, self.knobs)
        guide = Guide(self.guidance, self.negative)
        return system, changed(request, guide=guide, steps=self.steps)


class Train(Job):
    """Train a system's own weights on examples; the backbone's stay as they are."""

    kind: ClassVar[str] = "train"

    system: str = Field(
        description="one of `threed list systems` that trains", json_schema_extra=FIRST
    )
    options: Words = Field(
        (), description="NAME=VALUE options of the system's own, such as kind=depth",
        json_schema_extra=LAST,
    )  # fmt: skip
    data: str = Field(
        description="a training folder (docs/training.md), or toybox: drawn as needed"
    )
    resume: bool = Field(False, description="go on where a run stopped")
    backbone: str = Field(SINGLE, description=BACKBONE)
    weights: str | None = Field(
        None,
        description="go on from what was learned before: a training's folder, an official file, or "
        "owner/name of the hub",
    )
    steps: int | None = Field(None, ge=1, description="in all; the system's own if not given")
    batch: int | None = Field(None, ge=1, description="examples at once")
    accumulate: int | None = Field(None, ge=1, description="batches a step")
    lr: float | None = Field(None, gt=0, description="the learning rate")
    seed: Seed | None = Field(None, description="decides every random number")
    precision: Literal["no", "bf16", "fp16"] | None = Field(
        None, description="if not given: bf16 where it makes toybox's learning faster"
    )
    size: int | None = Field(
        None, ge=8, description="pixels a side; the backbone's own if not given"
    )
    drawn: int = Field(10_000, ge=1, description="examples to draw, of toybox's own")
    minutes: float | None = Field(None, ge=0, description="stop and write after so many")
    device: Device = Field("auto", description="auto, cpu, cuda or cuda:N")

    def check(self) -> None:
        """InputError for a system that does not train, or options that it does not have."""
        from threed.settings.base import read_words
        from threed.systems.table import find_training

        training = find_training(self.system)
        read_words(training.options, self.options, f"training of system {self.system!r}")


class Export(Job):
    """Write an asset in another format: .glb, .obj, .ply, .stl, .usdz, .fbx, .3mf or .spz."""

    kind: ClassVar[str] = "export"

    source: Path = Field(
        description="a mesh (.glb, .gltf, .obj, .ply, .stl), or a run's folder",
        json_schema_extra=FIRST,
    )
    file: str = Field("asset.glb", description="the file to write; its ending says the format")
    profile: Target | None = Field(None, description=PROFILE)
    budget: str | None = Field(None, description="at most so much, as in faces=5000,texture=512")
    lods: int | None = Field(None, ge=0, le=LODS, description="coarser copies: NAME_lod1 and on")
    height: str | None = Field(
        None, description="as in 12cm: how high it stands, its base's centre on the origin"
    )
    quads: int | None = Field(
        None, ge=QUADS[0], le=QUADS[1], description="about so many quads, in .obj, .usdz or .fbx"
    )

    def check(self) -> None:
        """InputError for a budget that cannot be, or a file outside the job's folder."""
        check_own(self.file)
        if self.profile is not None:
            check_target(self.profile, Path(self.file).suffix, self.lods)
        budget, lods = limits(self.profile, self.budget, self.lods)
        check_quads(self.quads, Path(self.file).suffix, budget, lods)
        stature(self.profile, self.height)
