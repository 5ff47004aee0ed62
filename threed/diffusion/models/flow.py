"""Flow-matching models (Stable Diffusion 3 and 3.5) as a Backbone: their velocity made noise.

A flow goes straight from a picture z to noise n: x_s = (1 - s) z + s n, and the model predicts
n - z (arXiv:2403.03206). The toolkit's latents are alpha z + sigma n with alpha² + sigma² = 1:
the same ray, x = (alpha + sigma) x_s at s = sigma / (alpha + sigma), and n = x_s + (1 - s) (n - z).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from threed.core.errors import InputError
from threed.diffusion.condition import Condition
from threed.diffusion.files import has_part, read_json
from threed.diffusion.models.latent import LatentModel
from threed.diffusion.noise import alpha_sigma

LEVELS = 1000
LENGTH = 256  # tokens that T5 reads: diffusers' default


class FlowDiffusion(LatentModel):
    """A latent model with an SD3Transformer2DModel.

    Its noise levels are the flow's own, shifted as its scheduler says, so that a level's share of
    the 1000 means what it meant in training. A model saved without its third text encoder (T5)
    works as diffusers' does: that part of the text is zeros.
    """

    def __init__(
        self, name: str, folder: Path, part: str, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        from diffusers import SD3Transformer2DModel
        from transformers import AutoTokenizer, CLIPTextModelWithProjection, T5EncoderModel

        super().__init__(name, folder, device=device, dtype=dtype)
        self.transformer = self.net(SD3Transformer2DModel, part)
        kinds = [CLIPTextModelWithProjection, CLIPTextModelWithProjection, T5EncoderModel]
        for number, kind in zip(("", "_2", "_3"), kinds):
            if has_part(self.index, f"text_encoder{number}"):
                self.encoders.append(self.net(kind, f"text_encoder{number}"))
                self.tokenizers.append(AutoTokenizer.from_pretrained(folder / f"tokenizer{number}"))
        if len(self.encoders) < 2:
            raise InputError(f"backbone {name!r} has no two CLIP text encoders, as Stable "
                             "Diffusion 3 needs")  # fmt: skip
        stored = read_json(folder / "scheduler" / "scheduler_config.json")
        if stored.get("use_dynamic_shifting"):
            raise InputError(f"backbone {name!r} shifts its noise levels by the picture's size "
                             "(use_dynamic_shifting), which is not read here")  # fmt: skip
        table = levels(float(stored.get("shift", 1.0)))
        self.alphas_cumprod = table.float().to(device)
        self.scheduler_config = sampling(table)
        self.image_size = self.transformer.config.sample_size * self.factor

    def read_text(self, prompts: list[str]) -> Condition:
        """[B, L, C] the two CLIPs beside each other, filled up, and T5 behind them; pooled."""
        clips, pooled = [], []
        for number in (0, 1):
            length = self.tokenizers[0].model_max_length
            out = self.encoded(number, prompts, length, output_hidden_states=True)
            clips.append(out.hidden_states[-2])
            pooled.append(out[0])
        width = self.transformer.config.joint_attention_dim
        both = torch.cat(clips, -1)
        both = torch.nn.functional.pad(both, (0, width - both.shape[-1]))
        empty = both.new_zeros(len(both), LENGTH, width)
        last = self.encoded(2, prompts, LENGTH)[0] if len(self.encoders) > 2 else empty
        return Condition(torch.cat([both, last], 1), torch.cat(pooled, -1))

    def predict_noise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Epsilon for x [B, C, h, w] at t [B], from the flow's velocity.

        ValueError for what only a UNet can be told.
        """
        told = (condition.attention, condition.residuals, condition.skips, condition.norms)
        if condition.channels is not None or any(told) or condition.adapters:
            raise ValueError(f"backbone {self.name!r} is a transformer: it takes no further "
                             "channels, edits, residuals or adapters")  # fmt: skip
        alpha, sigma = alpha_sigma(self.alphas_cumprod, t)
        s = sigma / (alpha + sigma)
        seen = x / (alpha + sigma)
        dtype = self.transformer.dtype
        assert condition.pooled is not None  # encode_text made it
        velocity: Tensor = self.transformer(
            seen.to(dtype),
            timestep=LEVELS * s.flatten(),
            encoder_hidden_states=condition.tokens.to(dtype),
            pooled_projections=condition.pooled.to(dtype),
            return_dict=False,
        )[0].to(x.dtype)
        return seen + (1 - s) * velocity


def levels(shift: float) -> Tensor:
    """[1000] float64 alphas_cumprod of a flow whose levels are shifted.

    Level t is at the middle of its share, u = (t + 1/2) / 1000, since at the ends a picture, or
    noise, is all that there is; s = shift u / (1 + (shift - 1) u).
    """
    u = (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS
    s = shift * u / (1 + (shift - 1) * u)
    return (1 - s) ** 2 / ((1 - s) ** 2 + s**2)


def sampling(table: Tensor) -> dict[str, Any]:
    """What diffusers' schedulers for noise need to know to step along a flow's levels [1000].

    A DDIM step is then an Euler step of the flow: both go to (1 - s') z + s' n, up to the scale.
    """
    before = torch.cat([table.new_ones(1), table[:-1]])
    betas = (1 - table / before).tolist()  # "trailing": from the noisiest level on
    return {"num_train_timesteps": LEVELS, "trained_betas": betas, "set_alpha_to_one": True,
            "timestep_spacing": "trailing", "prediction_type": "epsilon"}  # fmt: skip
