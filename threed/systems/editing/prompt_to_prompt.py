"""Prompt-to-Prompt (arXiv:2208.01626): a picture is edited by its prompt; its layout stays.

The source and the edited picture are made side by side from the same noise. While it matters for
the layout, the edited one takes its attention weights from the source, word by word. Nothing is
trained. A real picture is inverted first (threed/diffusion/inversion.py).

Its phases are shares of the sampling, whole steps of the sampler (diffusion/progress.py): at 30
steps `cross_replace=0.8` are 24 and `self_replace=0.6` are 18, as in the public code. That has the
words' shares of one step more, and so at times a step more where a share is no whole step: 0.5 of
25 steps are 12 here and 13 there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from threed.core.errors import InputError
from threed.diffusion.guide import Guide
from threed.settings.base import Settings
from threed.systems.inputs import BESIDE, PICTURE, PROMPT, WORD, WORD_FACTOR, WORD_SPAN, Input
from threed.systems.system import Request, System

if TYPE_CHECKING:
    from torch import Tensor

    from threed.diffusion.backbone import Backbone
    from threed.diffusion.inversion import Nulls
    from threed.diffusion.paint import Ready
    from threed.diffusion.parts.attention import AttentionEdit
    from threed.diffusion.parts.prompt_edits import Span
    from threed.diffusion.score import Score


class Knobs(Settings):
    """How much of the source's attention is taken, and for how long."""

    mode: Literal["auto", "swap", "refine"] = Field(
        "auto",
        description="swap: word for word; refine: words may come or go; auto: whichever fits",
    )
    cross_replace: float = Field(
        0.8, ge=0, le=1, description="share of the sampling in which all words' attention is taken"
    )
    self_replace: float = Field(
        0.6, ge=0, le=1, description="share in which the picture's own attention is taken"
    )
    self_tokens: int = Field(
        1024, ge=1, description="places of the largest layers whose own attention is taken"
    )
    blend_start: float = Field(
        0.2, ge=0, le=1, description="share of the sampling from which --blend holds"
    )
    blend_threshold: float = Field(
        0.3, ge=0, le=1, description="share of the most attention that counts as the word's place"
    )


@dataclass(frozen=True)
class Words:
    """What is asked of words."""

    weigh: Sequence[tuple[str, float]] = ()  # of the prompt: what their attention is multiplied by
    hold: Sequence[tuple[str, Span]] = ()  # of the prompt: when they take the source's attention
    blend: Sequence[str] = ()  # of either prompt: outside of them the source's picture is kept


def build(
    backbone: Backbone,
    prompt: str,
    source: str | None = None,
    *,
    words: Words = Words(),
    nulls: Nulls | None = None,
    watch: Sequence[AttentionEdit] = (),
    guide: Guide = Guide(),
    knobs: Knobs = Knobs(),
) -> Score:
    """Make the Score of pairs [source, edited] of neighbours. The source is never changed.

    nulls: what stands for the negative prompt (of real pictures). watch: further edits of both
    prompts' attention, outermost. InputError for words that are not there, and for spans of
    `words.hold` that do not lie in 0..1.
    """
    from dataclasses import replace

    import torch

    from threed.diffusion.noise import alpha_sigma
    from threed.diffusion.parts import prompt_edits as edits
    from threed.diffusion.parts.attention import Record
    from threed.diffusion.progress import SLACK, span
    from threed.diffusion.score import guided

    check_spans(words.hold)
    source = prompt if source is None else source
    texts = backbone.encode_text([source, prompt, guide.negative])
    length, device = texts.tokens.shape[1], texts.tokens.device
    exchange = edits.Exchange(
        edits.align(backbone, source, prompt, length, knobs.mode),
        edits.factors_of(backbone, prompt, words.weigh, length).to(device),
        edits.spans_of(backbone, prompt, words.hold, length, knobs.cross_replace).to(device),
        knobs.self_replace,
        knobs.self_tokens,
    )
    chosen = edits.tokens_of(backbone, (source, prompt), words.blend, length).to(device)

    def noise(x: Tensor, t: Tensor) -> Tensor:
        n, times = len(x) // edits.ROWS, t[:: edits.ROWS]
        blended = bool(words.blend) & (span(times)[1] > knobs.blend_start + SLACK)
        record = Record(lambda site: site.layer.cross)
        seen = (*watch, record) if bool(blended.any()) else tuple(watch)
        pair = texts.select(torch.tensor([0, 1] * n, device=device))
        pair = replace(pair, attention=(*seen, *exchange.edits(times)))
        other = texts.select(torch.full((len(x),), 2, device=device))
        if nulls is not None:
            other = replace(other, tokens=nulls.at(t))
        noises = guided(backbone, pair, other, guide.scale)(x, t)
        if not bool(blended.any()):
            return noises
        mask = edits.looked_at(record, chosen, x.shape[-2:], knobs.blend_threshold)
        mask = torch.where(blended[:, None, None, None], mask, torch.ones_like(mask))
        return edits.keep_outside(mask, noises, x, alpha_sigma(backbone.alphas_cumprod, t)[1])

    return noise


def check_spans(hold: Sequence[tuple[str, Span]]) -> None:
    """InputError for spans outside 0..1, or that end before they begin."""
    for word, (begin, end) in hold:
        if not 0 <= begin <= end <= 1:
            raise InputError(f"hold {word}: two shares of 0..1, the first not the larger, are "
                             f"needed, got {begin:g} and {end:g}")  # fmt: skip


def prepare(backbone: Backbone, request: Request, weights: None = None) -> Ready:
    """Make the pair's Score; with a picture, the source is that picture, inverted."""
    from threed.diffusion.images import load_image
    from threed.diffusion.inversion import invert_picture
    from threed.diffusion.paint import Ready, latent_shape
    from threed.diffusion.parts.prompt_edits import ROWS

    guide, knobs = request.guide, request.knobs or Knobs()
    words = Words(request.all("weigh"), request.all("hold"), request.all("blend"))
    source = request.one("source") or request.prompt
    inverted = None
    if request.one("image") is not None:
        latent_shape(backbone, request.size)
        image = load_image(request.one("image"), request.size)
        # mistakes show before the long step
        build(backbone, request.prompt, source, words=words, guide=guide, knobs=knobs)
        inverted = invert_picture(
            backbone, image, source, steps=request.steps, scale=guide.scale,
            negative=guide.negative,
        )  # fmt: skip
    nulls = None if inverted is None else inverted.nulls
    pair = build(
        backbone, request.prompt, source, words=words, nulls=nulls, guide=guide, knobs=knobs
    )
    return Ready(pair, rows=ROWS, start=None if inverted is None else inverted.start)


SYSTEM = System(
    name="prompt_to_prompt",
    paper="Prompt-to-Prompt Image Editing with Cross Attention Control",
    arxiv="2208.01626",
    claim="edits a picture by changing its prompt; what is where stays",
    inputs=(
        Input(
            "source", PROMPT, "the prompt of the picture to edit; the prompt itself if not given"
        ),
        Input("image", PICTURE, "a real picture that the source prompt describes"),
        Input("weigh", WORD_FACTOR, "a word of the prompt, and how much more of it", many=True),
        Input(
            "hold",
            WORD_SPAN,
            "a word, and until when (or from, until) it takes the source's attention",
            many=True,
        ),
        Input("blend", WORD, "a word outside of which the picture stays", many=True),
        BESIDE,
    ),
    knobs=Knobs,
    several=False,
    seams=("attention", "blend"),
    prepare=prepare,
)
