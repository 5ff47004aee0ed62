"""Pictures of a Score: what a sampler has to know about it, and the sampling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from threed.core.errors import InputError
from threed.diffusion.backbone import Backbone
from threed.diffusion.images import Size, latent_shape
from threed.diffusion.sampler import make_scheduler, sample
from threed.diffusion.score import Score


@dataclass(frozen=True)
class Ready:
    """A Score, and what else a sampler has to know about it."""

    score: Score  # over n groups of `rows` neighbours
    rows: int = 1  # pictures of a group: they share their noise, and the last is the result
    start: Tensor | None = None  # [1, C, h, w] to begin from, where noise is not what is meant

    def alone(self) -> Score:
        """The Score of the result only, for distillation: all rows of a group see the same x."""
        if self.rows == 1:
            return self.score

        def noise(x: Tensor, t: Tensor) -> Tensor:
            together = self.score(
                x.repeat_interleave(self.rows, 0), t.repeat_interleave(self.rows, 0)
            )
            return together[self.rows - 1 :: self.rows]

        return noise


def paint(
    backbone: Backbone,
    ready: Ready,
    *,
    n: int = 1,
    steps: int = 30,
    seed: int = 0,
    size: Size | None = None,
    sampler: str = "ddim",
) -> Tensor:
    """[n * rows, 3, H, W] in [0, 1]: n groups of neighbours, the last of each the result.

    Noise is drawn as in make_images: with one row and neutral knobs the pictures are the same.
    """
    if not 1 <= steps <= 1000:
        raise InputError(f"steps must be from 1 to 1000, got {steps}")
    shape = (n, backbone.latent_channels, *latent_shape(backbone, size))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(shape, generator=generator)
    if ready.start is not None:
        noise = ready.start.expand(n, -1, -1, -1)
    latents = sample(
        ready.score,
        make_scheduler(sampler, backbone.scheduler_config),
        noise.to(backbone.device).repeat_interleave(ready.rows, 0),
        steps=steps,
        generator=generator,
    )
    return backbone.decode_latents(latents)
