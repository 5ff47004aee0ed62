"""The guidance that a stage names, made for its models."""

from __future__ import annotations

from collections.abc import Callable

from guidance import Guidance
from guidance.critic import LoraCritic
from guidance.denoise import Denoise
from guidance.distill import Pull
from guidance.dreamflow import DreamFlow
from guidance.edits import Edit
from guidance.mvdream import MultiView
from guidance.prompts import Prompts
from guidance.sds import SDS
from guidance.variants import Classifier, Interval, NoiseFree
from guidance.vsd import VSD
from threed.diffusion.backbone import Backbone
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.runs.edit import make_edits
from threed.runs.given import GivenMesh
from threed.runs.steer import Pictured, Steered
from threed.settings.run import Run, SystemSettings
from threed.settings.stage import Stage

FROZEN: dict[str, Callable[[Prompts, Pull], Guidance]] = {
    "sds": SDS, "mvdream": MultiView, "csd": Classifier, "nfsd": NoiseFree, "ism": Interval,
}  # fmt: skip
"""Guidances without a net of their own."""


def make_guide(
    stage: Stage,
    backbone: Backbone,
    run: Run,
    prompt: str,
    judge: Backbone | None = None,
    *,
    given: GivenMesh | None = None,
    edit: Edit | None = None,
) -> Guidance:
    """Make the guidance that a stage names; `judge` is its critic's model, if that is another.

    given and edit are for the guidance edit: the mesh to change, and what edits its pictures, by
    default the run's system, or InstructPix2Pix. The settings have been checked
    (`threed.runs.check`). InputError for what only a loaded model can tell: inputs that a system
    cannot follow, weights that are missing.
    """
    if stage.guidance == "edit":
        assert given is not None  # the run has been checked
        return make_edits(stage, given.mesh, backbone, run, prompt, edit)
    prompts = make_prompts(stage, backbone, run, prompt)
    pull = Pull(
        guidance_scale=stage.guidance_scale, weighting=stage.weighting, t_min=stage.t_min,
        t_max=stage.t_max, rescale=stage.rescale, grad_clip=stage.grad_clip,
    )  # fmt: skip
    guide: Guidance
    if stage.guidance in FROZEN:
        guide = FROZEN[stage.guidance](prompts, pull)
    elif stage.guidance == "denoise":
        how = stage.denoise
        guide = Denoise(prompts, pull, every=how.every, passes=how.passes)
    else:
        critic, updates = make_critic(stage, prompts, run, judge), stage.critic.updates
        if stage.guidance == "vsd":
            guide = VSD(prompts, pull, critic, updates)
        else:
            levels, steps = stage.noise_levels, stage.steps
            guide = DreamFlow(prompts, pull, critic, updates, levels=levels, steps=steps)
    pictured = isinstance(prompts, Steered) and prompts.pictured
    return Pictured(guide, backbone.views) if pictured else guide


def make_prompts(stage: Stage, backbone: Backbone, run: Run, prompt: str) -> Prompts:
    """Encode the prompt as a stage sees it, under the run's system if it has one."""
    if run.system == SystemSettings():
        return Prompts(
            backbone, prompt, negative=run.negative, view_words=stage.view_words,
            blend=stage.view_blend, front_deg=stage.front_deg,
        )  # fmt: skip
    return Steered(
        backbone, prompt, run.system, scale=stage.guidance_scale(0), negative=run.negative,
        view_words=stage.view_words, front_deg=stage.front_deg,
    )  # fmt: skip


def make_critic(
    stage: Stage, prompts: Prompts, run: Run, judge: Backbone | None = None
) -> LoraCritic:
    """Make the critic of a stage: in the backbone itself, or in another model, `judge`."""
    settings, net = stage.critic, prompts.backbone
    if judge is not None:
        net, prompts = judge, Prompts(judge, prompts.prompt, view_words=False)
    assert isinstance(net, StableDiffusion)  # the run has been checked
    return LoraCritic(
        prompts, net, rank=settings.rank, learning_rate=settings.learning_rate,
        warmup=settings.warmup, dropout=settings.dropout, seed=run.seed,
    )  # fmt: skip
