"""Prompt-to-Prompt's edits of attention (arXiv:2208.01626): whose weights count, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from threed.core.errors import InputError
from threed.diffusion.backbone import Backbone
from threed.diffusion.parts.attention import AttentionEdit, Change, Record, Rewrite
from threed.diffusion.parts.heat import largest_maps
from threed.diffusion.parts.words import Alignment, refine, swap, word_tokens
from threed.diffusion.progress import due

ROWS = 2  # source, edited
Span = tuple[float, float]  # shares of the sampling, 0 its beginning and 1 its end
Factors = Sequence[tuple[str, float]]  # of words
Spans = Sequence[tuple[str, Span]]
BLEND_TOKENS = 576  # of the largest maps that the blend's mask is read from: 24×24


@dataclass(frozen=True)
class Exchange:
    """Which of the source's attention the edited picture takes, and when."""

    alignment: Alignment
    factors: Tensor  # [S] of each token's attention
    spans: Tensor  # [2, S] when each token's attention is the source's
    self_until: float
    self_tokens: int

    def edits(self, t: Tensor) -> tuple[AttentionEdit, ...]:
        """The edits for groups at timesteps t [n]; none where none is due."""
        held = due(t[:, None], *self.spans)
        own = due(t, 0.0, self.self_until)
        edits: list[AttentionEdit] = []
        if bool(held.any()):
            edits.append(Rewrite(lambda site: site.layer.cross, self.cross(held)))
        if bool(own.any()):
            edits.append(Rewrite(lambda site: not site.layer.cross, self.alike(own)))
        return tuple(edits)

    def cross(self, held: Tensor) -> Change:
        """Equation 3 and its kin: the source's weights, mapped and weighed; held is [n, S]."""

        def change(weights: Tensor) -> Tensor:
            source, edited = weights.unflatten(0, (-1, ROWS)).unbind(1)  # [n, heads, L, S]
            taken = self.alignment.taken.to(weights)
            mapped = torch.lerp(edited, source @ self.alignment.matrix.to(weights), taken)
            mapped = torch.where(held[:, None, None], mapped * self.factors.to(weights), edited)
            return torch.stack([source, mapped], 1).flatten(0, 1)

        return change

    def alike(self, due: Tensor) -> Change:
        """The source's self-attention in small layers of the groups [n] in which it is due."""

        def change(weights: Tensor) -> Tensor:
            if weights.shape[-2] > self.self_tokens:
                return weights
            source, edited = weights.unflatten(0, (-1, ROWS)).unbind(1)
            taken = torch.where(due[:, None, None, None], source, edited)
            return torch.stack([source, taken], 1).flatten(0, 1)

        return change


def keep_outside(mask: Tensor, noises: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """The noise [2n, C, h, w] with which both pictures of a pair are one outside of mask [n,1,h,w].

    The edited picture's estimate of x0 becomes the source's there. The paper's local blend puts
    the latents themselves together after each step; from equal latents that is the same, and this
    needs no sampler.
    """
    (source, edited), (x0, x1) = (v.unflatten(0, (-1, ROWS)).unbind(1) for v in (noises, x))
    same = source + (x1 - x0) / sigma[::ROWS]
    return torch.stack([source, torch.lerp(same, edited, mask)], 1).flatten(0, 1)


def looked_at(record: Record, words: Tensor, size: Sequence[int], threshold: float) -> Tensor:
    """[n, 1, h, w] 1 where one of the pair looks at the words: their tokens are words [2, S]."""
    maps = largest_maps(record.kept, BLEND_TOKENS).unflatten(0, (-1, ROWS))
    looked = (maps * words[:, None, None]).sum(-1)  # [n, 2, h, w]
    looked = F.max_pool2d(looked, 3, stride=1, padding=1)
    looked = F.interpolate(looked, tuple(size), mode="bilinear")
    looked = looked / looked.amax((2, 3), keepdim=True).clamp_min(1e-12)
    return (looked > threshold).any(1, keepdim=True).to(looked.dtype)


def align(backbone: Backbone, source: str, prompt: str, length: int, mode: str) -> Alignment:
    """The prompts' alignment in one of the modes."""
    source, prompt = backbone.reads(source), backbone.reads(prompt)
    if mode == "auto":
        mode = "swap" if len(source.split()) == len(prompt.split()) else "refine"
    return (swap if mode == "swap" else refine)(backbone, source, prompt, length)


def factors_of(backbone: Backbone, prompt: str, weigh: Factors, length: int) -> Tensor:
    """[S] what each token's attention is multiplied by."""
    factors = torch.ones(length)
    for word, factor in weigh:
        factors[word_tokens(backbone, prompt, word)] = factor
    return factors


def spans_of(backbone: Backbone, prompt: str, hold: Spans, length: int, until: float) -> Tensor:
    """[2, S] from when and until when each token's attention is the source's."""
    spans = torch.tensor([0.0, until])[:, None].repeat(1, length)
    for word, span in hold:
        spans[:, word_tokens(backbone, prompt, word)] = torch.tensor(span)[:, None]
    return spans


def tokens_of(
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
