"""The rows of `threed list presets`: what a preset is made of, good at, and takes."""

from __future__ import annotations

from typing import Any


def rows() -> list[dict[str, Any]]:
    """A row for each preset that comes with threed."""
    from threed.settings.presets import DEFAULT_PRESET, facts, load_run, paper, presets

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
