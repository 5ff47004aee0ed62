"""From a prompt, or a prompt and a mesh, to an asset: the stages of a run, one after the other."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from guidance.prompts import check_prompt, prompt_warnings
from threed import __version__
from threed.assets import Asset, Say, build_asset
from threed.config import Run, load_run, preset_for
from threed.core import InputError
from threed.given import Given, Up, read_given
from threed.guides import Backbones, make_guide
from threed.keeper import Progress, Report
from threed.memory import Chunk, is_short
from threed.optimise import Job, optimise
from threed.plan import Plan, plan_run, plan_stage
from threed.run import RunFolder, RunWarning, default_folder, refuse_used
from threed.stages import Scene, check_start, each, first, following, for_mesh, unknown


def generate(
    prompt: str,
    run: Run | None = None,
    *,
    init: Path | str | None = None,
    up: Up | None = None,
    out: Path | str | None = None,
    progress: Report | None = None,
) -> Asset:
    """Make an asset of a prompt; all files are in `asset.folder` (default outputs/<slug>-<time>).

    The run defaults to the default preset. `init` is a mesh file to begin with instead of a field:
    GLB, OBJ, PLY or STL, any scale, textured or not; `up` says its upward axis where that is not
    the one of its format, and the asset stands where the mesh stood. Interrupted by Ctrl-C it
    leaves a checkpoint, raises KeyboardInterrupt, and `resume` goes on. InputError for what the
    user can change.
    """
    prompt = check_prompt(prompt)
    if run is None:
        run = load_run() if init is None else load_run(preset_for(Run.backbone, "refine"))
    path = Path(out) if out is not None else default_folder(prompt)
    refuse_used(path)
    given = None
    if init is not None:
        run, given = for_mesh(run), read_given(Path(init), up)
    notes = check_start(run, given)
    backbones = Backbones(run, _sayer(progress))
    for stage in run.stages:  # what does not fit is said before any step
        backbone, *other = backbones.of(stage)
        make_guide(stage, backbone, run, prompt, *other)
        notes += prompt_warnings(backbone, prompt)
    plan_run(run, backbones.of).check()
    for text in dict.fromkeys(notes):
        warnings.warn(text, RunWarning, stacklevel=2)
    folder = RunFolder.create(path, prompt, run, None if given is None else given.to_bytes())
    return _finish(folder, backbones, progress)


def texture(
    mesh: Path | str,
    prompt: str,
    run: Run | None = None,
    *,
    keep_uv: bool = False,
    up: Up | None = None,
    out: Path | str | None = None,
    progress: Report | None = None,
) -> Asset:
    """Paint a mesh file as a prompt says; its shape stays. Everything else is as in `generate`.

    With keep_uv the mesh, broken or not, keeps its texture coordinates, bit by bit, and the texture
    is baked into them; without, it is repaired, and gets new ones. The run defaults to the preset
    for textures.
    """
    run = run or load_run(preset_for(Run.backbone, "texture"))
    if keep_uv:
        run = replace(run, textured=replace(run.textured, keep_uv=True))
    return generate(prompt, run, init=mesh, up=up, out=out, progress=progress)


def resume(path: Path | str, *, progress: Report | None = None) -> Asset:
    """Go on with a run from its last checkpoint; on a CPU the result is as if never interrupted."""
    folder = RunFolder.open(Path(path))
    return _finish(folder, Backbones(folder.run, _sayer(progress)), progress)


def plan(run: Run | None = None, *, with_mesh: bool = False) -> Plan:
    """How much memory a run needs at most, by stage, and in what chunks it works; runs nothing.

    with_mesh: the run begins with a mesh, and so without its fields.
    """
    run = run or load_run()
    run = for_mesh(run) if with_mesh else run
    return plan_run(run, Backbones(run).of)


def _finish(folder: RunFolder, backbones: Backbones, progress: Report | None) -> Asset:
    run, say = folder.run, _sayer(progress)
    with folder.locked(), _explained_memory(run):
        start = folder.latest_checkpoint()
        if start is None:
            folder.cut_log(0)
        given = None if folder.init is None else Given.from_file(folder.init)
        scene = None
        for index, stage in enumerate(run.stages):
            if start is not None and index < start.stage:
                continue
            backbone, *other = backbones.of(stage)
            if start is not None:
                scene = unknown(run, stage).to(backbone.device)
            elif scene is None:
                scene = first(run, given, backbone.device)
            else:
                say(f"making a {stage.scene} of it")
                scene = following(scene, run, stage, backbone.device)
            guide = make_guide(stage, backbone, run, folder.prompt, *other)
            chunk = Chunk(plan_stage(run, index, [backbone, *other]).chunk)
            optimise(Job(folder, index, scene, guide, backbone.views, chunk), start, progress)
            start = None
        assert scene is not None  # a run has a stage
        asset = _assets(folder, scene, given, say)
        folder.log([{"event": "finished"}])
    return asset


def _assets(folder: RunFolder, scene: Scene, given: Given | None, say: Say) -> Asset:
    """The asset of a scene; of particles each one's, the first in the run's own folder."""
    run, scenes = folder.run, each(scene)
    made = []
    for number, one in enumerate(scenes if run.particle_assets == "all" else scenes[:1], 1):
        path = folder.path / f"particle{number}" if number > 1 else folder.path
        provenance: dict[str, str | int | float] = {
            "prompt": folder.prompt,
            "seed": run.seed,
            "backbone": ", ".join(dict.fromkeys(map(run.backbone_of, run.stages))),
            "config": run.digest(),
            "version": __version__,
        }
        if len(scenes) > 1:
            provenance["particle"] = number
        placement = None if given is None else given.placement
        path.mkdir(exist_ok=True)
        made.append(build_asset(one, path, run.asset, provenance, say, placement))
    return made[0]


def _sayer(progress: Report | None) -> Say:
    """What tells the progress a message."""

    def say(message: str) -> None:
        if progress is not None:
            progress(Progress(message))

    return say


@contextmanager
def _explained_memory(run: Run) -> Iterator[None]:
    """Turn running out of memory into an InputError that says what to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_short(error):
            raise
        stage = run.stages[0]
        raise InputError(f"out of memory: lower batch (now {stage.batch}), resolution (now "
                         f"{stage.resolution(0):g}) or field.samples (now {run.field.samples}), "
                         f"or use --device cpu; threed generate --plan says what a run "
                         f"needs") from error  # fmt: skip
