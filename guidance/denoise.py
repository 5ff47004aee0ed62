"""A scene that follows pictures of itself, which the model has noised and denoised again.

DreamGaussian's second stage (arXiv:2309.16653, section 3.3): a render is noised, a sampler takes it
back in several steps, and the scene learns from the pixels of what comes out. A distilled gradient
is the mean of all that the prompt could look like; this is one picture of it, so that patterns stay
patterns, and colours are those that the model samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from guidance.distill import Pull, draw_noise, encode_render
from guidance.prompts import Prompts
from threed.core.cameras import Cameras
from threed.diffusion.sampler import make_scheduler, sample

KEPT = 12  # groups of pictures that a scene is shown again
COARSE, LIGHT = 8, 2.0  # cells a side in which light is told from colour; the most that it does
DARK = 0.05  # brightness below which a ratio means nothing


class Denoise:
    """Guidance by the mean absolute difference to denoised pictures.

    Every `every` steps the views of a step are noised to a level between pull.t_min and pull.t_max
    and denoised by `passes` steps of DDIM; the paper does so in each step, and takes the mean
    square. Between, the scene learns by turns from these and from those of the KEPT groups before,
    so that what views do not agree about is evened out. All pictures must have one background.
    """

    def __init__(self, prompts: Prompts, pull: Pull, *, every: int, passes: int) -> None:
        self.prompts, self.pull, self.every, self.passes = prompts, pull, every, passes
        self.seen: list[tuple[Cameras, Tensor]] = []  # with pictures [B, H, W, 3], the newest last

    def cameras(self, step: int, drawn: Cameras) -> Cameras:
        """The cameras of a step: those that chance has drawn, or of pictures that are there."""
        return drawn if self._is_new(step) else self.seen[self._turn(step)][0]

    def __call__(
        self, image: Tensor, cameras: Cameras, step: int, generator: Generator
    ) -> dict[str, Tensor]:
        """{"denoise": loss} for image [B, H, W, 3] in [0, 1], seen by the cameras of the step."""
        if self._is_new(step):
            made = self.denoised(image.detach(), cameras, step, generator)
            self.seen = [*self.seen[1 - KEPT :], (cameras, evenly(made, image.detach()))]
        wanted = self.seen[self._turn(step)][1]
        return {"denoise": (image - wanted.to(image)).abs().mean()}

    def state_dict(self) -> dict[str, Any]:
        """The pictures, and where they were taken."""
        cameras = [{"c2w": at.c2w, "fov_y": at.fov_y, "size": (at.height, at.width)}
                   for at, _ in self.seen]  # fmt: skip
        return {"cameras": cameras, "pictures": [pictures for _, pictures in self.seen]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with these pictures."""
        cameras = [Cameras(at["c2w"], at["fov_y"], *at["size"]) for at in state["cameras"]]
        self.seen = list(zip(cameras, state["pictures"], strict=True))

    @torch.no_grad()
    def denoised(self, image: Tensor, cameras: Cameras, step: int, generator: Generator) -> Tensor:
        """What the model makes of pictures [B, H, W, 3], as many pixels."""
        backbone, pull = self.prompts.backbone, self.pull
        low, high = pull.t_min(step), pull.t_max(step)
        level = max(low + (high - low) * float(torch.rand((), generator=generator)), 1e-3)
        clean = encode_render(backbone, image)
        made = sample(
            self.prompts.score(cameras, pull.guidance_scale(step), pull.rescale(step)),
            make_scheduler("ddim", backbone.scheduler_config),
            draw_noise(clean, generator),
            steps=min(round(self.passes / level), len(backbone.alphas_cumprod)),
            clean=clean,
            strength=level,
        )
        pictures = backbone.decode_latents(made)
        size = image.shape[1:3]
        if pictures.shape[-2:] != size:
            pictures = F.interpolate(pictures, size, mode="bilinear", antialias=True)
        return pictures.movedim(1, -1).clamp(0, 1).to(image)

    def _is_new(self, step: int) -> bool:
        return step % self.every == 0 or not self.seen

    def _turn(self, step: int) -> int:
        """Which pictures a step learns from: every other step the newest, else some before."""
        last = len(self.seen) - 1
        return last if step % 2 == 0 or self._is_new(step) or not last else step // 2 % last


def evenly(pictures: Tensor, before: Tensor) -> Tensor:
    """Pictures [B, H, W, 3] in [0, 1] without the light that they have and those before have not.

    A model draws a lamp into them, and a scene that learned it would show it for good. So the ratio
    of their brightness to that of before, over COARSE cells a side, is undone, but for its mean
    over all pictures, which is the colour's, and for what is more than LIGHT beside that.
    """
    after, old = (
        F.adaptive_avg_pool2d(x.mean(-1)[:, None], COARSE) + DARK for x in (pictures, before)
    )
    ratio = old / after
    ratio = (ratio / ratio.mean()).clamp(1 / LIGHT, LIGHT)
    smooth = F.interpolate(ratio, pictures.shape[1:3], mode="bicubic")
    return (pictures * smooth.movedim(1, -1)).clamp(0, 1)
