"""Turns what benchmarks/on_gpu.sh measured into the tables of docs/gpu-results.md.

    python benchmarks/gpu_page.py DIR [--page FILE] [--out FILE]

Only what is between the page's two marks is replaced. DIR holds the parts' rows (PART.jsonl); what
is missing there has no table. --out is where the new page goes, the page itself if not given; a run
on a CPU (`on_gpu.sh --dry`) is not written into the page itself.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common

PAGE = Path(__file__).resolve().parent.parent / "docs" / "gpu-results.md"
BEGIN = "<!-- measured: what follows is written by benchmarks/gpu_page.py -->\n"
END = "<!-- measured: end -->\n"
CUT = 124  # the status of a part whose time was over

Row = Mapping[str, Any]


def read_rows(folder: Path, part: str) -> list[Row]:
    """The rows of a part; none where it wrote nothing. A last line that was cut is left out."""
    file = folder / f"{part}.jsonl"
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines if line]


def table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown, and a blank line; nothing of no rows."""
    lines = [common.row(*cells) for cells in rows]
    return "\n".join([common.head(*names), *lines]) + "\n\n" if lines else ""


def machine(rows: Sequence[Row]) -> str:
    """Which machine it was."""
    if not rows:
        return ""
    row = rows[-1]
    known = [
        f"driver {row['driver']}" if row["driver"] else "",
        f"torch {row['torch']}",
        f"CUDA {row['cuda']}" if row["cuda"] else "",
        f"Triton {row['triton']}" if row["triton"] else "",
        f"Python {row['python']}",
        f"{row['cores']} cores with load {row['load']} before",
        f"commit {row['commit']}",
    ]
    return f"{row['device']}: {', '.join(filter(None, known))}.\n\n"


def ended(row: Row) -> str:
    """How a part ended."""
    status = int(row["status"])
    return "whole" if status == 0 else "cut" if status == CUT else f"failed ({status})"


def parts(rows: Sequence[Row]) -> str:
    """How long each part of the script took."""
    cells = [(row["part"], ended(row), row["seconds"], row["limit"]) for row in rows]
    return table(("part", "ended", "s", "s allowed"), cells)


def tests(rows: Sequence[Row], title: str) -> str:
    """How many tests passed, why some were skipped, and each that failed."""
    counted = Counter(row["outcome"] for row in rows)
    if not counted:
        return ""
    seconds = sum(row["seconds"] for row in rows)
    said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counted.items()))
    why = Counter(row["why"] for row in rows if row["outcome"] == "skipped")
    skipped = [(count, reason) for reason, count in why.most_common()]
    failed = [(f"`{row['test']}`", row["why"]) for row in rows if row["outcome"] == "failed"]
    tables = table(("skipped", "why"), skipped) + table(("failed", "why"), failed)
    return f"**{title}**: {said}, in {seconds:.0f} s.\n\n{tables}"


def libraries(rows: Sequence[Row]) -> str:
    """What became of each optional library."""
    cells = [(row["library"], row["state"], row["seconds"], row["problem"]) for row in rows]
    return _titled("Optional libraries", table(("library", "", "s", "why not"), cells))


def kernels(rows: Sequence[Row]) -> str:
    """Milliseconds by work and kind, beside the quickest of the same work."""
    best: dict[str, float] = {}
    for row in rows:
        if "ms" in row:
            best[row["work"]] = min(row["ms"], best.get(row["work"], row["ms"]))
    works = sorted(rows, key=lambda row: (row["work"], row.get("ms", float("inf"))))
    cells = [
        (row["work"], row["kind"], f"{row['ms']:.2f}", f"{row['ms'] / best[row['work']]:.2f}")
        if "ms" in row
        else (row["work"], row["kind"], row["problem"], "")
        for row in works
    ]
    title = "Kernels, forward and backward (`python benchmarks/device.py`)"
    return _titled(title, table(("work", "kernels", "ms", "ratio"), cells))


def steps(rows: Sequence[Row]) -> str:
    """Steps of the presets for large models, and how far the plan was off."""
    cells, ratios = [], []
    for row in rows:
        start = (row["preset"], row["stage"], row["pixels"], row["views"])
        if "problem" in row:
            cells.append((*start, row["problem"], "", "", ""))
            continue
        if row["taken"] is not None:
            ratios.append(row["planned"] / row["taken"])
        cells.append(
            (
                *start,
                f"{row['seconds']:.3f}{row['note']}",
                _gib(row["taken"]),
                _gib(row["planned"]),
                f"{row['outside']:.0%}",
            )
        )
    names = (
        "preset",
        "stage",
        "pixels",
        "views",
        "s a step",
        "GiB taken",
        "GiB planned",
        "not the denoiser",
    )
    title = (
        "Steps of the presets for large models, at random weights (`python benchmarks/steps.py`)"
    )
    return _titled(title, table(names, cells)) + _off(ratios)


def default(rows: Sequence[Row]) -> str:
    """The default command."""
    cells = [
        (
            f"`{row['command']}`",
            row["steps"],
            row["seconds"],
            _gib(row["taken"]),
            _gib(row["planned"]),
        )
        for row in rows
    ]
    names = ("command", "steps logged", "s", "GiB taken", "GiB planned")
    return _titled("The default command", table(names, cells))


def memory(rows: Sequence[Row]) -> str:
    """Peaks beside the plan."""
    cells = [
        (row["stage"], row["pictures"], f"{row['taken_mib']:,.0f}", f"{row['planned_mib']:,.0f}")
        for row in rows
    ]
    names = ("stage", "pictures", "MiB taken", "MiB planned")
    title = "Memory of toybox's stages (`python benchmarks/memory.py`)"
    return _titled(title, table(names, cells)) + _off(
        [row["planned_mib"] / row["taken_mib"] for row in rows]
    )


def _titled(title: str, text: str) -> str:
    return f"**{title}**\n\n{text}" if text else ""


def _gib(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _off(ratios: Sequence[float]) -> str:
    if not ratios:
        return ""
    return f"What is planned is {min(ratios):.2f} to {max(ratios):.2f} of what is taken.\n\n"


SECTIONS: Mapping[str, Callable[[Sequence[Row]], str]] = {
    "about": machine,
    "tests": lambda rows: tests(rows, "Tests that need a GPU"),
    "libraries": libraries,
    "library-tests": lambda rows: tests(rows, "Tests of the optional libraries"),
    "device": kernels,
    "steps": steps,
    "default": default,
    "memory": memory,
    "parts": parts,
}


def measured(folder: Path) -> str:
    """Everything that a folder holds, in the order of the page."""
    return "".join(show(read_rows(folder, part)) for part, show in SECTIONS.items())


def replace(page: str, text: str) -> str:
    """The page with a text between its marks. ValueError if they are not there once, in order."""
    before, first, rest = page.partition(BEGIN)
    _, last, after = rest.partition(END)
    if not first or not last or BEGIN in rest or END in after:
        raise ValueError(f"the page needs one line {BEGIN!r} and below it one {END!r}")
    return f"{before}{BEGIN}\n{text}{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    """Write the page; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where on_gpu.sh put its rows")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--out", type=Path, help="where the new page goes, if not into the page")
    asked = parser.parse_args(arguments)
    about = read_rows(asked.folder, "about")
    if asked.out is None and (not about or about[-1]["device"] == "CPU"):
        sys.stderr.write(f"error: {asked.folder} holds no run on a GPU; --out FILE shows it\n")
        return 2
    page = replace(asked.page.read_text(encoding="utf-8"), measured(asked.folder))
    (asked.out or asked.page).write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
