"""StyleAligned's edits (arXiv:2312.02133): the pictures of a group share the style of its first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from threed.diffusion.condition import Condition, Outputs, Residuals
from threed.diffusion.parts.attention import Attend, Change, Site
from threed.diffusion.parts.batch import join_parts, select_parts
from threed.diffusion.parts.norms import Norm, Normalise

EPSILON = 1e-5  # inside the root of AdaIN's deviation, as published


@dataclass(frozen=True)
class SharedAttention:
    """Self-attention in which every picture sees the first of its group, too (equation 5).

    The batch holds groups of `rows` neighbours. Queries and keys take the mean and deviation of
    the first's (AdaIN); the first's keys and values stand behind a picture's own. The first picture
    itself is left as it is.
    """

    rows: int
    layers: frozenset[str]  # names of the self-attentions that share
    queries: bool = True  # take the first's mean and deviation
    keys: bool = True
    values: bool = False
    scale: float = 1.0  # of the first's keys, as others see them
    shift: float = 0.0  # added to the logits of the first's keys

    def __call__(self, site: Site, attend: Attend) -> Attend:
        """Share at the sites that are named."""
        if site.layer.name not in self.layers:
            return attend

        def shared(
            q: Tensor, k: Tensor, v: Tensor, *,
            bias: Tensor | None = None, change: Change | None = None,
        ) -> Tensor:  # fmt: skip
            taken = ((q, self.queries), (k, self.keys), (v, self.values))
            q, k, v = (adain(x, self.rows) if take else x for x, take in taken)
            more = first_of(k, self.rows).unflatten(0, (-1, self.rows))
            more = torch.cat([more[:, :1], self.scale * more[:, 1:]], 1).flatten(0, 1)
            count = k.shape[1]
            if bias is not None or self.shift:
                bias = q.new_zeros(1, 1, 1, count) if bias is None else bias
                bias = F.pad(bias, (0, count), value=self.shift)
            keys, values = torch.cat([k, more], 1), torch.cat([v, first_of(v, self.rows)], 1)
            return attend(q, keys, values, bias=bias, change=change)

        return shared


@dataclass(frozen=True)
class SharedNorms:
    """Group norms whose statistics are over a picture and the first of its group.

    Layer norms have none that could be shared: theirs are of one token.
    """

    rows: int

    def __call__(self, norm: Norm, normalise: Normalise) -> Normalise:
        """Share in every group norm."""
        if not norm.group:
            return normalise

        def shared(x: Tensor) -> Tensor:
            """[B, C, h, w] -> the same shape."""
            both = torch.cat([x, first_of(x, self.rows)], 2)
            return normalise(both)[:, :, : x.shape[2]]

        return shared


@dataclass(frozen=True, eq=False)
class Spared:
    """A net beside the UNet that adds nothing to the first of each group of `rows` neighbours.

    So a map says what is where in the others, and the reference is the picture that it is alone.
    """

    net: Residuals
    rows: int

    def select(self, index: Tensor) -> Spared:
        """The items of index ([N] int64)."""
        return replace(self, net=select_parts((self.net,), index)[0])

    def join(self, others: Sequence[Any]) -> Spared | None:
        """One net for all, if theirs can be one."""
        if not all(isinstance(other, Spared) and other.rows == self.rows for other in others):
            return None
        nets = join_parts([(one.net,) for one in (self, *others)], lambda each: None)
        return None if nets[0] is None else replace(self, net=nets[0])

    def __call__(self, x: Tensor, t: Tensor, condition: Condition) -> Outputs | None:
        """The net's outputs, zero for the first of each group."""
        outputs = self.net(x, t, condition)
        if outputs is None:
            return None
        skips, middle = outputs
        others = torch.arange(len(x), device=x.device) % self.rows > 0
        *skips, middle = (v * others[:, None, None, None] for v in (*skips, middle))
        return skips, middle


def first_of(x: Tensor, rows: int) -> Tensor:
    """[B, ...] for each item the first of its group of `rows` neighbours."""
    groups: Tensor = x.unflatten(0, (-1, rows))
    return groups[:, :1].expand_as(groups).flatten(0, 1)


def adain(x: Tensor, rows: int) -> Tensor:
    """[B, L, C] with the first's mean and deviation over the L places (arXiv:1703.06868)."""
    mean, std = x.mean(1, keepdim=True), (x.var(1, keepdim=True) + EPSILON).sqrt()
    return (x - mean) / std * first_of(std, rows) + first_of(mean, rows)


def sharing(names: list[str], plain_share: float) -> frozenset[str]:
    """The self-attentions that share their style: all but a share, evenly spaced.

    names: in the order in which diffusers lists them; the published code's choice of layers.
    """
    count = round_down(min(plain_share, 1 - plain_share) * len(names))
    if not count:
        return frozenset(names if plain_share <= 0.5 else ())
    every = len(names) // count
    marked = {name for i, name in enumerate(names) if i % every == 0}
    return frozenset(names) - marked if plain_share <= 0.5 else frozenset(marked)


def round_down(value: float) -> int:
    """The whole number below, for products such as .1 * 30 that are not exact."""
    return int(value + 1e-9)


Follow = Callable[[Tensor, Tensor], Tensor]
"""(x [B, C, h, w], t [B]) -> x whose first rows are where a real picture was."""


def followed(way: Tensor, timesteps: Tensor, rows: int, offset: int) -> Follow:
    """Put the latents of an inverted picture where the first of each group is.

    way: [N + 1, C, h, w] its latents at the timesteps [N] and, last, clean. The first steps take
    latents that are `offset` steps further (the published callback), which lets the first picture's
    style in where there is nothing but noise yet.
    """

    def follow(x: Tensor, t: Tensor) -> Tensor:
        step = (t[::rows, None] - timesteps.to(t)).abs().argmin(1)
        ahead = torch.where(step == 0, offset, (offset + 1))
        index = torch.maximum(step, ahead).clamp(max=len(way) - 1)
        groups = x.unflatten(0, (-1, rows))
        return torch.cat([way.to(x)[index][:, None], groups[:, 1:]], 1).flatten(0, 1)

    return follow
