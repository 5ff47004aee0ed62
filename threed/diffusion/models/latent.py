"""What every latent diffusion model has around its denoiser: text encoders, a VAE, a name."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from threed.core.errors import InputError
from threed.diffusion.condition import Condition
from threed.diffusion.files import INDEX, read_json, weights
from threed.diffusion.models.text import Words, check_words, encode, filled_up, ids_of
from threed.diffusion.packed import is_packed
from threed.diffusion.parts.adapters import adapted
from threed.diffusion.parts.decoding import decoder_hooks
from threed.diffusion.parts.hooks import hooked
from threed.diffusion.reading import Vocabulary
from threed.diffusion.weights import frozen, load_folder

Model = TypeVar("Model", bound="LatentModel")
NONE: Words = MappingProxyType({})


class LatentModel:
    """A folder in diffusers' layout, without its denoiser.

    Frozen and in evaluation mode; latents stay in the dtype they come in, the nets compute in
    theirs. encoders and tokenizers are in the order in which their outputs are joined.
    """

    views = 1
    alphas_cumprod: Tensor  # [1000] float32
    scheduler_config: Mapping[str, Any]
    image_size: int

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        device: torch.device,
        dtype: torch.dtype,
        vae_dtype: torch.dtype | None = None,
    ) -> None:
        from diffusers import AutoencoderKL

        self.name, self.folder, self.device, self.dtype = name, folder, device, dtype
        self.index = read_json(folder / INDEX)
        self.vae = self.net(AutoencoderKL, "vae", vae_dtype)
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.latent_channels = self.vae.config.latent_channels
        self.encoders: list[Any] = []
        self.tokenizers: list[Any] = []
        self.words: Words = {}
        self.adapters: Mapping[str, float] = {}  # LoRAs of the denoiser that are always in force
        self.text_adapters: tuple[Mapping[str, float], ...] = ()  # the same of each text encoder
        self.vocabulary = Vocabulary.of(folder)

    def net(self, kind: Any, part: str, dtype: torch.dtype | None = None) -> Any:
        """One of its nets, frozen, from its subfolder."""
        return load_net(kind, self.folder / part, device=self.device, dtype=dtype or self.dtype)

    def with_words(self: Model, words: Words) -> Model:
        """The same model that knows further words of one's own.

        They may stand in all prompts, and are found in them as other words are. InputError if
        rows do not fit the text encoders.
        """
        check_words(words, self.encoders)
        other = copy.copy(self)
        other.words = {**self.words, **words}
        if self.vocabulary is not None:
            other.vocabulary = replace(self.vocabulary, own=tuple(other.words))
        return other

    def encode_text(self, prompts: Sequence[str], words: Words = NONE) -> Condition:
        """Tokens [B, L, C], an item a prompt as it `reads`; longer ones are cut to L tokens.

        words: further ones for these prompts, as of with_words. Gradients reach their rows.
        """
        model = self.with_words(words) if words else self
        condition = model.read_text(list(map(model.reads, prompts)))
        return replace(condition, adapters=self.adapters) if self.adapters else condition

    def read_text(self, prompts: list[str]) -> Condition:
        """What the text encoders make of prompts together."""
        raise NotImplementedError

    def encoded(self, number: int, prompts: list[str], length: int, **options: Any) -> Any:
        """What one text encoder makes of prompts, cut or filled up to a length."""
        tokenizer = self.tokenizers[number]
        read = (ids_of(tokenizer, prompt, self.words) for prompt in prompts)
        ids = [filled_up(one, tokenizer, length) for one in read]
        rows = [word[number] for word in self.words.values()]
        weights = self.text_adapters[number] if self.text_adapters else {}
        with adapted(self.encoders[number], weights):
            tokens = torch.tensor(ids, device=self.device)
            return encode(self.encoders[number], tokens, rows, **options)

    def token_count(self, prompt: str) -> tuple[int, int]:
        """How many tokens a prompt has, and how many the model reads."""
        tokenizer = self.tokenizers[0]
        ids = ids_of(tokenizer, self.reads(prompt), self.words)
        return len(ids), int(tokenizer.model_max_length)

    def token_ids(self, prompt: str) -> tuple[int, ...]:
        """The tokens of a prompt that are read, start and end included, without padding."""
        tokenizer = self.tokenizers[0]
        ids = ids_of(tokenizer, self.reads(prompt), self.words)
        return tuple(filled_up(ids, tokenizer, min(len(ids), tokenizer.model_max_length)))

    def reads(self, prompt: str) -> str:
        """What the text encoders are given of a prompt: no word that the model was never shown."""
        return prompt if self.vocabulary is None else self.vocabulary.read(prompt)

    def encode_image(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, C, H/factor, W/factor]: the mean, so no chance in it."""
        config = self.vae.config
        mean: Tensor = self.vae.encode((image * 2 - 1).to(self.vae.dtype)).latent_dist.mean
        scale: float = config.scaling_factor
        return (mean.to(image.dtype) - (config.shift_factor or 0)) * scale

    def decode_latents(self, latents: Tensor, skips: Sequence[Tensor] = ()) -> Tensor:
        """[B, C, h, w] -> [B, 3, h*factor, w*factor] in [0, 1]; differentiable.

        skips are added to features of the decoder; see decoder_hooks.
        """
        return (self.decoded(latents, skips) / 2 + 0.5).clamp(0, 1)

    def decoded(self, latents: Tensor, skips: Sequence[Tensor] = ()) -> Tensor:
        """[B, C, h, w] -> [B, 3, h*factor, w*factor] as the VAE gives it: about -1..1."""
        config = self.vae.config
        z = latents / config.scaling_factor + (config.shift_factor or 0)
        with hooked(decoder_hooks(self.vae, skips)):
            image: Tensor = self.vae.decode(z.to(self.vae.dtype), return_dict=False)[0]
        return image.to(latents.dtype)


def load_net(kind: Any, part: Path, *, device: torch.device, dtype: torch.dtype) -> Any:
    """One frozen net from its folder, by its class's own from_pretrained, without the network.

    .bin files are read with weights_only: pickled code is refused, never run. InputError on any
    damage.
    """
    file, variant, safe = weights(part, half=dtype != torch.float32)
    if safe and file.suffix == ".safetensors" and is_packed(file):
        return frozen(load_folder(kind, part), device, dtype)
    option = "dtype" if kind.__module__.startswith("transformers") else "torch_dtype"
    try:
        options = {"use_safetensors": safe, "local_files_only": True, option: dtype}
        with _quiet():
            net: nn.Module = kind.from_pretrained(part, variant=variant, **options)
    except Exception as error:  # any damage there is: wrong shapes, bad JSON, forbidden pickles
        raise InputError(f"{part} cannot be loaded as a {kind.__name__}: its config.json and its "
                         "weights do not fit, or one is damaged") from error  # fmt: skip
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
