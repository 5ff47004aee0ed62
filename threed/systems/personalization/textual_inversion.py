"""Textual Inversion: a new word's rows alone are learned (Gal et al., arXiv:2208.01618)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from threed.learning.recipe import Recipe
from threed.systems.personalization import subject
from threed.systems.system import Lesson, System

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from threed.diffusion.backbone import Backbone
    from threed.learning.loop import Task

NAME = "textual_inversion"
SENTENCES = (  # what a picture is called in training; the word stands in place of {}
    "a photo of a {}", "a picture of a {}", "a {}", "a photo of the {}", "a close photo of a {}",
    "a bright photo of the {}", "a photo of one {}", "a good photo of a {}", "a rendering of a {}",
)  # fmt: skip


class Options(subject.Options):
    """What is taught, and in how many vectors."""

    vectors: int = Field(1, ge=1, le=16, description="tokens that the word takes")


def learn(backbone: Backbone, lesson: Lesson) -> Task:
    """Train the rows of the new words, which begin as their kind's; nothing else moves.

    Each picture is called by one of several sentences, unless it has a caption of its own.
    """
    import torch

    from threed.learning.data import Latents
    from threed.learning.loop import Task
    from threed.learning.losses import denoising_loss
    from threed.systems.personalization import teach

    base, words = teach.begin(backbone, lesson, NAME)
    examples, told = lesson.examples, lesson.options
    own = {name: teach.rows_of(base, kind, told.vectors) for name, kind in words.items()}
    rows = teach.Rows(own)
    latents, plain = Latents(base, examples, "image"), told.prompt.replace("{}", told.name)

    def said(text: str, generator: torch.Generator) -> str:
        place = int(torch.randint(len(SENTENCES), (1,), generator=generator))
        return SENTENCES[place].format(told.name) if text == plain else text

    def loss(net: Any, n: int, generator: torch.Generator) -> Tensor:
        chosen = examples.draw(n, generator)
        here = latents(chosen)
        texts = [said(text, generator) for text in examples.texts(subject.TEXT, chosen)]
        condition = base.encode_text(texts, net.words())
        mask = teach.mask_of(examples, examples, chosen, here)
        return denoising_loss(base, here, condition, generator, debias=lesson.debias, mask=mask)

    def sheet(net: Any) -> Tensor:
        return teach.sheet_of(base.with_words(net.words()), lesson, words)(net)

    def save(net: Any, out: Path) -> None:
        teach.save_words(net.words(), out)

    return Task(rows, loss, save, teach.about(lesson, words), sheet)


def load_rows(backbone: Backbone, path: Path, options: Any) -> nn.Module:
    """Load the rows of a training, to go on from."""
    from threed.diffusion.learned.equip import read_learned
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.systems.personalization.teach import Rows

    return Rows(read_learned(require_unet(backbone, NAME), path, NAME).words)


PAPER = Recipe(steps=5000, batch=4, lr=5e-3, warmup=0, weight_decay=0.0)
TRAINING = subject.training(
    paper=PAPER,
    small=replace(PAPER, steps=150, batch=8, lr=2e-2, cooldown=0.5),
    learn=learn,
    load=load_rows,
    options=Options,
)
SYSTEM = System(
    name=NAME,
    paper="An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual "
    "Inversion",
    arxiv="2208.01618",
    claim="a thing of a few pictures becomes a word; nothing else is learned",
    inputs=(subject.WEIGHTS,),
    trains="the rows of a new word",
    training=TRAINING,
    seams=("words",),
    prepare=subject.prompted,
)
