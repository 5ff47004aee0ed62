"""What a request may name. It becomes a job that opens no file but those meant for it.

A person at a shell may name any file of theirs; whoever sends a request may name what they have
sent before, what jobs have made, and what the server's owner offers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threed.core.errors import InputError
from threed.core.words import did_you_mean
from threed.diffusion.catalog import KNOWN, list_backbones
from threed.runs.job import Edit3d, Export, Generate, Image, Job, Texture
from threed.runs.jobs import JOBS
from threed.settings.base import read, replace
from threed.settings.presets import presets
from threed.settings.run import SystemSettings
from threed.systems.table import find_system

TAKEN = ("generate", "texture", "edit3d", "image", "export")
PICTURES = ("picture.png", "picture.jpg", "picture.webp")
HEAT = "heat.png"
ASSETS = ("asset.glb", "asset.obj", "asset.ply", "asset.stl", "asset.usdz", "asset.fbx",
          "asset.3mf", "asset.spz")  # fmt: skip
# what a text of an input means, by the name of its kind
SAID = ("text", "prompt", "word", "word with a factor", "word with a span", "word with a shift",
        "region", "subject")  # fmt: skip
SENT = ("picture", "mask", "pose", "map", "word with a look", "word with a place", "garment")
OFFERED = ("weights", "what was learned", "file", "keypoints")
PLANNERS = {"rules": "rules"}  # others ask another machine, or a model in any folder


@dataclass(frozen=True)
class Door:
    """What requests are let in."""

    sent: Callable[[str], Path]  # the file of a reference; InputError if there is none
    models: Path | None
    steps: int

    def admit(self, data: Mapping[str, Any]) -> Job:
        """The job of a request's data, checked; InputError says what it may not name, or lacks."""
        kind = data.get("job")
        if kind not in TAKEN:
            said = repr(kind)[:60]
            raise InputError(f"there is no job {said} to be sent{did_you_mean(said, TAKEN)}")
        job = read(JOBS[kind], {name: value for name, value in data.items() if name != "job"})
        job = self._resolved(job)
        job.check()
        if isinstance(job, (Generate, Texture, Edit3d)):
            self._check_run(job)
        return job

    def offered(self) -> dict[str, Path]:
        """The entries of the folder of models, by name."""
        if self.models is None:
            return {}
        return {entry.name: Path(entry.path).absolute() for entry in os.scandir(self.models)
                if not entry.name.startswith(".")}  # fmt: skip

    def backbones(self) -> dict[str, str]:
        """What may be named as a backbone: its name as the job has it, by how it may be said."""
        here = {item.name for item in list_backbones() if item.folder is not None}
        names = {name: known.name for known in KNOWN if known.name in here
                 for name in (known.name, *known.repos, *known.formerly)}  # fmt: skip
        own = {name: str(path) for name, path in self.offered().items()
               if (path / "model_index.json").is_file()}  # fmt: skip
        return own | names

    def _resolved(self, job: Job) -> Job:
        """The job with the files that it names, all of which it may."""
        changes: dict[str, Any] = {
            name: self.sent(value.as_posix()) for name, value in job if isinstance(value, Path)
        }
        backbone, preset = getattr(job, "backbone", None), getattr(job, "preset", None)
        if backbone is not None:
            changes["backbone"] = choose("backbone", backbone, self.backbones())
        if preset is not None:
            choose("preset", preset, {name: name for name in presets()})
        if isinstance(job, Edit3d) and job.weights is not None:
            changes["weights"] = str(self._weights(Path(job.weights)))
        if isinstance(job, Image):
            choose("file", job.file, dict.fromkeys(PICTURES, ""))
            choose("heat", job.heat or HEAT, {HEAT: ""})
        if isinstance(job, Export):
            choose("file", job.file, dict.fromkeys(ASSETS, ""))
        system, inputs = getattr(job, "system", None), getattr(job, "inputs", {})
        if system is not None and inputs:
            changes["inputs"] = self._inputs(system, inputs)
        return replace(job, **changes)

    def _inputs(self, system: str, inputs: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
        known = {item.name: item for item in find_system(system).inputs}
        found = {}
        for name, texts in inputs.items():
            item = known.get(name)
            if item is None or item.kind.name in SAID:  # of one that is not there the job says so
                found[name] = texts
            elif item.kind.name in SENT + OFFERED:
                item.read(texts)  # its form, before a part of it is taken for a name
                change = self._sent if item.kind.name in SENT else self._weights
                found[name] = tuple(item.kind.with_files(text, change) for text in texts)
            else:
                found[name] = tuple(choose(name, text, PLANNERS) for text in texts)
        return found

    def _sent(self, path: Path) -> Path:
        return self.sent(path.as_posix())

    def _weights(self, path: Path) -> Path:
        place: Path = choose("weights", path.as_posix(), self.offered())
        return place

    def _check_run(self, job: Generate | Texture | Edit3d) -> None:
        """InputError for names that came by way of settings, and for too many steps."""
        run, known = job.run(), self.backbones()
        for stage in run.stages:
            for name in (run.backbone, stage.backbone, stage.critic.model):
                if name is not None and name not in known.values():
                    choose("backbone", name, known)
        told = SystemSettings(name=job.system, inputs=job.inputs)
        if isinstance(job, Edit3d):
            told = job.told()
        if run.system.inputs and run.system.inputs != told.inputs:
            raise InputError("what a system is told must be said as inputs, not as settings")
        if run.part.mask != (None if job.part_mask is None else str(job.part_mask)):
            raise InputError("a mask must be said as part_mask, not as a setting")
        steps = run.best_of * sum(stage.steps * stage.particles for stage in run.stages)
        if steps > self.steps:
            raise InputError(f"the job has {steps:,} steps; at most {self.steps:,} are taken")


def choose(what: str, name: str, known: Mapping[str, Any]) -> Any:
    """The value of a name. InputError for one that is not known, with the nearest."""
    if name not in known:
        have = f"{what}: {name[:60]!r} is not offered here"
        raise InputError(f"{have}{did_you_mean(name[:60], known)}" if known else have)
    return known[name]
