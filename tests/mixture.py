"""A diffusion model that is a formula: the exact noise of Gaussian mixtures, one a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from threed.core.cameras import Cameras
from threed.diffusion.condition import Condition
from threed.diffusion.noise import alpha_sigma

ALPHAS = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)


@dataclass(frozen=True)
class Gaussians:
    """Sum over k of weights[k] N(means[k], deviations[k]^2), the same for each latent pixel."""

    weights: Tensor  # [K]
    means: Tensor  # [K, C, h, w]
    deviations: Tensor  # [K]

    def noise(self, x: Tensor, t: Tensor) -> Tensor:
        """The exact noise in x [B, C, h, w] at t [B]: -sigma times the gradient of log p_t(x)."""
        alpha, sigma = alpha_sigma(ALPHAS.to(x), t)
        return sigma * self.pull(x, alpha, sigma)

    def pull(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Minus the gradient of log p at x, for alpha * data + sigma * noise."""
        n = x.shape[1:].numel()
        means, deviations = self.means.to(x), self.deviations.to(x)
        variance = (alpha.reshape(-1, 1) * deviations) ** 2 + sigma.reshape(-1, 1) ** 2  # [B, K]
        away = x[:, None] - alpha[:, None] * means  # [B, K, C, h, w]
        log = -0.5 * away.square().sum((2, 3, 4)) / variance - 0.5 * n * variance.log()
        share = (log + self.weights.to(x).log()).softmax(1) / variance
        return (share[..., None, None, None] * away).sum(1)


def gaussian(mean: Tensor | float, deviation: float, size: int = 2) -> Gaussians:
    """One Gaussian over latents [3, size, size]."""
    means = torch.as_tensor(mean, dtype=torch.float64).expand(1, 3, size, size)
    return Gaussians(torch.ones(1), means, torch.tensor([deviation]))


@dataclass
class Mixture:
    """A backbone whose latents are the pictures' pixels, in -1..1, and whose noise is exact.

    Prompts are known by what stands before ", front view" and the like.
    """

    worlds: Mapping[str, Gaussians]
    image_size: int = 2
    views: int = 1
    alphas_cumprod: Tensor = field(default_factory=lambda: ALPHAS)
    name: str = "mixture"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    factor: int = 1
    latent_channels: int = 3
    scheduler_config: Mapping[str, Any] = field(default_factory=dict)
    times: list[Tensor] = field(default_factory=list)

    def encode_text(self, prompts: Sequence[str]) -> Condition:
        names = list(self.worlds)
        return Condition(
            torch.tensor([[[float(names.index(p.partition(", ")[0]))]] for p in prompts])
        )

    def encode_image(self, image: Tensor) -> Tensor:
        return image * 2 - 1

    def predict_noise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.times.append(t)
        out = torch.empty_like(x)
        for i, world in enumerate(self.worlds.values()):
            rows = condition.tokens[:, 0, 0] == i
            out[rows] = world.noise(x[rows], t[rows])
        return out

    def token_count(self, prompt: str) -> tuple[int, int]:
        raise NotImplementedError

    def token_ids(self, prompt: str) -> tuple[int, ...]:
        raise NotImplementedError

    def reads(self, prompt: str) -> str:
        raise NotImplementedError

    def decode_latents(self, latents: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass
class Exact:
    """A critic that knows the scene's distribution, and remembers what it was taught with."""

    world: Gaussians
    lessons: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # latents, levels

    def noise(self, x: Tensor, t: Tensor, cameras: Cameras) -> Tensor:
        return self.world.noise(x, t)

    def learn(
        self, z: Tensor, t: Tensor, cameras: Cameras, step: int, generator: torch.Generator
    ) -> Tensor:
        assert not z.requires_grad
        self.lessons.append((z, t))
        return torch.tensor(0.5)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass
