"""The one training loop: it resumes to the bit, averages weights, and shows samples.

What a step draws depends on (seed, step) alone, so a run that was cut and resumed is the run that
was not. Only parameters that require a gradient are trained, averaged and written.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from threed.core import files
from threed.core.errors import InputError
from threed.core.saved import read_saved
from threed.diffusion.files import SETTINGS
from threed.diffusion.images import save_image
from threed.diffusion.models.half import norms_in_float32
from threed.learning.data import Batch, ahead
from threed.learning.optimisers import make_optimizer
from threed.learning.recipe import Recipe

SAVE_SECONDS = 60.0  # between checkpoints
LOG_EVERY = 20  # steps between two lines of the log
SHEET_EVERY = 250  # steps between two sheets, or a quarter of a short training
TIMED = 10  # steps from which the time that is left is told
CHECKPOINT, LOG, SHEET = "checkpoint.pt", "log.jsonl", "sheet.png"
Loss = Callable[[nn.Module, Any, torch.Generator], Tensor]
"""(net, the batch, the chance of this step) -> scalar. The batch is how many examples to take, or
what the task's `batch` made of that number."""


@dataclass(frozen=True)
class Task:
    """What is trained, and what becomes of it.

    rates: for parameters whose names begin so, how many times the recipe's rate theirs is.
    after_step: puts the trained weights right after each step, such as rows that must not move.
    batch: (how many examples, chance) -> what the loss needs of them, its tensors on the CPU; on a
    GPU it is made ahead, by processes of their own.
    """

    net: nn.Module
    loss: Loss
    save: Callable[[nn.Module, Path], None]  # write the averaged net into a folder
    about: Mapping[str, Any]  # system, backbone, data, options: the same when resumed
    sheet: Callable[[nn.Module], Tensor] | None = None  # the averaged net -> [3, H, W] in [0, 1]
    rates: Mapping[str, float] = field(default_factory=dict)
    after_step: Callable[[nn.Module], None] | None = None
    batch: Callable[[int, torch.Generator], Batch] | None = None
    hold: Callable[[], None] | None = None  # says, before a run, which of its weights learn
    start: Callable[[], None] | None = None  # done before the first step, and not when resumed
    first: tuple[Task, ...] = ()  # stages before it, of parts of its net; about says their "stage"
    share: float = 1.0  # of the recipe's steps, how many a stage takes


def train(
    task: Task,
    recipe: Recipe,
    out: Path,
    *,
    device: torch.device,
    resume: bool = False,
    minutes: float | None = None,
    sheet_every: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> nn.Module:
    """Train a task's net and write it to the folder `out`; returns it with its averaged weights.

    Beside it: settings.json, log.jsonl (the loss), sheet.png, and checkpoint.pt, from which
    `resume` goes on. `minutes`: stop and write after so many. `sheet_every`: steps
    between sheets, SHEET_EVERY or a quarter of all if that is less. `say` is told how long it will
    take.
    InputError for a folder that is in use, one that cannot be resumed, or a loss that is no number.
    """
    begin(task, recipe, out, resume=resume)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if task.hold is not None:
            task.hold()
        if task.start is not None and not resume:
            task.start()
        run = _Run(task, recipe, device)
        if resume:
            run.load(out / CHECKPOINT)
        fewest = max(recipe.steps // 4, 1)
        _loop(run, out, minutes, sheet_every or min(SHEET_EVERY, fewest), say)
    run.fill(run.average)
    return task.net.eval()


def train_stages(
    task: Task,
    recipe: Recipe,
    out: Path,
    *,
    device: torch.device,
    resume: bool = False,
    minutes: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Train what comes first of a task, each stage in its folder in `out`, and then the task.

    Each takes its share of the recipe's steps, and goes on with the weights of the one before.
    `resume` goes on with the stage that was cut; those that are done stay as they are, even if
    steps have grown.
    minutes: of all together. InputError as of `train`.
    """
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    stages = [*task.first, task]
    folders = [*(out / str(stage.about["stage"]) for stage in task.first), out]
    for stage, folder, later in zip(stages, folders, [*folders[1:], None]):
        left = end - time.monotonic()
        if stage is not stages[0] and left <= 0:
            return
        done = resume and later is not None and (later / CHECKPOINT).exists()
        asked = max(round(stage.share * recipe.steps), 1)
        steps = _settings(folder)["steps"] if done else asked
        if task.first:
            say(f"stage {stage.about.get('stage', 'last')}")
        train(stage, replace(recipe, steps=steps), folder, device=device,
              resume=resume and (folder / CHECKPOINT).exists(),
              minutes=None if minutes is None else left / 60, say=say)  # fmt: skip


def _settings(folder: Path) -> dict[str, Any]:
    """What the training in a folder was told."""
    told: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    return told


def begin(task: Task, recipe: Recipe, out: Path, *, resume: bool) -> None:
    """Make the folder of a training, or check that it is the one to go on with."""
    settings = {**task.about, **asdict(recipe)}
    if task.rates:
        settings["rates"] = dict(task.rates)
    check_folder(out, resume=resume)
    if resume:
        # what a recipe could not say yet was as it is by default
        known = {f.name: f.default for f in fields(Recipe) if f.default is not MISSING}
        before = known | _settings(out)
        names = sorted((before.keys() | settings.keys()) - {"steps"})
        pairs = ((name, before.get(name), settings.get(name)) for name in names)
        other = [f"{name} was {old!r} and is {new!r}" for name, old, new in pairs if old != new]
        if other:
            raise InputError(f"{out} was trained with other settings: {'; '.join(other)}. Resume "
                             "with the same ones (only steps may change)")  # fmt: skip
    files.make_folder(out)
    (out / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def check_folder(out: Path, *, resume: bool) -> None:
    """InputError if a folder holds a training that is not gone on with, or none to go on with."""
    there = (out / CHECKPOINT).exists()
    if there and not resume:
        raise InputError(f"{out} holds a training already; go on with --resume, or choose another")
    if resume and not there:
        raise InputError(f"{out} holds no training to resume: there is no {CHECKPOINT} in it")


def trainable(net: nn.Module) -> dict[str, nn.Parameter]:
    """Find the parameters that require a gradient, by name."""
    return {name: p for name, p in net.named_parameters() if p.requires_grad}


class _Losing(nn.Module):
    """A task's net and its loss in one, as accelerate wants them."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.net, self.loss = task.net, task.loss

    def forward(self, batch: Any, chance: torch.Generator) -> Tensor:
        """Compute the loss of a batch."""
        return self.loss(self.net, batch, chance)


class _Run:
    """A net in training: its weights, their average, its optimizer, and how far it is."""

    def __init__(self, task: Task, recipe: Recipe, device: torch.device) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        # it is one for the process, and would refuse another precision than the last run's
        AcceleratorState._reset_state()
        self.task, self.recipe, self.device, self.step = task, recipe, device, 0
        how = {
            "mixed_precision": recipe.precision,
            "gradient_accumulation_steps": recipe.accumulate,
        }
        self.accelerator = Accelerator(cpu=device.type == "cpu", **how)
        task.net.to(device).train()
        self.trained = trainable(task.net)
        norms_in_float32(task.net)
        optimizer = make_optimizer(
            self.trained, recipe.lr, rates=task.rates, muon=recipe.muon, beta2=recipe.beta2,
            weight_decay=recipe.weight_decay,
        )  # fmt: skip
        # on several GPUs gradients are gathered for what is called: the loss, not the net
        self.losing, self.optimizer = self.accelerator.prepare(_Losing(task), optimizer)
        # a batch norm's statistics go with the weights that they are of
        self.moving = {name: value for name, value in task.net.named_buffers()
                       if name.endswith(("running_mean", "running_var"))}  # fmt: skip
        self.average = {name: p.detach().clone() for name, p in self.weights.items()}

    @property
    def weights(self) -> dict[str, Tensor]:
        """All that training changes, by name."""
        return {**self.trained, **self.moving}

    def batches(self) -> Iterator[Any]:
        """Make the batches of the steps still to come, `accumulate` for each."""
        make, recipe = self.task.batch, self.recipe
        if make is None:
            return repeat(recipe.batch)
        first, last = (step * recipe.accumulate for step in (self.step, recipe.steps))
        process = self.accelerator.process_index

        def one(number: int) -> Batch:
            words = [recipe.seed, *divmod(number, recipe.accumulate), process, 1]
            seed = int(np.random.SeedSequence(words).generate_state(1)[0])
            return make(recipe.batch, torch.Generator().manual_seed(seed))

        return ahead(one, range(first, last), self.device)

    def advance(self, batches: Iterator[Any]) -> Tensor:
        """Take a step; return the loss before it, [] on the device."""
        total = torch.zeros((), device=self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("rate", 1.0) * self.recipe.rate(self.step)
        for part in range(self.recipe.accumulate):
            batch = next(batches)
            chance = self._chance(part)  # after the batch, whose maker may draw chance, too
            with self.accelerator.accumulate(self.losing):
                loss = self.losing(batch, chance)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(list(self.trained.values()), 1.0)
                self.optimizer.step()
                self.optimizer.zero_grad()
            total += loss.detach().float() / self.recipe.accumulate
        if self.task.after_step is not None:
            with torch.no_grad():
                self.task.after_step(self.task.net)
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        fresh = [p.detach() for p in self.weights.values()]
        torch._foreach_lerp_(list(self.average.values()), fresh, 1 - decay)
        self.step += 1
        return total

    def _chance(self, part: int) -> torch.Generator:
        """Seed the chance of one batch; dropout inside the net follows it, too."""
        words = [self.recipe.seed, self.step, part, self.accelerator.process_index]
        seed, inner = np.random.SeedSequence(words).generate_state(2).tolist()
        torch.manual_seed(inner)
        return torch.Generator().manual_seed(seed)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Let the net have its averaged weights within."""
        kept = {name: p.detach().clone() for name, p in self.weights.items()}
        self.fill(self.average)
        self.task.net.eval()
        try:
            yield self.task.net
        finally:
            self.fill(kept)
            self.task.net.train()

    @torch.no_grad()
    def fill(self, values: Mapping[str, Tensor]) -> None:
        """Give all that training changes these values, by name."""
        for name, value in self.weights.items():
            value.copy_(values[name])

    def save(self, path: Path) -> None:
        """Write everything that a later step depends on; aside, then renamed."""
        state = {"weights": {name: p.detach() for name, p in self.weights.items()},
                 "average": self.average, "optimizer": self.optimizer.state_dict(),
                 "step": self.step}  # fmt: skip
        with files.write_aside(path) as part:
            torch.save(state, part)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint. InputError if it is damaged or of another net."""
        state = read_saved(path)
        try:
            if state["weights"].keys() != self.weights.keys():
                raise KeyError("other tensors")
            self.fill(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            for name, value in state["average"].items():
                self.average[name].copy_(value)
            self.step = int(state["step"])
        except Exception as error:  # an optimizer raises almost anything
            raise InputError(f"{path} cannot be continued from: it is of another net; train into "
                             "another folder") from error  # fmt: skip


def _loop(
    run: _Run, out: Path, minutes: float | None, sheet_every: int, say: Callable[[str], None]
) -> None:
    began = saved = ready = time.monotonic()
    first, last = run.step, run.recipe.steps
    smooth, batches = torch.zeros((), device=run.device), run.batches()
    with _bar(run) as show, (out / LOG).open("a", encoding="utf-8") as log:
        while run.step < last:
            value = run.advance(batches)
            smooth = value if run.step == first + 1 else smooth.lerp(value, 0.02)
            now = time.monotonic()
            if run.step == first + 1:
                ready = now  # the first step may make what all need
            if run.step == first + TIMED and run.step < last:
                left = (now - ready) / (TIMED - 1) * (last - run.step)
                shown = f"; {out / SHEET} will show what it makes" if run.task.sheet else ""
                say(f"about {_duration(left)} to go{shown}")
            done = run.step == last or (minutes is not None and now - began > 60 * minutes)
            looking = run.step % sheet_every == 0 or done
            saving = looking or now - saved > SAVE_SECONDS
            # only then, as reading the loss waits for the device
            if saving or run.step % LOG_EVERY == 0 or run.step == first + 1:
                loss = _read(smooth, run)
                show(loss)
                if done or run.step % LOG_EVERY == 0:
                    seconds = round(now - began, 1)
                    row = {"step": run.step, "loss": round(loss, 6), "seconds": seconds}
                    log.write(json.dumps(row) + "\n")
                    log.flush()
            if saving and run.accelerator.is_main_process:
                run.save(out / CHECKPOINT)
                saved = now
            if looking and run.accelerator.is_main_process:
                _write(run, out)
            if done:
                break


def _duration(seconds: float) -> str:
    """Say a time in words: "40 seconds", "6 minutes", "2.5 hours"."""
    if seconds < 100:
        return f"{max(round(seconds, -1), 10):.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"


def _read(loss: Tensor, run: _Run) -> float:
    """Read the loss as a number. InputError if it is none."""
    value = float(loss)
    if not math.isfinite(value):
        raise InputError(f"the loss of step {run.step} is {value}; lower --lr (now "
                         f"{run.recipe.lr:g}). The last checkpoint is whole")  # fmt: skip
    return value


def _write(run: _Run, out: Path) -> None:
    """Write the averaged net, and what it makes."""
    with run.averaged() as net, torch.random.fork_rng(devices=[]), torch.no_grad():
        run.task.save(net, out)
        if run.task.sheet is not None:
            save_image(run.task.sheet(net), out / SHEET)


@contextlib.contextmanager
def _bar(run: _Run) -> Iterator[Callable[[float], None]]:
    console = Console(stderr=True)
    name = TextColumn(run.task.about.get("system", "training"))
    left, loss = TextColumn("left"), TextColumn("loss {task.fields[loss]:.4f}")
    columns = (name, BarColumn(), MofNCompleteColumn(), left, TimeRemainingColumn(), loss)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task: Any = bar.add_task("", total=run.recipe.steps, completed=run.step, loss=math.nan)
        yield lambda loss: bar.update(task, completed=run.step, loss=loss)
