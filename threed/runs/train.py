"""Training a system: its data, its recipe for a backbone, and the loop."""

from __future__ import annotations

import warnings
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from threed.core.devices import pick_device
from threed.core.errors import InputError
from threed.core.files import check_out
from threed.diffusion.catalog import facts, load_backbone
from threed.diffusion.detect import DETECTORS
from threed.diffusion.facts import Facts
from threed.diffusion.models import half
from threed.diffusion.reading import note_of_many
from threed.diffusion.weights import filled, find_trained
from threed.learning import loop
from threed.learning.data import Find, read_examples
from threed.learning.recipe import Recipe
from threed.runs.folder import RunWarning
from threed.runs.job import Train, typed
from threed.runs.plan import check_pictures
from threed.runs.progress import Listener, sayer
from threed.settings.base import Settings, plain, read_words
from threed.systems.system import Lesson, Training
from threed.systems.table import find_training

TOYBOX = "toybox"  # the data that is drawn as needed
WORK = Path("~/.cache/threed/toybox/examples")  # where it is kept
SMALL = 128  # pixels a side of a backbone's pictures, up to which it is trained as toybox is
DATA_SEED = 1  # of the world that toybox's family is trained on; others are for measuring


def train_job(job: Train, out: Path, report: Listener | None = None) -> None:
    """Do a training job: write what was learned into the folder.

    InputError, among others, for data that lacks what an example needs, and for a folder that holds
    another training. Interrupted, it leaves a checkpoint, and the same job with `resume` goes on.
    """
    check_out(out, folder=True)
    training = find_training(job.system)
    options = read_words(training.options, job.options, f"training of system {job.system!r}")
    known, device = facts(job.backbone), torch.device(pick_device(job.device))
    known.require_unet(f"training {job.system}")
    recipe, small = choose_recipe(training, known, job, device)
    size = job.size or known.image_size
    check_pictures(known, size, recipe.batch, str(device), learn=True)
    given = None if job.weights is None else Path(job.weights)
    start = None if given is None else find_trained(given, known.folder, job.system)
    place, say = out / training.folder(options), sayer(report)
    stages = training.stages if start is None else ()  # done, if something was learned before
    loop.check_folder(place / stages[0] if stages else place, resume=job.resume)
    if not job.resume:
        loop.check_folder(place, resume=False)
    lesson = _lesson(job, training, options, known, small, _folder(training, job, report))
    lesson = replace(lesson, seed=recipe.seed, out=place, say=say, start=start)
    model: Any = load_backbone(job.backbone, device=job.device, dtype=torch.float32)
    half.norms_in_float32(model.unet)
    torch.manual_seed(recipe.seed)  # what a new net begins with
    every = range(len(lesson.examples))
    texts = chain.from_iterable(lesson.examples.texts(name, every) for name in training.texts)
    for note in note_of_many(model.name, model.vocabulary, texts):
        warnings.warn(note, RunWarning, stacklevel=2)
    task = training.learn(model, lesson)
    if start is not None:
        filled(task.net, training.load(model, start, options).state_dict(), str(start))
        task = replace(task, first=())
    count = sum(p.numel() for p in task.net.parameters() if p.requires_grad)
    seen = f"{len(lesson.examples)} examples, {recipe.steps} steps"
    say(f"{job.system}: {_millions(count)} parameters, {seen} of "
        f"{recipe.batch * recipe.accumulate} on {model.device}")  # fmt: skip
    loop.train_stages(task, recipe, place, device=model.device, resume=job.resume,
                      minutes=job.minutes, say=say)  # fmt: skip


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 50_000 else f"{count:,}"


def train(system: str, data: Path | str, out: Path | str, **options: Any) -> Path:
    """Train a system's own weights on a folder of examples, or on "toybox"; returns `out`.

    The options are the fields of `threed.runs.job.Train` (backbone, steps, batch, accumulate, lr,
    seed, precision, size, weights, resume, minutes, device), and those of the system's own
    training, such as kind="depth"; what is None is not said. InputError for what cannot be meant.
    """
    given = {name: value for name, value in options.items() if value is not None}
    own = {name: value for name, value in given.items() if name in Train.model_fields}
    told = tuple(f"{name}={typed(given[name])}" for name in given if name not in own)
    job = Train(system=system, data=str(data), options=told, **own)
    job.check()
    train_job(job, Path(out))
    return Path(out)


def choose_recipe(
    training: Training, known: Facts, job: Train, device: torch.device
) -> tuple[Recipe, bool]:
    """The recipe of a backbone's size with what the job says, and whether it is the small one."""
    small = known.image_size <= SMALL
    recipe = training.small if small else training.paper
    names = ("steps", "batch", "accumulate", "lr", "seed", "precision")
    changes = {name: getattr(job, name) for name in names if getattr(job, name) is not None}
    if small and half.bfloat16_pays(device):
        changes = {"precision": "bf16"} | changes
    if changes.get("precision") == "fp16" and device.type == "cpu":
        raise InputError("--precision fp16 needs a GPU; on a CPU take no or bf16")
    return replace(recipe, **(asdict(recipe) | changes)), small


def _lesson(
    job: Train, training: Training, options: Settings, known: Facts, small: bool, folder: Path
) -> Lesson:
    """What the training is told: its examples, and what settings.json says of it."""
    roles, size = training.pictures(options), job.size or known.image_size
    if training.read is not None:
        examples = training.read(folder, size, options)
    else:
        texts = (*training.texts, *training.names)
        examples = read_examples(folder, size, pictures=roles, texts=texts, found=found_for(roles))
    about = {"system": job.system, "backbone": known.name, "data": job.data}
    about |= {"size": str(examples.size)} | ({"weights": job.weights} if job.weights else {})
    about |= {name: str(value) for name, value in plain(options, brief=True).items()}
    return Lesson(examples, about, options, debias=small)


def found_for(roles: tuple[str, ...]) -> dict[str, Find]:
    """What is found in a picture where a training folder has no file for it: the edges only.

    A depth or a pose would take a model's time for every picture: make these maps once, beside it.
    """
    return {role: DETECTORS[role] for role in roles if role == "edges"}


def _folder(training: Training, job: Train, report: Listener | None) -> Path:
    """The training folder; toybox's own is drawn where it is missing."""
    if job.data != TOYBOX:
        return Path(job.data).expanduser()
    if training.data is None:
        raise InputError(f"{job.system} is taught pictures of one thing, in a folder: draw some "
                         "with threed toybox subject --out my-toy")  # fmt: skip
    from threed.toybox.family.examples import draw_examples

    say, place = sayer(report), WORK.expanduser() / training.data

    def drawn(done: int) -> None:
        say(f"drawn {done} of {job.drawn} examples")

    return draw_examples(training.data, place, job.drawn, DATA_SEED, progress=drawn)
