"""Distillation of a multi-view model: four renders of one object pulled together."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Generator, Tensor

from guidance import Frozen
from guidance.prompts import Prompts
from guidance.sds import distill, draw_noise, draw_t, encode_render, guide
from threed.core import Cameras, InputError, Schedule
from threed.diffusion.backbone import Backbone
from threed.diffusion.score import score


@dataclass(frozen=True)
class MultiViewSettings:
    """How MVDream pulls. Published: 50, 0.98 to 0.02 and 0.98 to 0.50 in 8000 steps, 0.5."""

    guidance_scale: float
    t_min: Schedule  # by step, as fractions of the 1000 noise levels
    t_max: Schedule
    rescale: float  # 0 is plain CFG, 1 gives x0 the contrast that the text alone gives it


class MultiView(Frozen):
    """MVDream's loss (arXiv:2308.16512): half the squared distance to the model's x0.

    One t for the whole batch; noise differs from view to view. InputError if the backbone is not a
    multi-view one.
    """

    def __init__(self, backbone: Backbone, prompts: Prompts, settings: MultiViewSettings) -> None:
        if backbone.views == 1:
            raise InputError(
                f"multi-view guidance needs a multi-view backbone such as toybox-multiview, "
                f"and {backbone.name!r} sees one picture at a time; use sds with it"
            )
        self.backbone, self.prompts, self.settings = backbone, prompts, settings

    def __call__(
        self, image: Tensor, cameras: Cameras, step: int, generator: Generator
    ) -> dict[str, Tensor]:
        """{"mvdream": loss} for image [B, H, W, 3] in [0, 1], B in groups of backbone.views."""
        s, backbone = self.settings, self.backbone
        cameras = cameras.to(backbone.device)
        conditions = [replace(c, cameras=cameras) for c in self.prompts(cameras)]
        combine = guide(backbone, s.guidance_scale, s.rescale, backbone.views)
        z = encode_render(backbone, image)
        t = draw_t(1, s.t_min(step), s.t_max(step), generator).to(z.device).expand(len(z))
        noise = draw_noise(z, generator)
        guided = score(backbone, conditions, combine)
        return {"mvdream": distill(guided, z, t, noise, backbone.alphas_cumprod, weighting="x0")}
