"""Three later corrections of score distillation, each a formula over the same estimates.

All take w(t) times a difference that, unlike SDS's, holds no fresh noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Generator, Tensor

from guidance import Frozen
from guidance.distill import WEIGHTS, Pull, distill, encode_render, inject
from guidance.prompts import Prompts
from threed.core.cameras import Cameras
from threed.diffusion.noise import Level, alpha_sigma, ddim_step
from threed.diffusion.score import Score, plain, score

LATE = 200  # NFSD: below this noise level the unconditional estimate is left whole
STRIDE = 200  # ISM: noise levels an inversion's step goes, at most ...
INTERVAL = 50  # ... and between the two estimates that are compared


@dataclass(frozen=True)
class Classifier(Frozen):
    """Classifier score distillation (arXiv:2310.19415): what guidance adds, scale (text - other).

    The other end is the negative prompt, by default the empty one.
    """

    prompts: Prompts
    pull: Pull

    def __call__(
        self, image: Tensor, cameras: Cameras, step: int, generator: Generator
    ) -> dict[str, Tensor]:
        """{"csd": loss} for image [B, H, W, 3] in [0, 1]."""

        def added(noises: Sequence[Tensor], x: Tensor, t: Tensor) -> Tensor:
            text, other = noises
            return self.pull.guidance_scale(step) * (text - other)

        texts = [self.prompts.text(cameras), self.prompts.same(self.prompts.negative, cameras)]
        estimate = score(self.prompts.backbone, texts, added)
        return {"csd": _loss(self, estimate, image, step, generator)}


@dataclass(frozen=True)
class NoiseFree(Frozen):
    """Noise-free score distillation (arXiv:2310.17590).

    scale (text - empty), and the empty estimate less the negative prompt's; at levels below LATE,
    where the empty estimate is a correction of the picture, that one whole.
    """

    prompts: Prompts
    pull: Pull

    def __call__(
        self, image: Tensor, cameras: Cameras, step: int, generator: Generator
    ) -> dict[str, Tensor]:
        """{"nfsd": loss} for image [B, H, W, 3] in [0, 1]."""

        def denoised(noises: Sequence[Tensor], x: Tensor, t: Tensor) -> Tensor:
            text, empty, bad = noises
            noise = torch.where((t < LATE)[:, None, None, None], empty, empty - bad)
            return self.pull.guidance_scale(step) * (text - empty) + noise

        texts = [self.prompts.text(cameras), self.prompts.same("", cameras),
                 self.prompts.same(self.prompts.negative, cameras)]  # fmt: skip
        estimate = score(self.prompts.backbone, texts, denoised)
        return {"nfsd": _loss(self, estimate, image, step, generator)}


@dataclass(frozen=True)
class Interval(Frozen):
    """Interval score matching (LucidDreamer, arXiv:2311.11284).

    The latents are not noised at random but inverted, by DDIM steps without a prompt, to s and on
    to t = s + INTERVAL; the guided estimate there less the empty one at s is the pull.
    """

    prompts: Prompts
    pull: Pull

    def __call__(
        self, image: Tensor, cameras: Cameras, step: int, generator: Generator
    ) -> dict[str, Tensor]:
        """{"ism": loss} for image [B, H, W, 3] in [0, 1]."""
        prompts, pull = self.prompts, self.pull
        backbone = prompts.backbone
        z = encode_render(backbone, image)
        t = max(INTERVAL, int(pull.draw_t(1, 1, step, generator)))
        s = t - INTERVAL
        guided = prompts.score(cameras, pull.guidance_scale(step), pull.rescale(step))
        empty = score(backbone, [prompts.same("", cameras)], plain())

        def at(t: int) -> Tensor:
            return torch.full((len(z),), t, device=z.device)

        def level(t: int) -> Level:
            return alpha_sigma(backbone.alphas_cumprod, at(t))

        with torch.no_grad():
            x = z.detach()
            for here, there in pairwise([*range(0, s, STRIDE), s]):
                x = ddim_step(x, empty(x, at(here)), level(here), level(there))
            noise = empty(x, at(s))
            x = ddim_step(x, noise, level(s), level(t))
            gradient = WEIGHTS[pull.weighting](*level(t)) * (guided(x, at(t)) - noise)
        return {"ism": inject(z, pull.clipped(gradient, step))}


def _loss(
    guide: Classifier | NoiseFree, estimate: Score, image: Tensor, step: int, generator: Generator
) -> Tensor:
    """The loss whose gradient is w(t) times the estimate at the noised render."""
    return distill(
        guide.prompts.backbone, guide.pull, image, step, generator,
        lambda seen: estimate(seen.x, seen.t),
    )  # fmt: skip
