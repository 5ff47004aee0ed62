"""Prompt-to-Prompt (arXiv:2208.01626): a picture is edited by its prompt; its layout stays.

The source and the edited picture are made side by side from the same noise. While it matters for
the layout, the edited one takes its attention weights from the source, word by word. Nothing is
trained. A real picture is inverted first (threed/diffusion/inversion.py).

The phases are told from the noise level, not from a count of steps, so that the Score is a
function of (x, t) alone, for any sampler and for distillation: at t the sampling is done to a
share of 1 - t / 1000.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from threed.core.errors import InputError
from threed.diffusion.backbone import Backbone
from threed.diffusion.images import latent_shape, load_image
from threed.diffusion.inversion import Nulls, invert_picture
from threed.diffusion.noise import alpha_sigma
from threed.diffusion.paint import Ready
from threed.diffusion.parts.attention import AttentionEdit, Record
from threed.diffusion.parts.prompt_edits import ROWS, Exchange, keep_outside, looked_at
from threed.diffusion.parts.words import Alignment, refine, swap, word_tokens
from threed.diffusion.score import Score, guided
from threed.systems.system import Input, Request, System

Mode = Literal["auto", "swap", "refine"]
Span = tuple[float, float]  # shares of the sampling, 0 its beginning and 1 its end


def build(
    backbone: Backbone,
    prompt: str,
    source: str | None = None,
    *,
    weigh: Sequence[tuple[str, float]] = (),
    hold: Sequence[tuple[str, Span]] = (),
    blend: Sequence[str] = (),
    negative: str = "",
    scale: float = 5.0,
    nulls: Nulls | None = None,
    watch: Sequence[AttentionEdit] = (),
    mode: str = "auto",
    cross_replace: float = 0.8,
    self_replace: float = 0.6,
    self_tokens: int = 1024,
    blend_start: float = 0.2,
    blend_threshold: float = 0.3,
) -> Score:
    """The Score of pairs [source, edited] of neighbours. The source is never changed.

    weigh: words of the prompt and what their attention is multiplied by. hold: words of the prompt
    and the span in which they take the source's attention, in the place of cross_replace. blend:
    words of either prompt outside of which the source's picture is kept. nulls: what stands for
    the negative prompt (real pictures). watch: further edits of both prompts' attention, outermost.

    mode: swap, word for word; refine, where words come or go; auto, whichever fits. cross_replace
    and self_replace: for how long all words, and the picture's layers of at most self_tokens, take
    the source's attention. InputError for words that are not there, and for shares outside 0..1.
    """
    _check(hold, cross_replace=cross_replace, self_replace=self_replace, blend_start=blend_start,
           blend_threshold=blend_threshold)  # fmt: skip
    source = prompt if source is None else source
    texts = backbone.encode_text([source, prompt, negative])
    length, device = texts.tokens.shape[1], texts.tokens.device
    exchange = Exchange(
        _align(backbone, source, prompt, length, mode),
        _factors(backbone, prompt, weigh, length).to(device),
        _spans(backbone, prompt, hold, length, cross_replace).to(device),
        self_replace,
        self_tokens,
    )
    words = _either(backbone, (source, prompt), blend, length).to(device)

    def noise(x: Tensor, t: Tensor) -> Tensor:
        n = len(x) // ROWS
        done = 1 - t[::ROWS] / 1000
        blended = bool(blend) & (done >= blend_start)
        record = Record(lambda site: site.layer.cross)
        seen = (*watch, record) if bool(blended.any()) else tuple(watch)
        pair = texts.select(torch.tensor([0, 1] * n, device=device))
        pair = replace(pair, attention=(*seen, *exchange.edits(done)))
        other = texts.select(torch.full((len(x),), 2, device=device))
        if nulls is not None:
            other = replace(other, tokens=nulls.at(t))
        noises = guided(backbone, pair, other, scale)(x, t)
        if not bool(blended.any()):
            return noises
        mask = looked_at(record, words, x.shape[-2:], blend_threshold)
        mask = torch.where(blended[:, None, None, None], mask, torch.ones_like(mask))
        return keep_outside(mask, noises, x, alpha_sigma(backbone.alphas_cumprod, t)[1])

    return noise


def _align(backbone: Backbone, source: str, prompt: str, length: int, mode: str) -> Alignment:
    """The prompts' alignment in one of the modes."""
    if mode not in ("auto", "swap", "refine"):
        raise InputError(f"mode must be auto, swap or refine, got {mode!r}")
    if mode == "auto":
        mode = "swap" if len(source.split()) == len(prompt.split()) else "refine"
    return (swap if mode == "swap" else refine)(backbone, source, prompt, length)


def _factors(
    backbone: Backbone, prompt: str, weigh: Sequence[tuple[str, float]], length: int
) -> Tensor:
    """[S] what each token's attention is multiplied by."""
    factors = torch.ones(length)
    for word, factor in weigh:
        factors[word_tokens(backbone, prompt, word)] = factor
    return factors


def _spans(
    backbone: Backbone, prompt: str, hold: Sequence[tuple[str, Span]], length: int, until: float
) -> Tensor:
    """[2, S] from when and until when each token's attention is the source's."""
    spans = torch.tensor([0.0, until])[:, None].repeat(1, length)
    for word, span in hold:
        spans[:, word_tokens(backbone, prompt, word)] = torch.tensor(span)[:, None]
    return spans


def _either(
    backbone: Backbone, prompts: tuple[str, str], words: Sequence[str], length: int
) -> Tensor:
    """[2, S] 1 at the words' tokens in each prompt. InputError if a word is in neither."""
    chosen = torch.zeros(ROWS, length)
    for word in words:
        problems = []
        for row, prompt in enumerate(prompts):
            try:
                chosen[row, word_tokens(backbone, prompt, word)] = 1
            except InputError as error:
                problems.append(error)
        if len(problems) == ROWS:
            raise problems[-1]
    return chosen


def _check(hold: Sequence[tuple[str, Span]], **shares: float) -> None:
    """InputError for shares outside 0..1, and for spans that end before they begin."""
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise InputError(f"{name} must be in 0..1, got {share}")
    for word, (begin, end) in hold:
        if not 0 <= begin <= end <= 1:
            raise InputError(f"hold {word}: two shares of 0..1, the first not the larger, are "
                             f"needed, got {begin:g} and {end:g}")  # fmt: skip


def prepare(backbone: Backbone, request: Request) -> Ready:
    """The pair's Score; with a picture, the source is that picture, inverted."""
    inverted = None
    source = request.prompt if request.source is None else request.source
    options = request.options() | {
        "weigh": request.weigh, "hold": request.hold, "blend": request.blend,
    }  # fmt: skip
    if request.image is not None:
        latent_shape(backbone, request.size)
        image = load_image(request.image, request.size)
        build(backbone, request.prompt, source, **options)  # mistakes show before the long step
        inverted = invert_picture(
            backbone, image, source, steps=request.steps, scale=request.scale,
            negative=request.negative,
        )  # fmt: skip
        options["nulls"] = inverted.nulls
    pair = build(backbone, request.prompt, source, **options)
    return Ready(pair, rows=ROWS, start=None if inverted is None else inverted.start)


SYSTEM = System(
    name="prompt_to_prompt",
    paper="Prompt-to-Prompt Image Editing with Cross Attention Control",
    arxiv="2208.01626",
    claim="edits a picture by changing its prompt; what is where stays",
    inputs=(
        Input("source", "the prompt of the picture to edit; the prompt itself if not given"),
        Input("image", "a real picture that the source prompt describes"),
        Input("weigh", "a word of the prompt, and how much more of it"),
        Input("hold", "a word, and until when (or from, until) it takes the source's attention"),
        Input("blend", "a word outside of which the picture stays"),
    ),
    trains="nothing",
    seams=("attention", "blend"),
    build=build,
    prepare=prepare,
)
