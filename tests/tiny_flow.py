"""Small random models of later kinds in diffusers' layout: Stable Diffusion 3, SDXL's refiner."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tests.tiny import LENGTH, SIZE, WIDTH, tiny_folder

JOINT = 72  # of a token of text, wider than the two CLIPs together
PROJECTED = 24  # of the pooled text of one CLIP
SHIFT = 3.0


def tiny_flow(path: Path, *, t5: bool = True, seed: int = 0) -> Path:
    """Write a random Stable Diffusion 3.5 with three text encoders, or with two."""
    tiny_folder(path, "sdxl", seed)  # tokenizers
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for suffix in ("", "_2"):
            _clip().save_pretrained(path / f"text_encoder{suffix}")
        _vae().save_pretrained(path / "vae")
        SD3Transformer2DModel(
            sample_size=SIZE, patch_size=2, in_channels=4, out_channels=4, num_layers=2,
            attention_head_dim=8, num_attention_heads=2, joint_attention_dim=JOINT,
            caption_projection_dim=16, pooled_projection_dim=2 * PROJECTED, pos_embed_max_size=8,
            dual_attention_layers=(0,), qk_norm="rms_norm",
        ).save_pretrained(path / "transformer")  # fmt: skip
        if t5:
            config = T5Config(vocab_size=100, d_model=JOINT, d_kv=8, d_ff=32, num_layers=1,
                              num_heads=2)  # fmt: skip
            T5EncoderModel(config).save_pretrained(path / "text_encoder_3")
    letters = "▁abcdefghijklmnopqrstuvwxyz,"
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((c, -2.0) for c in letters)]
    T5Tokenizer(vocab=vocabulary, extra_ids=0).save_pretrained(path / "tokenizer_3")
    FlowMatchEulerDiscreteScheduler(shift=SHIFT).save_pretrained(path / "scheduler")
    third = ["transformers", "T5EncoderModel"] if t5 else [None, None]
    clip = ["transformers", "CLIPTextModelWithProjection"]
    index = {
        "_class_name": "StableDiffusion3Pipeline", "_diffusers_version": "0.35.0",
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": clip, "text_encoder_2": clip, "text_encoder_3": third,
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "tokenizer_3": ["transformers", "T5Tokenizer"] if t5 else [None, None],
    }  # fmt: skip
    (path / "model_index.json").write_text(json.dumps(index))
    return path


def tiny_refiner(path: Path, seed: int = 0) -> Path:
    """Write a random refiner of SDXL: one text encoder, the second, and an aesthetic score."""
    tiny_folder(path, "sdxl", seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        UNet2DConditionModel(
            sample_size=SIZE, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), block_out_channels=(16, 32),
            layers_per_block=1, attention_head_dim=4, norm_num_groups=8, cross_attention_dim=WIDTH,
            addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=5 * 8 + PROJECTED,
        ).save_pretrained(path / "unet")  # fmt: skip
    index = json.loads((path / "model_index.json").read_text())
    index |= {
        "_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": True,
        "force_zeros_for_empty_prompt": False, "text_encoder": [None, None],
        "tokenizer": [None, None],
    }  # fmt: skip
    (path / "model_index.json").write_text(json.dumps(index))
    DDIMScheduler.from_pretrained(path / "scheduler").save_pretrained(path / "scheduler")
    return path


def _clip() -> CLIPTextModelWithProjection:
    words = 514  # single bytes, twice, and the two ends
    return CLIPTextModelWithProjection(CLIPTextConfig(
        vocab_size=words, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=LENGTH, projection_dim=PROJECTED,
        bos_token_id=words - 2, eos_token_id=words - 1, pad_token_id=words - 1,
    ))  # fmt: skip


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16), layers_per_block=1, norm_num_groups=4, sample_size=4 * SIZE,
        scaling_factor=1.5, shift_factor=0.06,
    )  # fmt: skip
