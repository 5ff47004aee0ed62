"""The parts of benchmarks/on_gpu.sh that have no script of their own.

    python benchmarks/gpu_parts.py about|libraries|default [--device cuda] [--json FILE]

about: which machine and libraries these are. libraries: bring nvdiffrast, nerfacc, tiny-cuda-nn and
kaolin into a folder, as docs/install-gpu.md says, each as far as it goes. default: `threed generate
"a red mug"`, its time and memory.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import keep
from benchmarks.startup import entry

ROOT = Path(__file__).resolve().parent.parent
KAOLIN = "https://nvidia-kaolin.s3.us-east-2.amazonaws.com/torch-{torch}_cu{cuda}.html"
# what pip is told for each optional library, by the name that it is imported by
SOURCES = {
    "nvdiffrast": ["git+https://github.com/NVlabs/nvdiffrast"],
    "nerfacc": ["nerfacc==0.5.3"],
    "tinycudann": ["git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch"],
    "kaolin": ["kaolin==0.18.0", "--find-links", KAOLIN],
}
WHEELS = {"tinycudann": "tiny-cuda-nn"}  # where a wheel has another name
FIRST_USE = {"nerfacc": "from nerfacc.cuda._backend import _C"}  # what compiles at its first use
PIP = (
    "--quiet",
    "--no-deps",
    "--no-build-isolation",
    "--disable-pip-version-check",
    "--retries=1",
    "--timeout=10",
)
QUICK = (
    "steps=2",
    "field.samples=16",
    "field.levels=4",
    "field.log2_table=12",
    "asset.faces=100",
    "asset.texture=16",
    "asset.resolution=16",
    "asset.preview_size=16",
    "asset.turntable_size=16",
    "asset.turntable_frames=2",
)
GIB, MIB = 2**30, 2**20


def version(library: str) -> str | None:
    """The version of a library, None where it is not installed."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def said(words: list[str]) -> str | None:
    """The first line that a program says, None where it cannot."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.partition("\n")[0].strip() or None


def about(asked: argparse.Namespace) -> int:
    """Keep one row about the machine."""
    cuda = asked.device == "cuda"
    driver = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    row = {
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "driver": said(driver) if cuda else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": version("triton"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "commit": said(["git", "rev-parse", "--short", "HEAD"]),
    }
    keep(asked.json, row)
    sys.stdout.write(json.dumps(row, indent=2) + "\n")
    return 0


def build_settings() -> dict[str, str]:
    """What the compilers of libraries are told: which GPU this is, and how many cores there are."""
    settings = {"MAX_JOBS": str(os.cpu_count())}
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        settings["TORCH_CUDA_ARCH_LIST"] = f"{major}.{minor}"
        settings["TCNN_CUDA_ARCHITECTURES"] = f"{major}{minor}"
    return settings


def sources(library: str, wheels: str | None, offline: bool) -> list[list[str]]:
    """What pip is told, one after the other until it succeeds: a folder of wheels, the network."""
    ways = []
    if wheels or offline:
        folder = ["--find-links", wheels] if wheels else []
        ways.append(["--no-index", *folder, WHEELS.get(library, library)])
    if not offline:
        numbers = {"torch": torch.__version__.partition("+")[0],
                   "cuda": (torch.version.cuda or "").replace(".", "")}  # fmt: skip
        ways.append([word.format(**numbers) for word in SOURCES[library]])
    return ways


def bring(library: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Install a library into the folder; a row about how that went."""
    start, problem = time.perf_counter(), ""
    pip = [sys.executable, "-m", "pip", "install", *PIP, "--target", str(asked.into)]
    state = "there"
    if find_spec(library) is None:
        state = "absent"
        for source in sources(library, os.environ.get("WHEELS"), asked.offline):
            problem = failure([*pip, *source])
            if not problem:
                state = "installed"
                break
    if state != "absent" and library in FIRST_USE and not problem:
        problem = failure([sys.executable, "-c", FIRST_USE[library]])
    seconds = round(time.perf_counter() - start, 1)
    return {"library": library, "state": state, "seconds": seconds, "problem": problem}


def failure(words: list[str]) -> str:
    """The last line that a program says if it fails, nothing if it succeeds."""
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env=os.environ | build_settings()
    )
    sys.stdout.write(f"{' '.join(words)}\n{done.stdout}{done.stderr}\n")
    lines = (done.stderr or done.stdout).strip().splitlines()
    return "" if done.returncode == 0 else (lines or ["failed"])[-1][:300]


def libraries(asked: argparse.Namespace) -> int:
    """Bring every optional library that can be had, side by side; none has to be."""
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(bring, library, asked) for library in SOURCES]
        for each in as_completed(waiting):
            keep(asked.json, each.result())
    return 0


def threed(*words: str) -> str:
    """What a command of ours says; RuntimeError with its last line if it fails."""
    module, _, function = entry().partition(":")
    program = f"import sys; from {module} import {function}; sys.exit({function}())"
    done = subprocess.run([sys.executable, "-c", program, *words], stdout=subprocess.PIPE,
                          text=True, check=False)  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"threed {' '.join(words)}: status {done.returncode}")
    return done.stdout


def default(asked: argparse.Namespace) -> int:
    """Make the asset of the README, and keep its time beside its memory."""
    words = ["a red mug", "--device", asked.device, "--json", *(QUICK if asked.quick else ())]
    planned = json.loads(threed("generate", *words, "--plan"))["peak"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        start = time.perf_counter()
        threed("generate", *words, "--out", str(folder))
        seconds = time.perf_counter() - start
        lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [row for row in map(json.loads, lines) if "memory_mb" in row]
    taken = max(row["memory_mb"] for row in steps) * MIB / GIB
    row = {"command": 'threed generate "a red mug"', "seconds": round(seconds, 1),
           "steps": len(steps), "taken": taken, "planned": planned / GIB}  # fmt: skip
    keep(asked.json, row)
    sys.stdout.write(f"{row}\n")
    return 0


PARTS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "about": about, "libraries": libraries, "default": default,
}  # fmt: skip


def main() -> int:
    """Run a part; its status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=tuple(PARTS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--into", type=Path, help="the folder that libraries are brought into")
    parser.add_argument("--offline", action="store_true", help="ask no network for libraries")
    parser.add_argument("--quick", action="store_true", help="next to no work")
    parser.add_argument("--json", type=Path, help="a file to which each row is added at once")
    asked = parser.parse_args()
    return PARTS[asked.part](asked)


if __name__ == "__main__":
    sys.exit(main())
