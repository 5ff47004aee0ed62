"""Scores: guided noise estimates, and the ways to combine conditions into one.

A sampler needs a Score to make a picture, a distillation loss needs one to pull a 3D scene.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from threed.diffusion.backbone import Backbone
from threed.diffusion.condition import Condition, stack, stackable
from threed.diffusion.noise import alpha_sigma
from threed.diffusion.progress import due

Score = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B, C, h, w], t [B]) -> noise [B, C, h, w], guidance included."""

Combine = Callable[[Sequence[Tensor], Tensor, Tensor], Tensor]
"""(one noise for each condition, x_t, t) -> one noise."""


def score(backbone: Backbone, conditions: Sequence[Condition], combine: Combine) -> Score:
    """The Score of several conditions of B items each. What can share a UNet call does.

    It takes any multiple of B items: every B neighbours get the conditions in their order.
    """
    groups: list[list[int]] = []
    for i, condition in enumerate(conditions):
        fitting = [group for group in groups if stackable(conditions[group[0]], condition)]
        if fitting:
            fitting[0].append(i)
        else:
            groups.append([i])

    def batches(times: int) -> list[Condition]:
        return [stack([conditions[i].repeat(times) for i in group]) for group in groups]

    once = batches(1)

    def noise(x: Tensor, t: Tensor) -> Tensor:
        times = max(len(x) // len(conditions[0]), 1)
        noises = [x] * len(conditions)
        for group, condition in zip(groups, once if times == 1 else batches(times)):
            n = len(group)
            out = backbone.predict_noise(x.repeat(n, 1, 1, 1), t.repeat(n), condition)
            for i, part in zip(group, out.chunk(n)):
                noises[i] = part
        return combine(noises, x, t)

    return noise


def plain() -> Combine:
    """The noise of the only condition."""
    return lambda noises, x, t: noises[0]


def cfg(scale: float) -> Combine:
    """Classifier-free guidance over [text, unconditional]: uncond + scale * (text - uncond)."""
    return lambda noises, x, t: torch.lerp(noises[1], noises[0], scale)


def guided(backbone: Backbone, text: Condition, other: Condition, scale: float) -> Score:
    """Classifier-free guidance from `other` towards a text; one condition where it is turned off.

    It is turned off at scale 1.
    """
    if scale == 1:
        return score(backbone, [text], plain())
    return score(backbone, [text, other], cfg(scale))


def inside(score: Score, mask: Tensor, clean: Tensor, alphas_cumprod: Tensor) -> Score:
    """The Score where a mask is; elsewhere the noise that leaves clean latents [B, C, h, w].

    So a model that knows no masks paints into a picture. mask [B, 1, H, W] of 0 and 1, of the
    picture's pixels: a latent of which it covers anything is painted.
    """
    painted = F.adaptive_max_pool2d(mask.to(clean), clean.shape[-2:]) > 0

    def noise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = alpha_sigma(alphas_cumprod, t)
        return torch.where(painted, score(x, t), (x - alpha * clean) / sigma)

    return noise


def rescaled(guide: Combine, blend: float, alphas_cumprod: Tensor, views: int = 1) -> Combine:
    """Guidance whose clean picture keeps the contrast of the text's: blend 0 changes nothing.

    The text is the first condition; alphas_cumprod [1000]. The estimate of x0 is scaled to the
    standard deviation that the text alone gives, taken over a whole item, or over `views`
    neighbours of one t together (MVDream, arXiv:2308.16512).
    """

    def combine(noises: Sequence[Tensor], x: Tensor, t: Tensor) -> Tensor:
        text, noise = noises[0], guide(noises, x, t)
        sigma = alpha_sigma(alphas_cumprod, t)[1]
        clean, goal = x - sigma * noise, x - sigma * text  # alpha * x0: alpha cancels
        std = [c.reshape(len(x) // views, -1).std(1) for c in (goal, clean)]
        factor = (std[0] / std[1]).repeat_interleave(views)[:, None, None, None]
        return (x - clean * (blend * factor + 1 - blend)) / sigma

    return combine


def dual_cfg(text_scale: float, image_scale: float) -> Combine:
    """Two scales over [text and image, image, neither], as InstructPix2Pix (arXiv:2211.09800)."""

    def combine(noises: Sequence[Tensor], x: Tensor, t: Tensor) -> Tensor:
        both, image, neither = noises
        return neither + image_scale * (image - neither) + text_scale * (both - image)

    return combine


def perp_neg(scale: float, weights: Sequence[Tensor]) -> Combine:
    """CFG over [text, unconditional, negative, ...], weights [B] for each negative, at most 0.

    Of each negative's direction only what is perpendicular to the text's counts, so that it cannot
    undo the text (Perp-Neg, arXiv:2304.04968).
    """

    def combine(noises: Sequence[Tensor], x: Tensor, t: Tensor) -> Tensor:
        text, uncond, *negatives = noises
        main = text - uncond
        total = main
        for weight, negative in zip(weights, negatives, strict=True):
            other = negative - uncond
            along = (other * main).sum((1, 2, 3), keepdim=True)
            square = main.square().sum((1, 2, 3), keepdim=True).clamp_min(1e-12)
            away = weight[:, None, None, None].to(main)
            total = total + away * (other - along / square * main)
        return uncond + scale * total

    return combine


def switch(first: Score, then: Score, until: float) -> Score:
    """One Score for the steps up to a share of the sampling (0 to 1), another for the others."""

    def noise(x: Tensor, t: Tensor) -> Tensor:
        late = ~due(t, 0.0, until)
        if bool(late.all()):
            return then(x, t)
        if not bool(late.any()):
            return first(x, t)
        return torch.where(late[:, None, None, None], then(x, t), first(x, t))

    return noise


def with_gradient(
    base: Score,
    energy: Callable[[Tensor, Tensor], Tensor],
    alphas_cumprod: Tensor,
    limit: float = math.inf,
) -> Score:
    """Lower an energy on the way: noise + sigma_t * d energy / d x_t, for energy(x_t, t) -> [B].

    What is added to an item has at most `limit` times the norm of its noise.
    """

    def noise(x: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(energy(leaf, t).sum(), leaf)
        estimate = base(x, t)
        added = alpha_sigma(alphas_cumprod, t)[1] * gradient
        if math.isinf(limit):
            return estimate + added
        sizes: list[Tensor] = [v.flatten(1).norm(dim=1) for v in (estimate, added)]
        share = (limit * sizes[0] / sizes[1].clamp_min(1e-12)).clamp(max=1)
        return estimate + share[:, None, None, None] * added

    return noise
