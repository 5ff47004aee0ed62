"""Noise levels: what is signal and what is noise in latents, and from one level to another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Level = tuple[Tensor, Tensor]
"""Signal and noise at a level, alpha and sigma, each [B, 1, 1, 1]; alpha² + sigma² = 1."""


def alpha_sigma(alphas_cumprod: Tensor, t: Tensor) -> Level:
    """Signal and noise at the timesteps t [B].

    t is in training steps and may lie between two of them, as Karras' samplers ask: sigma / alpha
    is then linear between the neighbours, as in those samplers.
    """
    low = t.floor().long().clamp(0, len(alphas_cumprod) - 1)
    high = (low + 1).clamp(max=len(alphas_cumprod) - 1)
    ratio = ((1 - alphas_cumprod) / alphas_cumprod).sqrt()
    between = torch.lerp(ratio[low], ratio[high], (t - low).to(ratio.dtype))[:, None, None, None]
    alpha = (1 + between**2).rsqrt()
    return alpha, between * alpha


@dataclass(frozen=True)
class Noised:
    """Latents [B, C, h, w] at the noise levels t [B]."""

    x: Tensor  # alpha * z + sigma * noise, without a graph
    t: Tensor
    noise: Tensor
    alpha: Tensor  # [B, 1, 1, 1]
    sigma: Tensor


def diffuse(z: Tensor, t: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Noised:
    """Add noise [B, C, h, w] to latents z, as the model was trained, at levels t [B]."""
    t = t.to(z.device)
    alpha, sigma = alpha_sigma(alphas_cumprod, t)
    return Noised(alpha * z.detach() + sigma * noise, t, noise, alpha, sigma)


def ddim_step(x: Tensor, noise: Tensor, here: Level, there: Level) -> Tensor:
    """Take x [B, C, h, w] from one level to another, in either direction, with the same noise.

    Equation 12 of DDIM (arXiv:2010.02502) with eta 0.
    """
    (alpha, sigma), (after, more) = here, there
    return after * (x - sigma * noise) / alpha + more * noise
