"""From a prompt to an asset: the stages of a run, one optimisation after the other."""

from __future__ import annotations

import hashlib
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from guidance import Guidance
from guidance.prompts import check_prompt, prompt_warnings
from renderers.volume import random_background
from threed import __version__, cameras
from threed.assets import Asset, build_asset
from threed.config import Run, Stage, load_run
from threed.core import Cameras, InputError, RenderOutput, Schedule
from threed.diffusion.backbone import Backbone, load_backbone
from threed.guides import make_guide
from threed.keeper import Keeper, Progress, Report
from threed.run import Checkpoint, RunFolder, RunWarning, default_folder, refuse_used
from threed.scenes.field import Field

NEED_NORMALS = ("orientation", "smoothness")  # losses that a render has only with normals


def generate(
    prompt: str,
    run: Run | None = None,
    *,
    out: Path | str | None = None,
    progress: Report | None = None,
) -> Asset:
    """Make an asset of a prompt; all files are in `asset.folder` (default outputs/<slug>-<time>).

    The run defaults to the default preset. Interrupted by Ctrl-C it leaves a checkpoint, raises
    KeyboardInterrupt, and `resume` goes on. InputError for what the user can change.
    """
    prompt, run = check_prompt(prompt), run or load_run()
    path = Path(out) if out is not None else default_folder(prompt)
    refuse_used(path)
    backbone = _load(run, progress)
    make_guide(run.stages[0], backbone, run, prompt)  # what does not fit is said before any step
    for text in prompt_warnings(backbone, prompt):
        warnings.warn(text, RunWarning, stacklevel=2)
    return _finish(RunFolder.create(path, prompt, run), backbone, progress)


def resume(path: Path | str, *, progress: Report | None = None) -> Asset:
    """Go on with a run from its last checkpoint; on a CPU the result is as if never interrupted."""
    folder = RunFolder.open(Path(path))
    return _finish(folder, _load(folder.run, progress), progress)


@dataclass(frozen=True)
class Job:
    """One stage of a run, with all that its optimisation needs."""

    folder: RunFolder
    index: int  # of the stage
    scene: Field
    guide: Guidance
    views: int  # of a group that the guide sees together

    @property
    def stage(self) -> Stage:
        """Its settings."""
        return self.folder.run.stages[self.index]

    @property
    def first(self) -> int:
        """Steps that the scene has behind it from earlier stages."""
        return sum(stage.steps for stage in self.folder.run.stages[: self.index])


def optimise(job: Job, start: Checkpoint | None = None, progress: Report | None = None) -> None:
    """Change the scene until it looks as the guide wants it, from its beginning or a checkpoint."""
    stage, scene = job.stage, job.scene
    optimizer = torch.optim.Adam(
        scene.param_groups(stage.lr(0)), betas=(0.9, 0.99), eps=1e-15, fused=True
    )
    with _patient_interrupt() as interrupted:
        keeper = Keeper(job.folder, job.index, scene, job.guide, optimizer, progress)
        step = keeper.begin(start)
        while step < stage.steps:
            generator = step_generator(job.folder.run.seed, job.index, step, keeper.attempt)
            views = random_cameras(stage, step, job.views, generator)
            scene.update_occupancy(job.first + step, generator)
            picture = look(job, step, views, generator)
            losses = job.guide(picture.rgb, views, step, generator)
            total = weighted(losses, picture, stage.losses, step)
            set_lr(optimizer, scene, stage.lr(step))
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            step = keeper.after(step + 1, total, losses, picture)
            if interrupted.is_set() and step < stage.steps:
                keeper.stop(step)
                raise KeyboardInterrupt
        keeper.save(step)


def step_generator(seed: int, stage: int, step: int, attempt: int = 0) -> torch.Generator:
    """The random numbers of one step, whatever happened before it; on the CPU for every device."""
    digest = hashlib.sha256(f"{seed}/{stage}/{attempt}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def random_cameras(stage: Stage, step: int, views: int, generator: torch.Generator) -> Cameras:
    """The cameras of a step, in groups of `views`."""
    where = stage.cameras
    return cameras.random_views(
        stage.batch, round(stage.resolution(step)), generator, elevation_deg=where.elevation_deg,
        fov_y_deg=where.fov_y_deg, zoom=where.zoom, views=views,
    )  # fmt: skip


def look(job: Job, step: int, views: Cameras, generator: torch.Generator) -> RenderOutput:
    """The scene as the guide sees it in a step."""
    stage, background = job.stage, None
    if float(torch.rand((), generator=generator)) < stage.random_background:
        background = random_background(stage.batch, generator)
    normals = any(name in stage.losses and stage.losses[name](step) > 0 for name in NEED_NORMALS)
    return job.scene.render(views, background=background, generator=generator, normals=normals)


def weighted(
    losses: Mapping[str, Tensor],
    picture: RenderOutput,
    weights: Mapping[str, Schedule],
    step: int,
) -> Tensor:
    """The sum of the guide's losses, at weight 1 if not said, and of the picture's that are named.

    InputError for the weight of a loss that nobody returns.
    """
    known = {*losses, *picture.losses, *NEED_NORMALS}
    for name in weights:
        if name not in known:
            raise InputError(f"losses.{name}: there is no loss of that name; there are "
                             f"{', '.join(sorted(known))}")  # fmt: skip
    terms = [loss * weights[name](step) if name in weights else loss
             for name, loss in losses.items()]  # fmt: skip
    terms += [picture.losses[name] * schedule(step) for name, schedule in weights.items()
              if name in picture.losses]  # fmt: skip
    return torch.stack(terms).sum()


def set_lr(optimizer: torch.optim.Optimizer, scene: Field, lr: float) -> None:
    """Let every group of the optimizer learn at its share of lr."""
    for group, fresh in zip(optimizer.param_groups, scene.param_groups(lr), strict=True):
        group["lr"] = fresh["lr"]


def _finish(folder: RunFolder, backbone: Backbone, progress: Report | None) -> Asset:
    run = folder.run
    with folder.locked(), _explained_memory(run):
        start = folder.latest_checkpoint()
        if start is None:
            folder.cut_log(0)
        scene = Field(run.field, seed=run.seed).to(backbone.device)
        for index, stage in enumerate(run.stages):
            if start is not None and index < start.stage:
                continue
            guide = make_guide(stage, backbone, run, folder.prompt)
            job = Job(folder, index, scene, guide, backbone.views)
            optimise(job, start, progress)
            start = None
        asset = build_asset(
            scene,
            folder.path,
            run.asset,
            {
                "prompt": folder.prompt,
                "seed": run.seed,
                "backbone": run.backbone,
                "config": run.digest(),
                "version": __version__,
            },
            None if progress is None else lambda message: progress(Progress(message)),
        )
        folder.log([{"event": "finished"}])
    return asset


def _load(run: Run, progress: Report | None) -> Backbone:
    if progress is not None:
        progress(Progress(f"loading {run.backbone}"))
    return load_backbone(run.backbone, device=run.device)


@contextmanager
def _patient_interrupt() -> Iterator[threading.Event]:
    """Within, the first Ctrl-C only sets the event, so that a step can end; the second acts."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _explained_memory(run: Run) -> Iterator[None]:
    """Turn running out of memory into an InputError that says what to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        short = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not short and "can't allocate memory" not in str(error):
            raise
        stage = run.stages[0]
        raise InputError(f"out of memory: lower batch (now {stage.batch}), resolution (now "
                         f"{stage.resolution(0):g}) or field.samples (now {run.field.samples}), "
                         f"or use --device cpu") from error  # fmt: skip
