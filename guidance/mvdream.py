"""Distillation of a multi-view model: four renders of one object pulled together."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from guidance import Frozen
from guidance.distill import Pull, distill, draw_t
from guidance.prompts import Prompts
from guidance.sds import error
from threed.core.cameras import Cameras
from threed.core.errors import InputError


@dataclass(frozen=True)
class MultiView(Frozen):
    """MVDream's loss (arXiv:2308.16512): half the squared distance to the model's x0.

    That is SDS with the weight "x0" and one t for the whole batch; noise differs from view to
    view. Published: scale 50, t .98 to .02 and .98 to .50 in 8000 steps, rescale 0.5. InputError
    if the backbone is not a multi-view one.
    """

    prompts: Prompts
    pull: Pull

    def __post_init__(self) -> None:
        """Refuse a backbone that sees one picture at a time."""
        backbone = self.prompts.backbone
        if backbone.views == 1:
            raise InputError(
                f"multi-view guidance needs a multi-view backbone such as toybox-multiview, "
                f"and {backbone.name!r} sees one picture at a time; use sds with it"
            )

    def __call__(
        self, image: Tensor, cameras: Cameras, step: int, generator: Generator
    ) -> dict[str, Tensor]:
        """{"mvdream": loss} for image [B, H, W, 3] in [0, 1], B in groups of backbone.views."""
        t = draw_t(1, self.pull.t_min(step), self.pull.t_max(step), generator).expand(len(image))
        difference = error(self.prompts, self.pull, cameras, step)
        backbone = self.prompts.backbone
        return {"mvdream": distill(backbone, self.pull, image, step, generator, difference, t)}
