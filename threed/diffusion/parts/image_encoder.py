"""The image encoder of image prompts: a CLIP's eye, by its folder in transformers' layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from threed.core.errors import InputError
from threed.diffusion.files import read_json
from threed.diffusion.models.latent import load_net

OFFICIAL = {  # what every published CLIP was taught with, whether its folder says so or not
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}
KINDS = {"clip": "CLIPModel", "clip_vision_model": "CLIPVisionModelWithProjection"}
HALF = dict.fromkeys(OFFICIAL, (0.5,) * 3)  # of toybox's, beside its backbone


class ImageEncoder:
    """A frozen CLIP's eye and its projection, of a folder with both or with a whole CLIP."""

    def __init__(self, folder: Path, device: torch.device, *, own: bool = False) -> None:
        """own: it came with toybox, and sees pictures in [-1, 1] if its folder says nothing."""
        import transformers

        config = folder / "config.json"
        kind = read_json(config).get("model_type")
        if kind not in KINDS:
            raise InputError(f"{config} describes no image encoder: model_type must be one of "
                             f"{', '.join(KINDS)}, got {kind!r}")  # fmt: skip
        of_kind = getattr(transformers, KINDS[kind])
        self.model: Any = load_net(of_kind, folder, device=device, dtype=torch.float32)
        path = folder / "preprocessor_config.json"
        scaling = (HALF if own else OFFICIAL) | (read_json(path) if path.is_file() else {})
        self.mean, self.std = (
            torch.tensor(scaling[name], device=device)[:, None, None] for name in OFFICIAL
        )
        self.folder, self.device = folder, device
        self.eye = getattr(self.model.config, "vision_config", self.model.config)
        self.size = int(self.eye.image_size)

    def width(self, *, pooled: bool) -> int:
        """How many numbers its one vector has, or that of each patch."""
        return int(self.model.config.projection_dim if pooled else self.eye.hidden_size)

    def see(self, pictures: Tensor, *, pooled: bool) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, D]; or [B, 1 + patches, C], the last layer but one.

        Differentiable.
        """
        return self._look(self._given(pictures), pooled)

    def last(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, 1 + patches, C], the last layer, each of length 1.

        As KOSMOS-G's language model sees them.
        """
        seen = self.states(pictures)[0]
        return F.normalize(self.model.vision_model.post_layernorm(seen), dim=-1)

    def states(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] in [0, 1] -> [B, 1 + patches, C], the last layer as it is, and [B, C].

        The second is the first token of it, normalised but not projected.
        """
        seen = self.model.vision_model(pixel_values=self._given(pictures))
        return seen.last_hidden_state, seen.pooler_output

    def _given(self, pictures: Tensor) -> Tensor:
        """Bring pictures to its size and scale."""
        sized = pictures.to(self.device)
        if sized.shape[-2:] != (self.size, self.size):
            sized = F.interpolate(sized, (self.size, self.size), mode="bicubic", antialias=True)
        return (sized - self.mean) / self.std

    @torch.no_grad()
    def nothing(self, *, pooled: bool) -> Tensor:
        """[1, C] or [1, L, C] for no picture: zeros, or what it sees in a picture of zeros."""
        if pooled:
            return torch.zeros(1, self.width(pooled=True), device=self.device)
        return self._look(torch.zeros(1, 3, self.size, self.size, device=self.device), pooled)

    def _look(self, pixels: Tensor, pooled: bool) -> Tensor:
        seen = self.model.vision_model(pixel_values=pixels, output_hidden_states=not pooled)
        features: Tensor = (
            self.model.visual_projection(seen.pooler_output) if pooled else seen.hidden_states[-2]
        )
        return features
