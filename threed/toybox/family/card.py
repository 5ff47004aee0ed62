"""The model card of the family: what each part was trained on and for how long, and its scores."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threed.diffusion.files import SETTINGS
from threed.toybox.world.kinds import FRONTED
from threed.toybox.world.toys import COLORS, FINISHES, KINDS

TRAINING, SCORES, CARD = "training.json", "scores.json", "README.md"
TEMPLATE = Path(__file__).with_suffix(".md")
SMALL = 64  # pixels a side of toybox's pictures
OPTIONS = ("kind", "part")  # of a system's training that the card tells
SYSTEMS = """\
Image systems whose nets lie beside it; `docs/control.md` and `docs/image-prompts.md` say how good
they are:

| `threed train` | steps | batch | went on from |
|---|---|---|---|
{}
"""


def trainings(weights: Path, part: str) -> list[dict[str, Any]]:
    """List the trainings that a part went through, each of which went on from the one before."""
    found = _read(weights / TRAINING).get(part, [])
    return [found] if isinstance(found, dict) else list(found)  # one alone, in older folders


def record(
    weights: Path, part: str, facts: dict[str, Any], before: Sequence[dict[str, Any]] = ()
) -> None:
    """Note in training.json how a part was trained, and bring the card up to date.

    before: the trainings that it went on from, of the same part.
    """
    import torch

    machine = f"{platform.machine()} {platform.system()}, torch {torch.__version__}"
    known = {name: trainings(weights, name) for name in _read(weights / TRAINING)}
    known[part] = [*before, facts | {"machine": machine}]
    (weights / TRAINING).write_text(json.dumps(known, indent=2) + "\n")
    write_card(weights)


def write_card(weights: Path) -> None:
    """Write README.md of a weights folder: card.md, filled with training.json and scores.json.

    The line of a score that was not measured is left out.
    """
    scores = _read(weights / SCORES)
    lines = TEMPLATE.read_text(encoding="utf-8").splitlines(keepends=True)
    asked = [(line, re.search(r"{(\w+):.4g}", line)) for line in lines]
    text = "".join(line for line, score in asked if score is None or score[1] in scores)
    trained = (
        f"| {part} | {f['steps']:,} | {f['batch']} | {f.get('sets', f.get('instances', 0)):,} | "
        f"{f.get('scenes', 0):,} | "
        f"{f['seed']} | {f['minutes']} | {f['machine']} |\n"
        for part in _read(weights / TRAINING)
        for f in trainings(weights, part)
    )
    world = {"kinds": len(KINDS), "fronted": len(FRONTED), "colors": len(COLORS)}
    world["finishes"] = len(FINISHES)
    nets = {"trainings": "".join(trained), "systems": _systems(weights), **_family(weights)}
    (weights / CARD).write_text(text.format(**scores, **world, **nets), encoding="utf-8")


def _family(weights: Path) -> dict[str, Any]:
    """Say which of the two families a folder holds, by the size of its pictures."""
    size = _read(weights / "vae" / "config.json").get("sample_size", SMALL)
    if size == SMALL:
        return {"title": "Toybox", "size": size, "origin": "trained from nothing", "option": ""}
    return {"title": "Toybox-hd", "size": size, "origin": "trained, from toybox's nets,",
            "option": " --hd"}  # fmt: skip


def _systems(weights: Path) -> str:
    """List the nets of image systems beside the family, and how they were trained."""
    said = [_read(path) for path in sorted(weights.rglob(SETTINGS))]
    rows = (
        f"| {' '.join([s['system'], *(f'{k}={s[k]}' for k in OPTIONS if k in s)])} | "
        f"{s['steps']:,} | {s['batch'] * s['accumulate']} | {s.get('weights', '')} |\n"
        for s in said
    )
    return SYSTEMS.format("".join(rows)) if said else ""


def minutes_of(log: Path) -> float:
    """Add up the minutes of training in a log.jsonl, over all calls."""
    total, before = 0.0, 0.0
    for line in log.read_text().splitlines():
        seconds = float(json.loads(line)["seconds"])
        total += max(seconds - before, 0.0) if seconds >= before else seconds
        before = seconds
    return round(total / 60, 1)


def steps_of(log: Path) -> int:
    """Read the last step of a log.jsonl."""
    return int(json.loads(log.read_text().splitlines()[-1])["step"])


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}
