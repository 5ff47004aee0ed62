"""The seam of the norms: what a group norm or a layer norm takes its statistics from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from threed.diffusion.parts.hooks import edited

Normalise = Callable[[Tensor], Tensor]
"""[B, C, h, w] (a group norm; [B, C, L] in front of attention) or [B, L, C] -> the same shape."""


@dataclass(frozen=True)
class Norm:
    """A norm of the UNet."""

    name: str  # "down_blocks.0.resnets.0.norm1"
    group: bool  # over groups of channels and all places; else over the features of each token


class NormEdit(Protocol):
    """A change of the UNet's norms for one call."""

    def __call__(self, norm: Norm, normalise: Normalise) -> Normalise:
        """The norm to use in this place: normalise itself where nothing is to change."""
        ...


@dataclass(eq=False)
class Decoded:
    """Keeps what enters a UNet's last norm, and changes nothing.

    That is the activations [B, C, h, w] of the last block on the way up, with their graph.
    """

    features: Tensor | None = None  # of the last call

    def __call__(self, norm: Norm, normalise: Normalise) -> Normalise:
        """Read what passes by."""
        if norm.name != "conv_norm_out":
            return normalise

        def read(x: Tensor) -> Tensor:
            self.features = x
            return normalise(x)

        return read


def norm_hooks(unet: nn.Module, edits: Sequence[NormEdit]) -> list[RemovableHandle]:
    """Let the edits act on a net's norms, the first outermost, until the hooks are removed."""
    if not edits:
        return []
    handles = []
    for name, module in unet.named_modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            plain: Normalise = module.forward
            normalise = edited(edits, Norm(name, isinstance(module, nn.GroupNorm)), plain)
            if normalise is not plain:
                handles.append(module.register_forward_hook(_instead(normalise)))
    return handles


def _instead(normalise: Normalise) -> Any:
    """The hook that gives what normalise makes of a norm's input in the place of its output."""
    return lambda module, given, output: normalise(*given)
