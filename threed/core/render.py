"""What a renderer returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class RenderOutput:
    """What a renderer returns. All images are channels-last; colour is sRGB in [0, 1]."""

    rgb: Tensor  # [B, H, W, 3] over the background
    opacity: Tensor  # [B, H, W, 1] in [0, 1]
    depth: Tensor  # [B, H, W, 1] expected distance along the ray, world units; 0 where empty
    normal: Tensor  # [B, H, W, 3] world space, unit length where opaque, 0 where empty
    losses: Mapping[str, Tensor] = field(default_factory=dict)  # scalars only the renderer knows
