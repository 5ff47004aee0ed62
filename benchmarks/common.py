"""What several benchmarks share: tables, measures by name, flags and a folder, sheets."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def row(*cells: object) -> str:
    """A line of a table."""
    shown = (str(cell).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(shown)} |"


def head(*names: str) -> str:
    """The first two lines of a table."""
    return f"{row(*names)}\n{'|---' * len(names)}|"


def keep(path: Path | None, values: Mapping[str, object]) -> None:
    """Add a row to a file of JSON lines, if one is given; there at once, whatever comes after."""
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def measure_parser(doc: str | None, names: Iterable[str]) -> argparse.ArgumentParser:
    """A command line that chooses one of several measures."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("name", choices=tuple(names))
    parser.add_argument("--small", action="store_true", help="an eighth of the pictures")
    parser.add_argument("--sheet", type=Path, help="a file for the pictures")
    parser.add_argument("--backbone", default="toybox")
    return parser


def in_folder(
    act: Callable[[Path, argparse.Namespace], None],
    doc: str | None,
    arguments: Sequence[str] | None,
    **flags: int | str | list[int],
) -> None:
    """Read a command line whose flags have these defaults, and act in a folder that then goes.

    A flag of True or False is a switch; `--folder` says where the folder is made.
    """
    parser = argparse.ArgumentParser(description=str(doc).partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where; a temporary folder if not given")
    for name, value in flags.items():
        if isinstance(value, bool):
            parser.add_argument(f"--{name}", action="store_true")
        elif isinstance(value, list):
            parser.add_argument(f"--{name}", type=int, nargs="*", default=value)
        else:
            parser.add_argument(f"--{name}", type=type(value), default=value)
    asked = parser.parse_args(arguments)
    with TemporaryDirectory(dir=asked.folder) as root:
        act(Path(root), asked)


def lines(scores: Mapping[str, float]) -> str:
    """Scores by name, with a tab between."""
    return "".join(f"{name}\t{value:.3f}\n" for name, value in scores.items())


def share(hits: Sequence[bool]) -> float:
    """How many of them, of 1."""
    return sum(hits) / max(len(hits), 1)


def show(pictures: Tensor, sheet: Path | None, columns: int) -> None:
    """Write pictures [N, 3, H, W] into one file, if one is given."""
    if sheet is not None:
        from threed.diffusion.images import grid, save_image

        save_image(grid(pictures, columns), sheet)
