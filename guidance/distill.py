"""What the distilling guidances share: latents of a render, noise levels, noise, the gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from guidance.levels import level
from threed.core.schedule import Schedule
from threed.diffusion.backbone import Backbone
from threed.diffusion.noise import Noised, diffuse

Weighting = Literal["sigma2", "uniform", "x0"]
WEIGHTS: dict[Weighting, Callable[[Tensor, Tensor], Tensor]] = {
    "sigma2": lambda alpha, sigma: sigma**2,  # DreamFusion
    "uniform": lambda alpha, sigma: torch.ones_like(sigma),  # Magic3D's coarse stage
    "x0": lambda alpha, sigma: sigma / alpha,  # the gradient of half the squared distance to x0
}
"""w(t) from the signal and noise levels of t."""


@dataclass(frozen=True)
class Pull:
    """How a guidance pulls, whatever its formula."""

    guidance_scale: Schedule  # by step
    weighting: Weighting
    t_min: Schedule  # by step, as fractions of the 1000 noise levels
    t_max: Schedule
    rescale: Schedule  # by step; 0 is plain CFG, 1 gives x0 the contrast of the text alone
    grad_clip: Schedule | None = None  # by step, the largest entry of the latents' gradient

    def draw_t(self, n: int, views: int, step: int, generator: Generator) -> Tensor:
        """[n] levels between t_min and t_max; every `views` neighbours share one."""
        t = draw_t(n // views, self.t_min(step), self.t_max(step), generator)
        return t.repeat_interleave(views)

    def clipped(self, gradient: Tensor, step: int) -> Tensor:
        """Bring the entries of a gradient [B, C, h, w] into the bounds of a step."""
        if self.grad_clip is None:
            return gradient
        bound = self.grad_clip(step)
        return gradient.clamp(-bound, bound)


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
    first, last = level(low), level(high)
    device = generator.device
    return torch.randint(first, max(first, last) + 1, (n,), generator=generator, device=device)


def draw_noise(z: Tensor, generator: Generator) -> Tensor:
    """Draw standard normal noise like z [B, C, h, w], where the generator lives."""
    noise = torch.randn(z.shape, generator=generator, device=generator.device, dtype=z.dtype)
    return noise.to(z.device)


def distill(
    backbone: Backbone,
    pull: Pull,
    image: Tensor,
    step: int,
    generator: Generator,
    difference: Callable[[Noised], Tensor],
    t: Tensor | None = None,
) -> Tensor:
    """A scalar whose gradient in the latents of image [B, H, W, 3] is w(t) * difference / B.

    t [B] are the noise levels, by default drawn as pull says. No graph is kept through the model.
    """
    if t is None:
        t = pull.draw_t(len(image), backbone.views, step, generator)
    z = encode_render(backbone, image)
    seen = diffuse(z, t, draw_noise(z, generator), backbone.alphas_cumprod)
    with torch.no_grad():
        gradient = WEIGHTS[pull.weighting](seen.alpha, seen.sigma) * difference(seen)
    return inject(z, pull.clipped(gradient, step))


def inject(z: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose gradient in z [B, C, h, w] is the given one, divided by B.

    As a mean over the batch of half the squared distance to a target, so that its value is
    meaningful too.
    """
    target = (z - gradient).detach()
    return 0.5 * (z - target).square().sum() / len(z)
