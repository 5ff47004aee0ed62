"""Condition: everything that one UNet call may be told besides x_t and t."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from threed.core.cameras import Cameras
from threed.diffusion.parts import batch
from threed.diffusion.parts.attention import AttentionEdit, Timed
from threed.diffusion.parts.batch import Apart, join_parts, select_parts
from threed.diffusion.parts.norms import NormEdit
from threed.diffusion.parts.skips import SkipEdit

Outputs = tuple[Sequence[Tensor], Tensor]
"""Of a net beside the UNet: one tensor for each skip connection, and one for the middle block."""


class Residuals(Protocol):
    """A net beside the UNet (ControlNet and its kin) whose outputs are added to its skips."""

    def __call__(self, x: Tensor, t: Tensor, condition: Condition) -> Outputs | None:
        """One tensor for each skip connection, in order, and one for the middle block.

        x is [B, C, h, w], t [B]. The condition's B items hold text, channels and cameras only.
        None is nothing to add.
        """
        ...


@dataclass(frozen=True)
class Condition:
    """What a batch of B noise predictions is conditioned on. Neutral values change nothing."""

    tokens: Tensor  # [B, L, C] text (or other) embeddings for cross-attention
    pooled: Tensor | None = None  # [B, P] the whole prompt in one vector: SDXL
    channels: Tensor | None = None  # [B, K, h, w] concatenated to x_t
    attention: tuple[AttentionEdit | Timed, ...] = ()  # the first is the outermost
    residuals: tuple[Residuals, ...] = ()  # their outputs add up
    skips: tuple[SkipEdit, ...] = ()  # in their order, on the way up
    norms: tuple[NormEdit, ...] = ()  # the first is the outermost
    adapters: Mapping[str, float] = field(default_factory=dict)  # by name, with their weights
    cameras: Cameras | None = None  # B of them, groups of views together: multi-view backbones

    def __len__(self) -> int:
        return len(self.tokens)

    def select(self, index: Tensor) -> Condition:
        """The items of index ([N] int64), which may repeat: a batch of N."""
        cameras = self.cameras
        return replace(
            self,
            tokens=self.tokens[index],
            pooled=None if self.pooled is None else self.pooled[index],
            channels=None if self.channels is None else self.channels[index],
            cameras=None if cameras is None else cameras[index.to(cameras.c2w.device)],
            attention=select_parts(self.attention, index),
            residuals=select_parts(self.residuals, index),
            skips=select_parts(self.skips, index),
            norms=select_parts(self.norms, index),
        )

    def repeat(self, n: int) -> Condition:
        """The whole batch n times over: a batch of n * B."""
        return self.select(torch.arange(len(self), device=self.tokens.device).repeat(n))


def stackable(a: Condition, b: Condition) -> bool:
    """Whether one UNet call can serve both."""

    def asks(c: Condition) -> tuple[object, ...]:
        # shapes are those of one item: how many there are may differ
        tensors = (c.tokens, c.pooled, c.channels)
        shapes = tuple(None if v is None else v.shape[1:] for v in tensors)
        return shapes, c.cameras is None, c.adapters

    return asks(a) == asks(b)


def stack(conditions: Sequence[Condition]) -> Condition:
    """One batch after the other. ValueError if one UNet call cannot serve them all."""
    first = conditions[0]
    if not all(stackable(first, other) for other in conditions[1:]):
        raise ValueError("these conditions cannot share a UNet call: shapes or adapters differ "
                         f"({[tuple(c.tokens.shape) for c in conditions]})")  # fmt: skip

    def cat(values: list[Tensor | None]) -> Tensor | None:
        return torch.cat([v for v in values if v is not None]) if values[0] is not None else None

    cameras = first.cameras
    if cameras is not None:
        each = [c.cameras for c in conditions if c.cameras is not None]
        c2w, fov_y = (torch.cat(v) for v in zip(*((c.c2w, c.fov_y) for c in each)))
        cameras = replace(cameras, c2w=c2w, fov_y=fov_y)
    counts = tuple(len(c) for c in conditions)
    attention = [c.attention for c in conditions]
    residuals = [c.residuals for c in conditions]
    return replace(
        first,
        tokens=torch.cat([c.tokens for c in conditions]),
        pooled=cat([c.pooled for c in conditions]),
        channels=cat([c.channels for c in conditions]),
        cameras=cameras,
        attention=join_parts(attention, partial(batch.AttentionApart, counts)),
        residuals=join_parts(residuals, partial(ResidualsApart, counts)),
        skips=join_parts([c.skips for c in conditions], partial(batch.SkipsApart, counts)),
        norms=join_parts([c.norms for c in conditions], partial(batch.NormsApart, counts)),
    )


def residuals_of(
    nets: Sequence[Residuals], x: Tensor, t: Tensor, condition: Condition
) -> Outputs | None:
    """Add up all nets' outputs for x [B, C, h, w] and t [B], as Residuals gives them.

    None if there is nothing to add.
    """
    told = replace(condition, attention=(), residuals=(), skips=(), norms=(), adapters={})
    outputs = [out for net in nets if (out := net(x, t, told)) is not None]
    if not outputs:
        return None
    skips = tuple(sum(s[1:], s[0]) for s in zip(*(skips for skips, _ in outputs)))
    middles = [middle for _, middle in outputs]
    return skips, sum(middles[1:], middles[0])


class ResidualsApart(Apart[Residuals]):
    """Nets beside the UNet, each for its own rows; where there are none, the rest sees zeros."""

    def __call__(self, x: Tensor, t: Tensor, condition: Condition) -> Outputs | None:
        """The outputs for all rows, if any has some."""
        rows = torch.arange(len(x), device=x.device).split(self.counts)
        pairs = zip(self.each, rows)
        each = [residuals_of(nets, x[i], t[i], condition.select(i)) for nets, i in pairs]
        flat = [None if out is None else (*out[0], out[1]) for out in each]
        some = next((out for out in flat if out is not None), None)
        if some is None:
            return None
        empty = [[v.new_zeros(n, *v.shape[1:]) for v in some] for n in self.counts]
        *skips, middle = map(torch.cat, zip(*(out or zero for out, zero in zip(flat, empty))))
        return skips, middle
