"""Nets that make tokens for cross-attention out of a picture's features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threed.diffusion.parts.attention import plain


class Gated(nn.Module):
    """Two linear maps around a gated GELU (arXiv:2002.05202), by the names of latent diffusion."""

    def __init__(self, inputs: int, inner: int, outputs: int, dropout: float) -> None:
        super().__init__()
        layers = _Gate(inputs, inner), nn.Dropout(dropout), nn.Linear(inner, outputs)
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs] -> [B, outputs]."""
        out: Tensor = self.net(x)
        return out


class _Gate(nn.Module):
    def __init__(self, inputs: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inputs, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class GlobalAdapter(nn.Module):
    """CLIP's features of a picture -> tokens beside the text's (Uni-ControlNet's).

    Features of zeros, which stand for no picture, give tokens, too, always the same.
    """

    def __init__(self, inputs: int, width: int, tokens: int = 4) -> None:
        super().__init__()
        self.inputs, self.width = inputs, width
        self.norm1, self.norm2 = nn.LayerNorm(inputs), nn.LayerNorm(2 * inputs)
        self.ff1 = Gated(inputs, 4 * inputs, 2 * inputs, 0.1)
        self.ff2 = Gated(2 * inputs, 8 * inputs, tokens * width, 0.3)

    def forward(self, features: Tensor) -> Tensor:
        """[B, inputs] -> [B, tokens, width]."""
        flat: Tensor = self.ff2(self.norm2(self.ff1(self.norm1(features))))
        tokens: Tensor = flat.unflatten(-1, (-1, self.width))
        return tokens


class Projection(nn.Module):
    """One vector -> tokens: a picture's by one map (IP-Adapter), a face's by two (FaceID)."""

    pooled = True  # of what an image encoder gives, its one vector

    def __init__(self, inputs: int, width: int, tokens: int = 4, *, face: bool = False) -> None:
        super().__init__()
        self.inputs, self.width, self.face = inputs, width, face
        layers = nn.Linear(inputs, 2 * inputs), nn.GELU(), nn.Linear(2 * inputs, tokens * width)
        self.proj = nn.Sequential(*layers) if face else nn.Linear(inputs, tokens * width)
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> Tensor:
        """[B, inputs] -> [B, tokens, width]."""
        tokens: Tensor = self.norm(self.proj(features).unflatten(-1, (-1, self.width)))
        return tokens


class Patchwise(nn.Module):
    """A token for each patch that an image encoder saw (IP-Adapter's full-face weights)."""

    pooled = face = False

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.inputs, self.width = inputs, width
        layers = nn.Linear(inputs, inputs), nn.GELU(), nn.Linear(inputs, width)
        self.proj = nn.Sequential(*layers, nn.LayerNorm(width))

    def forward(self, features: Tensor) -> Tensor:
        """[B, patches, inputs] -> [B, patches, width]."""
        tokens: Tensor = self.proj(features)
        return tokens


class Resampler(nn.Module):
    """Queries that look at an image encoder's patches (IP-Adapter Plus, after Flamingo's)."""

    pooled = face = False

    def __init__(
        self, inputs: int, width: int, *, inner: int, heads: int, depth: int = 4, tokens: int = 16
    ) -> None:
        super().__init__()
        self.inputs, self.width = inputs, width
        self.latents = nn.Parameter(torch.randn(1, tokens, inner) / inner**0.5)
        self.proj_in, self.proj_out = nn.Linear(inputs, inner), nn.Linear(inner, width)
        self.norm_out = nn.LayerNorm(width)
        self.layers = perceivers(inner, heads, depth)

    def forward(self, features: Tensor) -> Tensor:
        """[B, patches, inputs] -> [B, tokens, width]."""
        queries = self.latents.expand(len(features), -1, -1)
        latents = looked(self.layers, self.proj_in(features), queries)
        tokens: Tensor = self.norm_out(self.proj_out(latents))
        return tokens


HEAD = 64  # channels of a resampler's head, in all that was published but PhotoMaker


def perceivers(inner: int, heads: int, depth: int, head: int = HEAD) -> nn.ModuleList:
    """Make a resampler's layers, each a look at the patches and a widening."""
    return nn.ModuleList(
        nn.ModuleList([_Perceiver(inner, heads, head), _widening(inner)]) for _ in range(depth)
    )


def looked(layers: nn.ModuleList, seen: Tensor, latents: Tensor) -> Tensor:
    """[B, L, C] what queries [B, L, C] become that look at patches [B, S, C]."""
    for layer in layers:
        look, widen = layer.children()
        latents = latents + look(seen, latents)
        latents = latents + widen(latents)
    return latents


class _Perceiver(nn.Module):
    """Attention of the queries to the patches and to themselves."""

    def __init__(self, width: int, heads: int, head: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, heads * head, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * head, bias=False)
        self.to_out = nn.Linear(heads * head, width, bias=False)
        self.attend = plain(heads)

    def forward(self, seen: Tensor, latents: Tensor) -> Tensor:
        """[B, S, C] and [B, L, C] -> [B, L, C]."""
        seen, latents = self.norm1(seen), self.norm2(latents)
        k, v = self.to_kv(torch.cat([seen, latents], 1)).chunk(2, -1)
        out: Tensor = self.to_out(self.attend(self.to_q(latents), k, v))
        return out


def _widening(width: int) -> nn.Sequential:
    layers = (nn.Linear(*sides, bias=False) for sides in ((width, 4 * width), (4 * width, width)))
    return nn.Sequential(nn.LayerNorm(width), next(layers), nn.GELU(), next(layers))


def appended(text: Tensor, tokens: Tensor, strength: float) -> Tensor:
    """[B, L + T, C] tokens after the text's, weighed; the text's alone at strength 0."""
    if strength == 0:
        return text
    return torch.cat([text, (strength * tokens).to(text)], 1)
