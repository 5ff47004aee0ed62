"""Stable Diffusion 1.5, 2.1 and XL, toybox, and whatever shares their diffusers layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from threed.core.errors import InputError
from threed.diffusion.backbone import Backbone
from threed.diffusion.condition import Condition, residuals_of
from threed.diffusion.files import INDEX, has_part, read_json
from threed.diffusion.models.latent import LatentModel
from threed.diffusion.noise import alpha_sigma
from threed.diffusion.parts.adapters import adapted
from threed.diffusion.parts.attention import edits_at, install
from threed.diffusion.parts.hooks import hooked
from threed.diffusion.parts.norms import norm_hooks
from threed.diffusion.parts.skips import skip_hooks

SCORE = 6.0
"""The aesthetic score that SDXL's refiner is told, whatever the prompt: diffusers' default."""


class StableDiffusion(LatentModel):
    """A latent diffusion model with a UNet2DConditionModel, as a Backbone.

    SDXL's VAE, which overflows in float16, computes in float32; its refiner has the second of the
    two text encoders only.
    """

    def __init__(
        self, name: str, folder: Path, unet: str, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        from diffusers import DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        self.xl = has_part(read_json(folder / INDEX), "text_encoder_2")
        vae_dtype = torch.float32 if self.xl else dtype
        super().__init__(name, folder, device=device, dtype=dtype, vae_dtype=vae_dtype)
        self.empty_is_zero = bool(self.index.get("force_zeros_for_empty_prompt", False))
        self.scored = bool(self.index.get("requires_aesthetics_score", False))
        self.unet = self.net(UNet2DConditionModel, unet)
        install(self.unet)
        for number, kind in (("", CLIPTextModel), ("_2", CLIPTextModelWithProjection)):
            if has_part(self.index, f"text_encoder{number}", default=not number):
                self.encoders.append(self.net(kind, f"text_encoder{number}"))
                self.tokenizers.append(CLIPTokenizer.from_pretrained(folder / f"tokenizer{number}"))

        self.image_size = self.unet.config.sample_size * self.factor
        self.scheduler_config = read_json(folder / "scheduler" / "scheduler_config.json")
        self.prediction = self.scheduler_config.get("prediction_type", "epsilon")
        if self.prediction not in ("epsilon", "v_prediction"):
            needed = "where epsilon or v_prediction is needed"
            raise InputError(f"backbone {name!r} predicts {self.prediction!r}, {needed}")
        self.alphas_cumprod = DDIMScheduler.from_config(self.scheduler_config).alphas_cumprod
        if float(self.alphas_cumprod.min()) <= 0:
            raise InputError(f"backbone {name!r} has a schedule that ends in pure noise "
                             "(rescale_betas_zero_snr), where no "
                             "noise prediction exists")  # fmt: skip
        self.alphas_cumprod = self.alphas_cumprod.float().to(device)

    def read_text(self, prompts: list[str]) -> Condition:
        """[B, L, C] the token embeddings of all encoders beside each other, and the last's pooled.

        Only models like SDXL have a pooled vector.
        """
        tokens, pooled = [], None
        for number, tokenizer in enumerate(self.tokenizers):
            length = tokenizer.model_max_length
            out = self.encoded(number, prompts, length, output_hidden_states=self.xl)
            tokens.append(out.hidden_states[-2] if self.xl else out[0])
            pooled = out[0] if self.xl else None
        joined = torch.cat(tokens, -1)
        if self.empty_is_zero:
            keep = torch.tensor([bool(p) for p in prompts], device=self.device)
            joined = joined * keep[:, None, None]
            pooled = pooled * keep[:, None] if pooled is not None else None
        return Condition(joined, pooled)

    def predict_noise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Epsilon for x [B, C, h, w] at t [B]; v-predictions are converted."""
        if not len(x) == len(t) == len(condition):
            got = f"{len(x)}, {len(t)} and {len(condition)}"
            raise ValueError(f"x, t and the condition must have one batch, got {got}")
        if condition.cameras is not None and self.views == 1:
            raise ValueError(f"backbone {self.name!r} sees one picture and cannot be told cameras")
        given = x if condition.channels is None else torch.cat([x, condition.channels], 1)
        dtype = self.unet.dtype
        extras = self.extras(x, t, condition)
        hooks = skip_hooks(self.unet, condition.skips), norm_hooks(self.unet, condition.norms)
        with adapted(self.unet, condition.adapters), hooked([*hooks[0], *hooks[1]]):
            tokens = condition.tokens.to(dtype)
            raw = self.unet(given.to(dtype), t, tokens, return_dict=False, **extras)[0]
        out: Tensor = raw.to(x.dtype)
        if self.prediction == "epsilon":
            return out
        alpha, sigma = alpha_sigma(self.alphas_cumprod, t)
        return alpha * out + sigma * x

    def extras(self, x: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        """The UNet's further arguments for a call with x [B, C, h, w] and t [B]."""
        extras: dict[str, Any] = {}
        if condition.attention:
            told = {"edits": edits_at(condition.attention, t), "size": tuple(x.shape[-2:])}
            extras["cross_attention_kwargs"] = told
        if condition.pooled is not None:
            height, width = (n * self.factor for n in x.shape[-2:])
            last = [SCORE] if self.scored else [height, width]
            ids = torch.tensor([height, width, 0, 0, *last], device=x.device)
            times = ids.to(condition.pooled.dtype).repeat(len(x), 1)
            extras["added_cond_kwargs"] = {"text_embeds": condition.pooled, "time_ids": times}
        added = residuals_of(condition.residuals, x, t, condition)
        if added is not None:
            extras["down_block_additional_residuals"] = tuple(added[0])
            extras["mid_block_additional_residual"] = added[1]
        return extras


def require_unet(backbone: Backbone, what: str) -> StableDiffusion:
    """The backbone with its nets in sight. InputError, which names `what`, if it has no UNet."""
    if not isinstance(backbone, StableDiffusion):
        raise InputError(f"{what} needs a backbone with a UNet, such as toybox or Stable Diffusion "
                         f"1.5, 2.1 or XL, and {backbone.name!r} has a transformer")  # fmt: skip
    return backbone


def require_one_text(backbone: Backbone, what: str) -> StableDiffusion:
    """The backbone, whose text is one encoder's tokens and no more. InputError for others."""
    base = require_unet(backbone, what)
    if base.xl:
        raise InputError(f"system {what!r} needs a backbone with one text encoder, such as sd15 or "
                         f"toybox, and {base.name!r} has others beside it")  # fmt: skip
    return base
