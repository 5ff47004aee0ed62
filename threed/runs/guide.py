"""The guidance that a stage names, made for a backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from guidance import Guidance
from guidance.critic import LoraCritic
from guidance.distill import Pull
from guidance.dreamflow import DreamFlow
from guidance.edits import Edit
from guidance.mvdream import MultiView
from guidance.prompts import Prompts
from guidance.sds import SDS
from guidance.variants import Classifier, Interval, NoiseFree
from guidance.vsd import VSD
from threed.core.errors import InputError
from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import load_backbone
from threed.diffusion.fronts import LEVELS
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.runs.edit import make_edits
from threed.runs.given import Given
from threed.runs.steer import Pictured, Steered
from threed.settings.run import Run, SystemSettings
from threed.settings.stage import WITH_CRITIC, Stage

FROZEN: dict[str, Callable[[Prompts, Pull], Guidance]] = {
    "sds": SDS,
    "mvdream": MultiView,
    "csd": Classifier,
    "nfsd": NoiseFree,
    "ism": Interval,
}
"""Guidances without a net of their own."""


class Backbones:
    """The models of a run's stages, loaded when asked for, those of one stage at a time."""

    def __init__(self, run: Run, say: Callable[[str], None] = lambda _: None) -> None:
        self.run, self._say = run, say
        self._held: dict[str, Backbone] = {}

    def of(self, stage: Stage) -> tuple[Backbone, ...]:
        """What guides a stage, and its critic's model if that is another; any others are let go."""
        return self._hold(list(self._names(stage)))

    def witness(self) -> Backbone:
        """What counts the fronts in the end: the last stage's, which is loaded then.

        Not if its stage never comes to the noise at which they are compared (an SDXL refiner knows
        only less): then the first's.
        """
        last = self.run.stages[-1]
        knows = 1000 * max(value for _, value in last.t_max.points) >= max(LEVELS)
        (model,) = self._hold([self.run.backbone_of(last if knows else self.run.stages[0])])
        return model

    def _hold(self, names: list[str]) -> tuple[Backbone, ...]:
        """The models of these names; any others are let go."""
        self._held = {name: model for name, model in self._held.items() if name in names}
        return tuple(self._load(name) for name in names)

    def _names(self, stage: Stage) -> Iterator[str]:
        yield self.run.backbone_of(stage)
        if stage.guidance in WITH_CRITIC and stage.critic.model is not None:
            yield stage.critic.model

    def _load(self, name: str) -> Backbone:
        if name not in self._held:
            self._say(f"loading {name}")
            self._held[name] = load_backbone(name, device=self.run.device)
        return self._held[name]


def make_guide(
    stage: Stage,
    backbone: Backbone,
    run: Run,
    prompt: str,
    other: Backbone | None = None,
    *,
    given: Given | None = None,
    edit: Edit | None = None,
) -> Guidance:
    """The guidance that a stage names; InputError if the backbone cannot serve it.

    other: critic.model, where it is loaded already. given and edit, for the guidance edit: the mesh
    to change, and what edits its pictures, by default InstructPix2Pix.
    """
    if stage.guidance == "edit":
        return make_edits(stage, backbone, run, prompt, given, edit)
    many = backbone.views > 1
    if stage.guidance == ("sds" if many else "mvdream"):
        kind, right = ("multi-view", "mvdream") if many else ("single-view", "sds")
        raise InputError(f"the backbone {backbone.name!r} is {kind}, but guidance is "
                         f"{stage.guidance!r}: use guidance={right}, or its preset")  # fmt: skip
    if stage.batch % backbone.views:
        raise InputError(f"batch must be a multiple of the {backbone.views} views of "
                         f"{backbone.name!r}, got {stage.batch}")  # fmt: skip
    prompts = make_prompts(stage, backbone, run, prompt)
    pull = Pull(
        guidance_scale=stage.guidance_scale, weighting=stage.weighting, t_min=stage.t_min,
        t_max=stage.t_max, rescale=stage.rescale, grad_clip=stage.grad_clip,
    )  # fmt: skip
    guide: Guidance
    if stage.guidance in FROZEN:
        guide = FROZEN[stage.guidance](prompts, pull)
    else:
        critic, updates = make_critic(stage, prompts, run, other), stage.critic.updates
        if stage.guidance == "vsd":
            guide = VSD(prompts, pull, critic, updates)
        else:
            guide = DreamFlow(
                prompts, pull, critic, updates, levels=stage.noise_levels, steps=stage.steps
            )
    return Pictured(guide) if isinstance(prompts, Steered) and prompts.pictured else guide


def make_prompts(stage: Stage, backbone: Backbone, run: Run, prompt: str) -> Prompts:
    """The prompt as a stage sees it, under the run's system if it has one.

    InputError for a system where the guidance has a formula of its own for texts.
    """
    if run.system == SystemSettings():
        return Prompts(
            backbone, prompt, negative=run.negative, view_words=stage.view_words,
            blend=stage.view_blend,
        )  # fmt: skip
    if stage.guidance in ("csd", "nfsd"):
        raise InputError(f"guidance={stage.guidance} takes prompts apart and cannot follow a "
                         "system: use sds, ism, vsd or dreamflow")  # fmt: skip
    return Steered(
        backbone, prompt, run.system, scale=stage.guidance_scale, negative=run.negative,
        view_words=stage.view_words,
    )  # fmt: skip


def make_critic(
    stage: Stage, prompts: Prompts, run: Run, other: Backbone | None = None
) -> LoraCritic:
    """The critic of a stage: in the backbone itself, or in another model of the same latents.

    InputError if the other model's latents, noise levels or views differ.
    """
    settings, base = stage.critic, prompts.backbone
    backbone = base
    if settings.model is not None:
        backbone = other or load_backbone(settings.model, device=str(base.device))
        for what in ("latent_channels", "factor", "views"):
            if getattr(backbone, what) != getattr(base, what):
                raise InputError(f"critic.model {settings.model!r} cannot judge the latents of "
                                 f"{base.name!r}: {what} is {getattr(backbone, what)}, not "
                                 f"{getattr(base, what)}")  # fmt: skip
        if not backbone.alphas_cumprod.allclose(base.alphas_cumprod):
            raise InputError(f"critic.model {settings.model!r} has other noise levels than "
                             f"{base.name!r}")  # fmt: skip
        prompts = Prompts(backbone, prompts.prompt, view_words=False)
    if not isinstance(backbone, StableDiffusion):
        raise InputError(f"{stage.guidance} trains a LoRA in a UNet, and {backbone.name!r} has a "
                         "transformer: use guidance=sds, csd, nfsd or ism with it")  # fmt: skip
    return LoraCritic(
        prompts, backbone, rank=settings.rank, learning_rate=settings.learning_rate,
        warmup=settings.warmup, dropout=settings.dropout, seed=run.seed,
    )  # fmt: skip
