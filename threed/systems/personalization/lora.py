"""LoRA: a thing is learned by small matrices beside the model's own (Hu et al., 2106.09685)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from threed.core.errors import InputError
from threed.learning.recipe import Recipe
from threed.systems.personalization import dreambooth, subject
from threed.systems.system import Lesson, System

if TYPE_CHECKING:
    from torch import nn

    from threed.diffusion.backbone import Backbone
    from threed.diffusion.models.stable_diffusion import StableDiffusion
    from threed.learning.loop import Task

NAME = "lora"
TAUGHT = "taught"  # what it is called while it learns


class Sizes(subject.Options):
    """What is taught, and how large the matrices are."""

    rank: int = Field(4, ge=1, le=1024, description="of the matrices")
    alpha: float | None = Field(
        None, gt=0, description="they count alpha / rank times; the rank if not given"
    )
    targets: str = Field(
        "to_q,to_k,to_v,to_out.0", description="layers of the UNet that get them, by their ends"
    )
    text_encoder: bool = Field(False, description="the text encoders get them, too")


class Options(Sizes, dreambooth.Options):
    """What is taught, how large the matrices are, and how the model is held to what it knew."""

    prior: float = Field(
        0.0, ge=0, description="how much the kind's own pictures count: prior preservation"
    )


def with_lora(base: StableDiffusion, options: Sizes, seed: int) -> tuple[StableDiffusion, Any]:
    """The model with a LoRA that learns in force, and the nets that have it, by their names."""
    import copy

    import torch

    from threed.diffusion.learned.equip import NETS
    from threed.diffusion.parts.adapters import TEXT_TARGETS, Lora

    sizes: dict[str, Any] = {"rank": options.rank, "alpha": options.alpha, "seed": seed}
    targets = tuple(target.strip() for target in options.targets.split(","))
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    layers = [f".{name}" for name, layer in base.unet.named_modules() if isinstance(layer, kinds)]
    lacking = [t for t in targets if not any(name.endswith(f".{t}") for name in layers)]
    if lacking:
        raise InputError(f"targets: no matrix or convolution of {base.name!r} has a name that ends "
                         f"with {lacking[0]!r}")  # fmt: skip
    nets = {"unet": base.unet}
    Lora(base.unet, TAUGHT, targets=targets, **sizes)
    model = copy.copy(base)
    model.adapters = {TAUGHT: 1.0}
    if options.text_encoder:
        for name, encoder in zip(NETS[1:], base.encoders):
            Lora(encoder, TAUGHT, targets=TEXT_TARGETS, **sizes)
            nets[name] = encoder
        model.text_adapters = ({TAUGHT: 1.0},) * len(base.encoders)
    return model, torch.nn.ModuleDict(nets)


def learn(backbone: Backbone, lesson: Lesson) -> Task:
    """Train a LoRA as DreamBooth trains the whole UNet, with prior preservation or without."""
    from threed.diffusion.learned.lora import FILE, lora_of, write_lora
    from threed.systems.personalization import teach

    base, words = teach.begin(backbone, lesson, NAME)
    rows = {name: teach.rare_rows(base, name, kind) for name, kind in words.items()}
    model, net = with_lora(base, lesson.options, lesson.seed)

    def save(net: Any, out: Path) -> None:
        teach.save_words(rows, out)
        write_lora(lora_of(base, TAUGHT), out / FILE)

    return teach.subject_task(model.with_words(rows), base, net, lesson, words, save)


def load_lora(backbone: Backbone, path: Path, options: Any) -> nn.Module:
    """Load the nets with the LoRA of a training, to go on from. InputError for another rank."""
    import torch

    from threed.diffusion.learned.equip import NETS, read_learned
    from threed.diffusion.learned.lora import put_in
    from threed.diffusion.models.stable_diffusion import require_unet

    base = require_unet(backbone, NAME)
    found = read_learned(base, path, NAME).lora
    if found is None:
        raise InputError(f"{path} holds no LoRA to go on from")
    ranks = {len(pair.down) for pairs in found.nets.values() for pair in pairs.values()}
    if ranks != {options.rank}:
        raise InputError(f"{path} has rank {', '.join(map(str, sorted(ranks)))}, and "
                         f"rank={options.rank} is asked for: go on with the same")  # fmt: skip
    nets: dict[str, Any] = dict(zip(NETS, (base.unet, *base.encoders)))
    return torch.nn.ModuleDict({name: nets[name] for name in put_in(found, base, TAUGHT)})


PAPER = Recipe(steps=800, batch=1, lr=5e-4, warmup=0)
TRAINING = subject.training(
    paper=PAPER,
    small=replace(PAPER, steps=200, batch=4, lr=2e-3, warmup=20, cooldown=0.3),
    learn=learn,
    load=load_lora,
    options=Options,
)
SYSTEM = System(
    name=NAME,
    paper="LoRA: Low-Rank Adaptation of Large Language Models",
    arxiv="2106.09685",
    claim="a thing or a look of a few pictures is learned in small matrices beside the model's",
    inputs=(subject.WEIGHTS,),
    trains="small matrices beside those of a UNet, and of the text encoder if wanted",
    training=TRAINING,
    seams=("words", "weights"),
    prepare=subject.prompted,
)
