"""What happens beside an optimisation: log, pictures, checkpoints, watchdog, rollback."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from guidance import Guidance
from threed.core import cameras
from threed.core.errors import InputError
from threed.core.render import RenderOutput
from threed.runs.folder import Checkpoint, RunFolder
from threed.runs.progress import Listener, Progress, sayer
from threed.runs.stages import Scene, each
from threed.settings.stage import Stage

LOG_EVERY = 10  # steps between writes to the log, and looks of the watchdog
RETRIES = 2  # with another seed, before a scene is given up
EMPTY = 0.005  # mean opacity of the pictures
FOG = 0.4  # mean binary entropy of the opacity, in nats; a half-opaque picture has 0.69
PATIENCE = 30  # steps in a row that a scene may be empty or fog
Losses = Mapping[str, Tensor]  # [] each, by name


class Failure(Exception):
    """The scene is lost from a step on; the message says why."""


@dataclass(frozen=True)
class Reading:
    """One step's numbers, still on the device."""

    names: tuple[str, ...]
    values: Tensor  # [len(names)]

    @staticmethod
    def of(total: Tensor, losses: Losses, picture: RenderOutput) -> Reading:
        """Every loss [], unweighted, their weighted sum [], and the mean opacity."""
        with torch.no_grad():
            opacity = picture.opacity.mean()
            values = {"loss": total, **losses, "opacity": opacity}
            stacked = torch.stack([value.detach().float() for value in values.values()])
            return Reading(tuple(values), stacked)

    def numbers(self) -> dict[str, float]:
        """The values by name; waits for the device."""
        return dict(zip(self.names, self.values.tolist()))


class Watchdog:
    """Notices NaN at once, and scenes that stay empty or full of fog for PATIENCE steps each."""

    def __init__(self, scenes: int = 1) -> None:
        self._strikes = [0] * scenes  # of each: steps in a row that looked bad

    @property
    def alarmed(self) -> bool:
        """Whether any scene looked bad at last."""
        return any(self._strikes)

    def look(self, numbers: Mapping[str, float], turn: int = 0) -> None:
        """Judge a step of the scene whose turn it was; raises Failure.

        `opaque` is the entropy of the opacity.
        """
        wrong = [name for name, value in numbers.items() if not math.isfinite(value)]
        if wrong:
            raise Failure(f"{wrong[0]} is not a number")
        empty = numbers["opacity"] < EMPTY
        fog = numbers.get("opaque", 0.0) > FOG
        self._strikes[turn] = self._strikes[turn] + 1 if empty or fog else 0
        if self._strikes[turn] >= PATIENCE:
            raise Failure("the scene is empty" if empty else "the scene is full of fog")


@dataclass(eq=False)
class Keeper:
    """What happens beside an optimisation: log, pictures, checkpoints, watchdog, rollback."""

    folder: RunFolder
    index: int  # of the stage
    scene: Scene
    guide: Guidance
    optimizer: torch.optim.Optimizer
    progress: Listener | None
    attempt: int = 0

    def __post_init__(self) -> None:
        """Begin with nothing seen."""
        self._scenes = each(self.scene)
        self._watchdog = Watchdog(len(self._scenes))
        self._pending: list[tuple[int, float, Reading]] = []
        self._last_time = time.perf_counter()
        self._good: Checkpoint | None = None
        self._preview: Path | None = None

    @property
    def stage(self) -> Stage:
        """The settings of the stage."""
        return self.folder.run.stages[self.index]

    def begin(self, start: Checkpoint | None) -> int:
        """Go to a checkpoint, or make the first one; return the steps that are done."""
        if start is None:
            self.save(0)
            return 0
        self.attempt = start.attempt
        self._restore(start)
        self.folder.cut_log(start.log_bytes)
        self._last_time = time.perf_counter()
        return start.step

    def after(self, step: int, total: Tensor, losses: Losses, picture: RenderOutput) -> int:
        """Take note of a step's losses []; return how many are done, fewer after a rollback."""
        run, stage = self.folder.run, self.stage
        now = time.perf_counter()
        reading = Reading.of(total, {**losses, **picture.losses}, picture)
        self._pending.append((step, now - self._last_time, reading))
        self._last_time = now
        save = step % run.checkpoint_every == 0 and step < stage.steps
        preview = step % run.preview_every == 0 or step == stage.steps
        try:
            if save or preview or step == stage.steps or step % LOG_EVERY == 0:
                self._flush()
        except Failure as failure:
            return self._roll_back(step, failure)
        if preview:
            self._draw(step)
        if save and not self._watchdog.alarmed:
            self.save(step)
        return step

    def save(self, step: int) -> None:
        """Write a checkpoint after a step."""
        self._flush()
        learned = (self.scene, self.optimizer, self.guide)
        states = (_copied(part.state_dict()) for part in learned)
        self._good = Checkpoint(self.index, step, self.attempt, self.folder.log_bytes(), *states)
        self.folder.save_checkpoint(self._good)

    def stop(self, step: int) -> None:
        """Write a checkpoint before time, unless the scene looks bad: then the last one counts."""
        try:
            self._flush()
        except Failure:
            return
        if not self._watchdog.alarmed:
            self.save(step)

    def lost(self, step: int, reason: str) -> int:
        """Take note that a step could not be made; return how many are done after a rollback.

        InputError if other seeds did not help before.
        """
        try:
            self._flush()
        except Failure as failure:
            return self._roll_back(step, failure)
        return self._roll_back(step, Failure(reason))

    def event(self, step: int, name: str, **details: float) -> None:
        """Log that something happened before a step was done."""
        self.folder.log([{"event": name, "stage": self.index, "step": step, **details}])

    def _flush(self) -> None:
        """Write the pending readings to the log; raises Failure at the first bad one."""
        pending, self._pending = self._pending, []
        memory, records, failure = _memory_mb(next(self.scene.parameters()).device), [], None
        numbers: dict[str, float] = {}
        for step, seconds, reading in pending:
            numbers = reading.numbers()
            records.append({"stage": self.index, "step": step, "seconds": round(seconds, 4),
                            "memory_mb": memory, **numbers})  # fmt: skip
            try:
                self._watchdog.look(numbers, step % len(self._scenes))
            except Failure as error:
                failure = error
                break
        self.folder.log(records)
        if failure is not None:
            raise failure
        if records and self.progress is not None:
            done = (self.index, pending[-1][0], self.stage.steps)
            self.progress(Progress("optimising", *done, numbers, memory, self._preview))

    def _draw(self, step: int) -> None:
        with torch.no_grad():
            around = cameras.orbit(4, round(self.stage.resolution(step)))
            views = torch.cat([scene.render(around).rgb for scene in self._scenes])
        self._preview = self.folder.save_preview(self.index, step, views)

    def _roll_back(self, step: int, failure: Failure) -> int:
        """Return to the last good checkpoint with another seed, or give up with InputError."""
        good = self._good
        assert good is not None  # begin() leaves one
        if self.attempt >= RETRIES:
            raise InputError(
                f"{failure} near step {step} of stage {self.index}, and {RETRIES} other seeds "
                f"did not help; try a smaller lr (now {self.stage.lr(step):g}) or "
                f"guidance_scale (now {self.stage.guidance_scale(step):g}), or smaller losses.*"
            ) from failure
        self.attempt += 1
        self._pending.clear()
        self._watchdog = Watchdog(len(self._scenes))
        self._restore(good)
        self.folder.log([{"event": "rollback", "stage": self.index, "step": good.step,
                              "attempt": self.attempt, "reason": str(failure)}])  # fmt: skip
        say = sayer(self.progress)
        say(f"{failure} near step {step}: back to step {good.step} with another seed")
        return good.step

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.scene.load_state_dict(checkpoint.scene)
        self.optimizer.load_state_dict(_copied(checkpoint.optimizer))
        self.guide.load_state_dict(_copied(checkpoint.guide))
        self._good = checkpoint


def _copied(state: Mapping[str, object]) -> dict[str, Any]:
    """A state_dict whose tensors nobody else changes, on the CPU."""

    def copied(value: object) -> object:
        if isinstance(value, Tensor):
            return value.detach().cpu().clone()
        if isinstance(value, dict):
            return {key: copied(item) for key, item in value.items()}
        return [copied(item) for item in value] if isinstance(value, list) else value

    return {key: copied(value) for key, value in state.items()}


def _memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return round(psutil.Process().memory_info().rss / 2**20, 1)
