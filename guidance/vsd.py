"""Variational score distillation: towards the prompt, away from what the scene already looks like.

min KL(renders || prompt's pictures) descends along the difference of the two scores at every noise
level (ProlificDreamer, arXiv:2305.16213); a critic learns the renders' score on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from guidance.critic import Critic
from guidance.distill import (
    WEIGHTS,
    Pull,
    draw_noise,
    draw_t,
    encode_render,
    inject,
)
from guidance.prompts import Prompts
from threed.core.cameras import Cameras
from threed.diffusion.noise import Noised, diffuse


@dataclass(frozen=True)
class Contrast:
    """The difference of two scores: the prompt's, and a critic's of the scene."""

    prompts: Prompts
    pull: Pull
    critic: Critic
    updates: int  # steps of the critic a step of the scene

    def difference(self, seen: Noised, cameras: Cameras, step: int) -> Tensor:
        """The noise that the prompt sees in x less the one that the critic does, [B, C, h, w]."""
        with torch.no_grad():
            scale, rescale = self.pull.guidance_scale(step), self.pull.rescale(step)
            guided = self.prompts.score(cameras, scale, rescale)
            return guided(seen.x, seen.t) - self.critic.noise(seen.x, seen.t, cameras)

    def state_dict(self) -> dict[str, Any]:
        """What the critic has learned."""
        return self.critic.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state_dict, exactly."""
        self.critic.load_state_dict(state)


@dataclass(frozen=True)
class VSD(Contrast):
    """The gradient w(t) (prompt's noise - critic's noise), each picture at its own t.

    The critic learns from the same renders at levels of all the 1000. Pictures that a multi-view
    backbone sees together share t.
    """

    def __call__(
        self, image: Tensor, cameras: Cameras, step: int, generator: Generator
    ) -> dict[str, Tensor]:
        """{"vsd": loss, "critic": its own, without a gradient} for image [B, H, W, 3] in [0, 1]."""
        pull, backbone = self.pull, self.prompts.backbone
        z = encode_render(backbone, image)
        t = pull.draw_t(len(z), backbone.views, step, generator)
        seen = diffuse(z, t, draw_noise(z, generator), backbone.alphas_cumprod)
        weight = WEIGHTS[pull.weighting](seen.alpha, seen.sigma)
        gradient = pull.clipped(weight * self.difference(seen, cameras, step), step)
        for _ in range(self.updates):
            t = draw_t(len(z) // backbone.views, 0.0, 1.0, generator)
            t = t.repeat_interleave(backbone.views)
            loss = self.critic.learn(z.detach(), t, cameras, step, generator)
        return {"vsd": inject(z, gradient), "critic": loss}
