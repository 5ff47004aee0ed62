"""Every command that the docs show is one: its options and values are read, and judged."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from threed.apps.cli.command import Command
from threed.apps.cli.main import app
from threed.settings.base import replace

ROOT = Path(__file__).resolve().parent.parent
PAGES = {page.name: page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
NO_COMMANDS = ("architecture.md",)  # shows what becomes of some


def commands(page: Path) -> Iterator[str]:
    """What follows `threed` in each fenced block; lines that show a form ("[...]") left out."""
    for block in re.findall(r"```\w*\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in re.split(r"\n|&&", block.replace("\\\n", " ")):
            found = re.search(r"(?:^|[\s/])threed (.*?)(?:\s#.*|&)?$", line)
            if found and "[" not in line and "import " not in line:
                yield found[1]


def every(command: click.Command) -> Iterator[click.Command]:
    """A command, or those of a group and its groups."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from every(command.get_command(context, name) or command)
    else:
        yield command


def judge(job: Any, to: Path | None = None, **others: Any) -> None:
    """Check a job, instead of doing it."""
    if hasattr(job, "check"):
        (job if to is None else replace(job, file=to.name)).check()


def test_the_docs_show_commands_that_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    for command in every(app):
        name = "act" if isinstance(command, Command) else "callback"
        monkeypatch.setattr(command, name, judge if name == "act" else lambda **_: None)
    shown = {(name, line) for name, page in PAGES.items() if name not in NO_COMMANDS
             for line in commands(page)}  # fmt: skip
    assert len(shown) > 100
    wrong = []
    for page, line in sorted(shown):
        try:
            app.main(shlex.split(line), standalone_mode=False)
        except (Exception, SystemExit) as error:
            wrong.append(f"{page}: threed {line}: {error!r}")
    assert not wrong, "\n".join(wrong)
