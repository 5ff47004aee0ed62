"""A garment's picture as words of its own: LaDI-VTON's inversion adapter (arXiv:2305.13501)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from threed.core.errors import InputError
from threed.diffusion.condition import Condition
from threed.diffusion.models.convert import read_state
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.image_encoder import ImageEncoder
from threed.diffusion.weights import NET, filled


class InversionAdapter(nn.Module):
    """What an image encoder sees of a garment -> rows for a text encoder's table.

    One more layer like the encoder's, whose first token is the picture, and three linear maps.
    Names are as published. In training half of what is between them is left out.
    """

    def __init__(self, eye: Any, tokens: int, width: int) -> None:
        super().__init__()
        inputs = int(eye.hidden_size)
        self.tokens, self.width = tokens, width
        self.encoder_layers = nn.ModuleList([CLIPEncoderLayer(eye)])
        self.post_layernorm = nn.LayerNorm(inputs, eps=eye.layer_norm_eps)
        wide = 4 * inputs
        self.layers = nn.Sequential(
            nn.Linear(inputs, wide), nn.GELU(), nn.Dropout(0.5),
            nn.Linear(wide, wide), nn.GELU(), nn.Dropout(0.5),
            nn.Linear(wide, tokens * width),
        )  # fmt: skip

    def forward(self, seen: Tensor) -> Tensor:
        """[B, 1 + patches, C] the encoder's last states -> [B, tokens, width]."""
        first = self.encoder_layers[0](seen, None)[:, 0]
        rows: Tensor = self.layers(self.post_layernorm(first)).unflatten(-1, (self.tokens, -1))
        return rows


def worn_text(base: StableDiffusion, texts: Sequence[str], rows: Tensor) -> Condition:
    """What B texts say with a garment's rows [B, n, C] at the end of each, as further words.

    InputError for a text that leaves them no room among the tokens that are read.
    """
    words = {f"<garment{number}>": (one,) for number, one in enumerate(rows)}
    model = base.with_words(words)
    said = [f"{text} {word}" for text, word in zip(texts, words)]
    for text, whole in zip(texts, said):
        count, most = model.token_count(whole)
        if count > most:
            raise InputError(f"the prompt {text!r} is too long: with the garment's {rows.shape[1]} "
                             f"words it has {count} tokens, and {most} are read")  # fmt: skip
    return model.encode_text(said)


def new_adapter(base: StableDiffusion, encoder: ImageEncoder, tokens: int) -> InversionAdapter:
    """Make an untrained adapter for a backbone's text encoder."""
    table = base.encoders[0].get_input_embeddings().weight
    return InversionAdapter(encoder.eye, tokens, table.shape[1]).to(base.device)


def load_adapter(base: StableDiffusion, encoder: ImageEncoder, path: Path) -> InversionAdapter:
    """Load the adapter of a training's folder, or the published inversion_adapter_*.pth.

    InputError for damage, another layout, or another text or image encoder.
    """
    file = path / NET if path.is_dir() else path
    state = read_state(file)
    last, width = state.get("layers.6.weight"), base.encoders[0].config.hidden_size
    if last is None or last.ndim != 2 or len(last) % width:
        raise InputError(f"{file} holds no inversion adapter whose words have the {width} numbers "
                         f"of those of backbone {base.name!r}")  # fmt: skip
    net: InversionAdapter = filled(new_adapter(base, encoder, len(last) // width), state, str(file))
    return net
