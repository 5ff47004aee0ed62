"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import errno
import importlib
import json
import sys
import warnings
from typing import Any, NoReturn, TextIO

import typer

from threed.apps.cli import backbones as cli_backbones
from threed.apps.cli import files as cli_files
from threed.apps.cli import image as cli_systems
from threed.apps.cli import lists as cli_lists
from threed.apps.cli import runs as cli_runs
from threed.apps.cli import train as cli_train
from threed.apps.cli.show import complain, say

app = typer.Typer(
    name="threed",
    help='Text to 3D assets: threed generate "a red mug".',
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate")(cli_runs.generate)
app.command("texture")(cli_runs.texture)
app.command("edit3d")(cli_runs.edit3d)
app.command("resume")(cli_runs.resume)
app.command("export")(cli_files.export)
app.command("repair")(cli_files.repair)
app.command("turntable")(cli_files.turntable)
app.command("report")(cli_files.report)
app.command("blender")(cli_files.blender)
app.command("convert")(cli_backbones.convert)
app.command("list")(cli_lists.show)
app.command("image")(cli_systems.image)
app.command("train")(cli_train.train)
app.command("edit-pairs")(cli_train.edit_pairs)
app.command("pack")(cli_train.pack)


@app.command()
def doctor(as_json: cli_runs.Json = False) -> None:
    """What this machine offers: devices, kernels, libraries, backbones, disk, memory."""
    from threed.apps.doctor import examine

    findings = examine()
    if as_json:
        say(json.dumps(findings, indent=2))
    else:
        cli_lists.print_findings(findings)


_PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


@app.command(context_settings=_PASS_ON)
def toybox(context: typer.Context) -> None:
    """The small world and its diffusion family: draw, sample, train."""
    _delegate("threed.apps.cli.toybox", context)


@app.command(context_settings=_PASS_ON)
def evaluate(context: typer.Context) -> None:
    """Generate many prompts of toybox and judge the assets; can be cut and continued."""
    _delegate("threed.apps.cli.evaluate", context)


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


def _delegate(module: str, context: typer.Context) -> None:
    """Let another Typer application read the rest of the line."""
    application: Any = importlib.import_module(module).app
    application(args=context.args, prog_name=f"threed {context.info_name}")


def _mistake(error: Exception) -> str | None:
    """The line for an error that the user can do something about; None for a bug."""
    core = sys.modules.get("threed.core.errors")
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
