"""Damaged mesh files by the thousand: each is read or refused, in bounded time and memory.

    python benchmarks/fuzz.py            # 2,000 of each format
    python benchmarks/fuzz.py ply --first 500 --count 250 --seconds 20 --gib 4

Prints how many were read and refused, the longest time, and the seeds of all others: errors that
are bugs, files that took too long, and those that asked for more memory than there may be.
"""

from __future__ import annotations

import argparse
import resource
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import head, row
from exporters import load
from tests import fuzz
from tests.shapes import FORMATS
from threed.apps.cli.show import say
from threed.core.errors import InputError


def main() -> None:
    """Read damaged files and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    forms = [suffix[1:] for suffix in FORMATS]
    parser.add_argument("formats", nargs="*", default=forms, help=", ".join(forms))
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seconds", type=int, default=20, help="that a file may take")
    parser.add_argument("--gib", type=float, default=6.0, help="that the process may address")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (int(options.gib * 2**30),) * 2)
    signal.signal(signal.SIGALRM, _stop)
    say(head("format", "files", "read", "refused", "longest, s", "others"))
    for form in options.formats:
        seeds = range(options.first, options.first + options.count)
        say(row(form, len(seeds), *try_all(form, seeds, options.seconds)))


def try_all(form: str, seeds: Sequence[int], seconds: int) -> tuple[int, int, str, str]:
    """Read files: how many were read and refused, the longest time, what became of others."""
    results: Counter[str] = Counter()
    longest, others = 0.0, []
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            path = fuzz.write(fuzz.damaged(form, seed), Path(folder))
            before = time.monotonic()
            signal.alarm(seconds)
            result = _try(path)
            signal.alarm(0)
            longest = max(longest, time.monotonic() - before)
            results[result] += 1
            if result not in ("read", "refused"):
                others.append(f"{seed}: {result}")
    return results["read"], results["refused"], f"{longest:.2f}", "; ".join(others) or "none"


def _try(path: Path) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(path)
    except InputError as error:
        return "refused" if path.name in str(error) else f"a refusal without the file: {error}"
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} {str(error)[:80]!r} in {last.filename}:{last.lineno}"
    return "read"


def _stop(number: int, frame: object) -> None:
    raise TimeoutError("too long")


if __name__ == "__main__":
    main()
