"""Stable Diffusion 1.5, 2.1 and XL, toybox, and whatever shares their diffusers layout."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from threed.core import InputError
from threed.diffusion.attention import install
from threed.diffusion.condition import Condition
from threed.diffusion.files import INDEX, read_json, weights
from threed.diffusion.score import alpha_sigma


class StableDiffusion:
    """A latent diffusion model with a UNet2DConditionModel, as a Backbone.

    Frozen and in evaluation mode; latents stay in the dtype they come in, the nets compute in
    theirs. SDXL's VAE, which overflows in float16, computes in float32.
    """

    views = 1

    def __init__(
        self, name: str, folder: Path, unet: str, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        index = read_json(folder / INDEX)
        self.name, self.folder, self.device = name, folder, device
        self.xl = "text_encoder_2" in index
        self.empty_is_zero = bool(index.get("force_zeros_for_empty_prompt", False))

        def net(kind: Any, part: str, dtype: torch.dtype = dtype) -> Any:
            return load_net(kind, folder / part, device=device, dtype=dtype)

        self.unet = net(UNet2DConditionModel, unet)
        install(self.unet)
        self.vae = net(AutoencoderKL, "vae", torch.float32 if self.xl else dtype)
        self.encoders = [net(CLIPTextModel, "text_encoder")]
        if self.xl:
            self.encoders.append(net(CLIPTextModelWithProjection, "text_encoder_2"))
        tokenizers = ("tokenizer", "tokenizer_2")[: len(self.encoders)]
        self.tokenizers = [CLIPTokenizer.from_pretrained(folder / part) for part in tokenizers]

        self.scheduler_config: Mapping[str, Any] = read_json(
            folder / "scheduler" / "scheduler_config.json"
        )
        self.prediction = self.scheduler_config.get("prediction_type", "epsilon")
        if self.prediction not in ("epsilon", "v_prediction"):
            raise InputError(
                f"backbone {name!r} predicts {self.prediction!r}, "
                "where epsilon or v_prediction is needed"
            )
        self.alphas_cumprod = DDIMScheduler.from_config(self.scheduler_config).alphas_cumprod
        if float(self.alphas_cumprod.min()) <= 0:
            raise InputError(
                f"backbone {name!r} has a schedule that ends in pure noise "
                "(rescale_betas_zero_snr), where no noise prediction exists"
            )
        self.alphas_cumprod = self.alphas_cumprod.float().to(device)
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.image_size = self.unet.config.sample_size * self.factor
        self.latent_channels = self.vae.config.latent_channels

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Condition:
        """[B, L, C] token embeddings; longer prompts are cut to L tokens."""
        tokens, pooled = [], None
        for tokenizer, encoder in zip(self.tokenizers, self.encoders):
            ids = tokenizer(
                list(prompts),
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            ).input_ids.to(self.device)
            out = encoder(ids, output_hidden_states=self.xl)
            tokens.append(out.hidden_states[-2] if self.xl else out[0])
            pooled = out[0] if self.xl else None
        joined = torch.cat(tokens, -1)
        if self.empty_is_zero:
            keep = torch.tensor([bool(p) for p in prompts], device=self.device)
            joined = joined * keep[:, None, None]
            pooled = pooled * keep[:, None] if pooled is not None else None
        return Condition(joined, pooled)

    def token_count(self, prompt: str) -> tuple[int, int]:
        """How many tokens a prompt has, and how many the model reads."""
        tokenizer = self.tokenizers[0]
        return len(tokenizer(prompt, verbose=False).input_ids), int(tokenizer.model_max_length)

    def unknown_words(self, prompt: str) -> tuple[str, ...]:
        """The prompt's words that the model never saw, if it says which ones it did.

        Those are in tokenizer/words.txt, one a line, in lower case; without it nothing is unknown.
        """
        path = self.folder / "tokenizer" / "words.txt"
        if not path.is_file():
            return ()
        seen = set(path.read_text(encoding="utf-8").split())
        words = re.findall(r"[^\W_]+", prompt.lower())
        return tuple(dict.fromkeys(word for word in words if word not in seen))

    def encode_image(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, C, H/factor, W/factor]: the mean, so no chance in it."""
        config = self.vae.config
        mean = self.vae.encode((image * 2 - 1).to(self.vae.dtype)).latent_dist.mean
        return (mean.to(image.dtype) - (config.shift_factor or 0)) * config.scaling_factor

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, 3, h*factor, w*factor] in [0, 1]."""
        config = self.vae.config
        z = latents / config.scaling_factor + (config.shift_factor or 0)
        image = self.vae.decode(z.to(self.vae.dtype), return_dict=False)[0]
        return (image.to(latents.dtype) / 2 + 0.5).clamp(0, 1)

    def predict_noise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Epsilon for x [B, C, h, w] at t [B]; v-predictions are converted."""
        if not len(x) == len(t) == len(condition):
            raise ValueError(
                f"x, t and the condition must have one batch, got {len(x)}, {len(t)} and "
                f"{len(condition)}"
            )
        if condition.cameras is not None and self.views == 1:
            raise ValueError(f"backbone {self.name!r} sees one picture and cannot be told cameras")
        given = x if condition.channels is None else torch.cat([x, condition.channels], 1)
        dtype = self.unet.dtype
        out = self.unet(
            given.to(dtype),
            t,
            encoder_hidden_states=condition.tokens.to(dtype),
            return_dict=False,
            **self.extras(x, t, condition),
        )[0].to(x.dtype)
        if self.prediction == "epsilon":
            return out
        alpha, sigma = alpha_sigma(self.alphas_cumprod, t)
        return alpha * out + sigma * x

    def extras(self, x: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        """The UNet's further arguments for this call."""
        extras: dict[str, Any] = {}
        if condition.attention:
            extras["cross_attention_kwargs"] = {"edits": condition.attention}
        if condition.pooled is not None:
            height, width = (n * self.factor for n in x.shape[-2:])
            ids = torch.tensor([height, width, 0, 0, height, width], device=x.device)
            extras["added_cond_kwargs"] = {
                "text_embeds": condition.pooled,
                "time_ids": ids.to(condition.pooled.dtype).repeat(len(x), 1),
            }
        if condition.residuals:
            outputs = [net(x, t, condition) for net in condition.residuals]
            skips = zip(*(skips for skips, _ in outputs))
            extras["down_block_additional_residuals"] = tuple(sum(s[1:], s[0]) for s in skips)
            middles = [middle for _, middle in outputs]
            extras["mid_block_additional_residual"] = sum(middles[1:], middles[0])
        return extras


def load_net(kind: Any, part: Path, *, device: torch.device, dtype: torch.dtype) -> Any:
    """One frozen net from its folder, by its class's own from_pretrained, without the network.

    .bin files are read with weights_only: pickled code is refused, never run. InputError on any
    damage.
    """
    _, variant, safe = weights(part, half=dtype != torch.float32)
    option = "dtype" if kind.__module__.startswith("transformers") else "torch_dtype"
    try:
        with _quiet():
            net: nn.Module = kind.from_pretrained(
                part,
                variant=variant,
                use_safetensors=safe,
                local_files_only=True,
                **{option: dtype},
            )
    except Exception as error:  # any damage there is: wrong shapes, bad JSON, forbidden pickles
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise InputError(f"{part} cannot be loaded as a {kind.__name__}: {reason}") from error
    return net.to(device).eval().requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars while loading: the caller says what it does."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
