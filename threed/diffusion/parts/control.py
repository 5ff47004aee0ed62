"""Nets beside the UNet whose outputs are added to its skips: ControlNet, and how they are used."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from threed.core.errors import InputError
from threed.diffusion.condition import Condition, Outputs, Residuals
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.attention import install
from threed.diffusion.progress import due
from threed.diffusion.score import Score

FIRST = (16, 32, 96, 256)  # channels on the way from the hint to the latents' size
Extras = dict[str, Any]  # further arguments of the UNet


class Beside(Protocol):
    """A net that looks at x_t, t, the text and a hint."""

    def __call__(
        self, x: Tensor, t: Tensor, tokens: Tensor, hint: Tensor, extras: Extras
    ) -> Outputs:
        """One tensor for each skip of the UNet, and one for its middle."""
        ...


@dataclass(frozen=True, eq=False)
class Control:
    """A net beside the UNet with its hint, as Condition.residuals takes it.

    hint is [B, K, H, W] in [0, 1] at the pictures' size. gentle: ControlNet's guess mode, in which
    finer layers count less, from 0.1 for the first skip to 1 for the middle. tokens [B, L, C] are
    what the net is told in the place of the text (a face, for InstantID's IdentityNet).
    """

    backbone: StableDiffusion
    net: Beside
    hint: Tensor
    strength: float = 1.0
    gentle: bool = False
    tokens: Tensor | None = None

    def select(self, index: Tensor) -> Control:
        """The items of index ([N] int64)."""
        tokens = None if self.tokens is None else self.tokens[index.to(self.tokens.device)]
        return replace(self, hint=self.hint[index.to(self.hint.device)], tokens=tokens)

    def join(self, others: Sequence[Any]) -> Control | None:
        """One call of the net for all, if it is the same net with the same weights."""
        all_of_them = [self, *others]
        if not all(isinstance(o, Control) and o._kind() == self._kind() for o in others):
            return None
        hint = torch.cat([o.hint for o in all_of_them])
        tokens = [o.tokens for o in all_of_them if o.tokens is not None]
        return replace(self, hint=hint, tokens=torch.cat(tokens) if tokens else None)

    def _kind(self) -> tuple[Any, ...]:
        """What has to be the same for one call."""
        tokens = None if self.tokens is None else self.tokens.shape[1:]
        return self.net, self.strength, self.gentle, self.hint.shape[1:], tokens

    def __call__(self, x: Tensor, t: Tensor, condition: Condition) -> Outputs:
        """The net's outputs, weighed, in the UNet's dtype."""
        if len(self.hint) != len(x):
            raise ValueError(f"{len(self.hint)} hints for a batch of {len(x)}")
        tokens = condition.tokens if self.tokens is None else self.tokens.to(x.device)
        extras = self.backbone.extras(x, t, condition)
        hint = self.hint.to(x.device).contiguous()  # other layouts compute other last digits
        skips, middle = self.net(x, t, tokens, hint, extras)
        outputs = [*skips, middle]
        scales = torch.full((len(outputs),), float(self.strength))
        if self.gentle:
            scales = scales * torch.logspace(-1, 0, len(outputs))
        dtype = self.backbone.unet.dtype
        *skips, middle = (out.to(dtype) * float(s) for out, s in zip(outputs, scales))
        return skips, middle


@dataclass(frozen=True)
class Around:
    """A ControlNetModel of diffusers as a net beside the UNet."""

    net: Any

    def __call__(
        self, x: Tensor, t: Tensor, tokens: Tensor, hint: Tensor, extras: Extras
    ) -> Outputs:
        """Its outputs, in its own dtype."""
        dtype = self.net.dtype
        x, tokens, hint = (v.to(dtype) for v in (x, tokens, hint))
        skips, middle = self.net(x, t, tokens, hint, return_dict=False, **extras)
        return skips, middle


def new_controlnet(backbone: StableDiffusion, channels: int = 3) -> Any:
    """A trainable ControlNetModel: a copy of the UNet's encoder, and convolutions of zeros.

    Until it is trained its outputs are zero (arXiv:2302.05543, section 3).
    """
    from diffusers import ControlNetModel

    halvings = round(math.log2(backbone.factor))
    net = ControlNetModel.from_unet(
        backbone.unet,
        conditioning_channels=channels,
        conditioning_embedding_out_channels=(*FIRST, *FIRST[-1:] * halvings)[: halvings + 1],
    )
    net.load_state_dict({name: value.float() for name, value in net.state_dict().items()})
    install(net)
    return net.float().requires_grad_(True)


def check_fits(backbone: StableDiffusion, net: nn.Module, source: str) -> None:
    """InputError if a net beside the UNet was made for another kind of UNet."""
    config: Any = net.config
    for name in ("block_out_channels", "cross_attention_dim", "layers_per_block"):
        ours, theirs = backbone.unet.config[name], config[name]
        if _plain(ours) != _plain(theirs):
            raise InputError(f"{source} was made for another backbone than {backbone.name!r}: its "
                             f"{name} is {_plain(theirs)}, not {_plain(ours)}")  # fmt: skip


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def within(
    make: Callable[[tuple[Residuals, ...]], Score], nets: Sequence[tuple[Residuals, float, float]]
) -> Score:
    """The Score of several nets, each at work from `start` to `end` of the sampling (0 to 1).

    make builds the Score of those that are at work.
    """
    made: dict[tuple[bool, ...], Score] = {}  # by which nets are at work

    def noise(x: Tensor, t: Tensor) -> Tensor:
        columns = [due(t, start, end).tolist() for _, start, end in nets]
        at_work = [*zip(*columns)] or [()] * len(x)  # for each item
        out = x
        for some in dict.fromkeys(at_work):
            if some not in made:
                made[some] = make(tuple(net for (net, *_), on in zip(nets, some) if on))
            here = torch.tensor([each == some for each in at_work], device=x.device)
            out = torch.where(here[:, None, None, None], made[some](x, t), out)
        return out

    return noise
