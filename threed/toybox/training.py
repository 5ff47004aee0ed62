"""One training loop for every part of the family: resumable, with EMA and a sheet to look at."""

from __future__ import annotations

import contextlib
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from threed.core import InputError
from threed.diffusion.images import save_image

SAVE_SECONDS = 60.0  # between checkpoints
Loss = Callable[[nn.Module, int], Tensor]  # (model, step) -> scalar; draws its own batch


@dataclass(frozen=True)
class Job:
    """What is trained, on what, and for how long."""

    name: str
    model: nn.Module
    loss: Loss
    steps: int
    lr: float
    sheet: Callable[[nn.Module], Tensor] | None = None  # the averaged model -> [3, H, W] in [0, 1]
    sheet_every: int = 500
    warmup: int = 100
    cooldown: float = 0.25  # last share of the steps, in which lr falls linearly to 0.02 of itself
    ema: float = 0.999
    weight_decay: float = 0.01


def fit(job: Job, folder: Path, *, device: torch.device, minutes: float | None = None) -> nn.Module:
    """Train from the checkpoint in `folder`, or from the start; returns the averaged model.

    With `minutes` it stops there, so that a later call goes on; the steps still to come decide the
    learning rate, so `steps` may be raised between calls. Checkpoints are written aside and
    renamed; log.jsonl holds the loss, sheet.png what `job.sheet` shows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # channels last: 1.15 x as fast on a CPU (benchmarks/toybox.py), and tensor cores want it
    model: Any = job.model.to(device).train()
    model = model.to(memory_format=torch.channels_last)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=job.lr, betas=(0.9, 0.99), weight_decay=job.weight_decay
    )
    start = _load(folder / "checkpoint.pt", model, average, optimizer)
    began = saved = time.monotonic()
    smooth = 0.0
    with _bar(job.name) as (bar, task), (folder / "log.jsonl").open("a") as log:
        bar.update(task, total=job.steps, completed=start)
        for step in range(start, job.steps):
            for group in optimizer.param_groups:
                group["lr"] = job.lr * _rate(job, step)
            loss = job.loss(model, step)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            _average(average, model, min(job.ema, (1 + step) / (10 + step)))
            value = float(loss.detach())
            smooth = value if step == start else 0.98 * smooth + 0.02 * value
            bar.update(task, completed=step + 1, loss=smooth)
            now, last = time.monotonic(), step + 1 == job.steps
            if step % 20 == 0 or last:
                row = {"step": step, "loss": round(smooth, 6), "seconds": round(now - began, 1)}
                log.write(json.dumps(row) + "\n")
                log.flush()
            stop = minutes is not None and now - began > 60 * minutes
            if now - saved > SAVE_SECONDS or last or stop:
                _save(folder / "checkpoint.pt", model, average, optimizer, step + 1)
                saved = now
            if job.sheet is not None and ((step + 1) % job.sheet_every == 0 or last or stop):
                with torch.no_grad():
                    save_image(job.sheet(average), folder / "sheet.png")
            if stop:
                break
    return average


def generators(seed: int, step: int) -> tuple[Any, torch.Generator]:
    """A numpy and a torch generator that depend on (seed, step) alone."""
    import numpy as np

    words = np.random.SeedSequence([seed, step]).generate_state(2)
    return np.random.default_rng(words), torch.Generator().manual_seed(int(words[0]))


def _rate(job: Job, step: int) -> float:
    left = (job.steps - step) / max(job.cooldown * job.steps, 1)
    return min(1.0, (step + 1) / job.warmup, max(left, 0.02))


@torch.no_grad()
def _average(average: nn.Module, model: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(
        list(average.parameters()), [p.detach() for p in model.parameters()], 1 - decay
    )
    for kept, now in zip(average.buffers(), model.buffers()):
        kept.copy_(now)


def _save(
    path: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, step: int
) -> None:
    aside = path.with_suffix(".part")
    state = {"model": model.state_dict(), "average": average.state_dict(),
             "optimizer": optimizer.state_dict(), "step": step}  # fmt: skip
    torch.save(state, aside)
    aside.replace(path)


def _load(
    path: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> int:
    """Load a checkpoint where there is one; the number of steps it has behind it."""
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
    except Exception as error:
        raise InputError(
            f"{path} cannot be continued from ({type(error).__name__}: {error}); move it away to "
            f"train from the start"
        ) from error
    return int(state["step"])


@contextlib.contextmanager
def _bar(name: str) -> Any:
    columns = (TextColumn(name), BarColumn(), TextColumn("{task.completed}/{task.total}"),
               TimeRemainingColumn(), TextColumn("loss {task.fields[loss]:.4f}"))  # fmt: skip
    with Progress(*columns) as bar:
        yield bar, bar.add_task(name, loss=float("nan"))
