"""DreamBooth: the whole UNet learns a thing, and is held to its kind (Ruiz et al., 2208.12242)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from threed.learning.recipe import Recipe
from threed.systems.personalization import subject
from threed.systems.system import Lesson, System

if TYPE_CHECKING:
    from torch import nn

    from threed.diffusion.backbone import Backbone
    from threed.learning.loop import Task

NAME = "dreambooth"


class Options(subject.Options):
    """What is taught, and how the model is held to what it knew."""

    prior: float = Field(
        1.0, ge=0, description="how much the kind's own pictures count: prior preservation"
    )
    class_pictures: int = Field(
        100, ge=1, le=10_000, description="pictures of the kind, made by the frozen model first"
    )
    text_encoder: bool = Field(False, description="the text encoders learn, too")


def learn(backbone: Backbone, lesson: Lesson) -> Task:
    """Train all of the UNet on "a photo of a [V] mug", and on the frozen model's mugs.

    The paper's equation 2 with lambda = prior. [V] is a row that means nothing yet.
    """
    import copy

    import torch

    from threed.diffusion.parts.channels import with_unet
    from threed.systems.personalization import teach

    base, words = teach.begin(backbone, lesson, NAME)
    rows = {name: teach.rare_rows(base, name, kind) for name, kind in words.items()}
    unet = copy.deepcopy(base.unet).float().requires_grad_(True)
    model = with_unet(base.with_words(rows), unet)
    learning = {"unet": unet}
    if lesson.options.text_encoder:
        model.encoders = [copy.deepcopy(e).float().requires_grad_(True) for e in base.encoders]
        names = ("text_encoder", "text_encoder_2")
        learning.update(zip(names, model.encoders))
    net = torch.nn.ModuleDict(learning)

    def save(net: Any, out: Path) -> None:
        teach.save_words(rows, out)
        write_folder(base.folder, net, out)

    task = teach.subject_task(model, base, net, lesson, words, save)
    return replace(task, about={**task.about, "nets": list(learning)})


def write_folder(source: Path, net: Any, out: Path) -> None:
    """Write a whole model in diffusers' layout: what learned, and copies of the other parts."""
    import json
    import shutil

    from threed.core import files
    from threed.diffusion.files import INDEX, parts, read_json

    index = read_json(source / INDEX)
    kept = [part for part in parts(source) if part not in net]
    for part in kept:
        if not (out / part).is_dir():
            shutil.copytree(source / part, out / part)
    absent = {key: [None, None] for key, value in index.items()
              if isinstance(value, list) and key not in (*kept, *net)}  # fmt: skip
    files.write(out / INDEX, f"{json.dumps(index | absent, indent=2)}\n".encode())
    for part, module in net.items():
        if hasattr(module, "register_to_config"):
            module.register_to_config(_name_or_path="")  # where it was loaded from
        module.save_pretrained(out / part)


def load_nets(backbone: Backbone, path: Path, options: Any) -> nn.Module:
    """Load the nets of a training, to go on from."""
    import torch

    from threed.diffusion.learned.equip import NETS, equipped
    from threed.diffusion.models.stable_diffusion import require_unet

    base = require_unet(backbone, NAME)
    model = equipped(base, [(path, 1.0)], NAME)
    nets = {"unet": model.unet}
    if options.text_encoder:
        nets.update(zip(NETS[1:], model.encoders))
    return torch.nn.ModuleDict(nets)


PAPER = Recipe(steps=800, batch=1, lr=5e-6, warmup=0)
TRAINING = subject.training(
    paper=PAPER,
    small=replace(PAPER, steps=250, batch=4, lr=2e-4, warmup=20, cooldown=0.3),
    learn=learn,
    load=load_nets,
    options=Options,
)
SYSTEM = System(
    name=NAME,
    paper="DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation",
    arxiv="2208.12242",
    claim="a thing of a few pictures is learned by the whole model, which keeps its kind",
    inputs=(subject.WEIGHTS,),
    trains="a whole UNet, and the text encoder if wanted",
    training=TRAINING,
    seams=("words",),
    prepare=subject.prompted,
)
