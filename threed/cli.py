"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import errno
import importlib
import json
import sys
import time
import warnings
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TextIO

import typer

from threed import cli_backbones, cli_files, cli_lists, cli_systems, cli_train
from threed.cli_show import Display, complain, say

if TYPE_CHECKING:
    from threed.config import Run

app = typer.Typer(
    name="threed",
    help='Text to 3D assets: threed generate "a red mug".',
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("export")(cli_files.export)
app.command("turntable")(cli_files.turntable)
app.command("report")(cli_files.report)
app.command("blender")(cli_files.blender)
app.command("convert")(cli_backbones.convert)
app.command("list")(cli_lists.show)
app.command("image")(cli_systems.image)
app.command("train")(cli_train.train)
app.command("edit-pairs")(cli_train.edit_pairs)
app.command("pack")(cli_train.pack)


class Axis(str, Enum):
    """Which axis of a mesh's file points up."""

    y = "y"
    z = "z"


Prompt = Annotated[str, typer.Argument(help='What to make, such as "a red mug".')]
Seed = Annotated[int | None, typer.Option(help="Decides every random number.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
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
BackboneName = Annotated[
    str | None,
    typer.Option(help="A name of `threed list backbones`, a hub id, or a folder."),
]


@app.command()
def generate(
    prompt: Prompt,
    settings: Settings = None,
    preset: Preset = None,
    backbone: BackboneName = None,
    seed: Seed = None,
    init: Annotated[
        Path | None,
        typer.Option(help="A mesh to refine: .glb, .obj, .ply or .stl."),
    ] = None,
    up: UpAxis = None,
    out: Out = None,
    device: Device = None,
    budget: cli_files.Limits = None,
    lods: cli_files.Lods = None,
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
    """Make a 3D asset of a prompt: GLB, OBJ, turntable, preview, report."""
    from threed.pipeline import generate as make
    from threed.pipeline import plan as foresee
    from threed.run import default_folder

    named = {"backbone": backbone, "seed": seed, "device": device, "best_of": best_of}
    settings = cli_files.within(settings, budget, lods)
    run = _run("make" if init is None else "refine", preset, settings, named)
    if plan:
        from threed.cli_plan import print_plan

        print_plan(foresee(run, with_mesh=init is not None), as_json)
        return
    path = default_folder(prompt) if out is None else out
    began = time.perf_counter()
    with _resumable(path), Display() as display:
        asset = make(
            prompt, run, init=init, up=_axis(up), preview=preview, out=path, progress=display
        )
    _announce(asset.folder, time.perf_counter() - began, as_json)


@app.command()
def texture(
    mesh: Annotated[Path, typer.Argument(help="The mesh: .glb, .obj, .ply or .stl.")],
    prompt: Annotated[str, typer.Argument(help='What it is, such as "a dotted red mug".')],
    settings: Settings = None,
    keep_uv: Annotated[
        bool, typer.Option("--keep-uv", help="Bake into the mesh's own texture coordinates.")
    ] = False,
    preset: Preset = None,
    backbone: BackboneName = None,
    seed: Seed = None,
    up: UpAxis = None,
    out: Out = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Paint a mesh as a prompt says; its shape stays. Writes the same files as generate."""
    from threed.pipeline import texture as paint
    from threed.run import default_folder

    named = {"backbone": backbone, "seed": seed, "device": device}
    run = _run("texture", preset, settings, named)
    path = default_folder(prompt) if out is None else out
    began = time.perf_counter()
    with _resumable(path), Display() as display:
        asset = paint(mesh, prompt, run, keep_uv=keep_uv, up=_axis(up), out=path, progress=display)
    _announce(asset.folder, time.perf_counter() - began, as_json)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(help="The folder of a run.")],
    as_json: Json = False,
) -> None:
    """Go on with a run that was interrupted; the result is as if it had not been."""
    from threed.pipeline import resume as go_on
    from threed.run import RunFolder

    began = time.perf_counter()
    if RunFolder.open(folder).finished:
        complain(f"{folder} is finished already", "note")
    else:
        with _resumable(folder), Display() as display:
            go_on(folder, progress=display)
    _announce(folder, time.perf_counter() - began, as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """What this machine offers: devices, kernels, libraries, backbones, disk, memory."""
    from threed.doctor import examine

    findings = examine()
    if as_json:
        say(json.dumps(findings, indent=2))
    else:
        cli_lists.print_findings(findings)


_PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


@app.command(context_settings=_PASS_ON)
def toybox(context: typer.Context) -> None:
    """The small world and its diffusion family: draw, sample, train."""
    _delegate("threed.toybox.cli", context)


@app.command(context_settings=_PASS_ON)
def evaluate(context: typer.Context) -> None:
    """Generate many prompts of toybox and judge the assets; can be cut and continued."""
    _delegate("threed.toybox.evaluate", context)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command. Exit status: 0; 2 for what the user can change; 130 after Ctrl-C."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            app(args=arguments, prog_name="threed")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        problem = _mistake(error)
        if problem is None:
            raise
        complain(problem)
        sys.exit(2)
    sys.exit(0)


class _resumable:
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


def _run(
    task: Literal["make", "refine", "texture"],
    preset: str | None,
    settings: list[str] | None,
    named: dict[str, Any],
) -> Run:
    """The run of a preset, or of the one that suits the task and the backbone."""
    from threed.config import Run, load_run, preset_for

    words = [f"{name}={json.dumps(value)}" for name, value in named.items() if value is not None]
    name = preset or preset_for(named["backbone"] or Run.backbone, task)
    return load_run(name, [*(settings or ()), *words])


def _axis(up: Axis | None) -> Literal["y", "z"] | None:
    return None if up is None else up.value


def _announce(folder: Path, seconds: float, as_json: bool) -> None:
    """Say where the asset is."""
    glb = folder / "asset.glb"
    if as_json:
        files = sorted(str(path) for path in folder.iterdir() if path.is_file())
        say(json.dumps({"asset": str(glb), "folder": str(folder), "files": files,
                        "seconds": round(seconds, 1)}))  # fmt: skip
    else:
        say(str(glb))


def _delegate(module: str, context: typer.Context) -> None:
    """Let another Typer application read the rest of the line."""
    application: Any = importlib.import_module(module).app
    application(args=context.args, prog_name=f"threed {context.info_name}")


def _mistake(error: Exception) -> str | None:
    """The line for an error that the user can do something about; None for a bug."""
    core = sys.modules.get("threed.core")
    if core is not None and isinstance(error, core.InputError):
        return str(error)
    denied = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
    if isinstance(error, OSError) and error.errno in denied:
        where = f" {error.filename}" if error.filename else ""
        return f"cannot write{where}: {error.strerror}; what was written before is whole"
    return None


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """One line on standard error for warnings of ours; nothing for those of libraries."""
    if category.__module__.partition(".")[0] == "threed":
        complain(str(message), "warning")


if __name__ == "__main__":
    main()
