"""One training loop for every part of the family: resumable, with EMA and a sheet to look at."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from threed.core.errors import InputError
from threed.diffusion.images import save_image
from threed.diffusion.models.half import bfloat16_pays, norms_in_float32
from threed.learning.optimisers import BETAS, Muon

SAVE_SECONDS = 60.0  # between checkpoints
LOG_EVERY = 20  # steps between two lines of log.jsonl
WORKERS = 8  # processes that make batches beside a GPU
Batch = dict[str, Any]  # tensors and what else a loss needs
Loss = Callable[[nn.Module, Batch], Tensor]  # (model, its batch on the model's device) -> scalar


@dataclass(frozen=True)
class Job:
    """What is trained, on what, and for how long."""

    name: str
    model: nn.Module
    batch: Callable[[int], Batch]  # of a step, on the CPU; on a GPU called in processes of its own
    loss: Loss
    steps: int
    lr: float
    sheet: Callable[[nn.Module], Tensor] | None = None  # the averaged model -> [3, H, W] in [0, 1]
    sheet_every: int = 500
    warmup: int = 100
    cooldown: float = 0.25  # last share of the steps, in which lr falls linearly to 0.02 of itself
    ema: float = 0.999
    weight_decay: float = 0.01
    muon: bool = False  # instead of AdamW


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
    norms_in_float32(model)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    on_gpu, half = device.type == "cuda", bfloat16_pays(device)
    optimizer = _optimizer(job, model, on_gpu)
    start = _load(folder / "checkpoint.pt", model, average, optimizer)
    workers = min(WORKERS, os.cpu_count() or 1) if on_gpu else 0
    began = saved = time.monotonic()
    smooth = torch.zeros((), device=device)  # stays there: reading it would wait for the device
    with _bar(job.name) as (bar, task), (folder / "log.jsonl").open("a") as log:
        bar.update(task, total=job.steps, completed=start)
        for step, batch in enumerate(batches(job, start, device, workers), start):
            for group in optimizer.param_groups:
                group["lr"] = job.lr * _rate(job, step)
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss = job.loss(model, batch)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            _average(average, model, min(job.ema, (1 + step) / (10 + step)))
            value = loss.detach().float()
            smooth = value if step == start else smooth.lerp(value, 0.02)
            now, last = time.monotonic(), step + 1 == job.steps
            if step % LOG_EVERY == 0 or last:
                said = round(float(smooth), 6)
                row = {"step": step, "loss": said, "seconds": round(now - began, 1)}
                log.write(json.dumps(row) + "\n")
                log.flush()
                bar.update(task, loss=said)
            bar.update(task, completed=step + 1)
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


def batches(job: Job, start: int, device: torch.device, workers: int) -> Iterator[Batch]:
    """The batches of the steps still to come on a device, made here or by so many processes."""
    if workers:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # they warn of it after a fork
    loader: Any = DataLoader(
        _Steps(job), batch_size=None, sampler=range(start, job.steps), num_workers=workers,
        pin_memory=device.type == "cuda", collate_fn=_as_it_is,
    )  # fmt: skip
    for batch in loader:
        yield {name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
               for name, value in batch.items()}  # fmt: skip


def _as_it_is(batch: Any) -> Any:
    return batch


class _Steps(Dataset[Batch]):
    """The batches of a job by step, as a data loader wants them."""

    def __init__(self, job: Job) -> None:
        self.batch = job.batch

    def __getitem__(self, step: int) -> Batch:
        return self.batch(step)


def generators(seed: int, step: int) -> tuple[Any, torch.Generator]:
    """A numpy and a torch generator that depend on (seed, step) alone."""
    import numpy as np

    words = np.random.SeedSequence([seed, step]).generate_state(2)
    return np.random.default_rng(words), torch.Generator().manual_seed(int(words[0]))


def _rate(job: Job, step: int) -> float:
    left = (job.steps - step) / max(job.cooldown * job.steps, 1)
    return min(1.0, (step + 1) / job.warmup, max(left, 0.02))


def _optimizer(job: Job, model: nn.Module, on_gpu: bool) -> torch.optim.Optimizer:
    if job.muon:
        return Muon(model.parameters(), job.lr, weight_decay=job.weight_decay)
    return torch.optim.AdamW(
        model.parameters(), lr=job.lr, betas=BETAS, weight_decay=job.weight_decay,
        fused=on_gpu,
    )  # fmt: skip


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
