"""What `threed generate --plan` foresees beside what stages really take.

    python benchmarks/memory.py [--device cuda] [--cases N] [--json FILE]

Each row is a process of its own that runs three steps of one stage on toybox. On a CPU the peak is
the largest resident size of the process, on a GPU the most that PyTorch had allocated.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.common import head, keep, row
from threed.apps.cli.show import say
from threed.core.schedule import constant
from threed.diffusion.catalog import load_backbone
from threed.runs.folder import RunFolder
from threed.runs.guide import make_guide
from threed.runs.memory import Chunk
from threed.runs.optimise import StageRun, optimise
from threed.runs.plan import plan_run
from threed.runs.stages import begin
from threed.settings.base import replace
from threed.settings.run import Run
from threed.settings.stage import Stage

MIB = 2**20
# scene, pixels a side, views, guidance
CASES = (
    ("field", 64, 4, "mvdream"),
    ("field", 128, 4, "mvdream"),
    ("field", 128, 8, "mvdream"),
    ("surface", 128, 4, "mvdream"),
    ("surface", 512, 4, "mvdream"),
)


def run_of(scene: str, size: int, views: int, guidance: str, device: str) -> Run:
    """Three steps of one stage."""
    stage = Stage(scene=scene, steps=3, batch=views, resolution=constant(size))  # type: ignore[arg-type]
    stage = replace(stage, guidance=guidance, losses={})  # type: ignore[arg-type]
    return Run(device=device, preview_every=1000, stages=(stage,))


def measure(case: tuple[str, int, int, str], device: str) -> None:
    """Plan and run a case in this process, and print both peaks in bytes."""
    run = run_of(*case, device)
    backbone = load_backbone(run.backbone, device=run.device)
    planned = plan_run(run).stages[0]
    guide = make_guide(run.stages[0], backbone, run, "a red mug")
    scene = begin(run, None, backbone.device)
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder.create(Path(place) / "run", "a red mug", run)
        optimise(StageRun(folder, 0, scene, guide, backbone.views, Chunk(planned.chunk)))
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if backbone.device.type == "cuda":
        taken = torch.cuda.max_memory_allocated()
    say(json.dumps({"planned": planned.peak, "taken": taken}))


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--case", type=int, help="run one row in this process")
    parser.add_argument("--cases", type=int, default=len(CASES), help="the first so many rows")
    parser.add_argument("--json", type=Path, help="a file to which each row is added at once")
    arguments = parser.parse_args()
    if arguments.case is not None:
        measure(CASES[arguments.case], arguments.device)
        return
    say(head("stage", "pictures", "planned MiB", "taken MiB", "ratio"))
    for index, (scene, size, views, guidance) in enumerate(CASES[: arguments.cases]):
        words = [sys.executable, __file__, "--device", arguments.device, "--case", str(index)]
        answer = subprocess.run(words, capture_output=True, text=True, check=True)
        found = json.loads(answer.stdout.splitlines()[-1])
        planned, taken = found["planned"] / MIB, found["taken"] / MIB
        case = {"stage": f"{scene}, {guidance}", "pictures": f"{views} of {size}²"}
        say(row(*case.values(), f"{planned:,.0f}", f"{taken:,.0f}", f"{planned / taken:.2f}"))
        keep(arguments.json, {**case, "planned_mib": planned, "taken_mib": taken})


if __name__ == "__main__":
    main()
