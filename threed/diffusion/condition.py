"""Condition: everything that one UNet call may be told besides x_t and t."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from threed.core.cameras import Cameras
from threed.diffusion.parts.attention import AttentionEdit
from threed.diffusion.parts.norms import NormEdit
from threed.diffusion.parts.skips import SkipEdit


class Residuals(Protocol):
    """A net beside the UNet (ControlNet and its kin) whose outputs are added to its skips."""

    def __call__(
        self, x: Tensor, t: Tensor, condition: Condition
    ) -> tuple[Sequence[Tensor], Tensor]:
        """One tensor for each skip connection, in order, and one for the middle block.

        x is [B, C, h, w]; B is a multiple of the batch the net was made for when several
        conditions share a call, each condition's items together.
        """
        ...


@dataclass(frozen=True)
class Condition:
    """What a batch of B noise predictions is conditioned on. Neutral values change nothing."""

    tokens: Tensor  # [B, L, C] text (or other) embeddings for cross-attention
    pooled: Tensor | None = None  # [B, P] the whole prompt in one vector: SDXL
    channels: Tensor | None = None  # [B, K, h, w] concatenated to x_t
    attention: tuple[AttentionEdit, ...] = ()  # the first is the outermost
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
        if cameras is not None:
            where = index.to(cameras.c2w.device)
            cameras = replace(cameras, c2w=cameras.c2w[where], fov_y=cameras.fov_y[where])
        return replace(
            self,
            tokens=self.tokens[index],
            pooled=None if self.pooled is None else self.pooled[index],
            channels=None if self.channels is None else self.channels[index],
            cameras=cameras,
        )

    def repeat(self, n: int) -> Condition:
        """The whole batch n times over: a batch of n * B."""
        return self.select(torch.arange(len(self), device=self.tokens.device).repeat(n))


def stackable(a: Condition, b: Condition) -> bool:
    """Whether one UNet call can serve both."""

    def shapes(c: Condition) -> tuple[tuple[int, ...] | None, ...]:
        return tuple(None if v is None else v.shape for v in (c.tokens, c.pooled, c.channels))

    return (
        shapes(a) == shapes(b)
        and (a.cameras is None) == (b.cameras is None)
        and a.attention == b.attention
        and a.residuals == b.residuals
        and a.skips == b.skips
        and a.norms == b.norms
        and a.adapters == b.adapters
    )


def stack(conditions: Sequence[Condition]) -> Condition:
    """One batch after the other. ValueError if one UNet call cannot serve them all."""
    first = conditions[0]
    if not all(stackable(first, other) for other in conditions[1:]):
        raise ValueError(
            "these conditions cannot share a UNet call: shapes or edits differ "
            f"({[tuple(c.tokens.shape) for c in conditions]})"
        )

    def cat(values: list[Tensor | None]) -> Tensor | None:
        return torch.cat([v for v in values if v is not None]) if values[0] is not None else None

    cameras = first.cameras
    if cameras is not None:
        each = [c.cameras for c in conditions if c.cameras is not None]
        cameras = replace(
            cameras,
            c2w=torch.cat([c.c2w for c in each]),
            fov_y=torch.cat([c.fov_y for c in each]),
        )
    return replace(
        first,
        tokens=torch.cat([c.tokens for c in conditions]),
        pooled=cat([c.pooled for c in conditions]),
        channels=cat([c.channels for c in conditions]),
        cameras=cameras,
    )
