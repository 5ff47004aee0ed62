"""Commands on backbones: convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from threed.apps.cli.show import say


def convert(
    source: Annotated[
        Path,
        typer.Argument(help="MVDream's file (.pt, .safetensors), or the folder of a conversion."),
    ],
    out: Annotated[Path, typer.Option(help="A new folder, to be named by --backbone.")],
    like: Annotated[
        str,
        typer.Option(help="The backbone that it was fine-tuned from: sd21-base or sd15."),
    ] = "sd21-base",
) -> None:
    """Make a backbone of a multi-view checkpoint; nothing in the file is executed."""
    from threed.diffusion.catalog import find
    from threed.diffusion.models.convert import convert_mvdream

    convert_mvdream(source, find(like).folder, out)
    say(str(out))
