"""Estimates of what each preset for large models takes on a GPU: memory by the plan, operations.

    python benchmarks/presets.py [--memory GIB] [--tflops N]

Nothing is run and nothing downloaded: the models are built from their published configurations on
PyTorch's meta device, which has shapes and no numbers. Memory is what `threed generate --plan`
says of them in float16. Operations are those of the denoiser, the VAE and its gradient; rendering,
which they leave out, comes on top. Seconds are at --tflops, what a device does in practice; 125 is
40 % of an A100's 312 in float16.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.common import head, row
from threed.apps.cli.show import say
from threed.diffusion.facts import Facts, Net
from threed.runs.backbones import Backbones
from threed.runs.plan import GIB, plan_run
from threed.settings.base import replace
from threed.settings.presets import load_run, presets
from threed.settings.run import Run
from threed.settings.stage import WITH_CRITIC, Stage

MAIN = ("DownBlock2D", "CrossAttnDownBlock2D")
SD = {
    "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2,
}  # fmt: skip
SD21 = SD | {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
             "use_linear_projection": True}  # fmt: skip
# the UNet's configuration and the width of its text encoder, by what a preset's backbone holds
MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "stable-diffusion-v1-5": (SD, 768),
    "mvdream": (SD21 | {"sample_size": 32, "class_embed_type": "projection",
                        "projection_class_embeddings_input_dim": 16}, 1024),
    "xl-refiner": ({
        "sample_size": 128, "cross_attention_dim": 1280, "attention_head_dim": (6, 12, 24, 24),
        "block_out_channels": (384, 768, 1536, 1536), "layers_per_block": 2,
        "down_block_types": (MAIN[0], MAIN[1], MAIN[1], MAIN[0]),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": 4, "use_linear_projection": True,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2560,
    }, 1280),
}  # fmt: skip

VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Operations of one picture, in units of 10^12."""

    denoiser: float
    encoder: float  # of the VAE, with its gradient


def text_config(width: int) -> CLIPTextConfig:
    """Of the CLIP that Stable Diffusion 1.5, 2.1 or XL's refiner reads with, by its width."""
    depth = {768: 12, 1024: 24}.get(width, 32)
    return CLIPTextConfig(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=depth,
                          num_attention_heads=width // 64, projection_dim=width)  # fmt: skip


def model(name: str) -> Any:
    """What the plan asks of a backbone, without numbers."""
    config, width = next(value for key, value in MODELS.items() if key in name)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config).half()
        vae = AutoencoderKL(**VAE)
        encoder = CLIPTextModel(text_config(width)).half()
    vae = vae if "xl" in name else vae.half()
    size = config["sample_size"] * 8
    return SimpleNamespace(
        unet=unet, vae=vae, encoders=[encoder], image_size=size, factor=8,
        device=torch.device("cuda"),
    )  # fmt: skip


def facts_of(name: str, backbone: Any) -> Facts:
    """What the plan asks of a backbone without numbers, which has no files that would say it."""

    def read(part: str, net: Any) -> Net:
        numbers = sum(parameter.numel() for parameter in net.parameters())
        return Net(part, dict(net.config) if part in ("unet", "vae") else {}, numbers,
                   net.dtype.itemsize)  # fmt: skip

    return Facts(
        name=name, folder=Path(name), denoiser="unet", views=1, image_size=backbone.image_size,
        factor=backbone.factor, latent_channels=4, prediction="epsilon", noise={},
        net=read("unet", backbone.unet), vae=read("vae", backbone.vae),
        encoders=tuple(read("text_encoder", encoder) for encoder in backbone.encoders),
    )  # fmt: skip


def counted(work: Callable[[], object]) -> float:
    """Operations of some work on the meta device, in units of 10^12."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e12


def cost_of(backbone: Any) -> Cost:
    """What one picture costs a model."""
    size, unet, vae = backbone.image_size, backbone.unet, backbone.vae
    meta: dict[str, Any] = {"device": "meta", "dtype": torch.float16}
    extras: dict[str, Any] = {}
    if unet.config.class_embed_type == "projection":
        extras["class_labels"] = torch.empty(1, 16, **meta)
    if unet.config.addition_embed_type == "text_time":
        extras["added_cond_kwargs"] = {"text_embeds": torch.empty(1, 1280, **meta),
                                       "time_ids": torch.empty(1, 5, **meta)}  # fmt: skip
    latents = torch.empty(1, 4, size // 8, size // 8, **meta)
    text = torch.empty(1, 77, unet.config.cross_attention_dim, **meta)
    t = torch.zeros(1, device="meta")

    def denoise() -> None:
        with torch.no_grad():
            unet(latents, t, encoder_hidden_states=text, **extras)

    def encode() -> None:
        image = torch.empty(1, 3, size, size, device="meta", dtype=vae.dtype, requires_grad=True)
        vae.requires_grad_(False).encode(image).latent_dist.mean.sum().backward()

    return Cost(counted(denoise), counted(encode))


def operations(stage: Stage, cost: Cost) -> float:
    """10^12 operations of a step: two calls of the denoiser with guidance, and a critic's."""
    calls = 2.0
    if stage.guidance in WITH_CRITIC:
        calls += 1 + 3 * stage.critic.updates  # its estimate; its lesson forwards and backwards
    views = sum(map(stage.batch, range(stage.steps))) / stage.steps
    return views * (calls * cost.denoiser + cost.encoder)


def line(name: str, run: Run, tflops: float) -> str:
    """A preset's line."""
    models = {backbone: model(backbone) for backbone in map(run.backbone_of, run.stages)}
    costs = {backbone: cost_of(found) for backbone, found in models.items()}
    known = Backbones(run, read=lambda name: facts_of(name, models[name]))
    known.device = "cuda"
    plan = plan_run(run, known)
    total = sum(stage.steps * operations(stage, costs[run.backbone_of(stage)])
                for stage in run.stages)  # fmt: skip
    peaks = ", ".join(f"{stage.peak / GIB:.1f}" for stage in plan.stages)
    return row(name, peaks, f"{plan.peak / GIB:.1f}", f"{total / 1000:,.0f}",
               f"{total / tflops / 3600:.1f}")  # fmt: skip


def full_size() -> dict[str, Run]:
    """The presets whose models are all among MODELS, by name."""
    runs = {name: load_run(name) for name in presets()}
    return {name: run for name, run in runs.items()
            if all(any(key in run.backbone_of(stage) for key in MODELS)
                   for stage in run.stages)}  # fmt: skip


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", type=float, default=80.0, help="GiB that a run may use")
    parser.add_argument("--tflops", type=float, default=125.0, help="of the device, in practice")
    arguments = parser.parse_args()
    say(head("preset", "GiB by stage", "GiB at most", "10^15 operations",
             "hours, without rendering"))  # fmt: skip
    for name, run in full_size().items():
        say(line(name, replace(run, memory=arguments.memory), arguments.tflops))


if __name__ == "__main__":
    main()
