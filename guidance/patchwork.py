"""Pictures of a scene of which each paints what none before it has painted.

Views that are painted each by themselves agree on no pattern, and a scene that follows them all
evens it out. So each point of the surface is painted by one view, that sees it well, and the views
after it are shown it and go on with it, as in TEXTure (arXiv:2302.01721).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from guidance.edits import Album, Following
from threed.core.cameras import Cameras
from threed.core.errors import InputError
from threed.core.render import RenderOutput

Painter = Callable[[Tensor, Tensor, Generator], Tensor]
"""(a picture [1, 3, H, W] in [0, 1], where to paint [1, 1, H, W] of 0 and 1, chance) -> it painted
there, and as it was elsewhere."""

WELL = 0.4  # cosine to the camera from which on a surface is seen well
ASIDE = 0.05  # weight of what a view shows and another has painted, or sees better
BEHIND = 1.5  # pixels further off than what is in front, up to which a point is still seen
FEWEST = 0.002  # of a picture's pixels, for which it is worth painting


@dataclass(frozen=True)
class Surface:
    """What each view shows of a surface."""

    cameras: Cameras  # N
    points: Tensor  # [N, H, W, 3] in world units
    depth: Tensor  # [N, H, W] of the points, world units; infinite where nothing is
    facing: Tensor  # [N, H, W] cosine of the normal to the camera, 0 where nothing is

    def plain(self, view: int) -> Tensor:
        """[H, W] bool where a view shows the surface from in front, and not at its outline."""
        there = self.depth[view].isfinite()[None].float()
        inner = -F.max_pool2d(-there, 3, 1, 1)[0] > 0
        return inner & (self.facing[view] >= WELL)

    def seen_from(self, view: int, other: int) -> tuple[Tensor, Tensor]:
        """Whether another view shows the points of a view, [H, W] bool, and where.

        Where is [H, W, 2] (row, column) int64, of the nearest pixel, inside the picture.
        """
        camera, points = self.cameras[other : other + 1], self.points[view]
        height, width = points.shape[:2]
        clip = F.pad(points, (0, 1), value=1.0) @ camera.mvp()[0].T
        x, y = (clip[..., :2] / clip[..., 3:]).unbind(-1)
        there = torch.stack([(1 - y) / 2 * height, (x + 1) / 2 * width], -1).floor().long()
        most = torch.tensor([height - 1, width - 1], device=points.device)
        near = there.clamp(points.new_zeros(2).long(), most)
        far = (points - camera.position[0]).norm(dim=-1)
        pixel = 2 * far * torch.tan(camera.fov_y[0] / 2) / height
        shown = self.depth[other][near[..., 0], near[..., 1]]
        inside = (near == there).all(-1) & self.depth[view].isfinite()
        return inside & (far <= shown + BEHIND * pixel) & shown.isfinite(), near


def surface_of(cameras: Cameras, seen: Sequence[RenderOutput]) -> Surface:
    """Make it, on the CPU, of what is rendered of each view, with a sample a pixel."""
    cameras = cameras.to("cpu")
    depth, normal, opacity = (torch.cat([getattr(one, name) for one in seen]).cpu()
                              for name in ("depth", "normal", "opacity"))  # fmt: skip
    origins, directions = cameras.rays()
    there, facing = opacity[..., 0] >= 0.5, -(normal * directions).sum(-1)
    return Surface(cameras, origins + depth * directions,
                   torch.where(there, depth[..., 0], torch.inf),
                   torch.where(there, facing, 0.0).clamp_min(0))  # fmt: skip


class Patchwork(Following):
    """Each view is painted once, inside its mask, where no view before it has painted.

    What one has painted the views after it are shown. The rest of a picture stays as it was at
    first. Of what is not painted yet nothing is learned.
    """

    def __init__(
        self, album: Album, surface: Surface, masks: Tensor, painters: Sequence[Painter], every: int
    ) -> None:
        super().__init__(replace(album, pictures=album.pictures.cpu()), every)
        self.surface, self.masks, self.painters = surface, masks.bool().cpu(), painters
        self.painted = torch.zeros_like(self.masks)  # [N, H, W] by the view itself, and seen well
        self.order: list[int] = []  # of those that had their turn
        self.weights[self.masks] = 0.0

    def state_dict(self) -> dict[str, Any]:
        """What is painted so far."""
        more = {"painted": self.painted, "weights": self.weights, "order": self.order}
        return super().state_dict() | more

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with it. InputError for what another way of dressing has left."""
        if "painted" not in state:
            raise InputError("this run was begun when views were painted each by themselves, and "
                             "cannot be continued: begin it anew, with another --out")  # fmt: skip
        super().load_state_dict(state)
        self.painted, self.weights = state["painted"].clone(), state["weights"].clone()
        self.order = list(state["order"])

    def _renew(self, view: int, now: Tensor, step: int, generator: Generator) -> None:
        if view in self.order:
            return
        mask, there = self.masks[view], self.surface.depth[view].isfinite()
        known, picture = self._known(view)
        new = mask & ~known
        if float((new & there).float().mean()) >= FEWEST:
            # a pixel more, so that nothing of what was there before is left between the two
            wider = F.max_pool2d(new[None, None].float(), 3, 1, 1) * mask
            made = self.painters[view](picture.movedim(-1, 0)[None].to(now), wider.to(now),
                                       generator)  # fmt: skip
            painted = made[0].movedim(0, -1).clamp(0, 1).to(picture)
            picture = torch.where(new[..., None], painted, picture)
            self.painted[view] = new & self.surface.plain(view)
        self.pictures[view] = picture
        counts = self.painted[view] | ~(mask & there)
        self.weights[view] = torch.where(counts, 1.0, ASIDE)[..., None]
        self.order.append(view)

    def _known(self, view: int) -> tuple[Tensor, Tensor]:
        """Where a view shows what is painted, [H, W] bool, and its picture [H, W, 3] with that."""
        picture, known = self.pictures[view].clone(), torch.zeros_like(self.masks[view])
        for other in self.order:
            seen, there = self.surface.seen_from(view, other)
            rows, columns = there.unbind(-1)
            taken = self.masks[view] & seen & ~known & self.painted[other][rows, columns]
            picture[taken] = self.pictures[other][rows, columns][taken]
            known |= taken
        return known, picture
