"""Another picture's features in self-attention (IDM-VTON, arXiv:2403.05139; BootComp, 2411.16801).

What every self-attention of a UNet is given of one picture, those of another picture look at, too,
by their own weights. It is published as "concatenate the hidden states, attend, keep the first":
the rows of softmax attention are independent, so further keys and values come to the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from threed.diffusion.condition import Condition
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.attention import Attend, Bias, Site, Via, more_keys
from threed.diffusion.parts.hooks import hooked


@dataclass(frozen=True, eq=False)
class Recorder:
    """Keeps what each self-attention is given, [B, S, C] by layer, and changes nothing."""

    kept: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, site: Site, attend: Attend) -> Attend:
        """Read what passes by, in the order in which layers run."""
        if not site.layer.cross:
            self.kept[site.layer.name] = site.hidden
        return attend


@dataclass(frozen=True, eq=False)
class Reference:
    """What N pictures give each item's self-attention to look at, beside itself."""

    features: Mapping[str, Tensor]  # [B, N, S, C] by layer
    shares: Tensor | None = None  # [B, N] how much each counts; the item itself is 1, as all are

    def select(self, index: Tensor) -> Reference:
        """The rows of index ([N] int64)."""
        return self._each(lambda value: value[index.to(value.device)])

    def join(self, others: Sequence[Any]) -> Reference | None:
        """One for all, if as many pictures, of one size, go with each item."""
        every = [self, *others]
        if not all(isinstance(o, Reference) and o._kind() == self._kind() for o in others):
            return None
        features = {n: torch.cat([one.features[n] for one in every]) for n in self.features}
        shares = [one.shares for one in every if one.shares is not None]
        return Reference(features, torch.cat(shares) if shares else None)

    def _kind(self) -> tuple[Any, ...]:
        shapes = {name: value.shape[1:] for name, value in self.features.items()}
        return self.shares is None, shapes

    @property
    def _some(self) -> Tensor:
        """[B, N, S, C] of the first layer."""
        return next(iter(self.features.values()))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Reference:
        features = {name: change(value) for name, value in self.features.items()}
        return Reference(features, None if self.shares is None else change(self.shares))

    def kept(self, keep: Tensor) -> Reference:
        """Features of zeros for the items that keep ([B] bool) is not true of.

        They are looked at like others: that is how guidance is told of no garment.
        """

        def zeroed(value: Tensor) -> Tensor:
            return value * keep[:, None, None, None].to(value)

        features = {name: zeroed(value) for name, value in self.features.items()}
        return replace(self, features=features)

    def nothing(self) -> Reference:
        """Features of zeros for all items."""
        return self.kept(torch.zeros(len(self._some), dtype=torch.bool))

    def counting(self, strength: float) -> Reference:
        """The same, which count so many times as much beside the item itself. At 1 it is itself."""
        if strength == 1:
            return self
        every = self._some.new_ones(self._some.shape[:2])
        return replace(self, shares=strength * (every if self.shares is None else self.shares))

    def spread(self, there: Tensor) -> Reference:
        """Give M items of one picture each to the M true places of there [B, N], row by row.

        A place where no picture is counts nothing.
        """
        there = there.to(self._some.device)

        def placed(value: Tensor) -> Tensor:
            room = value.new_zeros(*there.shape, *value.shape[2:])
            return room.index_put(there.nonzero(as_tuple=True), value[:, 0])

        features = {name: placed(value) for name, value in self.features.items()}
        return Reference(features, None if bool(there.all()) else there.float())

    def __call__(self, site: Site, attend: Attend) -> Attend:
        """Self-attention over the item's own tokens and the pictures'."""
        if site.layer.cross:
            return attend
        features = self.features[site.layer.name].to(site.hidden)
        further = site.project(features.flatten(1, 2))

        def both(q: Tensor, k: Tensor, v: Tensor, bias: Bias = None, change: Via = None) -> Tensor:
            own = k.shape[1]
            k, v = (torch.cat([one, more], 1) for one, more in zip((k, v), further))
            bias = more_keys(bias, k.shape[1] - own)
            if self.shares is not None:
                counts = self.shares.log().repeat_interleave(features.shape[2], 1)
                shared = F.pad(counts, (own, 0))[:, None, None]
                bias = shared if bias is None else bias + shared
            return attend(q, k, v, bias=bias, change=change)

        return both


def recorded(
    backbone: StableDiffusion,
    latents: Tensor,
    t: Tensor,
    condition: Condition,
    *,
    silent: bool = False,
) -> Reference:
    """The features of pictures, one an item, as the UNet sees latents [B, C, h, w] at t [B].

    silent: without what the cross-attentions add, as in BootComp's decomposition.
    """
    recorder, unet = Recorder(), backbone.unet
    crosses = [part for name, part in unet.named_modules() if name.endswith("attn2") and silent]
    hooks = [part.register_forward_hook(_silenced) for part in crosses]
    with hooked(hooks):
        told = replace(condition, attention=(*condition.attention, recorder))
        backbone.predict_noise(latents, t, told)
    return Reference({name: value[:, None] for name, value in recorder.kept.items()})


def _silenced(part: Any, given: Any, out: Tensor) -> Tensor:
    return torch.zeros_like(out)
