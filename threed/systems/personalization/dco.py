"""Direct Consistency Optimization: learn a thing, and stay the model (Lee et al., 2402.12004)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from threed.core.errors import InputError
from threed.diffusion.guide import Guide
from threed.diffusion.learned.names import own_words, spoken
from threed.learning.recipe import Recipe
from threed.settings.base import Settings
from threed.systems.inputs import PROMPT, Input
from threed.systems.personalization import lora, subject
from threed.systems.system import Lesson, Request, System

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from threed.diffusion.backbone import Backbone
    from threed.diffusion.paint import Ready
    from threed.diffusion.score import Score
    from threed.learning.loop import Task

NAME = "dco"
BETA, SMALL_BETA = 1000.0, 100.0


class Options(lora.Sizes):
    """What is taught, and how near the model stays to what it was."""

    rank: int = Field(32, ge=1, le=1024, description="of the matrices")
    beta: float | None = Field(
        None,
        gt=0,
        description="how soon a gain over the frozen model is enough; if not given, 1000 as "
        "published, and 100 on small models, which err more",
    )
    snr_gamma: float | None = Field(
        None, gt=0, description="min-SNR weights of both errors, as in 5; none if not given"
    )
    words_rate: float = Field(
        0.1, ge=0, description="the new words' learning rate, times lr; 0: they stay as they begin"
    )


class Knobs(Settings):
    """How far the pictures go from the frozen model's towards what was learned."""

    consistency: float = Field(
        3.0, ge=0, description="towards what was learned; 0 is the frozen model's own picture"
    )


def learn(backbone: Backbone, lesson: Lesson) -> Task:
    """Train a LoRA and the words' rows by the paper's loss, whose other side is the frozen model.

    The frozen model is told the same with the kind in the place of the word. After each step the
    rows get the length with which they began.
    """
    import torch

    from threed.diffusion.learned.lora import FILE, lora_of, write_lora
    from threed.learning.data import Latents
    from threed.learning.loop import Task
    from threed.learning.losses import consistency_loss
    from threed.systems.personalization import teach

    base, words = teach.begin(backbone, lesson, NAME)
    examples, told = lesson.examples, lesson.options
    rows = teach.Rows({name: teach.rows_of(base, kind) for name, kind in words.items()})
    rows.requires_grad_(told.words_rate > 0)
    lengths = [row.detach().norm(dim=-1, keepdim=True) for row in rows.rows]
    model, nets = lora.with_lora(base, told, lesson.seed)
    latents = Latents(base, examples, "image")
    beta = told.beta or (SMALL_BETA if lesson.debias else BETA)

    def loss(net: Any, n: int, generator: torch.Generator) -> Tensor:
        chosen = examples.draw(n, generator)
        here = latents(chosen)
        learning = model.encode_text(examples.texts(subject.TEXT, chosen), net["rows"].words())
        plain = base.encode_text(examples.texts(subject.BASE, chosen))
        mask = teach.mask_of(examples, examples, chosen, here)
        return consistency_loss(model, here, learning, plain, generator, beta=beta,
                                snr_gamma=told.snr_gamma, mask=mask)  # fmt: skip

    def as_long(net: Any) -> None:
        for row, length in zip(net["rows"].rows, lengths):
            row.mul_(length.to(row.device) / row.norm(dim=-1, keepdim=True))

    def save(net: Any, out: Path) -> None:
        teach.save_words(net["rows"].words(), out)
        write_lora(lora_of(base, lora.TAUGHT), out / FILE)

    def sheet(net: Any) -> Tensor:
        return teach.sheet_of(model.with_words(net["rows"].words()), lesson, words)(net)

    net = torch.nn.ModuleDict({**nets, "rows": rows})
    rates = {"rows": told.words_rate} if told.words_rate else {}
    return Task(net, loss, save, teach.about(lesson, words), sheet, rates, as_long)


def build(
    backbone: Backbone,
    prompt: str,
    base_prompt: str,
    *,
    guide: Guide = Guide(),
    knobs: Knobs = Knobs(),
) -> Score:
    """Make e0("") + s (e0(base) - e0("")) + c (e(prompt) - e0(base)): consistency guidance.

    e has the LoRAs that are in force in the backbone, e0 has none; s is the guidance's scale, c
    that of consistency. With c = s it is guidance from e0("") to e(prompt).
    """
    from threed.diffusion.score import score

    learned = backbone.encode_text([prompt])
    texts = (backbone.encode_text([text]) for text in (base_prompt, guide.negative))
    frozen = [replace(text, adapters={}) for text in texts]

    def combine(noises: Any, x: Tensor, t: Tensor) -> Tensor:
        taught, plain, empty = noises
        out: Tensor = empty + guide.scale * (plain - empty) + knobs.consistency * (taught - plain)
        return out

    return score(backbone, [learned, *frozen], combine)


def prepare(backbone: Backbone, request: Request, weights: Any) -> Ready:
    """Make the Score of a request; its base prompt has the words' kinds in their places.

    InputError if no base prompt is given, and it is not known what a word began as.
    """
    from threed.diffusion.paint import Ready

    words = own_words(place for place, _ in request.all("weights"))
    unknown = [name for name, began in words.items() if not began]
    if unknown and not request.one("base"):
        raise InputError(f"it is not known what {unknown[0]} began as, so the prompt without it "
                         "must be said: --base")  # fmt: skip
    base = request.one("base") or spoken(request.prompt, words)
    knobs = request.knobs or Knobs()
    return Ready(build(backbone, request.prompt, base, guide=request.guide, knobs=knobs))


def load_taught(backbone: Backbone, path: Path, options: Any) -> nn.Module:
    """Load the LoRA and the rows of a training, to go on from."""
    import torch

    from threed.systems.personalization.textual_inversion import load_rows

    nets: Any = lora.load_lora(backbone, path, options)
    return torch.nn.ModuleDict({**nets, "rows": load_rows(backbone, path, options)})


PAPER = Recipe(steps=2000, batch=1, lr=5e-5, warmup=0, weight_decay=1e-4)
TRAINING = subject.training(
    paper=PAPER,
    small=replace(PAPER, steps=180, batch=4, lr=2e-3, warmup=20, cooldown=0.3),
    learn=learn,
    load=load_taught,
    options=Options,
)
SYSTEM = System(
    name=NAME,
    paper="Direct Consistency Optimization for Robust Customization of Text-to-Image Diffusion "
    "Models",
    arxiv="2402.12004",
    claim="a thing is learned while the model stays near itself, so that prompts are obeyed",
    inputs=(
        subject.WEIGHTS,
        Input(
            "base",
            PROMPT,
            "the prompt without learned words; their kinds stand for them if it is not given",
        ),
    ),
    knobs=Knobs,
    trains="small matrices beside those of a UNet, and the rows of a new word",
    training=TRAINING,
    seams=("words", "weights", "blend"),
    prepare=prepare,
)
