"""MS-Diffusion (arXiv:2406.07209): several subjects in one picture, each in its place.

What an image encoder sees of each subject becomes tokens, asked for by the subject's phrase and
box. In every layer of the UNet a second attention to them is added to the text's, and a subject
counts where its box is. Without a box it counts where the text's own attention looks at its phrase,
once the words alone have laid out the picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from threed.core.errors import InputError
from threed.diffusion.guide import Guide
from threed.diffusion.parts.plans import Box, read_subject
from threed.learning.recipe import Recipe
from threed.settings.base import Settings
from threed.systems.inputs import BESIDE, SHOWN, SUBJECT, WEIGHTS, Input
from threed.systems.reference.shown import (
    Seeing,
    placed,
    read_numbers,
    read_shown,
    read_subjects,
    subject_pictures,
)
from threed.systems.system import Lesson, Request, System, Training

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from threed.diffusion.backbone import Backbone
    from threed.diffusion.models.stable_diffusion import StableDiffusion
    from threed.diffusion.paint import Ready
    from threed.diffusion.parts.image_encoder import ImageEncoder
    from threed.diffusion.parts.subjects import SubjectAdapter
    from threed.diffusion.score import Score
    from threed.learning.data import Examples
    from threed.learning.loop import Task

NAME = "ms_diffusion"
DROP = 0.05  # text only, pictures only, and both: each so often
UNTOLD = 0.1  # so often phrases and boxes are not said
SHOWN_EXAMPLES = 6  # of a sheet
HUB = ("ms_adapter.bin",)  # what is fetched of the official repository
NOWHERE: Box = (0.0, 0.0, 0.0, 0.0)
Subject = tuple[str, Box | None]


class Knobs(Settings):
    """How strongly the subjects count, and where those without a box are."""

    scale: float = Field(0.6, description="of the subjects' attention, beside the words' 1")
    strengths: str | None = Field(
        None, description="how strongly each subject counts, as in 1,0.5; if not given, all 1"
    )
    threshold: float = Field(
        0.5,
        ge=0,
        le=1,
        description="of the text's attention, from its least to its most, above which a subject "
        "without a box is there",
    )
    words_first: float = Field(
        0.17,
        ge=0,
        le=1,
        description="share of the sampling in which words alone lay out a picture with a subject "
        "without a box",
    )

    @field_validator("strengths")
    @classmethod
    def _check_strengths(cls, text: str | None) -> str | None:
        read_numbers(text)
        return text


@dataclass(frozen=True, eq=False)
class Loaded:
    """A trained adapter, and the encoder that it was taught with."""

    net: SubjectAdapter
    encoder: ImageEncoder | None = None


@dataclass(frozen=True, eq=False)
class Told:
    """The subjects of a picture, or of each picture of a batch."""

    features: Tensor  # [1 or B, N, S, C] patches of N subjects
    subjects: Sequence[Sequence[Subject]]  # as many rows, N each


def build(
    backbone: Backbone,
    prompt: str | Sequence[str],
    loaded: Loaded,
    told: Told,
    *,
    guide: Guide = Guide(7.5),
    knobs: Knobs = Knobs(),
) -> Score:
    """Make guidance from no subjects and no words towards both.

    One prompt, or B of them with subjects each. At scale 0 it is the words' alone, to the bit.
    """
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.score import guided, switch

    base = require_unet(backbone, NAME)
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    text, other = base.encode_text(prompts), base.encode_text([guide.negative] * len(prompts))
    alone = guided(base, text, other, guide.scale)
    count, strengths = told.features.shape[1], read_numbers(knobs.strengths)
    if strengths and len(strengths) != count:
        raise InputError(f"strengths={knobs.strengths} are {len(strengths)}, and there are {count} "
                         "subjects")  # fmt: skip
    if not knobs.scale or (strengths and not any(strengths)):
        return alone
    edit = _edit(base, prompts, loaded.net, told, text.tokens.shape[1])
    edit = replace(edit, scale=knobs.scale, strengths=strengths, threshold=knobs.threshold)
    both = guided(base, replace(text, attention=(edit,)), other, guide.scale)
    return both if edit.spots is None else switch(alone, both, knobs.words_first)


def _edit(
    base: StableDiffusion, prompts: Sequence[str], net: SubjectAdapter, told: Told, length: int
) -> Any:
    """The attention to the subjects: their tokens, their boxes, and where to look for others."""
    import torch

    from threed.diffusion.parts.subjects import Subjects

    rows = told.subjects
    boxes = torch.tensor([[box or NOWHERE for _, box in row] for row in rows], device=base.device)
    placed = torch.tensor([[box is not None for _, box in row] for row in rows])
    phrases = phrase_vectors(base, [[phrase for phrase, _ in row] for row in rows])
    tokens = net(told.features.to(base.device), phrases, boxes, placed)
    spots = None
    if not bool(placed.all()):
        each = zip(prompts, rows)
        spots = torch.stack([_spots(base, text, row, length) for text, row in each])
        spots = spots.to(base.device)
    return Subjects(tokens, boxes, net, spots=spots)


def phrase_vectors(base: StableDiffusion, phrases: Sequence[Sequence[str]]) -> Tensor:
    """[B, N, D] the (first) text encoder's one vector of each phrase, before any projection."""
    import torch

    every = [base.reads(phrase) for row in phrases for phrase in row]
    length = int(base.tokenizers[0].model_max_length)
    with torch.no_grad():
        vectors: Tensor = base.encoded(0, every, length).pooler_output
    each: Tensor = vectors.unflatten(0, (len(phrases), -1))
    return each


def _spots(base: StableDiffusion, prompt: str, row: Sequence[Subject], length: int) -> Tensor:
    """[N, length] the share of each of a prompt's tokens in the phrases of subjects without a box.

    Of subjects with the same phrase each has its own mention, while there are any.
    """
    import torch

    from threed.diffusion.parts.words import word_tokens

    shares, said = torch.zeros(len(row), length), Counter[str]()
    for share, (phrase, box) in zip(shares, row):
        if box is None:
            places = word_tokens(base, prompt, phrase)
            size = len(base.token_ids(phrase)) - 2
            own = places[said[phrase] * size :][:size] or places
            share[own] = 1 / len(own)
            said[phrase] += 1
    return shares


def load(backbone: Backbone, request: Request) -> Loaded:
    """Load the adapter of a request's weights, and its image encoder."""
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.subjects import load_subject_adapter
    from threed.diffusion.weights import find_trained
    from threed.systems.reference.ip_adapter import adapter_file, check_encoder, find_encoder

    base = require_unet(backbone, NAME)
    file = adapter_file(find_trained(request.one("weights"), base.folder, NAME, HUB), "ms_adapter")
    net = load_subject_adapter(base, file)
    encoder = find_encoder(base, request.one("encoder"), file, NAME)
    check_encoder(encoder, net.image_proj.inputs, file, pooled=False)
    return Loaded(net, encoder)


def check(request: Request) -> None:
    """InputError if nothing is shown, or if pictures and subjects are not equally many."""
    images, subjects = request.all("image"), request.all("subject")
    if not images:
        raise InputError(f"system {NAME!r} needs --image, the picture of a subject, and with each "
                         "--subject, what it is: a dog, or 0,0.2,0.5,1:a dog")  # fmt: skip
    if len(subjects) != len(images):
        raise InputError(f"--subject must be said once for each --image, in their order: there are "
                         f"{len(subjects)} for {len(images)}")  # fmt: skip
    for text in subjects:
        read_subject(text)


def prepare(backbone: Backbone, request: Request, weights: Loaded) -> Ready:
    """Make the Score of a request's subjects and prompt."""
    import torch

    from threed.diffusion.paint import Ready

    encoder: Any = weights.encoder
    with torch.no_grad():
        pictures = torch.cat([read_shown(path, encoder.size) for path in request.all("image")])
        features = encoder.see(pictures, pooled=False)[None]
    told = Told(features, [[*map(read_subject, request.all("subject"))]])
    return Ready(build(backbone, request.prompt, weights, told, guide=request.guide,
                       knobs=request.knobs or Knobs()))  # fmt: skip


def new_adapter(base: StableDiffusion, encoder: ImageEncoder) -> SubjectAdapter:
    """Make an untrained adapter, whose maps to keys and values are the text's."""
    from threed.diffusion.parts.image_tokens import HEAD
    from threed.diffusion.parts.subjects import Grounding, SubjectAdapter

    width = int(base.unet.config.cross_attention_dim)
    phrase, inputs = int(base.encoders[0].config.hidden_size), encoder.width(pooled=False)
    heads = max(min(width, 1280) // HEAD, 1)  # 20 for SDXL, as published
    net = Grounding(inputs, width, phrase, inner=heads * HEAD, heads=heads)
    return SubjectAdapter(base, net).float()


def example_subjects(
    base: StableDiffusion, encoder: ImageEncoder, examples: Examples, indices: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Patches [B, N, S, C], phrases [B, N, D] and boxes [B, N, 4] of these examples' subjects.

    N is that of the example with the most; what others lack is black, unnamed, and nowhere.
    """
    import torch

    rows = [placed(text) for text in examples.texts("subjects", indices)]
    pictures = subject_pictures(examples, indices)
    count = pictures.shape[1]
    filled = [row + [("", NOWHERE)] * (count - len(row)) for row in rows]
    boxes = torch.tensor([[box for _, box in row] for row in filled], device=base.device)
    with torch.no_grad():
        seen = encoder.see(pictures.flatten(0, 1), pooled=False).unflatten(0, (-1, count))
    return seen, phrase_vectors(base, [[phrase for phrase, _ in row] for row in filled]), boxes


def learn(backbone: Backbone, lesson: Lesson) -> Task:
    """Train the adapter on (image, text, subjects); the UNet and the encoder stay as they are.

    As in the official code: of 20 examples one loses its text, one its pictures, one both, and of
    10 one is not told its phrases and boxes.
    """
    import torch

    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.subjects import Subjects, save_subject_adapter
    from threed.learning.data import Latents
    from threed.learning.loop import Task
    from threed.learning.losses import chosen, denoising_loss, dropped, without_text
    from threed.systems.reference.ip_adapter import find_encoder

    base, examples = require_unet(backbone, NAME), lesson.examples
    encoder = find_encoder(base, lesson.options.encoder, None, NAME)
    latents, empty = Latents(base, examples, "image"), base.encode_text([""])
    nothing = encoder.nothing(pooled=False)

    def loss(net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        indices = examples.draw(n, generator)
        no_text, no_image = (drop.to(base.device) for drop in dropped(n, DROP, generator))
        told = ~chosen(n, UNTOLD, generator)
        text = without_text(base.encode_text(examples.texts("text", indices)), empty, no_text)
        seen, phrases, boxes = example_subjects(base, encoder, examples, indices)
        seen = torch.where(no_image[:, None, None, None], nothing, seen)
        own: Any = net
        tokens = own(seen, phrases, boxes, told[:, None].expand(-1, seen.shape[1]))
        condition = replace(text, attention=(Subjects(tokens, boxes, own),))
        return denoising_loss(base, latents(indices), condition, generator, debias=lesson.debias)

    def sheet(net: nn.Module) -> Tensor:
        own: Any = net
        return _sheet(base, examples, own, encoder)

    net = new_adapter(base, encoder)
    return Task(net, loss, save_subject_adapter, lesson.about, sheet)


def _sheet(
    base: StableDiffusion, examples: Examples, net: SubjectAdapter, encoder: ImageEncoder
) -> Tensor:
    """The first examples, and what is made of their words, subjects and boxes."""
    import torch

    from threed.diffusion.images import grid
    from threed.diffusion.paint import Ready, paint

    few, made = list(range(min(SHOWN_EXAMPLES, len(examples)))), []
    for i in few:
        seen, _, _ = example_subjects(base, encoder, examples, [i])
        (text,), (subjects,) = examples.texts("text", [i]), examples.texts("subjects", [i])
        told = Told(seen, [placed(subjects)])
        guided = build(base, text, Loaded(net, encoder), told)
        made.append(paint(base, Ready(guided), steps=15, size=examples.size))
    shown = examples.pictures("image", few)
    return grid(torch.cat([shown, torch.cat(made).cpu()]), len(few))


def load_trained(backbone: Backbone, path: Path, options: Seeing) -> nn.Module:
    """Load a trained adapter to go on from."""
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.subjects import load_subject_adapter
    from threed.systems.reference.ip_adapter import adapter_file

    return load_subject_adapter(require_unet(backbone, NAME), adapter_file(path, "ms_adapter"))


TRAINING = Training(
    data="subjects",
    pictures=lambda options: ("image",),
    texts=("text",),
    paper=Recipe(steps=120_000, batch=8, lr=1e-4, accumulate=16),  # 128: 8 × 16 GPUs
    small=Recipe(steps=1000, batch=64, lr=1e-3, cooldown=0.4, muon=True),
    learn=learn,
    load=load_trained,
    options=Seeing,
    read=read_subjects,
)
SYSTEM = System(
    name=NAME,
    paper="MS-Diffusion: Multi-subject Zero-shot Image Personalization with Layout Guidance",
    arxiv="2406.07209",
    claim="shows what several pictures show, together, each in its place",
    inputs=(
        Input("image", SHOWN, "a picture of a subject; repeat for more", many=True),
        Input("subject", SUBJECT, "what a picture shows, and its box; once for each", many=True),
        Input("weights", WEIGHTS, "a training's folder, an official file, or owner/name"),
        Input("encoder", WEIGHTS, "the image encoder's folder, if it is not beside the weights"),
        BESIDE,
    ),
    knobs=Knobs,
    trains="tokens of subjects, and their keys and values in every layer",
    training=TRAINING,
    shows=True,
    seams=("attention",),
    load=load,
    prepare=prepare,
    check=check,
)
