"""Noise levels: how much of a noised picture is signal, and how much noise."""

from __future__ import annotations

import torch
from torch import Tensor


def alpha_sigma(alphas_cumprod: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Signal and noise levels at t, both [B, 1, 1, 1]; alpha² + sigma² = 1.

    t is in training steps and may lie between two of them, as Karras' samplers ask: sigma / alpha
    is then linear between the neighbours, as in those samplers.
    """
    low = t.floor().long().clamp(0, len(alphas_cumprod) - 1)
    high = (low + 1).clamp(max=len(alphas_cumprod) - 1)
    ratio = ((1 - alphas_cumprod) / alphas_cumprod).sqrt()
    between = torch.lerp(ratio[low], ratio[high], (t - low).to(ratio.dtype))[:, None, None, None]
    alpha = (1 + between**2).rsqrt()
    return alpha, between * alpha
