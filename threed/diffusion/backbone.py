"""A diffusion model seen from outside: what guidance, sampling and systems ask of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from threed.diffusion.condition import Condition
from threed.diffusion.models.text import Words
from threed.diffusion.reading import Vocabulary


class Backbone(Protocol):
    """A frozen diffusion model. Pictures are [B, 3, H, W] sRGB in [0, 1]."""

    name: str
    device: torch.device
    alphas_cumprod: Tensor  # [1000] float32
    image_size: int  # pixels, the size it was trained at
    factor: int  # pixels per latent, along an edge
    latent_channels: int
    views: int  # how many pictures it predicts together: 1, or 4
    scheduler_config: Mapping[str, Any]  # diffusers' own, as stored with the model
    vocabulary: Vocabulary | None  # the words that it was shown, if it says which

    def encode_text(self, prompts: Sequence[str], words: Words = ...) -> Condition:
        """One item a prompt; "" is the unconditional one. words: as of with_words."""
        ...

    def with_words(self, words: Words) -> Backbone:
        """The same model that knows further words of one's own, by their rows."""
        ...

    def token_count(self, prompt: str) -> tuple[int, int]:
        """How many tokens a prompt has, and how many are read."""
        ...

    def token_ids(self, prompt: str) -> tuple[int, ...]:
        """The tokens of a prompt that are read, start and end included, without padding."""
        ...

    def reads(self, prompt: str) -> str:
        """What is read of a prompt: no word that the model was never shown, if it says which."""
        ...

    def encode_image(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] -> latents [B, C, H/factor, W/factor], scaled; differentiable."""
        ...

    def decode_latents(self, latents: Tensor, skips: Sequence[Tensor] = ...) -> Tensor:
        """The inverse, clamped to [0, 1]; skips are added to features of the decoder."""
        ...

    def predict_noise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """x [B, C, h, w], t [B] in [0, 1000) -> the noise in x: always epsilon."""
        ...
