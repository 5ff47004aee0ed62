"""The loss that diffusion models are trained with, and the conditions that it leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from threed.diffusion.backbone import Backbone
from threed.diffusion.condition import Condition
from threed.diffusion.noise import alpha_sigma
from threed.learning.data import beside


def denoising_loss(
    backbone: Backbone,
    latents: Tensor,
    condition: Condition,
    generator: torch.Generator,
    *,
    debias: bool = False,
    group: int = 1,
    weights: Sequence[float] = (1.0,),
) -> Tensor:
    """Take the mean squared error of the noise predicted in latents [B, C, h, w].

    As in DDPM (arXiv:2006.11239), but the timesteps are spread evenly over the batch: less chance
    in the loss. debias: each counts 1 / sqrt(SNR) times, so that what is settled where noise is
    strong (the kind of thing, its colour) is learned sooner (arXiv:2310.08442). group: so many
    neighbours share a timestep.

    weights: the batch is as many equal parts, one after the other, such as pictures of one thing
    and pictures of its class; what they lose is added up with these weights (DreamBooth's prior
    preservation, arXiv:2208.12242). Each part is noised as if it was alone.
    """
    n = len(latents) // len(weights)
    chances = (beside(generator, part) for part in range(len(weights)))
    drawn = [_draw_noise(latents[:n], group, chance) for chance in chances]
    t, noise = (torch.cat(values).to(latents.device) for values in zip(*drawn))
    alpha, sigma = alpha_sigma(backbone.alphas_cumprod, t)
    predicted = backbone.predict_noise(alpha * latents + sigma * noise, t, condition)
    error = (predicted - noise).float().square().mean((1, 2, 3))
    if debias:
        error = error * (sigma / alpha).flatten()
    means = [weight * part.mean() for weight, part in zip(weights, error.chunk(len(weights)))]
    return torch.stack(means).sum()


def _draw_noise(latents: Tensor, group: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw timesteps [B] on the CPU, and noise [B, C, h, w] where the latents are."""
    n = len(latents) // group
    place = torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)
    t = (place * (1000 / n)).long().clamp(max=999).repeat_interleave(group)
    return t, torch.randn(latents.shape, generator=generator).to(latents)


def chosen(n: int, share: float, generator: torch.Generator) -> Tensor:
    """[n] bool: each true with probability `share`."""
    return torch.rand(n, generator=generator) < share


def without_text(condition: Condition, empty: Condition, drop: Tensor) -> Condition:
    """Replace the text of items drop ([B] bool) of a condition by `empty`'s (of one item)."""
    where = drop.to(condition.tokens.device)
    tokens = torch.where(where[:, None, None], empty.tokens, condition.tokens)
    pooled = condition.pooled
    if pooled is not None and empty.pooled is not None:
        pooled = torch.where(where[:, None], empty.pooled, pooled)
    return replace(condition, tokens=tokens, pooled=pooled)
