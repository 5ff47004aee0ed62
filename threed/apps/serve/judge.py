"""Reads a mesh in a process that may die of it: python -m threed.apps.serve.judge FILE.

It prints {"faces": N}, or {"error": why it cannot be read}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

MEMORY = 6 * 2**30  # bytes of addresses, of which libraries take some without using them
SECONDS = 60  # of a processor


def bound() -> None:
    """Limit what this process may take, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


def judge(path: Path) -> dict[str, object]:
    """Read a mesh, and count its faces."""
    import exporters
    from threed.core.errors import InputError

    try:
        return {"faces": len(exporters.load(path).faces)}
    except InputError as error:
        return {"error": str(error)}


if __name__ == "__main__":
    bound()
    sys.stdout.write(json.dumps(judge(Path(sys.argv[1]))))
