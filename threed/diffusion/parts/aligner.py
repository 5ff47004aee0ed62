"""KOSMOS-G's aligner (arXiv:2310.02992): a language model's states, as a text encoder's tokens.

Its tensors have the published names, under "aligner." in checkpoint_final.pt. Its layers are
Magneto's (arXiv:2210.06423): a norm before and another inside each attention and widening.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threed.core.errors import InputError
from threed.core.saved import read_saved
from threed.diffusion.parts.attention import Bias, plain
from threed.diffusion.weights import below, filled

HEAD = 64  # channels of an attention's head, as published
FIRST = 2  # of the learned positions, as in fairseq
PREFIX = "aligner."


@dataclass(frozen=True)
class Sizes:
    """What an aligner is made for."""

    states: int  # numbers of a state of the language model
    width: int  # numbers of a token of the text encoder
    tokens: int  # of the text encoder, padding included
    layers: int  # of each of its stacks; published: 12
    positions: int = 32768  # states that it can read, and FIRST more

    @property
    def heads(self) -> int:
        """Of an attention."""
        return max(self.width // HEAD, 1)


class _Attention(nn.Module):
    def __init__(self, sizes: Sizes, *, own: bool) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(sizes.width, sizes.width) for _ in range(4)
        )
        self.inner_attn_ln = nn.LayerNorm(sizes.width) if own else nn.Identity()
        self.attend = plain(sizes.heads)

    def forward(self, x: Tensor, context: Tensor, bias: Bias = None) -> Tensor:
        """[B, L, C] that looks at [B, S, C]."""
        k, v = self.k_proj(context), self.v_proj(context)
        seen = self.inner_attn_ln(self.attend(self.q_proj(x), k, v, bias=bias))
        out: Tensor = self.out_proj(seen)
        return out


class _Widening(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.ffn_layernorm = nn.LayerNorm(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.ffn_layernorm(F.gelu(self.fc1(x))))
        return out


class _Layer(nn.Module):
    """Attention to itself, to a context if it `looks` at one, and a widening."""

    def __init__(self, sizes: Sizes, *, looks: bool) -> None:
        super().__init__()
        self.self_attn = _Attention(sizes, own=True)
        self.self_attn_layer_norm = nn.LayerNorm(sizes.width)
        if looks:
            self.encoder_attn = _Attention(sizes, own=False)
            self.encoder_attn_layer_norm = nn.LayerNorm(sizes.width)
        self.ffn = _Widening(sizes.width)
        self.final_layer_norm = nn.LayerNorm(sizes.width)

    def forward(self, x: Tensor, bias: Bias, context: Tensor | None, there: Bias) -> Tensor:
        own = self.self_attn_layer_norm(x)
        x = x + self.self_attn(own, own, bias)
        if context is not None:
            x = x + self.encoder_attn(self.encoder_attn_layer_norm(x), context, there)
        out: Tensor = x + self.ffn(self.final_layer_norm(x))
        return out


class _Stack(nn.Module):
    """Layers and a last norm; what else is in a published part is added to it by name."""

    embed_tokens: nn.Module
    embed_positions: nn.Module
    output_projection: nn.Module

    def __init__(self, sizes: Sizes, *, looks: bool = False, **others: nn.Module) -> None:
        super().__init__()
        for name, module in others.items():
            self.add_module(name, module)
        self.layers = nn.ModuleList(_Layer(sizes, looks=looks) for _ in range(sizes.layers))
        self.layer_norm = nn.LayerNorm(sizes.width)

    def forward(
        self, x: Tensor, bias: Bias = None, context: Tensor | None = None, there: Bias = None
    ) -> Tensor:
        """[B, L, C] -> the same; biases are of the logits for x itself, and for the context."""
        for layer in self.layers:
            x = layer(x, bias, context, there)
        out: Tensor = self.layer_norm(x)
        return out

    def placed(self, x: Tensor) -> Tensor:
        """[B, L, C] with each place's own numbers added."""
        positions: Any = self.embed_positions
        placed: Tensor = x + positions.weight[FIRST : FIRST + x.shape[1]]
        return placed


def _positions(sizes: Sizes) -> nn.Embedding:
    return nn.Embedding(sizes.positions, sizes.width)


class Aligner(nn.Module):
    """States of a language model -> as many tokens as the text encoder gives."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        tokens = nn.Linear(sizes.states, sizes.width)
        self.encoder_proj = _Stack(sizes, embed_tokens=tokens, embed_positions=_positions(sizes))
        self.encoder_query = nn.Parameter(torch.randn(sizes.tokens, sizes.width))
        self.encoder = _Stack(sizes, looks=True)

    def forward(self, states: Tensor, there: Tensor) -> Tensor:
        """States [B, S, D], which of them are no padding [B, S] bool -> tokens [B, L, C].

        What is in the padding, and how much there is of it, changes nothing.
        """
        bias = torch.zeros_like(there, dtype=states.dtype).masked_fill(~there, -torch.inf)
        bias = bias[:, None, None]
        seen = self.encoder_proj.placed(self.encoder_proj.embed_tokens(states))
        seen = self.encoder_proj(seen * there[..., None], bias)
        query = self.encoder_query.expand(len(states), -1, -1)
        tokens: Tensor = self.encoder(query, None, seen, bias)
        return tokens


class Rebuilding(nn.Module):
    """The way back, which is trained beside the aligner so that nothing is lost in it."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.decoder_query = nn.Parameter(torch.randn(sizes.positions, sizes.width))
        self.decoder = _Stack(sizes, looks=True)
        out = nn.Linear(sizes.width, sizes.states)
        self.decoder_proj = _Stack(sizes, embed_positions=_positions(sizes), output_projection=out)

    def forward(self, tokens: Tensor, count: int) -> Tensor:
        """Tokens [B, L, C] -> states [B, count, D]."""
        query = self.decoder_query[:count].expand(len(tokens), -1, -1)
        seen = self.decoder_proj.placed(self.decoder(query, None, tokens))
        states: Tensor = self.decoder_proj.output_projection(self.decoder_proj(seen))
        return states


def alignment_loss(
    aligned: Tensor, text: Tensor, rebuilt: Tensor, states: Tensor, there: Tensor
) -> Tensor:
    """Add up both losses: of tokens [B, L, C] beside the text encoder's, and of rebuilt states.

    States [B, S, D] count where they are no padding, there [B, S] bool; the more there are of them
    the less each set counts, L / S times.
    """
    off = (rebuilt - states).float().square().mean(-1)
    rebuilding = (off * there).sum() / there.sum() * (text.shape[1] / states.shape[1])
    return F.mse_loss(aligned.float(), text.float()) + rebuilding


def read_aligner(path: Path) -> Aligner:
    """Read the aligner of a published checkpoint, or of one of these files; nothing is executed.

    What else is in it (the language model, the image encoder, the UNet) is passed over. InputError
    if there is none in it, or if it is damaged.
    """
    saved = read_saved(path, others=True)
    state = saved.get("model", saved) if isinstance(saved, dict) else {}
    named = {name: value for name, value in state.items()
             if isinstance(name, str) and isinstance(value, Tensor)}  # fmt: skip
    parts = ("encoder_proj.", "encoder_query", "encoder.")
    own = {name: value for name, value in below(named, PREFIX).items() if name.startswith(parts)}
    aligner: Aligner = filled(Aligner(sizes_of(own, path)), own, str(path))
    return aligner


def sizes_of(state: Mapping[str, Tensor], path: Path) -> Sizes:
    """What an aligner's tensors say of its sizes. InputError if they are none's."""

    def shape(name: str) -> tuple[int, int]:
        value = state.get(name)
        if value is None or value.ndim != 2:
            raise InputError(f"{path} holds no aligner of KOSMOS-G: there is no {PREFIX}{name} "
                             "of two axes in it")  # fmt: skip
        return value.shape[0], value.shape[1]

    (width, states), (tokens, _) = shape("encoder_proj.embed_tokens.weight"), shape("encoder_query")
    positions, _ = shape("encoder_proj.embed_positions.weight")
    layers = {name.split(".")[2] for name in state if name.startswith("encoder.layers.")}
    return Sizes(states, width, tokens, len(layers), positions)
