"""Commands that make assets: generate, texture, edit3d, resume."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from threed.apps.cli import files as cli_files
from threed.apps.cli import image as cli_systems
from threed.apps.cli.show import Display, complain, say

if TYPE_CHECKING:
    from threed.settings.run import Run


SINGLE = "toybox"  # the backbone of systems, which guide single views, if none is said


class Axis(str, Enum):
    """Which axis of a mesh's file points up."""

    y = "y"
    z = "z"


Prompt = Annotated[str, typer.Argument(help='What to make, such as "a red mug".')]
Seed = Annotated[int | None, typer.Option(help="Decides every random number.")]
Json = Annotated[bool, typer.Option("--json", help="Answer as JSON on standard output.")]
Preset = Annotated[
    str | None,
    typer.Option(help="A name of `threed list presets`, or a YAML file."),
]
Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME=VALUE]...", help="Settings; see `threed list settings`."),
]
Out = Annotated[
    Path | None,
    typer.Option(help="A new folder; outputs/<prompt>-<time> if not given."),
]
UpAxis = Annotated[
    Axis | None,
    typer.Option(help="The mesh's upward axis, where it is not its format's own."),
]
Front = Annotated[
    float,
    typer.Option(metavar="DEG", help="Where the mesh faces, against the clock from above, from "
                 "where its format faces."),
]  # fmt: skip


def generate(
    context: typer.Context,
    prompt: Prompt,
    settings: Settings = None,
    preset: Preset = None,
    backbone: cli_systems.BackboneName = None,
    seed: Seed = None,
    init: Annotated[
        Path | None,
        typer.Option(help="A mesh to refine: .glb, .obj, .ply or .stl."),
    ] = None,
    up: UpAxis = None,
    front: Front = 0.0,
    out: Out = None,
    device: cli_systems.Device = None,
    budget: cli_files.Limits = None,
    lods: cli_files.Lods = None,
    system: cli_systems.SystemName = None,
    source: cli_systems.Source = None,
    control: cli_systems.Control = None,
    weights: cli_systems.Weights = None,
    weigh: cli_systems.Weigh = None,
    hold: cli_systems.Hold = None,
    blend: cli_systems.Blend = None,
    move: cli_systems.Move = None,
    resize: cli_systems.Resize = None,
    keep: cli_systems.Keep = None,
    appearance: cli_systems.Appearance = None,
    layout: cli_systems.Layout = None,
    planner: cli_systems.Planner = None,
    split: cli_systems.Split = None,
    region: cli_systems.Region = None,
    knob: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Of the system; repeat.")
    ] = None,
    best_of: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Begin so many seeds; the best of them goes on."),
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Sample four views of it first: views.png.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say how much memory it needs; make nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a 3D asset of a prompt: GLB, OBJ, turntable, preview, report.

    With --system, one of `threed list systems` guides, in single views.
    """
    from threed.runs.folder import default_folder
    from threed.runs.generate import generate as make
    from threed.runs.generate import plan as foresee

    if system is not None and preset is None:
        backbone = backbone or SINGLE
    named = {"backbone": backbone, "seed": seed, "device": device, "best_of": best_of}
    settings = cli_files.within(settings, budget, lods)
    run = read_run("make" if init is None else "refine", preset, settings, named)
    run = steered(run, system, cli_systems.options(context), knob)
    if plan:
        from threed.apps.cli.plan import print_plan

        print_plan(foresee(run, with_mesh=init is not None), as_json)
        return
    path = out or default_folder(prompt)
    watched(
        partial(make, prompt, run, init=init, up=axis_of(up), front=front, preview=preview,
                out=path),
        path, as_json,
    )  # fmt: skip


def texture(
    mesh: Annotated[Path, typer.Argument(help="The mesh: .glb, .obj, .ply or .stl.")],
    prompt: Annotated[str, typer.Argument(help='What it is, such as "a dotted red mug".')],
    settings: Settings = None,
    keep_uv: Annotated[
        bool, typer.Option("--keep-uv", help="Bake into the mesh's own texture coordinates.")
    ] = False,
    preset: Preset = None,
    backbone: cli_systems.BackboneName = None,
    seed: Seed = None,
    up: UpAxis = None,
    front: Front = 0.0,
    out: Out = None,
    device: cli_systems.Device = None,
    as_json: Json = False,
) -> None:
    """Paint a mesh as a prompt says; its shape stays. Writes the same files as generate."""
    from threed.runs.folder import default_folder
    from threed.runs.generate import texture as paint

    named = {"backbone": backbone, "seed": seed, "device": device}
    run = read_run("texture", preset, settings, named)
    path = out or default_folder(prompt)
    watched(
        partial(paint, mesh, prompt, run, keep_uv=keep_uv, up=axis_of(up), front=front, out=path),
        path, as_json,
    )  # fmt: skip


def edit3d(
    context: typer.Context,
    asset: Annotated[Path, typer.Argument(help="The asset: .glb, .obj, .ply or .stl.")],
    instruction: Annotated[str, typer.Argument(help='What to do, such as "make it blue".')],
    settings: Settings = None,
    weights: cli_systems.Weights = None,
    shape: Annotated[
        bool, typer.Option("--shape", help="Change the shape too, not its colours alone.")
    ] = False,
    preset: Preset = None,
    backbone: cli_systems.BackboneName = None,
    seed: Seed = None,
    up: UpAxis = None,
    out: Out = None,
    device: cli_systems.Device = None,
    as_json: Json = False,
) -> None:
    """Change an asset as an instruction says, by InstructPix2Pix. Writes what generate does.

    Pictures of it from all around are edited one after the other while it follows them.
    """
    from threed.runs.folder import default_folder
    from threed.runs.generate import edit3d as change

    if preset is None:
        backbone = backbone or SINGLE
    named = {"backbone": backbone, "seed": seed, "device": device}
    run = read_run("edit", preset, settings, named)
    if weights is not None:
        run = steered(run, "instruct_pix2pix", cli_systems.options(context), None)
    path = out or default_folder(instruction)
    watched(
        partial(change, asset, instruction, run, shape=shape, up=axis_of(up), out=path),
        path, as_json,
    )  # fmt: skip


def resume(
    folder: Annotated[Path, typer.Argument(help="The folder of a run.")],
    as_json: Json = False,
) -> None:
    """Go on with a run that was interrupted; the result is as if it had not been."""
    from threed.runs.folder import RunFolder
    from threed.runs.generate import resume as go_on

    if RunFolder.open(folder).finished:
        complain(f"{folder} is finished already", "note")
        announce(folder, 0.0, as_json)
    else:
        watched(partial(go_on, folder), folder, as_json)


def watched(make: Callable[..., Any], folder: Path, as_json: bool) -> None:
    """Show how far the making of an asset in a folder is, and at last where it is."""
    began = time.perf_counter()
    with Resumable(folder), Display() as display:
        make(progress=display)
    announce(folder, time.perf_counter() - began, as_json)


class Resumable:
    """Turns Ctrl-C into exit status 130 and a line that says how to go on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Exit status 130 for KeyboardInterrupt."""
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            return
        begun = (self.folder / "config.yaml").exists()
        hint = f"go on with: threed resume {self.folder}" if begun else "nothing was begun"
        complain(hint, "interrupted")
        raise typer.Exit(130)


def read_run(
    task: Literal["make", "refine", "texture", "edit"],
    preset: str | None,
    settings: list[str] | None,
    named: dict[str, Any],
) -> Run:
    """The run of a preset, or of the one that suits the task and the backbone."""
    from threed.settings.presets import load_run, preset_for
    from threed.settings.run import DEFAULT_BACKBONE

    words = [f"{name}={json.dumps(value)}" for name, value in named.items() if value is not None]
    name = preset or preset_for(named["backbone"] or DEFAULT_BACKBONE, task)
    return load_run(name, [*(settings or ()), *words])


def steered(
    run: Run, system: str | None, inputs: Mapping[str, Any], knobs: list[str] | None
) -> Run:
    """The run under a system, told by the options' values; as it is where nothing is told."""
    from threed.settings.base import replace
    from threed.settings.run import SystemSettings

    given = {
        name: tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)
        for name, value in inputs.items()
        if value not in (None, [], ())
    }
    if system is None and not given and not knobs:
        return run
    return replace(run, system=SystemSettings(name=system, inputs=given, knobs=tuple(knobs or ())))


def axis_of(up: Axis | None) -> Literal["y", "z"] | None:
    return None if up is None else up.value


def announce(folder: Path, seconds: float, as_json: bool) -> None:
    """Say where the asset is."""
    glb = folder / "asset.glb"
    if as_json:
        files = sorted(str(path) for path in folder.iterdir() if path.is_file())
        say(json.dumps({"asset": str(glb), "folder": str(folder), "files": files,
                        "seconds": round(seconds, 1)}))  # fmt: skip
    else:
        say(str(glb))
