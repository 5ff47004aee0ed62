"""From a prompt, or a prompt and a mesh, to an asset: the stages of a run, one after the other."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from guidance.edits import Edit
from guidance.prompts import prompt_warnings
from threed import __version__
from threed.core.cameras import orbit, view_name
from threed.core.errors import InputError
from threed.core.files import default_folder, write
from threed.core.words import check_prompt
from threed.diffusion.backbone import Backbone
from threed.diffusion.images import grid, make_images
from threed.runs import choose as choice
from threed.runs.asset import Asset, Say, build_asset
from threed.runs.edit import shaped
from threed.runs.folder import INIT, INPUTS, RunFolder, RunWarning, refuse_used
from threed.runs.given import Given, Up, read_given
from threed.runs.guide import Backbones, make_guide
from threed.runs.memory import Chunk, is_short
from threed.runs.optimise import Job, optimise
from threed.runs.plan import Plan, plan_run, plan_stage
from threed.runs.stages import Scene, check_start, each, first, following, for_mesh, unknown
from threed.runs.steer import kept, located, settled
from threed.runs.watch import Progress, Report
from threed.settings.base import replace
from threed.settings.presets import load_run, preset_for
from threed.settings.run import DEFAULT_BACKBONE, Run

VIEWS = "views.png"
SEEDS, CHOICE = "seeds", "seeds.json"  # runs that were begun, and how they did


def generate(
    prompt: str,
    run: Run | None = None,
    *,
    init: Path | str | None = None,
    up: Up | None = None,
    front: float = 0.0,
    edit: Edit | None = None,
    preview: bool = False,
    out: Path | str | None = None,
    progress: Report | None = None,
) -> Asset:
    """Make an asset of a prompt; all files are in `asset.folder` (default outputs/<slug>-<time>).

    The run defaults to the default preset. `init` is a mesh file to begin with instead of a field:
    GLB, OBJ, PLY or STL, any scale, textured or not; `up` says its upward axis where that is not
    the one of its format, `front` where it faces (degrees, against the clock from above), and the
    asset stands where the mesh stood. `edit` is for the guidance of that name. With `preview`,
    four views that the backbone itself makes of the prompt are written to views.png before the
    first step. Interrupted by Ctrl-C it leaves a checkpoint, raises KeyboardInterrupt, and
    `resume` goes on. A RunWarning tells of an asset with several fronts. InputError for what
    the user can change.
    """
    prompt = check_prompt(prompt)
    if run is None:
        run = load_run() if init is None else load_run(preset_for(DEFAULT_BACKBONE, "refine"))
    path = Path(out) if out is not None else default_folder(prompt)
    refuse_used(path)
    given = None
    if init is None and (up is not None or front):
        raise InputError("up and front are of a mesh to begin with: name it as init, or leave them")
    if init is not None:
        run, given = for_mesh(run), read_given(Path(init), up, front)
    given, notes = check_start(run, given)
    run = settled(run, prompt)
    backbones = Backbones(run, _sayer(progress))
    for stage in run.stages:  # what does not fit is said before any step
        backbone, *other = backbones.of(stage)
        make_guide(stage, backbone, run, prompt, *other, given=given, edit=edit)
        notes += prompt_warnings(backbone, prompt)
    plan_run(run, backbones.of).check()
    if run.best_of > 1:
        choice.load_clip(backbones.of(run.stages[0])[0])
    for text in dict.fromkeys(notes):
        warnings.warn(text, RunWarning, stacklevel=2)
    own, files = kept(run, INPUTS)
    if given is not None:
        files[INIT] = given.to_bytes()
    folder = RunFolder.create(path, prompt, own, files)
    if preview:
        views = sample_views(backbones.of(run.stages[0])[0], prompt, run)
        choice.save(grid(views, columns=4), path / VIEWS)
        _sayer(progress)(f"what the backbone makes of the prompt: {path / VIEWS}")
    return _finish(folder, backbones, progress, edit)


def texture(
    mesh: Path | str,
    prompt: str,
    run: Run | None = None,
    *,
    keep_uv: bool = False,
    up: Up | None = None,
    front: float = 0.0,
    out: Path | str | None = None,
    progress: Report | None = None,
) -> Asset:
    """Paint a mesh file as a prompt says; its shape stays. Everything else is as in `generate`.

    With keep_uv the mesh, broken or not, keeps its texture coordinates, bit by bit, and the texture
    is baked into them; without, it is repaired, and gets new ones. The run defaults to the preset
    for textures.
    """
    run = run or load_run(preset_for(DEFAULT_BACKBONE, "texture"))
    if keep_uv:
        run = replace(run, textured=replace(run.textured, keep_uv=True))
    return generate(prompt, run, init=mesh, up=up, front=front, out=out, progress=progress)


def edit3d(
    mesh: Path | str,
    instruction: str,
    run: Run | None = None,
    *,
    edit: Edit | None = None,
    shape: bool = False,
    up: Up | None = None,
    out: Path | str | None = None,
    progress: Report | None = None,
) -> Asset:
    """Change an asset's file as an instruction says: "make it blue". Files are as of `generate`.

    Its pictures are edited one after the other, and it follows them (Instruct-NeRF2NeRF); its
    colours alone, with `shape` its shape too. `edit` edits a picture, by default InstructPix2Pix,
    whose weights run.system names or come with the backbone. The run defaults to the preset for
    edits. InputError, among others, where there are no weights: it says how to train them.
    """
    run = run or load_run(preset_for("toybox", "edit"))
    if shape:
        run = replace(run, stages=tuple(map(shaped, run.stages)))
    return generate(instruction, run, init=mesh, up=up, edit=edit, out=out, progress=progress)


def resume(path: Path | str, *, edit: Edit | None = None, progress: Report | None = None) -> Asset:
    """Go on with a run from its last checkpoint; on a CPU the result is as if never interrupted."""
    folder = RunFolder.open(Path(path))
    return _finish(folder, Backbones(folder.run, _sayer(progress)), progress, edit)


def plan(run: Run | None = None, *, with_mesh: bool = False) -> Plan:
    """How much memory a run needs at most, by stage, and in what chunks it works; runs nothing.

    with_mesh: the run begins with a mesh, and so without its fields.
    """
    run = run or load_run()
    run = for_mesh(run) if with_mesh else run
    return plan_run(run, Backbones(run).of)


def _finish(
    folder: RunFolder, backbones: Backbones, progress: Report | None, edit: Edit | None
) -> Asset:
    say = _sayer(progress)
    with folder.locked(), _explained_memory(folder.run):
        if folder.run.best_of > 1:
            folder = _chosen(folder, backbones, progress, edit)
        given = None if folder.init is None else Given.from_file(folder.init)
        scene = _optimised(folder, backbones, progress, edit)
        asset = _assets(folder, scene, given, say)
        _judge(folder, scene, backbones, say)
        folder.log([{"event": "finished"}])
    return asset


def _optimised(
    folder: RunFolder,
    backbones: Backbones,
    progress: Report | None,
    edit: Edit | None,
    until: int | None = None,
) -> Scene:
    """The scene of a run after all its stages, or after `until` steps of the first."""
    run, say = folder.run, _sayer(progress)
    start = folder.latest_checkpoint()
    if start is None:
        folder.cut_log(0)
    given = None if folder.init is None else Given.from_file(folder.init)
    told, scene = located(run, folder.path), None
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
        guide = make_guide(stage, backbone, told, folder.prompt, *other, given=given, edit=edit)
        chunk = Chunk(plan_stage(run, index, [backbone, *other]).chunk)
        job = Job(folder, index, scene, guide, backbone.views, chunk, until)
        optimise(job, start, progress)
        start = None
        if until is not None:
            break
    assert scene is not None  # a run has a stage
    return scene


def _chosen(
    folder: RunFolder, backbones: Backbones, progress: Report | None, edit: Edit | None
) -> RunFolder:
    """The folder with the run of its best seed: each is begun in seeds/, the best goes on."""
    run, seeds = folder.run, folder.path / SEEDS
    backbone = backbones.of(run.stages[0])[0]
    clip = choice.load_clip(backbone)
    until = max(1, round(choice.SHARE * run.stages[0].steps))
    found = []
    for number in range(run.best_of):
        trial = replace(run, seed=(run.seed + number) % 2**31, best_of=1)
        path = seeds / str(trial.seed)
        begun = (path / "config.yaml").exists()
        one = (RunFolder.open(path) if begun
               else RunFolder.create(path, folder.prompt, trial, folder.files()))  # fmt: skip
        _sayer(progress)(f"seed {trial.seed}")
        scene = each(_optimised(one, backbones, progress, edit, until))[0]
        found.append(choice.rate(scene, backbone, clip, folder.prompt, trial.seed))
    winner = choice.best(found)
    _sayer(progress)(f"seed {winner.seed} goes on")
    write(folder.path / CHOICE, choice.to_json(found).encode())
    return folder.adopt(RunFolder.open(seeds / str(winner.seed)))


def _judge(folder: RunFolder, scene: Scene, backbones: Backbones, say: Say) -> None:
    """Say in the report how many fronts the asset has and which seeds were tried; warn of two."""
    run, facts = folder.run, {}
    if (folder.path / CHOICE).exists():
        facts["best_of"] = json.loads((folder.path / CHOICE).read_text(encoding="utf-8"))
    if run.check_fronts and all(stage.guidance != "edit" for stage in run.stages):
        say("looking for its front")
        seen_by = backbones.witness()
        found = choice.check_fronts(each(scene)[0], seen_by, folder.prompt, folder.path)
        facts["fronts"] = found.count
        if (found.count or 0) > 1:
            warnings.warn(f"the asset looks as if it had {found.count} fronts: see "
                          f"{folder.path / choice.PICTURE}. Try --best-of 4, or a multi-view "
                          "backbone", RunWarning, stacklevel=2)  # fmt: skip
    choice.note(folder.path, facts)


def sample_views(backbone: Backbone, prompt: str, run: Run) -> Tensor:
    """[4, 3, S, S] front, left, back and right of a prompt as the backbone alone draws them.

    A multi-view backbone draws one thing; another is asked for each view by its words.
    """
    cameras = orbit(4, backbone.image_size).to(backbone.device)
    if backbone.views > 1:
        return make_images(backbone, prompt, n=4, seed=run.seed, negative=run.negative,
                           cameras=cameras)  # fmt: skip
    names = [view_name(azimuth, 15.0) for azimuth in cameras.azimuth_deg.tolist()]
    return torch.cat([make_images(backbone, f"{prompt}, {name} view", seed=run.seed,
                                  negative=run.negative) for name in names])  # fmt: skip


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
