"""Pictures of a Score: what a sampler has to know about it, and the sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from threed.core.errors import InputError
from threed.core.pictures import Size, sides
from threed.core.seeds import chance
from threed.diffusion.backbone import Backbone
from threed.diffusion.facts import Facts
from threed.diffusion.sampler import make_scheduler, sample
from threed.diffusion.score import Score

Decode = Callable[[Tensor], Tensor]
"""Latents [B, C, h, w] -> pictures [B, 3, H, W] in [0, 1]."""


@dataclass(frozen=True)
class Ready:
    """A Score, and what else a sampler has to know about it."""

    score: Score  # over n groups of `rows` neighbours
    rows: int = 1  # pictures of a group
    results: tuple[int, ...] = (-1,)  # rows of a group that are results; others lie beside them
    start: Tensor | None = None  # [1, C, h, w] to begin from, where noise is not what is meant
    decode: Decode | None = None  # of all rows, in the place of the backbone's own
    own_noise: bool = False  # each row begins from noise of its own; else a group shares it
    against: Score | None = None  # what distillation subtracts in the place of the noise

    def alone(self) -> Score:
        """The Score of the first result, for distillation: all rows of a group see the same x."""
        if self.rows == 1:
            return self.score

        def noise(x: Tensor, t: Tensor) -> Tensor:
            together = self.score(*(v.repeat_interleave(self.rows, 0) for v in (x, t)))
            first: Tensor = together.unflatten(0, (-1, self.rows))[:, self.results[0]]
            return first

        return noise

    def pick(self, pictures: Tensor) -> Tensor:
        """The results [n * len(results), ...] among what `paint` gives, [n * rows, ...]."""
        groups: Tensor = pictures.unflatten(0, (-1, self.rows))
        return groups[:, list(self.results)].flatten(0, 1)


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
    """[n * rows, 3, H, W] in [0, 1]: n groups of neighbours; `ready.pick` finds the results.

    Noise is drawn as in make_images: with one row and neutral knobs the pictures are the same.
    """
    if not 1 <= steps <= 1000:
        raise InputError(f"steps must be from 1 to 1000, got {steps}")
    different, alike = (n * ready.rows, 1) if ready.own_noise else (n, ready.rows)
    shape = (different, backbone.latent_channels, *latent_shape(backbone, size))
    generator = chance(seed)
    noise = torch.randn(shape, generator=generator)
    start = noise if ready.start is None else ready.start.expand(different, -1, -1, -1)
    start = start.to(backbone.device).repeat_interleave(alike, 0)
    scheduler = make_scheduler(sampler, backbone.scheduler_config)
    latents = sample(ready.score, scheduler, start, steps=steps, generator=generator)
    return (ready.decode or backbone.decode_latents)(latents)


def latent_shape(backbone: Backbone | Facts, size: Size | None = None) -> tuple[int, int]:
    """(height, width) of the latents of a picture, by default of the backbone's own size.

    InputError if the UNet cannot halve it.
    """
    width, height = sides(backbone.image_size if size is None else size)
    for pixels in (width, height):
        if pixels <= 0 or pixels % (8 * backbone.factor):
            raise InputError(f"size must be a multiple of {8 * backbone.factor} pixels for "
                             f"backbone {backbone.name!r}, got {pixels}")  # fmt: skip
    return height // backbone.factor, width // backbone.factor
