"""The tests that need a GPU, with a row for each at once: python benchmarks/gpu_tests.py

    python benchmarks/gpu_tests.py [--libraries] [--json FILE]

Only files with such tests are imported. --libraries runs those of the optional libraries, without
it all others run. A test that takes longer than TEST_SECONDS is cut.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from benchmarks.common import keep
from renderers.kernels.cuda import MODULES

ROOT = Path(__file__).resolve().parent.parent
TEST_SECONDS = 45  # one test must not take the time of all


class Watch:
    """A plugin of pytest that keeps a row of every test at once, and cuts those that take long."""

    def __init__(self, file: Path | None) -> None:
        self.file = file

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Let a test run for so many seconds."""

        def cut(signum: int, frame: FrameType | None) -> None:
            raise TimeoutError(f"cut after {TEST_SECONDS} s")

        before = signal.signal(signal.SIGALRM, cut)
        signal.alarm(TEST_SECONDS)
        try:
            return (yield)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep how a test ended: of what comes before and after it only what went wrong."""
        if report.when != "call" and report.passed:
            return
        row = {"test": report.nodeid, "outcome": report.outcome}
        keep(self.file, {**row, "seconds": round(report.duration, 2), "why": reason(report)})


def reason(report: pytest.TestReport) -> str:
    """Why a test did not pass, in a line."""
    if report.passed:
        return ""
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return " ".join(str(crash.message if crash else report.longrepr).split())[:300]


def files() -> list[str]:
    """Files that hold tests that need a GPU."""
    every = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path) for path in every if "pytest.mark.gpu" in path.read_text(encoding="utf-8")]


def main() -> int:
    """Run the tests; the status of pytest, 0 where there are none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--libraries", action="store_true", help="those of the optional libraries")
    parser.add_argument("--json", type=Path, help="a file to which each row is added at once")
    asked = parser.parse_args()
    names = " or ".join(MODULES)
    which = names if asked.libraries else f"not ({names})"
    status = pytest.main(["-q", "-m", "gpu", "-k", which, *files()], plugins=[Watch(asked.json)])
    return 0 if status == pytest.ExitCode.NO_TESTS_COLLECTED else int(status)


if __name__ == "__main__":
    sys.exit(main())
