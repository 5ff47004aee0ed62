"""Score distillation: the gradient that makes a render more likely under a diffusion model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from guidance import Frozen
from guidance.distill import WEIGHTS, Pull, diffuse, draw_noise, encode_render, inject
from guidance.prompts import Prompts
from threed.core import Cameras


@dataclass(frozen=True)
class SDS(Frozen):
    """Score distillation sampling (DreamFusion, arXiv:2209.14988): w(t) (estimate - noise).

    Each picture is at its own t; of a multi-view backbone, each group of views.
    """

    prompts: Prompts
    pull: Pull

    def __call__(
        self, image: Tensor, cameras: Cameras, step: int, generator: Generator
    ) -> dict[str, Tensor]:
        """{"sds": loss} for image [B, H, W, 3] in [0, 1]."""
        t = self.pull.draw_t(len(image), self.prompts.backbone.views, step, generator)
        return {"sds": distill(self.prompts, self.pull, image, cameras, t, step, generator)}


def distill(
    prompts: Prompts,
    pull: Pull,
    image: Tensor,
    cameras: Cameras,
    t: Tensor,
    step: int,
    generator: Generator,
) -> Tensor:
    """A scalar whose gradient in the latents is w(t) * (estimated - true noise) / B.

    image [B, H, W, 3] in [0, 1], t [B] noise levels. No graph is kept through the model.
    """
    backbone = prompts.backbone
    z = encode_render(backbone, image)
    seen = diffuse(z, t, draw_noise(z, generator), backbone.alphas_cumprod)
    with torch.no_grad():
        guided = prompts.score(cameras, pull.guidance_scale, pull.rescale)
        weight = WEIGHTS[pull.weighting](seen.alpha, seen.sigma)
        gradient = weight * (guided(seen.x, seen.t) - seen.noise)
    return inject(z, pull.clipped(gradient, step))
