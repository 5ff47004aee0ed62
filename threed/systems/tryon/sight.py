"""A person's asset, view by view, and the garment that comes onto it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from threed.systems.tryon.wear import Wear, category_named, read_flat

if TYPE_CHECKING:
    from torch import Tensor

    from threed.systems.system import Request
    from threed.systems.tryon.wear import Labels


@dataclass(frozen=True)
class Sight:
    """A person as a view of its asset shows it, with what is known of its body."""

    person: Tensor  # [1, 3, H, W] in [0, 1]
    regions: Labels  # [H, W] numbers of bodies.REGIONS
    pose: Tensor  # [1, 3, H, W] keypoints, drawn on black
    dense: Tensor  # [1, 3, H, W] dense pose, drawn on black
    only: Tensor | None = None  # [1, 1, H, W] of 0 and 1: what of a mask is painted, if not all

    def mask(self, categories: Sequence[str]) -> Tensor:
        """[1, 1, H, W] 1 where garments of these categories are painted, else 0."""
        import numpy as np
        import torch

        from threed.diffusion.bodies import margin_of, paint_mask

        masks = [paint_mask(self.regions, name, margin_of(name)) for name in categories]
        mask = torch.from_numpy(np.any(masks, 0))[None, None].to(self.person)
        return mask if self.only is None else mask * self.only

    def wearing(self, request: Request) -> Wear:
        """The person, and the garment that a request puts on it. InputError as of `read_flat`."""
        category = request.one("category") or "upper"
        garment = read_flat(request.one("garment"), request.size)
        text = request.one("garment_text") or request.prompt
        return Wear(self.person, garment, self.mask([category]), category, text, self.pose,
                    self.dense)  # fmt: skip


def places_of(request: Request) -> list[str]:
    """Where the garments of a request are worn, in categories. InputError as `category_named`."""
    given = (garment for said in ("garment", "worn") for garment in request.all(said))
    named = [category_named(one[0]) for one in given if isinstance(one, tuple)]
    return named or [request.one("category") or "upper"]
