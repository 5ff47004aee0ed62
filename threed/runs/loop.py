"""The stages of a run, one after the other, from its first scene to its assets."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidance import Guidance
from guidance.edits import Edit
from guidance.prompts import prompt_warnings
from threed import __version__
from threed.core.cameras import orbit, view_name
from threed.core.errors import InputError
from threed.core.files import write
from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import facts as model_facts
from threed.diffusion.guide import Guide
from threed.diffusion.images import grid, make_images, save_image
from threed.diffusion.learned.names import unsaid
from threed.diffusion.reading import NEGATIVE, PROMPT
from threed.runs import choose as choice
from threed.runs.asset import Asset, build_asset
from threed.runs.backbones import Backbones, looks_for_fronts
from threed.runs.check import all_prompts, own_words
from threed.runs.folder import INIT, INPUTS, Checkpoint, RunFolder, RunWarning
from threed.runs.given import GivenMesh, read_given
from threed.runs.guide import make_guide
from threed.runs.memory import Chunk, is_short
from threed.runs.optimise import StageRun, optimise
from threed.runs.part import PICTURES, draw_part, find_part, find_word
from threed.runs.plan import plan_stage
from threed.runs.progress import Listener, sayer
from threed.runs.stages import Scene, check_mesh, each, first, following, unknown
from threed.runs.start import Start
from threed.runs.steer import kept, located
from threed.settings.base import replace
from threed.settings.run import Run
from threed.systems.table import find_system

VIEWS = "views.png"
SEEDS, CHOICE = "seeds", "seeds.json"  # runs that were begun, and how they did


@dataclass
class Work:
    """A run that is under way."""

    folder: RunFolder
    models: Backbones
    progress: Listener | None = None
    edit: Edit | None = None  # edits pictures for the guidance edit; None: InstructPix2Pix
    guide: Guidance | None = None  # of the first stage, if it is made already

    @cached_property
    def given(self) -> GivenMesh | None:
        """The mesh that the run begins with, if it does with one."""
        return None if self.folder.init is None else GivenMesh.from_file(self.folder.init)

    def say(self, message: str) -> None:
        """Tell a message to whoever watches."""
        sayer(self.progress)(message)

    def take_guide(self) -> Guidance | None:
        """Hand over the guide that is made already: it holds a model, which must be let go."""
        guide, self.guide = self.guide, None
        return guide


def begin(
    prompt: str,
    run: Run,
    path: Path,
    start: Start | None,
    *,
    preview: bool = False,
    edit: Edit | None = None,
    progress: Listener | None = None,
) -> Work:
    """Read the mesh, load the first stage's models, make its guide, and then the run's folder.

    The settings have been checked (`threed.runs.check`). InputError for what only a mesh or a
    loaded model can tell; then there is no folder.
    """
    given, notes = None, list[str]()
    if start is not None:
        given = read_given(start.mesh, start.up, start.front)
        given, notes = check_mesh(run, given)
        given, more = find_part(given, run)
        notes += more
    models = Backbones(run, sayer(progress))
    backbone, *judge = models.of(0)
    if given is not None and run.part.word is not None:
        given, more = find_word(given, run, prompt, backbone)
        notes += more
    guide = make_guide(run.stages[0], backbone, run, prompt, *judge, given=given, edit=edit)
    _warn([*notes, *_prompt_warnings(backbone, prompt, run)])
    own, files = kept(run, INPUTS)
    if given is not None:
        files[INIT] = given.to_bytes()
        files |= draw_part(given)
    work = Work(RunFolder.create(path, prompt, own, files), models, progress, edit, guide)
    if given is not None and given.part is not None:
        work.say(f"the part that changes: {path / PICTURES[0]}")
    if preview:
        views = sample_views(backbone, prompt, run)
        save_image(grid(views, columns=4), path / VIEWS)
        work.say(f"what the backbone makes of the prompt: {path / VIEWS}")
    return work


def go_on(folder: RunFolder, edit: Edit | None = None, progress: Listener | None = None) -> Work:
    """Take up the run of a folder where it was left."""
    return Work(folder, Backbones(folder.run, sayer(progress)), progress, edit)


def finish(work: Work) -> Asset:
    """Do what is left of a run, and write its assets."""
    folder = work.folder
    with folder.locked(), _explained_memory(folder.run):
        if folder.run.best_of > 1:
            work = _choose_seed(work)
        scene = optimise_stages(work)
        asset = _build_assets(work, scene)
        _judge(work, scene)
        work.folder.log([{"event": "finished"}])
    return asset


def optimise_stages(work: Work, until: int | None = None) -> Scene:
    """Make the scene of a run by all its stages, or by `until` steps of the first."""
    start, scene = work.folder.latest_checkpoint(), None
    if start is None:
        work.folder.cut_log(0)
    begun = 0 if start is None else start.stage
    last = len(work.folder.run.stages) if until is None else begun + 1
    for index in range(begun, last):
        scene = _optimise_stage(work, index, scene, start, until)
        start = None
    assert scene is not None  # a run has a stage
    return scene


def _optimise_stage(
    work: Work, index: int, before: Scene | None, start: Checkpoint | None, until: int | None
) -> Scene:
    """Make the scene of one stage: from a checkpoint of it, from the stage before, or anew."""
    folder, run = work.folder, work.folder.run
    stage = run.stages[index]
    backbone, *judge = work.models.of(index)
    if start is not None:
        scene = unknown(run, stage, work.given).to(backbone.device)
    elif before is None:
        scene = first(run, work.given, backbone.device)
    else:
        work.say(f"making a {stage.scene} of it")
        scene = following(before, run, stage, backbone.device)
        last = work.models.known(run.stages[index - 1])[0]
        if (last.name, last.vocabulary) != (backbone.name, backbone.vocabulary):
            _warn(_prompt_warnings(backbone, folder.prompt, run))
    guide = work.take_guide()
    if guide is None:
        told = located(run, folder.path)
        guide = make_guide(stage, backbone, told, folder.prompt, *judge, given=work.given,
                           edit=work.edit)  # fmt: skip
    chunk = Chunk(plan_stage(index, work.models).chunk)
    part = StageRun(folder, index, scene, guide, backbone.views, chunk, until)
    optimise(part, start, work.progress)
    return scene


def _choose_seed(work: Work) -> Work:
    """Begin each seed in seeds/ and go on with the best of them, in the run's own folder."""
    folder, run = work.folder, work.folder.run
    backbone, *_ = work.models.of(0)
    clip = choice.load_clip(backbone)
    until = max(1, round(choice.SHARE * run.stages[0].steps))
    found, fronts, said = [], [], all_prompts(run, folder.prompt)[PROMPT]
    for number in range(run.best_of):
        trial = replace(run, seed=(run.seed + number) % 2**31, best_of=1)
        path = folder.path / SEEDS / str(trial.seed)
        begun = (path / "config.yaml").exists()
        make = partial(RunFolder.create, prompt=folder.prompt, run=trial, files=folder.files())
        one = RunFolder.open(path) if begun else make(path)
        work.say(f"seed {trial.seed}")
        attempt = dataclasses.replace(work, folder=one, guide=work.take_guide())
        scene = each(optimise_stages(attempt, until))[0]
        candidate, front = choice.rate(scene, backbone, clip, said, trial.seed)
        found.append(candidate)
        fronts.append(front)
    save_image(grid(torch.cat(fronts), columns=len(fronts)), folder.path / choice.CANDIDATES)
    winner = choice.best(found)
    work.say(f"seed {winner.seed} goes on")
    write(folder.path / CHOICE, choice.to_json(found).encode())
    best = folder.adopt(RunFolder.open(folder.path / SEEDS / str(winner.seed)))
    return dataclasses.replace(work, folder=best)


def _judge(work: Work, scene: Scene) -> None:
    """Say in the report how many fronts the asset has and which seeds were tried; warn of two."""
    folder, facts = work.folder, dict[str, Any]()
    if (folder.path / CHOICE).exists():
        facts["best_of"] = json.loads((folder.path / CHOICE).read_text(encoding="utf-8"))
    if looks_for_fronts(folder.run):
        work.say("looking for its front")
        seen_by = work.models.witness()
        said = all_prompts(folder.run, folder.prompt)[PROMPT]
        found = choice.check_fronts(each(scene)[0], seen_by, said, folder.path)
        facts["fronts"] = found.count
        if (found.count or 0) > 1:
            seen_whole = model_facts(folder.run.backbone_of(folder.run.stages[0])).views > 1
            other = "another --seed" if seen_whole else "a multi-view backbone"
            warnings.warn(f"the asset looks as if it had {found.count} fronts: see "
                          f"{folder.path / choice.PICTURE}. Try --best-of 4, or {other}",
                          RunWarning, stacklevel=2)  # fmt: skip
    choice.note(folder.path, facts)


def sample_views(backbone: Backbone, prompt: str, run: Run) -> Tensor:
    """[4, 3, S, S] front, left, back and right of a prompt as the backbone alone draws them.

    A multi-view backbone draws one thing; another is asked for each view by its words.
    """
    prompt = all_prompts(run, prompt)[PROMPT]
    cameras = orbit(4, backbone.image_size).to(backbone.device)
    make = partial(make_images, backbone, seed=run.seed, guide=Guide(7.5, run.negative))
    if backbone.views > 1:
        return make(prompt, n=4, cameras=cameras)
    names = [view_name(azimuth, 15.0) for azimuth in cameras.azimuth_deg.tolist()]
    return torch.cat([make(f"{prompt}, {name} view") for name in names])


def _build_assets(work: Work, scene: Scene) -> Asset:
    """Write the asset of a scene; of particles each one's, the first in the run's own folder."""
    folder, run, scenes = work.folder, work.folder.run, each(scene)
    placement = None if work.given is None else work.given.placement
    backbones = ", ".join(dict.fromkeys(map(run.backbone_of, run.stages)))
    asked: dict[str, str | int | float] = {"prompt": folder.prompt, "seed": run.seed}
    asked |= {"backbone": backbones, "config": run.digest(), "version": __version__}
    made = []
    for number, one in enumerate(scenes if run.particle_assets == "all" else scenes[:1], 1):
        path = folder.path / f"particle{number}" if number > 1 else folder.path
        provenance = asked | ({"particle": number} if len(scenes) > 1 else {})
        path.mkdir(exist_ok=True)
        made.append(build_asset(one, path, run.asset, provenance, work.say, placement))
    return made[0]


def _prompt_warnings(backbone: Backbone, prompt: str, run: Run) -> list[str]:
    """What a user should know of all that a run gives a backbone to read."""
    others = all_prompts(run, prompt) | {NEGATIVE: run.negative}
    instructs = any(stage.guidance == "edit" for stage in run.stages)
    if run.system.name is not None:
        instructs |= find_system(run.system.name).instructs
    read = prompt_warnings(backbone, others.pop(PROMPT), others, instructs=instructs)
    return [*unsaid(own_words(run), prompt), *read]


def _warn(notes: Iterable[str]) -> None:
    """Tell the user each thing once."""
    for text in dict.fromkeys(notes):
        warnings.warn(text, RunWarning, stacklevel=3)


@contextmanager
def _explained_memory(run: Run) -> Iterator[None]:
    """Turn running out of memory into an InputError that says what to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_short(error):
            raise
        stage = run.stages[0]
        raise InputError(f"out of memory: lower batch (now {stage.batch(0)}), resolution (now "
                         f"{stage.resolution(0):g}) or field.samples (now {run.field.samples}), "
                         f"or use --device cpu; threed generate --plan says what a run "
                         f"needs") from error  # fmt: skip
