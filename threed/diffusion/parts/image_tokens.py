"""Nets that make tokens for cross-attention out of a picture's features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


def appended(text: Tensor, tokens: Tensor, strength: float) -> Tensor:
    """[B, L + T, C] tokens after the text's, weighed; the text's alone at strength 0."""
    if strength == 0:
        return text
    return torch.cat([text, (strength * tokens).to(text)], 1)
