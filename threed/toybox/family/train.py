"""Training a part of the family: pictures, the loop, and what becomes of the result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from threed.core.errors import InputError
from threed.diffusion.catalog import pick_device
from threed.toybox.family import card, jobs, unet
from threed.toybox.family import nets as family
from threed.toybox.family.mix import SceneShelf, fill_scenes
from threed.toybox.family.shelf import VIEWS, Shelf, fill_shelf
from threed.toybox.family.training import fit
from threed.toybox.judge.net import load_judge

SETS = {"cpu": 15_000, "cuda": 60_000}  # of four pictures each
JUDGE_SETS = {"cpu": 12_000, "cuda": 20_000}
SEEDS = {"train": 1, "judge": 2, "test": 3}  # the worlds of the family, the judge, and measuring
BEFORE = "before.json"  # beside a checkpoint: the trainings that it goes on from
Say = Callable[[str], None]


def train(
    part: str,
    work: Path,
    weights: Path,
    *,
    device: str = "auto",
    steps: int | None = None,
    minutes: float | None = None,
    sets: int | None = None,
    say: Say = lambda _: None,
) -> None:
    """Train "clip", "vae", "unet" or "judge" and write it into the folder `weights`.

    `work` keeps the drawn pictures and the checkpoints, from which a later call goes on; without a
    checkpoint training starts from what `weights` holds, or from nothing. steps, sets: instead of
    the device's budget; minutes: stop and write after so many. InputError for an unknown part or
    one whose forerunner is missing.
    """
    if part not in family.PARTS:
        raise InputError(f"toybox has no part {part!r}; train one of {', '.join(family.PARTS)}")
    where = torch.device(pick_device(device))
    budget = jobs.BUDGETS[where.type][part]
    if steps is not None:
        budget = replace(budget, steps=steps)
    if part == "unet":
        family.need(weights, "vae", "the UNet")
        family.need(weights, "text_encoder", "the UNet")
    shelf = open_shelf(part, work, where.type, sets, say)
    scenes = None
    if part == "clip" or family.knows_scenes(weights):
        scenes = open_scenes(part, work, len(shelf), say)
    else:
        say(f"single toys only: {weights} knows no scenes; `threed toybox train clip` teaches them")
    torch.manual_seed(0)  # of the new network's weights
    asked = (shelf, scenes, budget, where, 0)
    if part in ("unet", "clip"):
        job = {"unet": unet.unet_job, "clip": jobs.clip_job}[part](*asked, weights)
    else:
        job = {"vae": jobs.vae_job, "judge": jobs.judge_job}[part](*asked)
    if not (work / part / "checkpoint.pt").exists():
        goes_on = start_from(job.model, part, weights)
        if goes_on:
            say(f"going on from the weights in {weights}")
        (work / part).mkdir(parents=True, exist_ok=True)
        before = card.trainings(weights, part) if goes_on else []
        (work / part / BEFORE).write_text(json.dumps(before), encoding="utf-8")
    say(f"training {part} for {budget.steps} steps of {budget.batch} on {where}")
    average = fit(job, work / part, device=where, minutes=minutes)
    finish(part, average.cpu(), weights, shelf)
    log = work / part / "log.jsonl"
    card.record(weights, part, {
        "steps": card.steps_of(log), "batch": budget.batch, "sets": len(shelf),
        "scenes": 0 if scenes is None else len(scenes),
        "seed": SEEDS["judge" if part == "judge" else "train"], "minutes": card.minutes_of(log),
    }, _before(work / part))  # fmt: skip
    say(f"wrote {part} to {weights}")


def _before(folder: Path) -> list[dict[str, Any]]:
    """The trainings that a folder's went on from; none if it is from before they were kept."""
    path = folder / BEFORE
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []


def open_shelf(part: str, work: Path, device: str, sets: int | None, say: Say) -> Shelf:
    """The pictures that a part is trained on, drawn where they are missing."""
    name = "judge" if part == "judge" else "train"
    count = sets or (JUDGE_SETS if part == "judge" else SETS)[device]
    return fill_shelf(
        work / "pictures" / name,
        count,
        SEEDS[name],
        clay_every=3 if name == "judge" else 0,
        progress=lambda done: say(f"drawn {done} of {count} sets of pictures"),
    )


def open_scenes(part: str, work: Path, sets: int, say: Say) -> SceneShelf:
    """As many scenes as a part has sets of single toys, drawn where they are missing."""
    name = "judge" if part == "judge" else "train"
    return fill_scenes(
        work / "pictures" / f"{name}-scenes",
        sets,
        SEEDS[name],
        progress=lambda done: say(f"drawn {done} of {sets} scenes"),
    )


def start_from(model: nn.Module, part: str, weights: Path) -> bool:
    """Fill a new network from the weights folder; False if there is nothing to fill it from.

    Weights from before scenes fill what they know: new words and new heads stay as they are.
    """
    folder = weights / {"unet": "unet_multiview"}.get(part, part)
    if not (folder / "config.json").exists():
        return False
    if part == "judge":
        state = model.state_dict() | load_judge(folder).state_dict()
    else:
        kind: Any = type(model)
        state = family.grown(kind.from_pretrained(folder).float().state_dict(), model)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"the weights in {folder} are of another shape than {part} has now; move them away "
            f"to train from the start ({str(error).splitlines()[0]})"
        ) from error
    return True


def finish(part: str, model: Any, weights: Path, shelf: Shelf) -> None:
    """Write a trained part as the family's folder has it."""
    if part == "unet":
        unet.save_unets(model, weights)
    elif part == "clip":
        from transformers import CLIPTextModel

        family.save_tokenizer(family.tokenizer_of(weights), weights / "tokenizer")
        family.save_part(model, weights / "clip")
        text = CLIPTextModel(model.config.text_config)
        # since transformers 5 the text model is the transformer itself
        getattr(text, "text_model", text).load_state_dict(model.text_model.state_dict())
        family.save_part(text, weights / "text_encoder")
    else:
        if part == "vae":
            normalise_latents(model, shelf)
        family.save_part(model, weights / part)
    if part != "judge":
        family.save_index(weights)


@torch.no_grad()
def normalise_latents(vae: Any, shelf: Shelf) -> None:
    """Give each latent channel mean 0 and deviation 1 over 512 pictures; pictures stay the same.

    Without it one channel (brightness) has three times the spread of those that hold the hue, and
    noise drowns the hue first. The change goes into the 1×1 convolutions around the latents.
    """
    images = shelf.images(np.arange(512) % len(shelf), np.arange(512) % VIEWS)
    z = torch.cat([vae.encode(part * 2 - 1).latent_dist.mode() for part in images.split(64)])
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    before, after, n = vae.quant_conv, vae.post_quant_conv, len(mean)
    before.bias[:n] = (before.bias[:n] - mean) / std
    before.weight[:n] /= std[:, None, None, None]
    before.bias[n:] -= 2 * std.log()  # the logarithm of the variance
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= std[:, None, None]
    vae.register_to_config(scaling_factor=1.0)
