"""One stage of a run: a scene changes until its pictures look as the guidance wants them."""

from __future__ import annotations

import copy
import hashlib
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import torch
from torch import Tensor

from guidance import Guidance, Posed
from renderers.volume import GREY, random_background
from threed.core import cameras
from threed.core.cameras import Cameras
from threed.core.errors import InputError
from threed.core.render import RenderOutput
from threed.core.schedule import Schedule
from threed.runs.folder import Checkpoint, RunFolder
from threed.runs.memory import Chunk, is_short
from threed.runs.progress import Listener
from threed.runs.stages import Scene
from threed.runs.watch import Keeper, Losses
from threed.scenes.shown import draw_lamp
from threed.scenes.tetrahedra import NoSurfaceError
from threed.settings.stage import NEED_NORMALS, Stage

BETAS, EPS = (0.9, 0.99), 1e-15
DECAY = 0.01  # of AdamW, times the learning rate
Weights = Mapping[str, Schedule]  # of losses, by name


@dataclass(frozen=True)
class StageRun:
    """One stage of a run, with all that its optimisation needs."""

    folder: RunFolder
    index: int  # of the stage
    scene: Scene
    guide: Guidance
    views: int  # of a group that the guide sees together
    chunk: Chunk = field(default_factory=Chunk)
    until: int | None = None  # the step to stop at, as if interrupted there; None: all of them

    @property
    def stage(self) -> Stage:
        """Its settings."""
        return self.folder.run.stages[self.index]

    @property
    def first(self) -> int:
        """Steps that the scene has behind it from earlier stages."""
        return sum(stage.steps for stage in self.folder.run.stages[: self.index])


@dataclass(frozen=True)
class Taught:
    """What a step showed and cost; its gradients are in the scene."""

    picture: RenderOutput
    losses: Losses
    total: Tensor


def optimise(
    part: StageRun, start: Checkpoint | None = None, progress: Listener | None = None
) -> None:
    """Change the scene until it looks as the guide wants it, from its beginning or a checkpoint."""
    stage, scene = part.stage, part.scene
    last = stage.steps if part.until is None else min(part.until, stage.steps)
    optimizer = make_optimizer(stage, scene)
    with _patient_interrupt() as interrupted:
        keeper = Keeper(part.folder, part.index, scene, part.guide, optimizer, progress)
        step = keeper.begin(start)
        while step < last:
            generator = step_generator(part.folder.run.seed, part.index, step, keeper.attempt)
            views = random_cameras(stage, step, part.views, generator)
            if isinstance(part.guide, Posed):
                views = part.guide.cameras(step, views)
            scene.update_occupancy(part.first + step, generator)
            rates = scene.param_groups(stage.lr(step))
            for group, fresh in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = fresh["lr"]
            try:
                taught = teach_in_memory(part, keeper, step, views, generator)
            except NoSurfaceError:
                step = keeper.lost(step, "the surface has vanished")
                continue
            optimizer.step()
            step = keeper.after(step + 1, taught.total, taught.losses, taught.picture)
            if interrupted.is_set() and step < last:
                keeper.stop(step)
                raise KeyboardInterrupt
        keeper.save(step)


def make_optimizer(stage: Stage, scene: Scene) -> torch.optim.Optimizer:
    """Make the optimizer that a stage names, of all that the scene learns."""
    groups = scene.param_groups(stage.lr(0))
    if stage.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=BETAS, eps=EPS, weight_decay=DECAY, fused=True)
    return torch.optim.Adam(groups, betas=BETAS, eps=EPS, fused=True)


def teach_in_memory(
    part: StageRun, keeper: Keeper, step: int, views: Cameras, generator: torch.Generator
) -> Taught:
    """`teach`, and where memory runs out once more with half the chunk, until it fits.

    The scene and the guide learn once, however often it was tried.
    """
    state, learned = generator.get_state(), copy.deepcopy(part.guide.state_dict())
    while True:
        try:
            return teach(part, step, views, generator)
        except (RuntimeError, MemoryError) as error:
            if not is_short(error):
                raise
            short = error
        # out of the handler: its traceback would hold what has to be given back
        part.scene.zero_grad(set_to_none=True)
        short = short.with_traceback(None)
        if not part.chunk.halve():
            raise short
        keeper.event(step, "out of memory", chunk=part.chunk.size)
        generator.set_state(state)
        part.guide.load_state_dict(learned)


def teach(part: StageRun, step: int, views: Cameras, generator: torch.Generator) -> Taught:
    """Show the guide the scene, and leave the gradient of all losses in it."""
    picture = look(part, step, views, generator)
    image = picture.rgb if part.stage.look == "colours" else normal_map(picture)
    losses = part.guide(image, views, step, generator)
    total = weighted(losses, picture, part.stage.losses, step)
    part.scene.zero_grad(set_to_none=True)
    torch.autograd.backward(total)
    return Taught(picture, losses, total)


def normal_map(picture: RenderOutput) -> Tensor:
    """[B, H, W, 3] in [0, 1] world-space normals as colours, -1..1 becoming 0..1; black outside."""
    return (picture.normal + picture.opacity) / 2


def step_generator(seed: int, stage: int, step: int, attempt: int = 0) -> torch.Generator:
    """The random numbers of one step, whatever happened before it; on the CPU for every device."""
    digest = hashlib.sha256(f"{seed}/{stage}/{attempt}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def random_cameras(stage: Stage, step: int, views: int, generator: torch.Generator) -> Cameras:
    """The cameras of a step, in groups of `views`."""
    where = stage.cameras
    drawn = cameras.random_views(
        stage.batch(step), round(stage.resolution(step)), generator,
        elevation_deg=where.elevation_deg, fov_y_deg=where.fov_y_deg, zoom=where.zoom,
        distance_by=where.distance_by, views=views,
    )  # fmt: skip
    return cameras.shaken(
        drawn, generator, jitter=where.jitter, aim=where.aim, up=where.up, views=views
    )


def look(part: StageRun, step: int, views: Cameras, generator: torch.Generator) -> RenderOutput:
    """The scene as the guide sees it in a step."""
    stage, background = part.stage, None
    colored, grey = stage.random_background(step), stage.grey_background(step)
    chance = float(torch.rand((), generator=generator))
    if chance < colored:
        background = random_background(len(views), generator)
    elif chance < colored + grey:
        background = torch.full((3,), GREY)
    lamp = draw_lamp(stage.lamp, part.folder.run.shading_of(stage), views, step, generator)
    normals = any(name in stage.losses and stage.losses[name](step) > 0 for name in NEED_NORMALS)
    return part.scene.render(
        views, background=background, generator=generator, normals=normals, lamp=lamp,
        budget=part.chunk.size,
    )  # fmt: skip


def weighted(losses: Losses, picture: RenderOutput, weights: Weights, step: int) -> Tensor:
    """Add up the guide's losses [], at weight 1 if not said, and the picture's that are named.

    InputError for the weight of a loss that nobody returns.
    """
    known = {*losses, *picture.losses, *NEED_NORMALS}
    for name in weights:
        if name not in known:
            raise InputError(f"losses.{name}: there is no loss of that name; there are "
                             f"{', '.join(sorted(known))}")  # fmt: skip
    scales = {name: schedule(step) for name, schedule in weights.items()}
    terms = [loss * scales[name] if name in scales else loss for name, loss in losses.items()]
    terms += [picture.losses[name] * scales[name] for name in scales if name in picture.losses]
    return torch.stack(terms).sum()


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
