"""Scores that see one view each, predicted together by a model that sees several.

What a system makes of one view knows nothing of the others. So it is given the model as if that saw
one view at a time (`one_view`), and each time that it asks for a noise, it waits until the others
have asked, too; the model is then asked once for all views (`together`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from threed.core.cameras import Cameras
from threed.diffusion.condition import Condition, stack
from threed.diffusion.models.multiview import MultiViewDiffusion
from threed.diffusion.score import Score

Wants = tuple[Tensor, Tensor, Condition]
"""A call of a model: x [B, C, h, w], t [B], and B items of a condition."""


class _WaitsError(Exception):
    """A Score needs a noise that is not predicted yet."""


@dataclass
class Turn:
    """What the Score whose turn it is has been told, and what it asks for beyond that."""

    told: Sequence[Tensor] | None = None  # None between turns
    asked: int = 0
    wants: Wants | None = None

    def begin(self, told: Sequence[Tensor] | None) -> None:
        """It is the turn of who has been told these noises [B, C, h, w]; of nobody, if None."""
        self.told, self.asked = told, 0

    def ask(self, told: Sequence[Tensor], x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The next of the noises [B, C, h, w] that it was told."""
        if self.asked == len(told):
            self.wants = x, t, condition
            raise _WaitsError
        self.asked += 1
        return told[self.asked - 1]


class OneView(MultiViewDiffusion):
    """A multi-view model as what sees one view at a time knows it.

    Outside of `together`, and with another UNet (`with_unet`), each picture is on its own.
    """

    views = 1

    def __init__(self, model: MultiViewDiffusion) -> None:
        vars(self).update(vars(model))
        self.model, self.turn = model, Turn()

    def predict_noise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The noise in x [B, C, h, w] at t [B], within `together` as all views gave it."""
        told = self.turn.told
        if told is None or self.unet is not self.model.unet:
            return super().predict_noise(x, t, condition)
        return self.turn.ask(told, x, t, condition)


@dataclass
class _Asking:
    """One Score, what it was told for a picture, and what it asked for last."""

    score: Score
    x: Tensor
    t: Tensor
    told: list[Tensor] = field(default_factory=list)
    wants: Wants | None = None

    def goes_on(self, model: OneView) -> Tensor | None:
        """What the Score gives, or None if it waits for a noise.

        It begins anew each time: up to there it is told what it was told before.
        """
        model.turn.begin(self.told)
        try:
            return self.score(self.x, self.t)
        except _WaitsError:
            self.wants = model.turn.wants
            return None
        finally:
            model.turn.begin(None)


def together(model: OneView, scores: Sequence[Score], cameras: Cameras) -> Score:
    """One Score of B views, each by its own; B cameras in groups that the model sees together.

    The scores were made with `model`. They may ask for noises as often as they like, of any number
    of conditions, which are in the order of what they say: the most first. Where one has fewer, its
    last stands for those that the others have beyond it.
    """

    def noise(x: Tensor, t: Tensor) -> Tensor:
        each = [_Asking(score, x[i : i + 1], t[i : i + 1]) for i, score in enumerate(scores)]
        while True:
            outs = [one.goes_on(model) for one in each]
            done = [out for out in outs if out is not None]
            if len(done) == len(outs):
                return torch.cat(done)
            for one, told in zip(each, _predict(model.model, each, cameras), strict=True):
                one.told.append(told)

    return noise


def _predict(model: MultiViewDiffusion, each: Sequence[_Asking], cameras: Cameras) -> list[Tensor]:
    """The noises that each asked for, [N, C, h, w] of its N conditions, by one call."""
    wanted = [one.wants for one in each]
    asked = [wants for wants in wanted if wants is not None]
    if len(asked) < len(wanted):
        raise ValueError("some views' Scores ask for no noise, and others do")
    most = max(len(x) for x, _, _ in asked)
    items = [_item(wants, min(row, len(wants[0]) - 1)) for row in range(most) for wants in asked]
    x, t = torch.cat([item[0] for item in items]), torch.cat([item[1] for item in items])
    posed = cameras[torch.arange(len(asked)).repeat(most).to(cameras.c2w.device)]
    condition = replace(stack([item[2] for item in items]), cameras=posed)
    told = model.predict_noise(x, t, condition)
    parts = told.unflatten(0, (most, len(asked))).transpose(0, 1)
    return [part[: len(wants[0])] for part, wants in zip(parts, asked)]


def _item(wants: Wants, row: int) -> Wants:
    """One of the conditions of a call, with its x and t; nothing of it says where it is seen."""
    x, t, condition = wants
    index = torch.tensor([row], device=x.device)
    return x[index], t[index], replace(condition, cameras=None).select(index)
