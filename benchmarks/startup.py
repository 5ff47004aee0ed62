"""How long commands take that make nothing, as whole processes, and what they import for it.

    python benchmarks/startup.py [--runs N] [--only WORDS] [--json FILE]

Each command runs once before it is timed, so that its files are compiled and in the disk's cache;
then all of them run in turn, N times. Seconds are on the wall, the least and the median; processor
seconds are the least. The aim is the one of two quiet cores. Modules are those of HEAVY that the
process had imported when it ended.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "diffusers", "transformers", "peft", "numpy", "scipy", "numba", "trimesh", "PIL",
         "av", "yaml", "pydantic", "rich")  # fmt: skip
MISTAKE = 2  # exit status of what the user can change


@dataclass(frozen=True)
class Command:
    """A line that somebody types, the status it ends with, and the seconds it should take."""

    line: str
    aim: float
    status: int = 0


COMMANDS = (
    Command("threed --help", 0.7),
    Command("threed list systems", 0.7),
    Command("threed list presets", 0.7),
    Command("threed image --help", 0.7),
    Command('threed generate "a red mug" --plan', 2.0),
    Command('threed generate "a red mug" stepz=3', 2.0, MISTAKE),
)


@dataclass(frozen=True)
class Taken:
    """What one process took."""

    seconds: float  # on the wall
    processor: float  # seconds, of all its threads
    modules: tuple[str, ...]  # of HEAVY


@dataclass(frozen=True)
class Row:
    """A command and what its runs took, in seconds."""

    command: str
    runs: int
    least: float
    median: float
    processor: float
    aim: float
    modules: tuple[str, ...]


def entry() -> str:
    """What the script `threed` runs, such as "threed.apps.cli.main:main"."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: str = settings["project"]["scripts"]["threed"]
    return found


def program(where: str) -> str:
    """The script's program, which says at its end on standard error what it has imported."""
    module, _, function = where.partition(":")
    return (
        "import atexit, os, sys\n"
        f"heavy = {HEAVY}\n"
        "def tell():\n"
        "    found = ' '.join(name for name in heavy if name in sys.modules)\n"
        "    os.write(2, f'\\n{found}'.encode())\n"
        "atexit.register(tell)\n"
        f"from {module} import {function}\n"
        f"sys.exit({function}())\n"
    )


def run(command: Command, where: str) -> Taken:
    """Run a command in an empty folder. RuntimeError if it does not end with its status."""
    words = [sys.executable, "-c", program(where), *shlex.split(command.line)[1:]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as told:
        start = time.perf_counter()
        process = subprocess.Popen(
            words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=told
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        said = told.read()
    if process.returncode != command.status:
        raise RuntimeError(f"{command.line}: status {process.returncode}\n{said}")
    modules = tuple(said.rpartition("\n")[2].split())
    return Taken(seconds, used.ru_utime + used.ru_stime, modules)


def measure(commands: Sequence[Command], runs: int, one: Callable[[Command], Taken]) -> list[Row]:
    """Run every command in turn, once to warm up and so many times more."""
    taken = [[one(command) for command in commands] for _ in range(runs + 1)][1:]
    return [row(command, found) for command, found in zip(commands, zip(*taken))]


def row(command: Command, found: Sequence[Taken]) -> Row:
    """What the runs of a command took."""
    seconds = [each.seconds for each in found]
    processor = min(each.processor for each in found)
    least, median = min(seconds), statistics.median(seconds)
    return Row(command.line, len(found), least, median, processor, command.aim, found[-1].modules)


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| command | least s | median s | aim s | processor s | imports |", "|---" * 6 + "|"]
    for each in rows:
        numbers = f"{each.least:.2f} | {each.median:.2f} | {each.aim:g} | {each.processor:.2f}"
        lines.append(f"| `{each.command}` | {numbers} | {', '.join(each.modules) or 'none'} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", help="commands that hold these words")
    parser.add_argument("--json", type=Path, help="a file for the same in JSON")
    asked = parser.parse_args()
    where = entry()
    commands = [each for each in COMMANDS if (asked.only or "") in each.line]
    rows = measure(commands, asked.runs, lambda command: run(command, where))
    sys.stdout.write(table(rows))
    if asked.json:
        found = json.dumps([asdict(each) for each in rows], indent=2)
        asked.json.write_text(f"{found}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
