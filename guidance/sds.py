"""Score distillation: the gradient that makes a render more likely under a diffusion model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from guidance import Frozen
from guidance.prompts import Prompts
from threed.core import Cameras, Schedule
from threed.diffusion.backbone import Backbone
from threed.diffusion.score import Combine, Score, alpha_sigma, cfg, rescaled_cfg, score

Weighting = Literal["sigma2", "uniform", "x0"]
WEIGHTS: dict[Weighting, Callable[[Tensor, Tensor], Tensor]] = {
    "sigma2": lambda alpha, sigma: sigma**2,  # DreamFusion
    "uniform": lambda alpha, sigma: torch.ones_like(sigma),  # Magic3D's coarse stage
    "x0": lambda alpha, sigma: sigma / alpha,  # the gradient of half the squared distance to x0
}
"""w(t) from the signal and noise levels of t."""


@dataclass(frozen=True)
class SDSSettings:
    """How SDS pulls."""

    guidance_scale: float
    weighting: Weighting
    t_min: Schedule  # by step, as fractions of the 1000 noise levels
    t_max: Schedule
    rescale: float  # 0 is plain CFG, 1 gives x0 the contrast that the text alone gives it
    grad_clip: Schedule | None = None  # by step, the largest entry of the latents' gradient


class SDS(Frozen):
    """Score distillation sampling (DreamFusion, arXiv:2209.14988), each item at its own t."""

    def __init__(self, backbone: Backbone, prompts: Prompts, settings: SDSSettings) -> None:
        self.backbone, self.prompts, self.settings = backbone, prompts, settings

    def __call__(
        self, image: Tensor, cameras: Cameras, step: int, generator: Generator
    ) -> dict[str, Tensor]:
        """{"sds": loss} for image [B, H, W, 3] in [0, 1]."""
        s, backbone = self.settings, self.backbone
        conditions = self.prompts(cameras.to(backbone.device))
        combine = guide(backbone, s.guidance_scale, s.rescale)
        z = encode_render(backbone, image)
        t = draw_t(len(z), s.t_min(step), s.t_max(step), generator).to(z.device)
        clip = None if s.grad_clip is None else s.grad_clip(step)
        loss = distill(
            score(backbone, conditions, combine),
            z,
            t,
            draw_noise(z, generator),
            backbone.alphas_cumprod,
            weighting=s.weighting,
            grad_clip=clip,
        )
        return {"sds": loss}


def guide(backbone: Backbone, scale: float, rescale: float, views: int = 1) -> Combine:
    """CFG over [text, negative], rescaled if asked for."""
    if rescale == 0:
        return cfg(scale)
    return rescaled_cfg(scale, rescale, backbone.alphas_cumprod, views)


def encode_render(backbone: Backbone, image: Tensor) -> Tensor:
    """Latents of a render [B, H, W, 3] in [0, 1] at the backbone's size; differentiable."""
    size = (backbone.image_size, backbone.image_size)
    picture = image.permute(0, 3, 1, 2).to(backbone.device)
    if picture.shape[-2:] != size:
        picture = F.interpolate(
            picture,
            size,
            mode="bilinear",
            align_corners=False,
            antialias=picture.shape[-1] > size[0],
        )
    return backbone.encode_image(picture)


def draw_t(n: int, low: float, high: float, generator: Generator) -> Tensor:
    """[n] int64 uniform noise levels between two fractions of the 1000, both ends included."""
    first, last = (min(999, max(0, round(1000 * bound))) for bound in (low, high))
    device = generator.device
    return torch.randint(first, max(first, last) + 1, (n,), generator=generator, device=device)


def draw_noise(z: Tensor, generator: Generator) -> Tensor:
    """Standard normal noise like z, drawn where the generator lives."""
    noise = torch.randn(z.shape, generator=generator, device=generator.device, dtype=z.dtype)
    return noise.to(z.device)


def distill(
    guided: Score,
    z: Tensor,
    t: Tensor,
    noise: Tensor,
    alphas_cumprod: Tensor,
    *,
    weighting: Weighting,
    grad_clip: float | None = None,
) -> Tensor:
    """A scalar whose gradient in z [B, C, h, w] is w(t) * (estimated - true noise) / B, any Score.

    As a mean over the batch of half the squared distance to a target, so that its value is
    meaningful too. No graph is kept through the model.
    """
    with torch.no_grad():
        alpha, sigma = alpha_sigma(alphas_cumprod, t)
        estimate = guided(alpha * z + sigma * noise, t)
        gradient = WEIGHTS[weighting](alpha, sigma) * (estimate - noise)
        if grad_clip is not None:
            gradient = gradient.clamp(-grad_clip, grad_clip)
        target = z - gradient
    return 0.5 * (z - target).square().sum() / len(z)
