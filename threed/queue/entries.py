"""Lists of jobs as people write them: a prompt a line, a table, or JSON lines.

    .txt     a prompt a line; empty lines are left out
    .csv     columns are fields of the job; `job` is its kind, `inputs.NAME` an input of its system
    .jsonl   a job a line, as `runs.jobs.read_job` reads it

Files that a job names are taken from the current folder, and kept by their whole paths.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from threed.core.errors import InputError
from threed.core.files import read_text
from threed.core.words import did_you_mean
from threed.queue.folder import Entry
from threed.runs.job import LAST, Job, Words
from threed.runs.jobs import JOBS, read_job
from threed.settings.base import replace
from threed.systems.table import find_system

LARGEST = 64 * 2**20  # bytes of a list
SHOWN = 5  # wrong lines that are named besides the first
KINDS = {name: kind for name, kind in JOBS.items() if name != "resume"}
PLACES = ("preset", "backbone", "weights", "data")  # fields that are a name, or a path
TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
Data = dict[str, Any]


def read_entries(
    path: Path, kind: str = "generate", given: Mapping[str, Any] | None = None, words: Words = ()
) -> list[Entry]:
    """Read a list of jobs and check every one; InputError names the line that is wrong.

    kind: of jobs that do not say theirs. given: fields of those that do not say them. words:
    NAME=VALUE settings of all, before their own.
    """
    if path.suffix.lower() not in READERS:
        raise InputError(f"{path}: a list's name must end in one of {', '.join(READERS)}")
    if os.path.isfile(path) and os.path.getsize(path) > LARGEST:
        raise InputError(f"{path} has more than {LARGEST // 2**20} MiB: share it among several")
    text = read_text(path).removeprefix("\ufeff")  # as Windows begins a file
    entries, wrong = list[Entry](), list[tuple[int, str]]()
    for line, data in READERS[path.suffix.lower()](text, path.name, kind):
        where = place(path.name, line)
        try:
            entries.append(Entry(_read(data, kind, given or {}, words, where), where))
        except InputError as error:
            said = str(error)
            wrong.append((line, said if said.startswith(where) else f"{where}: {said}"))
    if wrong:
        others = ", ".join(str(line) for line, _ in wrong[1 : SHOWN + 1])
        more = f" ({len(wrong) - 1} more lines are wrong: {others}" if others else ""
        end = "" if not more else ")" if len(wrong) <= SHOWN + 1 else ", ...)"
        raise InputError(f"{wrong[0][1]}{more}{end}")
    if not entries:
        raise InputError(f"{path} holds no jobs")
    return entries


def place(name: str, line: int) -> str:
    """Where an entry stands, for people."""
    return f"{name}, line {line}"


def _read(data: Data, kind: str, given: Mapping[str, Any], words: Words, where: str) -> Job:
    """The job of an entry, checked."""
    data = {"job": kind, **given, **data}
    if data["job"] == "resume":
        raise InputError("resume goes on in a folder: it is no job for a queue")
    if words and str(data["job"]) in KINDS:
        fields = KINDS[data["job"]].model_fields
        last = next((name for name, field in fields.items() if field.json_schema_extra == LAST), "")
        if not last:
            raise InputError(f"{words[0]}: a job {data['job']!r} takes no NAME=VALUE")
        data[last] = [*words, *data.get(last, ())]
    return rooted(read_job(data, where))


def rooted(job: Job) -> Job:
    """The job with whole paths of the files that it names, since workers may run elsewhere.

    InputError for a file that is not there. A preset, backbone or weights are taken for a path only
    if they look like one: with a slash, or the ending of YAML.
    """
    changes: Data = {}
    for name, value in job:
        if isinstance(value, Path):
            if not os.path.exists(value):
                raise InputError(f"{name}: there is no file {value}")
            changes[name] = value.absolute()
        elif name in PLACES and isinstance(value, str) and re.search(r"/|\.ya?ml$", value):
            changes[name] = str(_whole(Path(value)))
    system, inputs = getattr(job, "system", None), getattr(job, "inputs", {})
    if system is not None and inputs:
        kinds = {item.name: item.kind for item in find_system(system).inputs}
        changes["inputs"] = {
            name: tuple(kinds[name].with_files(text, _whole) for text in texts)
            for name, texts in inputs.items()
        }
    return replace(job, **changes) if changes else job


def _whole(path: Path) -> Path:
    return path.absolute() if os.path.exists(path) else path


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, with their numbers."""
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        if line.strip():
            yield number, line.strip()


def _read_txt(text: str, name: str, kind: str) -> Iterator[tuple[int, Data]]:
    for number, line in _lines(text):
        yield number, {"prompt": line}


def _read_jsonl(text: str, name: str, kind: str) -> Iterator[tuple[int, Data]]:
    for number, line in _lines(text):
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place(name, number)} is no JSON: {error}") from error
        if not isinstance(data, dict):
            raise InputError(f'{place(name, number)} must be a job, such as {{"prompt": "a mug"}}')
        yield number, data


def _read_csv(text: str, name: str, kind: str) -> Iterator[tuple[int, Data]]:
    head = text.partition("\n")[0]
    marks = [mark for mark in (";", "\t") if mark in head and "," not in head]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=[*marks, ","][0], strict=True)
    columns: list[str] = []
    while True:
        number = reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
            if not any(cells):
                continue
            if columns:
                yield number, _read_row(columns, cells, place(name, number), kind)
            else:
                columns = cells
                _check_columns(columns, place(name, number), kind)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{place(name, number)} is no CSV: {error}") from error


def _check_columns(columns: Sequence[str], where: str, kind: str) -> None:
    """InputError for a column that no job has, or that is there twice."""
    kinds = KINDS.values() if "job" in columns else [KINDS[kind]]
    known = dict.fromkeys(["job", *(field for each in kinds for field in each.model_fields)])
    for column in columns:
        if column not in known and not column.startswith("inputs."):
            raise InputError(f"{where}: there is no column {column!r}{did_you_mean(column, known)}")
        if columns.count(column) > 1:
            raise InputError(f"{where}: the column {column!r} is there twice")


def _read_row(columns: Sequence[str], cells: Sequence[str], where: str, kind: str) -> Data:
    """The data of a row; an empty cell says nothing."""
    if len(cells) > len(columns):
        raise InputError(f"{where} has {len(cells)} cells, but there are {len(columns)} columns: "
                         'a text with a comma belongs in quotes ("a mug, red")')  # fmt: skip
    said = {column: cell for column, cell in zip(columns, cells) if cell}
    fields = KINDS[said.get("job", kind)].model_fields if said.get("job", kind) in KINDS else {}
    data: Data = {}
    for column, cell in said.items():
        hint = fields[column].annotation if column in fields else None
        if column.startswith("inputs."):
            data.setdefault("inputs", {})[column.removeprefix("inputs.")] = [cell]
        elif hint is bool:
            if cell.lower() not in TRUTHS:
                raise InputError(f"{where}: {column} must be true or false, got {cell[:60]!r}")
            data[column] = TRUTHS[cell.lower()]
        elif hint == Words:
            try:
                data[column] = shlex.split(cell)
            except ValueError as error:
                raise InputError(f"{where}: {column}: {error}") from error
        else:
            data[column] = cell
    return data


READERS: dict[str, Callable[[str, str, str], Iterator[tuple[int, Data]]]] = {
    ".txt": _read_txt, ".csv": _read_csv, ".jsonl": _read_jsonl,
}  # fmt: skip
