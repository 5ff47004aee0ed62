"""Training a part of the family: its pictures, the loop, and what becomes of the result."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from threed.core.devices import pick_device
from threed.core.errors import InputError
from threed.core.files import check_out
from threed.diffusion.models.half import bfloat16_pays
from threed.diffusion.models.latent import load_net
from threed.diffusion.parts.face_net import FOLDER as FACES
from threed.diffusion.parts.face_net import load_faces
from threed.learning.loop import CHECKPOINT, LOG, Task
from threed.learning.loop import train as run
from threed.toybox.family import card, nets, sharp
from threed.toybox.family.alike import alike_task, open_instances
from threed.toybox.family.faces import faces_task, open_faces
from threed.toybox.family.shelf import SceneShelf, Shelf, fill_scenes, fill_shelf, no_scenes
from threed.toybox.family.tasks import RECIPES, clip_task, judge_task, vae_task
from threed.toybox.family.unet import save_drawer, unet_task
from threed.toybox.judge.alike import KINDS as LIKENESSES
from threed.toybox.judge.alike import load_likeness
from threed.toybox.judge.net import load_judge
from threed.toybox.world.toys import AROUND

SETS = {"cpu": 15_000, "cuda": 60_000}  # of four pictures each
HD_SETS = {"cpu": 6000, "cuda": 30_000}
JUDGE_SETS = {"cpu": 12_000, "cuda": 20_000}
INSTANCES = {"cpu": 2400, "cuda": 20_000}  # of a judge of likeness, or persons with faces
SEEDS = {"train": 1, "judge": 2, "test": 3}  # the worlds of the family, the judge, and measuring
NETS = {"clip": "clip", "vae": "vae", "unet": "unet_multiview", "judge": "judge", "faces": FACES,
        **{kind: f"likeness/{kind}" for kind in LIKENESSES}}  # their folders  # fmt: skip
OF_INSTANCES = ("faces", *LIKENESSES)  # parts that tell instances apart
BEFORE = "before.json"  # beside a checkpoint: the trainings that it goes on from
SHEETS = 15  # times that a training shows what it makes
Say = Callable[[str], None]
Shelves = tuple[Shelf, SceneShelf]


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
    """Train a part of NETS, or toybox-hd's "hd vae" or "hd unet"; write it into `weights`.

    `work` keeps the drawn pictures and the checkpoints, from which a later call goes on; without a
    checkpoint training starts from what `weights` holds, or from nothing. steps, sets: instead of
    the device's own; minutes: stop and write after so many. InputError for an unknown part, one
    whose forerunner is missing, or a training that was begun with other settings.
    """
    asked, part = part, part.removeprefix(sharp.PREFIX)
    hd = asked != part
    _check_part(part, hd=hd)
    for folder in (work, weights):
        check_out(folder, folder=True)
    if hd:
        work = work / "hd"
        sharp.begin(weights)
    where, place = torch.device(pick_device(device)), work / part
    if part == "unet":
        for needed in ("vae", "text_encoder"):
            nets.need(weights, needed, "the UNet", hd=hd)
    recipe = RECIPES[where.type]["likeness" if part in LIKENESSES else asked]
    precision = "bf16" if bfloat16_pays(where) else "no"
    recipe = replace(recipe, steps=steps or recipe.steps, precision=precision)
    sets = sets or _usual_sets(part, hd=hd)[where.type]
    begun = (place / CHECKPOINT).exists()
    goes_on = (weights / NETS[part] / "config.json").exists()
    torch.manual_seed(recipe.seed)  # of the new network's weights
    shelf: Shelf | None = None
    if part in OF_INSTANCES:
        task, count = _of_instances(part, work / "pictures" / part, sets, say)
        counts = {"instances": count}
    else:
        size = sharp.SIZE if hd else nets.SIZE
        shelf, scenes = open_pictures(part, work, weights, sets, say, size)
        task = new_task(part, shelf, scenes, weights, where)
        counts = {"sets": len(shelf.labels), "scenes": len(scenes)}
    if part == "vae" and goes_on:
        keep_latents(task.net)
    if not begun:
        _begin(part, task.net, weights, place, goes_on=goes_on, say=say)
    say(f"training {part} for {recipe.steps} steps of {recipe.batch} on {where}")
    net = run(task, recipe, place, device=where, resume=begun, minutes=minutes,
              sheet_every=max(recipe.steps // SHEETS, 1))  # fmt: skip
    finish(part, net.cpu(), weights, shelf)
    facts: dict[str, float] = {"steps": card.steps_of(place / LOG), "batch": recipe.batch}
    facts |= {**counts, "seed": SEEDS[_world(part)], "minutes": card.minutes_of(place / LOG)}
    card.record(weights, part, facts, _before(place))
    say(f"wrote {part} to {weights}")


def _check_part(part: str, *, hd: bool) -> None:
    """InputError unless toybox, or toybox-hd, has such a part."""
    if part not in NETS:
        raise InputError(f"toybox has no part {part!r}; train one of {', '.join(NETS)}")
    if hd and part not in sharp.PARTS:
        raise InputError(f"toybox-hd has no {part} of its own, it has {' and '.join(sharp.PARTS)}: "
                         "train toybox's without --hd")  # fmt: skip


def _usual_sets(part: str, *, hd: bool) -> dict[str, int]:
    """Say how much a part is trained on, by kind of device: sets of four pictures, or instances."""
    if part in OF_INSTANCES:
        return INSTANCES
    return HD_SETS if hd else JUDGE_SETS if part == "judge" else SETS


def _begin(
    part: str, net: torch.nn.Module, weights: Path, place: Path, *, goes_on: bool, say: Say
) -> None:
    """Start from what `weights` holds, if it goes on, and note in `place` what that was."""
    if goes_on:
        if part != "unet":  # whose task has them already
            start_from(net, part, weights)
        say(f"going on from the weights in {weights}")
    place.mkdir(parents=True, exist_ok=True)
    before = card.trainings(weights, part) if goes_on else []
    (place / BEFORE).write_text(json.dumps(before), encoding="utf-8")


def _of_instances(part: str, folder: Path, count: int, say: Say) -> tuple[Task, int]:
    """The task of a part that tells instances apart, and how many are drawn."""
    seed, told = SEEDS[_world(part)], _teller(f"{count} instances", say)
    if part == "faces":
        faces = open_faces(folder, count, seed, told)
        return faces_task(faces), len(faces.pixels)
    pixels = open_instances(part, folder, count, seed, told)
    return alike_task(part, pixels), len(pixels)


def new_task(
    part: str, toys: Shelf, scenes: SceneShelf, weights: Path, device: torch.device
) -> Task:
    """Make the task of a part, with a net that knows nothing but what it needs of `weights`."""
    if part == "unet":
        return unet_task(toys, scenes, weights, device)
    if part == "vae" and toys.size > nets.SIZE:
        return sharp.vae_task(toys, scenes, device)
    if part == "clip":
        return clip_task(toys, scenes, weights)
    return {"vae": vae_task, "judge": judge_task}[part](toys, scenes)


def open_pictures(
    part: str, work: Path, weights: Path, sets: int, say: Say, size: int = nets.SIZE
) -> Shelves:
    """Open the pictures of size² pixels that a part is trained on, drawn where they are missing.

    As many scenes as sets of single toys; none for a family that knows none.
    """
    name = _world(part)
    folder, clay = work / "pictures", 3 if name == "judge" else 0

    shown = _teller(f"{sets} sets of pictures", say)
    toys = fill_shelf(folder / name, sets, SEEDS[name], size=size, clay_every=clay, progress=shown)
    if part != "clip" and not nets.knows_scenes(weights):
        say(f"single toys only: {weights} knows no scenes; `threed toybox train clip` teaches them")
        return toys, no_scenes(size)
    count = len(toys.labels)
    place, shown = folder / f"{name}-scenes", _teller(f"{count} scenes", say)
    return toys, fill_scenes(place, count, SEEDS[name], size=size, progress=shown)


def _teller(of: str, say: Say) -> Callable[[int], None]:
    return lambda done: say(f"drawn {done} of {of}")


def _world(part: str) -> str:
    return "judge" if part in ("judge", *LIKENESSES) else "train"


def _before(folder: Path) -> list[dict[str, Any]]:
    """Read the trainings that the one in a folder went on from; none in older folders."""
    path = folder / BEFORE
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []


def start_from(net: nn.Module, part: str, weights: Path) -> None:
    """Fill a new network from the weights folder.

    Weights from before scenes fill what they know: new words and new heads stay as they are.
    InputError for weights of another shape.
    """
    folder = weights / NETS[part]
    if part in LIKENESSES:
        state = load_likeness(folder).state_dict()
    elif part == "faces":
        state = load_faces(folder).state_dict()
    elif part == "judge":
        state = net.state_dict() | load_judge(folder).state_dict()
    else:
        there = load_net(type(net), folder, device=torch.device("cpu"), dtype=torch.float32)
        state = nets.grown(there.state_dict(), net)
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"the weights in {folder} are of another shape than {part} has now; move "
                         "them away to train from the start "
                         f"({str(error).splitlines()[0]})") from error  # fmt: skip


def keep_latents(vae: Any) -> None:
    """Let only the decoder learn: the nets that were trained on the latents go on working."""
    for half in (vae.encoder, vae.quant_conv):
        half.requires_grad_(False)


def finish(part: str, model: Any, weights: Path, shelf: Shelf | None) -> None:
    """Write a trained part into the family's folder."""
    if part == "unet":
        save_drawer(model, weights)
    elif part == "clip":
        from transformers import CLIPTextModel

        nets.save_tokenizer(nets.tokenizer_of(weights), weights / "tokenizer")
        nets.save_part(model, weights / "clip")
        text = CLIPTextModel(model.config.text_config)
        # since transformers 5 the text model is the transformer itself
        getattr(text, "text_model", text).load_state_dict(model.text_model.state_dict())
        nets.save_part(text, weights / "text_encoder")
    else:
        if shelf is not None and part == "vae" and model.quant_conv.weight.requires_grad:
            normalise_latents(model, shelf)
        nets.save_part(model, weights / NETS[part])
    if part not in ("judge", *OF_INSTANCES):
        nets.save_index(weights)


@torch.no_grad()
def normalise_latents(vae: Any, shelf: Shelf) -> None:
    """Give each latent channel mean 0 and deviation 1 over 512 pictures; pictures stay the same.

    Without it one channel (brightness) has three times the spread of those that hold the hue, and
    noise drowns the hue first. The change goes into the 1×1 convolutions around the latents.
    """
    some = np.arange(512)
    parts = np.array_split(some % len(shelf.labels) * AROUND + some % AROUND, 8)
    images = (shelf.images(part) for part in parts)
    z = torch.cat([vae.encode(image * 2 - 1).latent_dist.mode() for image in images])
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    before, after, n = vae.quant_conv, vae.post_quant_conv, len(mean)
    before.bias[:n] = (before.bias[:n] - mean) / std
    before.weight[:n] /= std[:, None, None, None]
    before.bias[n:] -= 2 * std.log()  # the logarithm of the variance
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= std[:, None, None]
    vae.register_to_config(scaling_factor=1.0)
