"""`threed list` and the table of `threed doctor`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from threed.apps.cli.command import Command
from threed.apps.cli.show import say
from threed.runs.job import FIRST
from threed.settings.base import Settings


class Listing(Settings):
    """List presets, backbones, systems, the words of toybox, or every setting."""

    what: Literal["presets", "backbones", "toybox", "settings", "systems"] = Field(
        "presets", description="what to list", json_schema_extra=FIRST
    )
    as_json: bool = Field(False, description="as JSON")


def show(job: Listing) -> None:
    """Print a list."""
    rows = {"presets": _presets, "backbones": _backbones, "toybox": _toybox,
            "settings": _settings, "systems": _systems}[job.what]()  # fmt: skip
    if job.as_json:
        say(json.dumps(rows, indent=2))
    else:
        print_table(rows)


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Columns as wide as they need; cut at the terminal's width, never in a pipe."""
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=False)
    if not console.is_terminal:
        for row in rows:
            say("\t".join(_cell(value) for value in row.values()))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0] if rows else ():
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console.print(table, markup=False)


def print_findings(findings: Mapping[str, Mapping[str, Any]]) -> None:
    """The parts of `threed doctor`, each with its lines."""
    for part, lines in findings.items():
        say(part)
        for name, value in lines.items():
            say(f"  {name}: {_cell(value)}")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)


def _backbones() -> list[dict[str, Any]]:
    from threed.diffusion.catalog import list_backbones

    return [{"backbone": item.name, "about": item.about, "repositories": list(item.repos),
             "on this disk": None if item.folder is None else str(item.folder)}
            for item in list_backbones()]  # fmt: skip


def _toybox() -> list[dict[str, Any]]:
    from threed.toybox.world.captions import BACKGROUNDS, SYNONYMS
    from threed.toybox.world.toys import COLORS, FINISHES, KINDS

    other = sorted(name for names in SYNONYMS.values() for name in names)
    return [{"words": name, "known": list(values)} for name, values in (
        ("kinds", KINDS), ("colours", COLORS), ("finishes", FINISHES),
        ("backgrounds", BACKGROUNDS), ("other names", other),
    )]  # fmt: skip


def _settings() -> list[dict[str, Any]]:
    from threed.settings.run import Run
    from threed.settings.schema import describe

    return [{"setting": item.name, "default": json.dumps(item.default), "takes": item.allowed,
             "meaning": item.meaning} for item in describe(Run)]  # fmt: skip


def _presets() -> list[dict[str, Any]]:
    from threed.apps.cli.presets import rows

    return rows()


def _systems() -> list[dict[str, Any]]:
    from threed.systems.table import SYSTEMS

    return [system.row() for system in SYSTEMS.values()]


class Doctor(Settings):
    """What this machine offers: devices, kernels, libraries, backbones, disk, memory."""

    as_json: bool = Field(False, description="as JSON")


def examine(job: Doctor) -> None:
    """Print what this machine offers."""
    from threed.apps.doctor import examine as look

    findings = look()
    if job.as_json:
        say(json.dumps(findings, indent=2))
    else:
        print_findings(findings)


LIST = Command("list", Listing, show)
DOCTOR = Command("doctor", Doctor, examine)
