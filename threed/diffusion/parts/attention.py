"""The attention seam: one processor in every layer of the UNet, and edits passed with each call.

An edit makes an attention function out of an attention function, as guidance makes a model out of
a model, so edits compose: (outer, inner) is outer(site, inner(site, fused attention)). An edit
may change queries, keys or values, add tokens or a second attention, mask with a bias, or read and
replace the weights (Rewrite, Record); attention is fused unless an edit asks for the weights. Of
several edits that change the weights the inner one comes first, so that an outer Record sees what
is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threed.core.errors import InputError
from threed.diffusion.parts.hooks import edited

Change = Callable[[Tensor], Tensor]
"""Attention weights [B, heads, L, S] -> the same shape."""

Bias = Tensor | None
Via = Change | None

PLACES = ("down", "mid", "up")


@dataclass(frozen=True)
class Layer:
    """Where in the UNet an attention takes place."""

    name: str  # "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
    cross: bool  # attends to the text, not to the picture itself
    heads: int
    halvings: int = 0  # how often the latents' sides are halved by then
    order: int = 0  # of all attentions, as they run

    @property
    def place(self) -> str:
        """Of PLACES: on the way down, in the middle, or on the way up."""
        return self.name.partition("_")[0]

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the layer's tokens, for latents of a height and a width."""
        size = 2**self.halvings
        return -(-height // size), -(-width // size)


class Attend(Protocol):
    """Attention with the heads side by side in the last axis."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, bias: Bias = None, change: Via = None
    ) -> Tensor:
        """Q [B, L, C], k and v [B, S, C] -> [B, L, C].

        bias, broadcastable to [B, heads, L, S], is added to the logits; attention stays fused.
        change is what the weights pass through: they are computed in the open.
        """
        ...


@dataclass(frozen=True, eq=False)
class Site:
    """Where an attention takes place in this call."""

    layer: Layer
    rows: int  # of the picture's tokens: L = rows * columns
    columns: int
    hidden: Tensor  # [B, L, C] what the layer is given, normalised
    project: Callable[[Tensor], tuple[Tensor, Tensor]]
    """[B, S, C'] -> keys and values [B, S, C] by the layer's own weights; C' is C without cross."""

    def of(self, hidden: Tensor) -> Site:
        """The same place for some of the batch's rows, with their hidden state [B, L, C]."""
        return replace(self, hidden=hidden)


class AttentionEdit(Protocol):
    """A change of the UNet's attention for one call. One that holds rows of a batch is a Part."""

    def __call__(self, site: Site, attend: Attend) -> Attend:
        """The attention to use at this site: attend itself where nothing is to change."""
        ...


@runtime_checkable
class Timed(Protocol):
    """What is another edit at each noise level: it is asked for one with every call."""

    def at(self, t: Tensor) -> AttentionEdit:
        """The edit for items at t [B]."""
        ...


def edits_at(edits: Sequence[AttentionEdit | Timed], t: Tensor) -> tuple[AttentionEdit, ...]:
    """The edits as they are for items at t [B]."""
    return tuple(edit.at(t) if isinstance(edit, Timed) else edit for edit in edits)


def plain(heads: int) -> Attend:
    """Softmax attention of so many heads: fused, or with its weights in the open for change."""

    def attend(q: Tensor, k: Tensor, v: Tensor, *, bias: Bias = None, change: Via = None) -> Tensor:
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        bias = None if bias is None else bias.to(q.dtype)
        if change is None and not _slow_fused(q):
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            weights = (logits if bias is None else logits + bias).softmax(-1)
            out = (weights if change is None else change(weights)) @ v
        return out.transpose(1, 2).flatten(2)

    return attend


def _slow_fused(q: Tensor) -> bool:
    """Fused attention's way back, on a CPU and in bfloat16, takes 4 x as long as in float32."""
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad


def more_keys(bias: Tensor | None, count: int) -> Tensor | None:
    """Widen a bias [B, heads, L, S] for `count` further keys at the end, which it leaves alone."""
    return None if bias is None else F.pad(bias, (0, count))


@dataclass(frozen=True)
class Views:
    """Self-attention over all pixels of `count` views at once (MVDream's 3D attention).

    The batch holds groups of count neighbours; cross-attention stays per view.
    """

    count: int

    def __call__(self, site: Site, attend: Attend) -> Attend:
        """Join the tokens of a group before a self-attention, part them after it."""
        if site.layer.cross or self.count == 1:
            return attend

        def join(x: Tensor) -> Tensor:
            return x.reshape(-1, self.count * x.shape[1], x.shape[2])

        def whole(q: Tensor, k: Tensor, v: Tensor, bias: Bias = None, change: Via = None) -> Tensor:
            if bias is not None:
                raise ValueError("a bias within one view does not say what holds between views")
            return attend(join(q), join(k), join(v), change=change).reshape(q.shape)

        return whole


@dataclass(frozen=True, eq=False)
class Rewrite:
    """Other attention weights at the sites that it is for, from the weights that there are."""

    where: Callable[[Site], bool]
    change: Change

    def __call__(self, site: Site, attend: Attend) -> Attend:
        """The edit's own change, then that of the edits outside."""
        if not self.where(site):
            return attend

        def other(q: Tensor, k: Tensor, v: Tensor, bias: Bias = None, change: Via = None) -> Tensor:
            def both(weights: Tensor) -> Tensor:
                weights = self.change(weights)
                return weights if change is None else change(weights)

            return attend(q, k, v, bias=bias, change=both)

        return other


@dataclass(frozen=True, eq=False)
class Record:
    """Keeps the attention weights of a call by layer, the mean over heads, and changes nothing.

    They are [B, rows, columns, S], as the picture's places lie, and have their graph: energies of
    attention are differentiable.
    """

    where: Callable[[Site], bool]
    kept: dict[Layer, Tensor] = field(default_factory=dict)

    def __call__(self, site: Site, attend: Attend) -> Attend:
        """Read what passes by."""
        if not self.where(site):
            return attend

        def noted(q: Tensor, k: Tensor, v: Tensor, bias: Bias = None, change: Via = None) -> Tensor:
            def keep(weights: Tensor) -> Tensor:
                mean = weights.mean(1)
                self.kept[site.layer] = mean.unflatten(1, (site.rows, site.columns))
                return weights if change is None else change(weights)

            return attend(q, k, v, bias=bias, change=keep)

        return noted


class Processor:
    """What runs inside one diffusers Attention module."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.plain = plain(layer.heads)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        edits: Sequence[AttentionEdit] = (),
        size: tuple[int, int] = (0, 0),
    ) -> Tensor:
        """[B, L, C] -> [B, L, C]: project, attend, project. The names are diffusers'.

        size is that of the latents, which the edits' site is told. temb goes unused here, and
        masks do not occur in Stable Diffusion's UNets.
        """
        if attention_mask is not None:
            raise ValueError("attention masks are not supported: use an edit")
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        attend = self.plain

        def project(context: Tensor) -> tuple[Tensor, Tensor]:
            return attn.to_k(context), attn.to_v(context)

        if edits:
            site = Site(self.layer, *self.layer.shape(*size), hidden_states, project)
            attend = edited(edits, site, attend)
        out: Tensor = attn.to_out[0](attend(attn.to_q(hidden_states), *project(context)))
        return out


_EXTRAS = (
    "group_norm", "spatial_norm", "norm_cross", "norm_q", "norm_k", "added_kv_proj_dim",
    "residual_connection",
)  # fmt: skip


def install(unet: nn.Module) -> None:
    """Put our processor into every attention of a UNet2DConditionModel, in place.

    InputError if its layers are not the plain ones of Stable Diffusion.
    """
    found: dict[str, Any] = {
        name: attn for name, attn in unet.named_modules() if hasattr(attn, "set_processor")
    }
    for name, attn in found.items():
        extras = [part for part in _EXTRAS if getattr(attn, part, None)]
        if extras or attn.rescale_output_factor != 1:
            raise InputError(f"the UNet's attention {name} is unlike Stable Diffusion's "
                             f"({', '.join(extras) or 'rescaled output'}); such models are not "
                             "supported")  # fmt: skip
    depth = len(list(unet.get_submodule("down_blocks").children()))
    # modules are listed down, up, middle; they run down, middle, up
    ordered = sorted(found, key=lambda name: PLACES.index(name.partition("_")[0]))
    for order, name in enumerate(ordered):
        cross, heads = name.endswith("attn2"), found[name].heads
        layer = Layer(name, cross, heads, _halvings(name, depth), order)
        found[name].set_processor(Processor(layer))


def _halvings(name: str, depth: int) -> int:
    """How often the latents are halved where a module of a UNet of `depth` blocks stands."""
    place, block = name.partition("_")[0], name.split(".")[1]
    if place == "mid":
        return depth - 1
    return int(block) if place == "down" else depth - 1 - int(block)
