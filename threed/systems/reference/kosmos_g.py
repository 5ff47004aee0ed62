"""KOSMOS-G (arXiv:2310.02992): a prompt has pictures among its words, "<1> to the left of <2>".

A language model reads both, and an aligner brings its states to where the text encoder's would be.
So whatever else a condition is told (LoRAs, a ControlNet, 3D) goes on as if it were text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from threed.core.errors import InputError
from threed.diffusion.guide import Guide
from threed.diffusion.reading import POINTER
from threed.learning.recipe import Recipe
from threed.settings.base import Settings
from threed.systems.inputs import BESIDE, SHOWN, WEIGHTS, Input
from threed.systems.reference.interleaved import NAME, check_pointed, read
from threed.systems.reference.kosmos_school import Options, School
from threed.systems.reference.shown import (
    read_pointed,
    read_shown,
)
from threed.systems.system import Lesson, Request, System, Training

if TYPE_CHECKING:
    from torch import Tensor, nn

    from threed.diffusion.backbone import Backbone
    from threed.diffusion.condition import Condition
    from threed.diffusion.paint import Ready
    from threed.diffusion.parts.image_encoder import ImageEncoder
    from threed.diffusion.parts.reader import Reader
    from threed.diffusion.score import Score
    from threed.learning.loop import Task

LANGUAGE, ALIGNMENT = STAGES = ("language", "alignment")  # before it learns through the UNet
SHARES = {LANGUAGE: 0.5, ALIGNMENT: 5.0}  # of the steps on toybox: they take less time there


class Knobs(Settings):
    """Whose reading of the words counts."""

    words: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the text encoder's own reading of the words, without the pictures",
    )


@dataclass(frozen=True, eq=False)
class Loaded:
    """What reads, and the image encoder that it was taught with."""

    reader: Reader
    encoder: ImageEncoder | None = None


def build(
    backbone: Backbone,
    prompt: str | Sequence[str],
    reader: Reader,
    pictures: Sequence[Tensor],
    *,
    guide: Guide = Guide(7.5),
    knobs: Knobs = Knobs(),
) -> Score:
    """Make guidance from nothing said towards a prompt with pictures.

    One prompt, or B of them, each with the patches [N, S, C] of its own pictures. With words=1 it
    is the text encoder's sample, to the bit.
    """
    from threed.diffusion.models.stable_diffusion import require_one_text
    from threed.diffusion.score import guided

    base = require_one_text(backbone, NAME)
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)

    def half(texts: Sequence[str], seen: Sequence[Tensor]) -> Condition:
        words = base.encode_text([" ".join(POINTER.sub(" ", text).split()) for text in texts])
        if knobs.words == 1:
            return words
        tokens = read(base, reader, texts, seen)
        return replace(words, tokens=tokens.lerp(words.tokens.to(tokens), knobs.words))

    text = half(prompts, pictures)
    return guided(base, text, half([guide.negative] * len(prompts), ()), guide.scale)


def check(request: Request) -> None:
    """InputError unless the prompt points at every picture, and at no other."""
    numbers, images = POINTER.findall(request.prompt), request.all("image")
    check_pointed([int(number) - 1 for number in numbers], len(images))
    unsaid = [(mark, image) for mark, image in zip(marks(request), images)
              if mark not in request.prompt]  # fmt: skip
    if unsaid and request.prompt:  # what a system is may be asked before there is a prompt
        mark, image = unsaid[0]
        raise InputError(f"the prompt does not say {mark}, where the picture {image} belongs, as "
                         f'in "a toy like {mark}"')  # fmt: skip


def marks(request: Request) -> tuple[str, ...]:
    """What stands for the pictures of a request in its prompt."""
    return tuple(f"<{number}>" for number, _ in enumerate(request.all("image"), 1))


def load(backbone: Backbone, request: Request) -> Loaded:
    """Load the reader of a request's weights, and its image encoder."""
    from threed.diffusion.models.stable_diffusion import require_one_text
    from threed.diffusion.parts.reader import load_reader
    from threed.diffusion.weights import find_trained
    from threed.systems.reference.ip_adapter import check_encoder, find_encoder

    base = require_one_text(backbone, NAME)
    place = find_trained(request.one("weights"), base.folder, NAME)
    reader = load_reader(base, place)
    encoder = find_encoder(base, request.one("encoder"), place / "reader", NAME)
    check_encoder(encoder, reader.img_connector.dense.in_features, place, pooled=False)
    return Loaded(reader, encoder)


def prepare(backbone: Backbone, request: Request, weights: Loaded) -> Ready:
    """Make the Score of a request's prompt and pictures."""
    import torch

    from threed.diffusion.paint import Ready

    images, encoder = request.all("image"), weights.encoder
    seen: tuple[Tensor, ...] = ()
    with torch.no_grad():
        if images and encoder is not None:
            shown = torch.cat([read_shown(path, encoder.size) for path in images])
            seen = (encoder.last(shown),)
        return Ready(build(backbone, request.prompt, weights.reader, seen, guide=request.guide,
                           knobs=request.knobs or Knobs()))  # fmt: skip


def learn(backbone: Backbone, lesson: Lesson) -> Task:
    """Train in three stages: the language model, the aligner, and both through the frozen UNet.

    The first reads interleaved captions, the second captions alone, beside the text encoder, and
    the third pictures of what interleaved prompts say. The image encoder and the UNet stay as they
    are (published: the encoder's last layer learns, too). As in the official code one of 10
    prompts says nothing, and half of the pictures come behind the name of what they show.
    """
    from threed.learning.loop import Task

    school, first = School(backbone, lesson), list[Task]()
    for stage, net, loss in ((LANGUAGE, school.speaking, school.language_loss),
                             (ALIGNMENT, school.aligning, school.alignment_loss)):  # fmt: skip
        share = SHARES[stage] if lesson.debias else 1.0
        first.append(Task(net, loss, school.save, {**lesson.about, "stage": stage}, share=share))
    return Task(
        school.reader, school.loss, school.save, lesson.about, school.sheet, first=tuple(first)
    )


def load_trained(backbone: Backbone, path: Path, options: Options) -> nn.Module:
    """Load a trained reader to go on from, through the UNet."""
    from threed.diffusion.models.stable_diffusion import require_one_text
    from threed.diffusion.parts.reader import load_reader

    return load_reader(require_one_text(backbone, NAME), path)


TRAINING = Training(
    data="subjects",
    pictures=lambda options: ("image",),
    texts=("text",),
    paper=Recipe(  # of the last stage, on 64 GPUs
        steps=200_000, batch=48, lr=1e-3, accumulate=64, warmup=375, cooldown=1.0, beta2=0.98
    ),
    small=Recipe(steps=900, batch=64, lr=1e-3, cooldown=0.4, muon=True),
    learn=learn,
    load=load_trained,
    options=Options,
    read=read_pointed,
    stages=STAGES,
)
SYSTEM = System(
    name=NAME,
    paper="Kosmos-G: Generating Images in Context with Multimodal Large Language Models",
    arxiv="2310.02992",
    claim="reads a prompt with pictures among its words",
    inputs=(
        Input("image", SHOWN, "a picture, <1> in the prompt; repeat for <2>, ...", many=True),
        Input("weights", WEIGHTS, "a training's folder, or owner/name"),
        Input("encoder", WEIGHTS, "the image encoder's folder, if it is not beside the weights"),
        BESIDE,
    ),
    knobs=Knobs,
    trains="a language model that sees, and an aligner to the text encoder's tokens",
    training=TRAINING,
    shows=True,
    seams=("tokens",),
    load=load,
    prepare=prepare,
    check=check,
    marks=marks,
)
