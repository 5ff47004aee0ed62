"""CLIP: pictures and texts as vectors of one space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from threed.core.errors import InputError
from threed.diffusion.files import read_json
from threed.diffusion.models.latent import LatentModel
from threed.diffusion.reading import Vocabulary
from threed.diffusion.weights import find_trained

OFFICIAL = Path("openai/clip-vit-large-patch14")  # the one of Stable Diffusion 1.5


class Clip:
    """A frozen CLIP of a folder, in float32.

    Without a preprocessor_config.json in it pictures are scaled to [-1, 1].
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import CLIPModel, CLIPTokenizer

        try:
            options = {"use_safetensors": True, "local_files_only": True, "dtype": torch.float32}
            self.model: Any = CLIPModel.from_pretrained(folder, **options)
        except Exception as error:  # any damage there is
            raise InputError(f"{folder} cannot be loaded as a CLIP: its config.json and its "
                             "weights do not fit, or one is damaged") from error  # fmt: skip
        self.model.to(device).eval().requires_grad_(False)
        own = any((folder / name).is_file() for name in ("vocab.json", "tokenizer.json"))
        texts = folder if own else folder.parent / "tokenizer"
        self.tokenizer = CLIPTokenizer.from_pretrained(texts)
        self.vocabulary = None if own else Vocabulary.of(folder.parent)
        path = folder / "preprocessor_config.json"
        config = read_json(path) if path.is_file() else {}
        half = [0.5] * 3
        self.mean, self.std = (torch.tensor(config.get(name, half), device=device)[:, None, None]
                               for name in ("image_mean", "image_std"))  # fmt: skip
        self.device = device
        self.size = int(self.model.config.vision_config.image_size)
        self.width = int(self.model.config.projection_dim)

    @torch.no_grad()
    def images(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, D], of any length."""
        sized = pictures.to(self.device)
        if sized.shape[-2:] != (self.size, self.size):
            sized = F.interpolate(sized, (self.size, self.size), mode="bicubic", antialias=True)
        seen = self.model.vision_model(pixel_values=(sized - self.mean) / self.std)
        vectors: Tensor = self.model.visual_projection(seen[1])
        return vectors

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """B texts -> [B, D], of any length; words that it was never shown are left out."""
        given = map(self.vocabulary.read, prompts) if self.vocabulary else prompts
        most = self.model.config.text_config.max_position_embeddings
        options = {"padding": "max_length", "truncation": True, "max_length": most}
        ids = self.tokenizer(list(given), return_tensors="pt", **options).input_ids
        read = self.model.text_model(input_ids=ids.to(self.device))
        vectors: Tensor = self.model.text_projection(read[1])
        return vectors


def clip_of(backbone: LatentModel) -> Clip:
    """Load the CLIP that comes with a backbone, or else the official one, fetched if need be."""
    return Clip(find_clip(backbone.folder), backbone.device)


def find_clip(folder: Path) -> Path:
    """Find the CLIP beside a backbone in its folder, or else the official one; InputError if none.

    It is fetched if need be.
    """
    if (beside := folder / "clip").is_dir():
        return beside
    return find_trained(OFFICIAL, folder, "CLIP", ("*.json", "*.txt", "model.safetensors"))
