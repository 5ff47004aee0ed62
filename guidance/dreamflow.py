"""DreamFlow: the probability flow from noise to pictures, followed by the renders of one scene.

docs/dreamflow.md derives it and names what is assumed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from guidance.distill import draw_noise, encode_render, inject
from guidance.levels import check_falling, level
from guidance.vsd import Contrast
from threed.core.cameras import Cameras
from threed.diffusion.noise import alpha_sigma, diffuse


@dataclass(frozen=True)
class DreamFlow(Contrast):
    """The approximate probability flow (Lee et al., ICLR 2024).

    The noise level falls from pull.t_max to pull.t_min in `levels` equal steps of t; all views of
    a level share it. In EDM's sigma = sigma_t / alpha_t a level's gradient is (sigma_i -
    sigma_i+1) (prompt's noise - critic's noise), and the critic learns at sigma_i with fresh noise.
    InputError if the bounds change with the step, or levels would coincide.
    """

    levels: int  # N
    steps: int  # of the scene, all levels together: a level has steps / levels of them

    def __post_init__(self) -> None:
        """Refuse what gives no falling schedule."""
        check_falling(self.pull.t_min, self.pull.t_max, self.levels, self.steps)

    @property
    def schedule(self) -> Tensor:
        """[levels + 1] int64 noise levels, strictly falling; the last one is only arrived at."""
        high, low = level(self.pull.t_max(0)), level(self.pull.t_min(0))
        return torch.linspace(high, low, self.levels + 1).round().long()

    def __call__(
        self, image: Tensor, cameras: Cameras, step: int, generator: Generator
    ) -> dict[str, Tensor]:
        """{"dreamflow": loss, "critic": its own, without a gradient} for image [B, H, W, 3]."""
        backbone = self.prompts.backbone
        i = step * self.levels // self.steps
        pair = self.schedule[i : i + 2].to(backbone.device)
        alpha, sigma = alpha_sigma(backbone.alphas_cumprod, pair)
        here, there = (sigma / alpha).flatten()
        z = encode_render(backbone, image)
        t = pair[:1].expand(len(z))
        seen = diffuse(z, t, draw_noise(z, generator), backbone.alphas_cumprod)
        gradient = self.pull.clipped((here - there) * self.difference(seen, cameras, step), step)
        for _ in range(self.updates):
            loss = self.critic.learn(z.detach(), t, cameras, step, generator)
        return {"dreamflow": inject(z, gradient), "critic": loss}
