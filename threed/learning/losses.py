"""The losses that diffusion models are trained with, and the conditions that they leave out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
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
    mask: Tensor | None = None,
) -> Tensor:
    """Take the mean squared error of the noise predicted in latents [B, C, h, w].

    As in DDPM (arXiv:2006.11239), but the timesteps are spread evenly over the batch: less chance
    in the loss. debias: each counts 1 / sqrt(SNR) times, so that what is settled where noise is
    strong (the kind of thing, its colour) is learned sooner (arXiv:2310.08442). group: so many
    neighbours share a timestep.

    weights: the batch is as many equal parts, one after the other, such as pictures of one thing
    and pictures of its class; what they lose is added up with these weights (DreamBooth's prior
    preservation, arXiv:2208.12242). Each part is noised as if it was alone.

    mask: [B, 1, h, w] how much each place counts; see `squared_error`.
    """
    n = len(latents) // len(weights)
    chances = (beside(generator, part) for part in range(len(weights)))
    drawn = [_draw_noise(latents[:n], group, chance) for chance in chances]
    t, noise = (torch.cat(values).to(latents.device) for values in zip(*drawn))
    error = squared_error(backbone, latents, condition, t, noise, mask)
    if debias:
        error = error * _noise_to_signal(backbone, t)
    means = [weight * part.mean() for weight, part in zip(weights, error.chunk(len(weights)))]
    return torch.stack(means).sum()


def consistency_loss(
    backbone: Backbone,
    latents: Tensor,
    learning: Condition,
    base: Condition,
    generator: torch.Generator,
    *,
    beta: float,
    snr_gamma: float | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Take the mean of -log sigmoid(-beta (l - l0)): DCO's loss (arXiv:2402.12004).

    l is the squared error of what learns, l0 that of the frozen model, told `base`, both of the
    same noise in the same latents [B, C, h, w]; each picture has a term of its own. snr_gamma:
    both are weighted by min(SNR, gamma) / SNR first (arXiv:2303.09556).
    """
    t, noise = (value.to(latents.device) for value in _draw_noise(latents, 1, generator))
    error = squared_error(backbone, latents, learning, t, noise, mask)
    with torch.no_grad():
        other = squared_error(backbone, latents, base, t, noise, mask)
    better = error - other
    if snr_gamma is not None:
        better = better * (snr_gamma * _noise_to_signal(backbone, t).square()).clamp(max=1)
    return -F.logsigmoid(-beta * better).mean()


def squared_error(
    backbone: Backbone,
    latents: Tensor,
    condition: Condition,
    t: Tensor,
    noise: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """[B] the mean squared error of the noise predicted in latents [B, C, h, w] at t [B].

    mask: [B, 1, h, w] not negative, how much each place counts: the mean is weighted by it.
    """
    alpha, sigma = alpha_sigma(backbone.alphas_cumprod, t)
    predicted = backbone.predict_noise(alpha * latents + sigma * noise, t, condition)
    error = (predicted - noise).float().square()
    if mask is not None:
        error = error * (mask / mask.mean((1, 2, 3), keepdim=True).clamp_min(1e-6))
    return error.mean((1, 2, 3))


def _noise_to_signal(backbone: Backbone, t: Tensor) -> Tensor:
    """[B] 1 / sqrt(SNR)."""
    alpha, sigma = alpha_sigma(backbone.alphas_cumprod, t)
    return (sigma / alpha).flatten()


def _draw_noise(latents: Tensor, group: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw timesteps [B] on the CPU, and noise [B, C, h, w] where the latents are."""
    n = len(latents) // group
    place = torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)
    t = (place * (1000 / n)).long().clamp(max=999).repeat_interleave(group)
    return t, torch.randn(latents.shape, generator=generator).to(latents)


def chosen(n: int, share: float, generator: torch.Generator) -> Tensor:
    """[n] bool: each true with probability `share`."""
    return torch.rand(n, generator=generator) < share


def dropped(n: int, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw which of n examples lose their text, and which their picture, both [n] bool.

    A share loses the text alone, a share the picture alone, and a share both.
    """
    r = torch.rand(n, generator=generator)
    return r < 2 * share, (r >= share) & (r < 3 * share)


def without_text(condition: Condition, empty: Condition, drop: Tensor) -> Condition:
    """Replace the text of items drop ([B] bool) of a condition by `empty`'s (of one item)."""
    where = drop.to(condition.tokens.device)
    tokens = torch.where(where[:, None, None], empty.tokens, condition.tokens)
    pooled = condition.pooled
    if pooled is not None and empty.pooled is not None:
        pooled = torch.where(where[:, None], empty.pooled, pooled)
    return replace(condition, tokens=tokens, pooled=pooled)
