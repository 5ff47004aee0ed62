"""The model card of the family: what each part was trained on and for how long, and its scores."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threed.diffusion.weights import SETTINGS
from threed.toybox.world.kinds import FRONTED
from threed.toybox.world.toys import COLORS, FINISHES, KINDS

TRAINING, SCORES, CARD = "training.json", "scores.json", "README.md"
OPTIONS = ("kind", "part")  # of a system's training that the card tells

# name, what it says, what was aimed at
MEANINGS = (
    ("judge_kind", "judge, clean held-out pictures: kind", ""),
    ("judge_color", "judge: colour", ""),
    ("judge_finish", "judge: finish", ""),
    ("judge_view", "judge: view, of kinds with a front", ""),
    ("truth_kind", "judge, real toys as if they were assets: kind", ""),
    ("truth_color", "judge, real toys: colour", ""),
    ("truth_geometry", "judge, real toys in clay: kind", ""),
    ("truth_front", "judge, real toys: one front", ""),
    ("vae_psnr_db", "VAE: PSNR, dB", "≥ 28"),
    ("vae_colour_error", "VAE: error of a toy's mean colour, of 1", "≤ 0.03"),
    ("clip_retrieval", "CLIP: a picture's kind and colour, of all 280", ""),
    ("image_kind", "text to image: kind", "≥ 0.90"),
    ("image_color", "text to image: colour", "≥ 0.95"),
    ("multiview_view", "multi-view: the view's word, of kinds with a front", "≥ 0.85"),
    ("multiview_agree", "multi-view: four views agree on kind and colour", "≥ 0.95"),
    ("multiview_kind", "multi-view: kind, read from four views together", ""),
    ("judge_scene", "judge, clean held-out scenes: toy, pair, on top, person, garment", ""),
    ("judge_pair", "judge, scenes: both kinds and colours of a pair", ""),
    ("judge_garment", "judge, scenes: all garments with their colours", ""),
    ("judge_identity", "judge, scenes: all of skin, hair, its colour, glasses, beard", ""),
    ("judge_pose", "judge, scenes: pose", ""),
    ("vae_scenes_psnr_db", "VAE, scenes: PSNR, dB", "≥ 28"),
    ("image_pair", "text to image: both toys of a pair with their colours", "≥ 0.70"),
    ("image_pair_kinds", "text to image: both kinds of a pair, whatever their colours", ""),
    ("image_pair_colors", "text to image: both colours of a pair, whatever has them", ""),
    ("image_pair_place", "text to image: the same, each in the place that is said", ""),
    ("image_garment", "text to image: both garments of a person with their colours", ""),
    ("image_identity", "text to image: hair, its colour, glasses, beard, each by itself", ""),
)


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
    """Write README.md of a weights folder, from its training.json and scores.json."""
    scores = _read(weights / SCORES)
    lines = [
        "# Toybox",
        "",
        "A text-to-image and a multi-view diffusion family of 64×64 pictures, trained from nothing",
        "on procedural toys that threed draws itself: no picture of anybody's is in it.",
        f"It knows {len(KINDS)} kinds ({len(FRONTED)} with a front) in {len(COLORS)} colours and "
        f"{len(FINISHES)} finishes.",
        "`docs/toybox.md` says what the parts are; `threed toybox train` made them,",
        "`threed toybox evaluate` measured them (30 steps, guidance 5, toys of held-out seeds).",
        "",
        "A part with several lines went on from the one above.",
        "",
        "| part | steps | batch | sets of four pictures | scenes | world's seed | minutes "
        "| machine |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {part} | {f['steps']:,} | {f['batch']} | {f['sets']:,} | {f.get('scenes', 0):,} | "
            f"{f['seed']} | {f['minutes']} | {f['machine']} |"
            for part in _read(weights / TRAINING)
            for f in trainings(weights, part)
        ),
        "",
        *_systems(weights),
        "| score | reached | aimed at |",
        "|---|---|---|",
        *(
            f"| {meaning} | {scores[name]:.4g} | {aim} |"
            for name, meaning, aim in MEANINGS
            if name in scores
        ),
        "",
    ]
    (weights / CARD).write_text("\n".join(lines))


def _systems(weights: Path) -> list[str]:
    """List the nets of image systems beside the family, and how they were trained."""
    said = [_read(path) for path in sorted(weights.rglob(SETTINGS))]
    if not said:
        return []
    return [
        "Image systems whose nets lie beside it; `docs/control.md` says what they reach:",
        "",
        "| `threed train` | steps | batch | went on from |",
        "|---|---|---|---|",
        *(f"| {' '.join([s['system'], *(f'{k}={s[k]}' for k in OPTIONS if k in s)])} | "
          f"{s['steps']:,} | {s['batch'] * s['accumulate']} | {s.get('weights', '')} |"
          for s in said),
        "",
    ]  # fmt: skip


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
