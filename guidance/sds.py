"""Score distillation: the gradient that makes a render more likely under a diffusion model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator, Tensor

from guidance import Frozen
from guidance.distill import Pull, distill
from guidance.prompts import Prompts
from threed.core.cameras import Cameras
from threed.diffusion.noise import Noised


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
        difference = error(self.prompts, self.pull, cameras, step)
        backbone = self.prompts.backbone
        return {"sds": distill(backbone, self.pull, image, step, generator, difference)}


def error(prompts: Prompts, pull: Pull, cameras: Cameras, step: int) -> Callable[[Noised], Tensor]:
    """The guided estimate of the noise less the noise, or its control variate, [B, C, h, w]."""
    guided = prompts.score(cameras, pull.guidance_scale(step), pull.rescale(step))
    less = prompts.less(cameras, pull.guidance_scale(step))
    return lambda seen: guided(seen.x, seen.t) - less(seen)
