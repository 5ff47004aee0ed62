"""A picture in the place of the text: Paint by Example's image condition (arXiv:2211.13227)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Mlp(nn.Module):
    """Two linear maps, by the names of the published code."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        out: Tensor = self.c_proj(nn.functional.gelu(self.c_fc(x)))
        return out


class Alone(nn.Module):
    """Attention with one head over a single token, which is the token's own value."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_qkv, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C] -> [B, C]."""
        out: Tensor = self.c_proj(self.c_qkv(x).chunk(3, -1)[-1])
        return out


class Block(nn.Module):
    """A transformer's layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn, self.mlp = Alone(width), Mlp(width)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C] -> [B, C]."""
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class ImageWord(nn.Module):
    """One vector of a picture -> the only token that cross-attention looks at.

    learnable_vector stands for no picture. Names are as published.
    """

    def __init__(self, inputs: int, width: int, layers: int) -> None:
        super().__init__()
        made = [Block(inputs) for _ in range(layers)]
        self.mapper = nn.ModuleDict({"resblocks": nn.ModuleList(made)})
        self.final_ln, self.proj_out = nn.LayerNorm(inputs), nn.Linear(inputs, width)
        self.learnable_vector = nn.Parameter(torch.randn(1, 1, width))

    def forward(self, seen: Tensor) -> Tensor:
        """[B, inputs] an image encoder's vector, unprojected -> [B, 1, width]."""
        for block in self.blocks:
            seen = block(seen)
        token: Tensor = self.proj_out(self.final_ln(seen))
        return token[:, None]

    @property
    def blocks(self) -> list[Block]:
        """The layers, in their order."""
        found: Any = self.mapper["resblocks"]
        return list(found)
