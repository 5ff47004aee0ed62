"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import codecs
import errno
import sys
import warnings
from importlib import import_module
from io import TextIOWrapper
from typing import Any, NoReturn

import click

from threed.apps.cli.show import complain

COMMANDS = {  # in the order in which they are listed: where each is
    "generate": "threed.apps.cli.jobs:GENERATE",
    "texture": "threed.apps.cli.jobs:TEXTURE",
    "edit3d": "threed.apps.cli.jobs:EDIT3D",
    "resume": "threed.apps.cli.jobs:RESUME",
    "image": "threed.apps.cli.jobs:IMAGE",
    "train": "threed.apps.cli.jobs:TRAIN",
    "export": "threed.apps.cli.jobs:EXPORT",
    "schema": "threed.apps.cli.jobs:SCHEMA",
    "repair": "threed.apps.cli.files:REPAIR",
    "turntable": "threed.apps.cli.files:TURNTABLE",
    "render": "threed.apps.cli.files:RENDER",
    "report": "threed.apps.cli.files:REPORT",
    "blender": "threed.apps.cli.files:BLENDER",
    "comfyui": "threed.apps.cli.comfyui:COMFYUI",
    "convert": "threed.apps.cli.weights:CONVERT",
    "pack": "threed.apps.cli.weights:PACK",
    "weights": "threed.apps.cli.weights:WEIGHTS",
    "edit-pairs": "threed.apps.cli.weights:EDIT_PAIRS",
    "serve": "threed.apps.cli.serve:SERVE",
    "queue": "threed.apps.cli.queues:QUEUE_GROUP",
    "list": "threed.apps.cli.lists:LIST",
    "doctor": "threed.apps.cli.lists:DOCTOR",
    "toybox": "threed.apps.cli.toybox:TOYBOX",
    "evaluate": "threed.apps.cli.evaluate:EVALUATE",
}


PLAIN = {"×": "x", "²": "^2", "³": "^3", "°": " degrees", "–": "-", "…": "...", "→": "->"}
SPELLED = "threed-spelled"


def _spell(error: UnicodeError) -> tuple[str, int]:
    """What a stream's encoding lacks in letters that all have, so that printing never fails."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    plain = (PLAIN.get(s) or s.encode("ascii", "backslashreplace").decode() for s in lacking)
    return "".join(plain), error.end


codecs.register_error(SPELLED, _spell)


class Commands(click.Group):
    """The commands, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name them all."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


app = Commands(
    "threed",
    help='Text to 3D assets: threed generate "a red mug".',
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command. Exit status: 0; 2 for what the user can change; 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # not what a test puts there
            stream.reconfigure(errors=SPELLED)
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


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """One line on standard error for warnings of ours; nothing for those of libraries."""
    if category.__module__.partition(".")[0] == "threed":
        complain(str(message), "warning")


if __name__ == "__main__":
    main()
