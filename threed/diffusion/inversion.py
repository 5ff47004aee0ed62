"""From a picture to the noise that makes it, so that real pictures can be edited.

DDIM inversion walks the sampler's own levels from clean to noisy; null-text optimisation then
finds, level by level, the unconditional tokens with which guided sampling comes back along the
same way (arXiv:2211.09794).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from threed.diffusion.backbone import Backbone
from threed.diffusion.condition import Condition
from threed.diffusion.noise import Level, alpha_sigma, ddim_step
from threed.diffusion.sampler import make_scheduler
from threed.diffusion.score import Score, cfg, plain, score

INNER_STEPS = 10  # of the optimiser, at most, for each level
LEARNING_RATE = 1e-2  # at the first level, half of it at the last
CLOSE = 1e-5, 2e-5  # the loss that is good enough at the first level, and more for each further
Say = Callable[[int, int, float], None]  # (level, of how many, loss)


@dataclass(frozen=True)
class Nulls:
    """Unconditional tokens for each of N noise levels of a sampling."""

    timesteps: Tensor  # [N] falling
    tokens: Tensor  # [N, L, C]

    def at(self, t: Tensor) -> Tensor:
        """[B, L, C] those of the levels nearest to t [B]."""
        nearest = (t[:, None] - self.timesteps.to(t)).abs().argmin(1)
        return self.tokens[nearest]


@dataclass(frozen=True)
class Inverted:
    """A picture as noise, and how to come back from it."""

    start: Tensor  # [1, C, h, w] latents at the first level
    nulls: Nulls


def invert_picture(
    backbone: Backbone,
    image: Tensor,
    prompt: str,
    *,
    steps: int,
    scale: float,
    negative: str = "",
    inner_steps: int = INNER_STEPS,
    say: Say = lambda level, levels, loss: None,
) -> Inverted:
    """The noise of a picture [1, 3, H, W] in [0, 1] that the prompt describes.

    Sampling from `start` with the prompt, guidance of this scale, the nulls in the place of the
    negative prompt and as many steps of DDIM gives the picture again.
    """
    with torch.no_grad():
        clean = backbone.encode_image(image.to(backbone.device))
    texts = backbone.encode_text([prompt, negative])
    text, other = (texts.select(torch.tensor([i], device=texts.tokens.device)) for i in (0, 1))
    timesteps = levels(backbone, steps)
    way = invert(score(backbone, [text], plain()), clean, timesteps, backbone.alphas_cumprod)
    inner_steps = inner_steps if scale != 1 else 0  # guidance of 1 never reads them
    nulls = null_text(
        backbone, text, other, way, timesteps, scale=scale, inner_steps=inner_steps, say=say
    )
    return Inverted(way[0], nulls)


def levels(backbone: Backbone, steps: int) -> Tensor:
    """[steps] the timesteps of DDIM sampling with so many steps, falling."""
    scheduler = make_scheduler("ddim", backbone.scheduler_config)
    scheduler.set_timesteps(steps)
    timesteps: Tensor = scheduler.timesteps
    return timesteps.to(backbone.device)


@torch.no_grad()
def invert(score: Score, clean: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> list[Tensor]:
    """Latents [B, C, h, w] at each of the timesteps, and the clean ones last.

    The noise at a level is taken from the latents of the level below it.
    """
    level = _all_levels(timesteps, alphas_cumprod)
    way = [clean]
    for i in reversed(range(len(timesteps))):
        noise = score(way[0], timesteps[i].expand(len(clean)))
        way.insert(0, ddim_step(way[0], noise, level[i + 1], level[i]))
    return way


def null_text(
    backbone: Backbone,
    text: Condition,
    other: Condition,
    way: Sequence[Tensor],
    timesteps: Tensor,
    *,
    scale: float,
    inner_steps: int = INNER_STEPS,
    say: Say = lambda level, levels, loss: None,
) -> Nulls:
    """Find unconditional tokens for which guided DDIM steps follow `way`, [1, C, h, w] a level.

    text and other are conditions of one item; the search begins from other's tokens, and at each
    further level from those of the level before.
    """
    level = _all_levels(timesteps, backbone.alphas_cumprod)
    tokens, found, x = other.tokens, [], way[0]
    for i, timestep in enumerate(timesteps):
        t = timestep[None]

        def step(tokens: Tensor, x: Tensor = x, t: Tensor = t, i: int = i) -> Tensor:
            guided = score(backbone, [text, replace(other, tokens=tokens)], cfg(scale))
            return ddim_step(x, guided(x, t), level[i], level[i + 1])

        rate = LEARNING_RATE * (1 - i / (2 * len(timesteps)))
        enough = CLOSE[0] + i * CLOSE[1]
        tokens, loss = _fit(step, tokens, way[i + 1], rate, enough, inner_steps)
        found.append(tokens)
        with torch.no_grad():
            x = step(tokens)
        say(i + 1, len(timesteps), loss)
    return Nulls(timesteps, torch.cat(found))


def _fit(
    step: Callable[[Tensor], Tensor],
    tokens: Tensor,
    goal: Tensor,
    rate: float,
    enough: float,
    inner_steps: int,
) -> tuple[Tensor, float]:
    """Tokens [1, L, C] whose step comes nearer to the goal, and its last squared error."""
    leaf = tokens.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([leaf], lr=rate)
    loss = torch.zeros(())
    with torch.enable_grad():
        for _ in range(inner_steps):
            loss = (step(leaf) - goal).square().mean()
            if float(loss.detach()) < enough:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return leaf.detach(), float(loss.detach())


def _all_levels(timesteps: Tensor, alphas_cumprod: Tensor) -> list[Level]:
    """The N levels of the timesteps [N] and, last, where DDIM ends: that of timestep 0."""
    ends = torch.cat([timesteps, timesteps.new_zeros(1)])
    return list(zip(*(part.unsqueeze(1) for part in alpha_sigma(alphas_cumprod, ends))))
