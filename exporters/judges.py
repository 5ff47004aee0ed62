"""Outside judges of a file: Khronos' glTF validator and 3dqa, each where it is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NODE = "THREED_NODE"  # names a folder where `npm install gltf-validator` was run
LIMIT = 300.0  # seconds for a file
VALIDATE = (
    "const v = require('gltf-validator'), fs = require('fs');"
    "v.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1])))"
    ".then(r => console.log(JSON.stringify(r.issues)))"
)


@dataclass(frozen=True)
class Finding:
    """What a judge says of a file."""

    errors: int
    warnings: int
    first: str = ""  # the worst of its messages; "" if it has nothing to say

    @property
    def clean(self) -> bool:
        """Whether it is content."""
        return self.errors == self.warnings == 0


def judges() -> list[str]:
    """Name the judges that are installed."""
    return [name for name, (find, _) in JUDGES.items() if find() is not None]


def ask_judges(path: Path) -> dict[str, Finding]:
    """Let every judge that is installed look at a GLB file; one that fails counts as an error."""
    found = {}
    for name in judges():
        try:
            found[name] = JUDGES[name][1](path.absolute())
        except (subprocess.SubprocessError, OSError, ValueError, KeyError) as error:
            found[name] = Finding(1, 0, f"{name} could not be run: {error}")
    return found


def find_validator() -> Path | None:
    """Find a folder with Khronos' validator: THREED_NODE, else the current one; None without."""
    for place in (os.environ.get(NODE), os.curdir):
        if place and (Path(place) / "node_modules" / "gltf-validator").is_dir():
            return Path(place) if shutil.which("node") else None
    return None


def find_linter() -> Path | None:
    """Find the program 3dqa: on the PATH, else beside this Python; None without."""
    found = shutil.which("3dqa") or shutil.which("3dqa", path=str(Path(sys.executable).parent))
    return Path(found) if found else None


def validate(path: Path) -> Finding:
    """Ask Khronos' validator; infos and hints count as warnings."""
    issues = _run(["node", "-e", VALIDATE, str(path)], cwd=find_validator())
    messages = sorted(issues["messages"], key=lambda message: message["severity"])
    first = f"{messages[0]['code']}: {messages[0]['message']}" if messages else ""
    others = sum(issues[f"num{kind}"] for kind in ("Warnings", "Infos", "Hints"))
    return Finding(issues["numErrors"], others, first)


def lint(path: Path) -> Finding:
    """Ask 3dqa by its own limits."""
    said = _run([str(find_linter()), "lint", str(path)])
    if said["verdict"] == "ERROR":
        return Finding(1, 0, str(said["error"]["message"]))
    worst = [one for level in ("error", "warning") for one in said["findings"]
             if one["severity"] == level and not one["passed"]]  # fmt: skip
    first = f"{worst[0]['code']}: {worst[0]['message']}" if worst else ""
    return Finding(said["summary"]["errors"], said["summary"]["warnings"], first)


def _run(command: Sequence[str], cwd: Path | None = None) -> dict[str, Any]:
    """The JSON object that a program prints; its status is not asked, since faults are one."""
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=LIMIT
    )
    if not done.stdout.strip():
        lines = done.stderr.strip().splitlines()
        raise ValueError(lines[-1] if lines else f"it ended with status {done.returncode}")
    answer = json.loads(done.stdout)
    if not isinstance(answer, dict):
        raise ValueError(f"it answered {done.stdout[:60]!r}")
    return answer


# how each is found, and how it is asked
JUDGES: dict[str, tuple[Callable[[], Path | None], Callable[[Path], Finding]]] = {
    "Khronos' validator": (find_validator, validate),
    "3dqa": (find_linter, lint),
}
