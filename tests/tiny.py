"""Small random diffusion models in diffusers' layout: what tests load, so none downloads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

Kind = Literal["sd15", "sd21", "sdxl", "multiview"]
START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 32  # tokens of a prompt
WIDTH = 32  # of a text embedding
SIZE = 8  # of the latents; pictures are 4 times as large


def tiny_folder(path: Path, kind: Kind = "sd15", seed: int = 0) -> Path:
    """Write a random model of about 0.2 M parameters; return what load_backbone takes.

    sd15 predicts noise, sd21 predicts v, sdxl has two text encoders; multiview has the files of
    sd15 and a UNet that knows cameras in unet_multiview, and that folder is returned.
    """
    path.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        index = _write_text(path, kind)
        _vae().save_pretrained(path / "vae")
        _unet(kind).save_pretrained(path / "unet")
        if kind == "multiview":
            _unet(kind, cameras=True).save_pretrained(path / "unet_multiview")
    _scheduler(kind).save_pretrained(path / "scheduler")
    index |= {
        "_class_name": "StableDiffusionXLPipeline" if kind == "sdxl" else "StableDiffusionPipeline",
        "_diffusers_version": "0.35.0",
        "vae": ["diffusers", "AutoencoderKL"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
    }
    if kind == "sdxl":
        index["force_zeros_for_empty_prompt"] = True
    else:
        index["safety_checker"] = [None, None]
        index["requires_safety_checker"] = False
    (path / "model_index.json").write_text(json.dumps(index, indent=2))
    return path / "unet_multiview" if kind == "multiview" else path


def eye_folder(path: Path) -> Path:
    """Write a random image encoder of 16-pixel pictures: vectors of 24 numbers, patches of 16."""
    eye().save_pretrained(path)
    return path


def eye(heads: int = 2) -> CLIPVisionModelWithProjection:
    """The same image encoder, always with the same weights."""
    config = CLIPVisionConfig(
        image_size=16, patch_size=8, hidden_size=16, intermediate_size=16,
        num_attention_heads=heads, num_hidden_layers=2, projection_dim=24,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CLIPVisionModelWithProjection(config)


def _write_text(path: Path, kind: Kind) -> dict[str, Any]:
    """Tokenizers and text encoders; their lines of model_index.json."""
    vocabulary = _vocabulary()
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_dim=24,
        bos_token_id=vocabulary[START],
        eos_token_id=vocabulary[END],
        pad_token_id=vocabulary[END],
    )
    index = {}
    for suffix in ("", "_2") if kind == "sdxl" else ("",):
        _write_tokenizer(path / f"tokenizer{suffix}", vocabulary)
        encoder = (CLIPTextModelWithProjection if suffix else CLIPTextModel)(config)
        encoder.save_pretrained(path / f"text_encoder{suffix}")
        index[f"tokenizer{suffix}"] = ["transformers", "CLIPTokenizer"]
        index[f"text_encoder{suffix}"] = ["transformers", type(encoder).__name__]
    return index


def _vocabulary() -> dict[str, int]:
    """Single bytes only, as CLIP spells them, alone and at the end of a word."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), START, END]
    return {token: i for i, token in enumerate(tokens)}


def _write_tokenizer(path: Path, vocabulary: dict[str, int]) -> None:
    path.mkdir(exist_ok=True)
    (path / "vocab.json").write_text(json.dumps(vocabulary))
    (path / "merges.txt").write_text("#version: 0.2\n")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": LENGTH,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config))


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=4 * SIZE,
    )


def _unet(kind: Kind, *, cameras: bool = False) -> UNet2DConditionModel:
    options: dict[str, Any] = {"cross_attention_dim": WIDTH}
    if kind == "sdxl":
        options = {
            "cross_attention_dim": 2 * WIDTH,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 24,
        }
    if cameras:
        options |= {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 16}
    return UNet2DConditionModel(
        sample_size=SIZE,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_head_dim=4,
        norm_num_groups=8,
        **options,
    )


def _scheduler(kind: Kind) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction" if kind == "sd21" else "epsilon",
    )


def four_pictures(place: Path) -> Path:
    """Write four pictures of 40×48 pixels, two of them with a caption; return their folder."""
    for number in range(4):
        color = tuple(torch.randint(256, (3,), generator=torch.manual_seed(number)).tolist())
        Image.new("RGB", (40, 48), color).save(place / f"{number}.png")
    (place / "0.txt").write_text("a <toy> seen from above")
    (place / "1.txt").write_text("a {} from behind")
    return place
