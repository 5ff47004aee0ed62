"""All kinds of jobs: read from plain data, and described as a schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from threed.core.errors import InputError
from threed.core.words import did_you_mean
from threed.runs.job import Asset, Edit3d, Export, Generate, Image, Job, Resume, Texture, Train
from threed.settings.base import read
from threed.settings.run import Run
from threed.systems.table import SYSTEMS, find_system

_KINDS: tuple[type[Job], ...] = (Generate, Texture, Edit3d, Resume, Image, Train, Export)
JOBS = {kind.kind: kind for kind in _KINDS}


def read_job(data: Mapping[str, Any], where: str = "job") -> Job:
    """The job of plain data: {"job": "generate", "prompt": "a red mug"}. InputError if it is none.

    Nothing heavy is loaded, and everything is judged that can be without.
    """
    kind = data.get("job") if isinstance(data, Mapping) else [data]
    if not isinstance(kind, str) or kind not in JOBS:
        raise InputError(f"{where}: there is no job {kind!r}{did_you_mean(str(kind), JOBS)}")
    job = read(JOBS[kind], {name: value for name, value in data.items() if name != "job"}, where)
    job.check()
    return job


def schema(name: str | None = None) -> dict[str, Any]:
    """The JSON schema of a job, or of a system's inputs and knobs; of all where none is named.

    What makes an asset has its run's settings under "run": those that NAME=VALUE words name.
    """
    if name is None:
        systems = {name: system.schema() for name, system in SYSTEMS.items()}
        return {"jobs": {kind: schema(kind) for kind in JOBS}, "systems": systems}
    if name not in JOBS:
        return find_system(name).schema()
    found = JOBS[name].model_json_schema()
    found["properties"] = {"job": {"const": name}, **found["properties"]}
    if issubclass(JOBS[name], Asset):
        found["run"] = Run.model_json_schema()
    return found
