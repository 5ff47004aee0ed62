"""The rows of `threed list presets`: what a preset is made of, good at, and takes."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

FACTS = ("good at", "on a GPU", "on a CPU")
"""What a preset's comments say of it, a line each: "# good at: ..."."""


def rows() -> list[dict[str, Any]]:
    """A row for each preset that comes with threed."""
    from threed.settings.run import DEFAULT_PRESET, load_run, paper, presets

    found = []
    for name, about in presets().items():
        run = load_run(name)
        models = dict.fromkeys(run.backbone_of(stage) for stage in run.stages)
        found.append({
            "preset": name,
            "about": about + (" (default)" if name == DEFAULT_PRESET else ""),
            "paper": paper(name),
            "stages": [f"{stage.scene} by {stage.guidance}" for stage in run.stages],
            "steps": sum(stage.steps for stage in run.stages),
            "backbone": ", ".join(models),
            **facts(name),
        })  # fmt: skip
    return found


def facts(name: str) -> dict[str, str | None]:
    """FACTS of a preset, None where its comments say nothing."""
    text = (files("configs") / f"{name}.yaml").read_text(encoding="utf-8")
    matches = {fact: re.search(rf"^# {fact}: (.+)$", text, re.MULTILINE) for fact in FACTS}
    return {fact: match[1] if match else None for fact, match in matches.items()}
