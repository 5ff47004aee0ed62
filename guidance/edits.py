"""Pictures of a scene that an editor changes one after the other, while the scene follows them.

Instruct-NeRF2NeRF (arXiv:2303.12789), iterative dataset update: the scene learns from pictures of
itself; every few steps one of them is replaced by what an editor makes of how the scene looks now
and of what it looked like at first. What single edits disagree about, the scene evens out, and the
next edits begin from that.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from threed.core.cameras import Cameras
from threed.core.errors import InputError
from threed.core.schedule import Schedule

Edit = Callable[[Tensor, Tensor, float, Generator], Tensor]
"""(a picture [1, 3, H, W] at first, the same now, how far to noise it, chance) -> it edited.

Pictures are in [0, 1]; how far is a share of the 1000 noise levels.
"""

GOLDEN = (5**0.5 - 1) / 2  # of a turn, from a view to the next


@dataclass(frozen=True)
class Album:
    """Pictures of a thing as it was at first."""

    cameras: Cameras  # N
    pictures: Tensor  # [N, H, W, 3] in [0, 1], over white


class Following(ABC):
    """Guidance that shows a scene the pictures that it is to look like.

    Every `every` steps one view's picture is renewed; all views have their turn before one has its
    second. The loss is the mean absolute difference, where each pixel has a weight.
    """

    def __init__(self, album: Album, every: int) -> None:
        self.album, self.every = album, every
        self.pictures = album.pictures.clone()
        self.weights = torch.ones_like(self.pictures[..., :1])  # [N, H, W, 1]
        count = len(album.cameras)
        # a stride that meets every view, neighbours far from each other
        self.stride = next(s for s in range(round(GOLDEN * count) or 1, 2 * count + 1)
                           if math.gcd(s, count) == 1)  # fmt: skip

    def cameras(self, step: int, drawn: Cameras) -> Cameras:
        """The cameras of a step: as many as chance has drawn, of those that there are pictures of.

        InputError for another number of pixels.
        """
        views = self.album.cameras
        if (drawn.height, drawn.width) != (views.height, views.width):
            raise InputError(
                f"the pictures to edit have {views.height} pixels a side, and step {step} has "
                f"{drawn.height}: resolution must be one number"
            )
        return views[self._views(step, len(drawn))]

    def __call__(
        self, image: Tensor, cameras: Cameras, step: int, generator: Generator
    ) -> dict[str, Tensor]:
        """{"edit": loss} for image [B, H, W, 3] in [0, 1], seen by the cameras of the step."""
        where = self._views(step, len(image))
        if step % self.every == 0:
            slot = self._slot(step, len(image))
            self._renew(int(where[slot]), image[slot].detach(), step, generator)
        difference = (image - self.pictures[where].to(image)).abs()
        return {"edit": (difference * self.weights[where].to(image)).mean()}

    def state_dict(self) -> dict[str, Any]:
        """The pictures as they are now."""
        return {"pictures": self.pictures}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with these pictures."""
        self.pictures = state["pictures"].clone()

    @abstractmethod
    def _renew(self, view: int, now: Tensor, step: int, generator: Generator) -> None:
        """Renew the picture of a view, which shows [H, W, 3] now."""

    def _views(self, step: int, n: int) -> Tensor:
        """[n] which views a step shows, the one to edit among them."""
        count = len(self.album.cameras)
        where = torch.arange(step * n, step * n + n) * self.stride % count
        if step % self.every == 0:
            where[self._slot(step, n)] = step // self.every * self.stride % count
        return where

    def _slot(self, step: int, n: int) -> int:
        """Whose place the view to edit takes; not always the same, or that one would be missed."""
        return step // self.every % n


class DatasetUpdate(Following):
    """Each turn edits how a view looks now, at a noise level between t_min and t_max.

    edits: what edits each view's picture.
    """

    def __init__(
        self, album: Album, edits: Sequence[Edit], *, every: int, t_min: Schedule, t_max: Schedule
    ) -> None:
        super().__init__(album, every)
        self.edits, self.t_min, self.t_max = edits, t_min, t_max

    def _renew(self, view: int, now: Tensor, step: int, generator: Generator) -> None:
        low, high = self.t_min(step), self.t_max(step)
        level = low + (high - low) * float(torch.rand((), generator=generator))
        before, after = (x.movedim(-1, 0)[None] for x in (self.album.pictures[view], now))
        edited = self.edits[view](before.to(now), after, level, generator)
        self.pictures[view] = edited[0].movedim(0, -1).clamp(0, 1).to(self.pictures)
