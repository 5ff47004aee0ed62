"""Complementary regional diffusion (RPG, arXiv:2401.11708): each region has its own prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from threed.diffusion.condition import Condition
from threed.diffusion.noise import alpha_sigma
from threed.diffusion.parts.attention import Attend, Bias, Site, Via
from threed.diffusion.parts.plans import Region
from threed.diffusion.score import Combine


def joined(conditions: Sequence[Condition]) -> Condition:
    """The tokens of all one after the other; the rest is the first's."""
    return replace(conditions[0], tokens=torch.cat([c.tokens for c in conditions], 1))


@dataclass(frozen=True)
class Regions:
    """Cross-attention to each region's tokens, where the region is.

    The tokens are the whole prompt's and then each region's, equally many. All pixels attend to
    each prompt by itself; of what comes of it a region keeps its own pixels, mixed with the whole
    prompt's share.
    """

    regions: tuple[Region, ...]
    base_ratio: float

    def __call__(self, site: Site, attend: Attend) -> Attend:
        """Divide the tokens, and put the outputs together."""
        if not site.layer.cross:
            return attend
        size, prompts = (site.rows, site.columns), len(self.regions) + 1

        def local(q: Tensor, k: Tensor, v: Tensor, bias: Bias = None, change: Via = None) -> Tensor:
            biases = [None] * prompts if bias is None else bias.chunk(prompts, -1)
            each = zip(k.chunk(prompts, 1), v.chunk(prompts, 1), biases)
            seen = (attend(q, k, v, bias=own, change=change) for k, v, own in each)
            whole, *parts = (out.unflatten(1, size) for out in seen)
            out: Tensor = whole.clone()
            for region, part in zip(self.regions, parts):
                rows, columns = region.pixels(*size)
                here = (slice(None), rows, columns)
                out[here] = torch.lerp(part[here], whole[here], self.base_ratio)
            return out.flatten(1, 2)

        return local


def resized(
    regions: Sequence[Region], base_ratio: float, scale: float, until: float, alphas_cumprod: Tensor
) -> Combine:
    """Guidance over [whole prompt, regions' prompts, unconditional], put together in x0.

    The paper does it to latents of the next step. In x0 it is the same but for the noise, which
    would lose its strength by being made small.
    """

    def combine(noises: Sequence[Tensor], x: Tensor, t: Tensor) -> Tensor:
        *texts, other = noises
        alpha, sigma = alpha_sigma(alphas_cumprod, t)
        whole, *parts = ((x - sigma * torch.lerp(other, text, scale)) / alpha for text in texts)
        early = (t >= 1000 * until)[:, None, None, None]
        clean = whole.clone()
        for region, part in zip(regions, parts):
            rows, columns = region.pixels(*x.shape[-2:])
            here = (..., rows, columns)
            cut = part[here]
            if cut.numel() > 0:
                small = F.interpolate(part, cut.shape[-2:], mode="bilinear", antialias=True)
                clean[here] = torch.lerp(torch.where(early, small, cut), whole[here], base_ratio)
        return (x - alpha * clean) / sigma

    return combine
