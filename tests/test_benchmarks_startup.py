"""What benchmarks/startup.py makes of processes: their times, and what they imported."""

from __future__ import annotations

from itertools import count

import pytest

from benchmarks.startup import COMMANDS, Command, Row, Taken, entry, measure, run, table

HELP = Command("threed --help", 0.7)


def test_a_process_is_timed_and_tells_its_imports() -> None:
    taken = run(HELP, entry())
    assert taken.seconds > 0
    assert taken.processor > 0
    assert not {"torch", "numpy", "diffusers"} & set(taken.modules)


def test_another_status_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="threed --help: status 0"):
        run(Command("threed --help", 0.7, 2), entry())


def test_the_first_run_is_left_out_and_the_least_and_median_are_taken() -> None:
    times = count(10, -1)

    def one(command: Command) -> Taken:
        return Taken(next(times), 1.0, ("yaml",) if "list" in command.line else ())

    listed = Command("threed list presets", 0.7)
    rows = measure((HELP, listed), 3, one)
    assert rows == [
        Row("threed --help", 3, 4, 6, 1.0, 0.7, ()),
        Row("threed list presets", 3, 3, 5, 1.0, 0.7, ("yaml",)),
    ]
    assert table(rows).splitlines()[2:] == [
        "| `threed --help` | 4.00 | 6.00 | 0.7 | 1.00 | none |",
        "| `threed list presets` | 3.00 | 5.00 | 0.7 | 1.00 | yaml |",
    ]


def test_every_line_is_a_command_of_ours() -> None:
    assert all(each.line.startswith("threed ") for each in COMMANDS)
    assert [each.status for each in COMMANDS if "stepz" in each.line] == [2]
