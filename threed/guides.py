"""The guidance that a stage names, made for a backbone."""

from __future__ import annotations

from collections.abc import Callable

from guidance import Guidance
from guidance.critic import LoraCritic
from guidance.distill import Pull
from guidance.dreamflow import DreamFlow
from guidance.mvdream import MultiView
from guidance.prompts import Prompts
from guidance.sds import SDS
from guidance.variants import Classifier, Interval, NoiseFree
from guidance.vsd import VSD
from threed.config import Run, Stage
from threed.core import InputError
from threed.diffusion.backbone import Backbone, load_backbone
from threed.diffusion.stable_diffusion import StableDiffusion

FROZEN: dict[str, Callable[[Prompts, Pull], Guidance]] = {
    "sds": SDS,
    "mvdream": MultiView,
    "csd": Classifier,
    "nfsd": NoiseFree,
    "ism": Interval,
}
"""Guidances without a net of their own."""


def make_guide(stage: Stage, backbone: Backbone, run: Run, prompt: str) -> Guidance:
    """The guidance that a stage names; InputError if the backbone cannot serve it."""
    many = backbone.views > 1
    if stage.guidance == ("sds" if many else "mvdream"):
        kind, other = ("multi-view", "mvdream") if many else ("single-view", "sds")
        raise InputError(f"the backbone {backbone.name!r} is {kind}, but guidance is "
                         f"{stage.guidance!r}: use guidance={other}, or its preset")  # fmt: skip
    if stage.batch % backbone.views:
        raise InputError(f"batch must be a multiple of the {backbone.views} views of "
                         f"{backbone.name!r}, got {stage.batch}")  # fmt: skip
    prompts = Prompts(
        backbone, prompt, negative=run.negative, view_words=stage.view_words, blend=stage.view_blend
    )
    pull = Pull(
        guidance_scale=stage.guidance_scale, weighting=stage.weighting, t_min=stage.t_min,
        t_max=stage.t_max, rescale=stage.rescale, grad_clip=stage.grad_clip,
    )  # fmt: skip
    if stage.guidance in FROZEN:
        return FROZEN[stage.guidance](prompts, pull)
    critic, updates = make_critic(stage, prompts, run), stage.critic.updates
    if stage.guidance == "vsd":
        return VSD(prompts, pull, critic, updates)
    return DreamFlow(prompts, pull, critic, updates, levels=stage.noise_levels, steps=stage.steps)


def make_critic(stage: Stage, prompts: Prompts, run: Run) -> LoraCritic:
    """The critic of a stage: in the backbone itself, or in another model of the same latents.

    InputError if the other model's latents, noise levels or views differ.
    """
    settings, base = stage.critic, prompts.backbone
    backbone = base
    if settings.model is not None:
        backbone = load_backbone(settings.model, device=str(base.device))
        for what in ("latent_channels", "factor", "views"):
            if getattr(backbone, what) != getattr(base, what):
                raise InputError(f"critic.model {settings.model!r} cannot judge the latents of "
                                 f"{base.name!r}: {what} is {getattr(backbone, what)}, not "
                                 f"{getattr(base, what)}")  # fmt: skip
        if not backbone.alphas_cumprod.allclose(base.alphas_cumprod):
            raise InputError(f"critic.model {settings.model!r} has other noise levels than "
                             f"{base.name!r}")  # fmt: skip
        prompts = Prompts(backbone, prompts.prompt, view_words=False)
    assert isinstance(backbone, StableDiffusion)
    return LoraCritic(
        prompts, backbone, rank=settings.rank, learning_rate=settings.learning_rate,
        warmup=settings.warmup, dropout=settings.dropout, seed=run.seed,
    )  # fmt: skip
