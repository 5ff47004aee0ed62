"""How many fronts a thing has, as a diffusion model sees it: the check for several faces (Janus).

A model that knows "front view" and "back view" denoises a picture better when it is told the right
one. So the two errors, compared for pictures all around, are a likeness to a front (a diffusion
classifier, arXiv:2303.16203). One front makes a wave of one period around the thing, two make two.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from threed.diffusion.backbone import Backbone
from threed.diffusion.condition import Condition
from threed.diffusion.noise import alpha_sigma

VIEWS = 12  # pictures of a full circle
LEVELS = tuple(range(225, 800, 50))  # noise levels that are compared, a noise for each
SURE = 1.7  # standard errors that a wave must be high to count, and
HIGH = 1e-4  # of the noise's energy: a thing without a front makes low waves, however sure
MOST = 3  # fronts that are told apart
ALIKE = 0.6  # of the energy returns as often as there are fronts: of one narrow front 0.5 do twice
TOGETHER = 4  # pictures at once


@dataclass(frozen=True)
class Fronts:
    """What was seen around a thing."""

    likeness: Tensor  # [N] to a front, in standard deviations over the circle, from azimuth 0 on
    waves: int  # 1 to MOST: how often around the thing the likeness returns
    height: float  # of it, as a share of the noise's energy
    certainty: float  # its height in standard errors

    @property
    def count(self) -> int | None:
        """How many fronts there are; None where no side is told from another."""
        return self.waves if self.certainty >= SURE and self.height >= HIGH else None


@torch.no_grad()
def find_fronts(backbone: Backbone, prompt: str, pictures: Tensor, *, seed: int = 0) -> Fronts:
    """The fronts in pictures [N, 3, H, W] of a full circle, N at least 8, evenly from azimuth 0.

    Pictures have the backbone's size. The same noise is added to all, so that only they differ.
    """
    count = len(pictures)
    if count < 8:
        raise ValueError(f"fronts need at least 8 pictures around, got {count}")
    generator = torch.Generator().manual_seed(seed)
    parts = (part.to(backbone.device) for part in pictures.split(TOGETHER))
    z = torch.cat([backbone.encode_image(part) for part in parts])
    noises = torch.randn(len(LEVELS), *z.shape[1:], generator=generator).to(z)
    front, back = (backbone.encode_text([f"{prompt}, {name} view"]) for name in ("front", "back"))

    def error(text: Condition, x: Tensor, t: int, noise: Tensor) -> Tensor:
        times = torch.full((len(x),), t, device=x.device)
        parts = zip(x.split(TOGETHER), times.split(TOGETHER))
        seen = [backbone.predict_noise(x, t, text.repeat(len(x))) for x, t in parts]
        return (torch.cat(seen) - noise).square().mean((1, 2, 3))

    rows = []
    for t, noise in zip(LEVELS, noises):
        alpha, sigma = alpha_sigma(backbone.alphas_cumprod, torch.tensor([t], device=z.device))
        x = alpha * z + sigma * noise
        rows.append(error(back, x, t, noise) - error(front, x, t, noise))
    return read_waves(torch.stack(rows))


def read_waves(likeness: Tensor) -> Fronts:
    """The fronts in likenesses [K, N], shares of the noise's energy, measured K times around.

    Two fronts are alike: nearly all that is seen returns after half a circle. One front, the
    narrower it is, makes waves of two and three periods, too.
    """
    likeness = likeness.double().cpu()
    times, count = likeness.shape
    waves = torch.fft.rfft(likeness, dim=1)[:, 1:] / count
    mean = waves.mean(0)
    energy = mean.abs().square()
    returns = {k: float(energy[k - 1 :: k].sum() / energy.sum().clamp_min(1e-24))
               for k in range(2, MOST + 1)}  # fmt: skip
    most = max(returns, key=lambda k: returns[k])
    best = most if returns[most] >= ALIKE else 1
    error = ((waves - mean).abs().square().sum(0) / (times - 1) / times).sqrt()
    whole = likeness.mean(0)
    likeness = ((whole - whole.mean()) / whole.std().clamp_min(1e-12)).float()
    height, slack = float(mean[best - 1].abs()), float(error[best - 1].clamp_min(1e-12))
    return Fronts(likeness, best, height, height / slack)


def chart(pictures: Iterable[Tensor], fronts: Fronts) -> Tensor:
    """[3, 1.25 size, N size] the pictures side by side, over bars: red, the more like a front.

    Bars of sides unlike a front are grey.
    """
    strips = []
    for picture, value in zip(pictures, fronts.likeness.tolist()):
        size = picture.shape[-1]
        bar = torch.ones(3, size // 4, size)
        high = round((size // 4) * min(abs(value) / 3, 1.0))
        colour = torch.tensor([0.85, 0.15, 0.1] if value > 0 else [0.75, 0.75, 0.75])
        bar[:, size // 4 - high :, size // 8 : size - size // 8] = colour[:, None, None]
        strips.append(torch.cat([picture, bar], 1))
    return torch.cat(strips, 2)
