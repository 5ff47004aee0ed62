"""The seam of the skips: what enters each block on the way up, and the skip that joins it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True)
class Joint:
    """Where a skip joins the main stream."""

    name: str  # of the resnet that reads both: "up_blocks.1.resnets.0"
    order: int  # of all joints, as they run
    halvings: int  # how often the latents' sides are halved here


class SkipEdit(Protocol):
    """A change of what is joined, for one call."""

    def __call__(self, joint: Joint, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """The main stream [B, C, h, w] and the skip [B, C', h, w], in their shapes."""
        ...


def skip_hooks(unet: Any, edits: Sequence[SkipEdit]) -> list[RemovableHandle]:
    """Let the edits act on a UNet2DConditionModel in their order, until the hooks are removed."""
    if not edits:
        return []
    hooks = ((resnet, _before(joint, width, edits)) for joint, width, resnet in joints(unet))
    return [resnet.register_forward_pre_hook(hook) for resnet, hook in hooks]


def joints(unet: Any) -> Iterator[tuple[Joint, int, Any]]:
    """Each joint, the channels of its main stream, and the resnet that follows."""
    order, width, last = 0, unet.config.block_out_channels[-1], len(unet.up_blocks) - 1
    for i, block in enumerate(unet.up_blocks):
        for j, resnet in enumerate(block.resnets):
            yield Joint(f"up_blocks.{i}.resnets.{j}", order, last - i), width, resnet
            order, width = order + 1, resnet.out_channels


def _before(joint: Joint, width: int, edits: Sequence[SkipEdit]) -> Any:
    """The hook of one resnet, which is given both beside each other."""

    def hook(module: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        both, *others = given
        h, skip = both[:, :width], both[:, width:]
        for edit in edits:
            h, skip = edit(joint, h, skip)
        return torch.cat([h, skip], 1), *others

    return hook
