"""InstructPix2Pix: a picture changed as an instruction says (Brooks et al., arXiv:2211.09800)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from threed.diffusion.backbone import Backbone
from threed.diffusion.condition import Condition
from threed.diffusion.images import grid, load_image
from threed.diffusion.models.convert import PREFIX, diffusers_name, read_state
from threed.diffusion.paint import Ready, paint
from threed.diffusion.parts.channels import opened, unscaled, widened, with_unet
from threed.diffusion.score import Score, dual_cfg, score
from threed.diffusion.weights import below, filled, find_trained, frozen, load_folder
from threed.learning.data import Examples, Latents
from threed.learning.loop import Task
from threed.learning.losses import denoising_loss, without_text
from threed.systems.system import Input, Request, System

NAME = "instruct_pix2pix"
DROP = 0.05  # without text only, without picture only, and without both: each so often
SHOWN = 6  # examples of a sheet
ROLES, TEXTS = ("image", "edited"), ("instruction",)  # what an example consists of


def build(
    backbone: Backbone,
    instruction: str | Sequence[str],
    image: Tensor,
    unet: Any = None,
    *,
    text_scale: float = 7.5,
    image_scale: float = 1.5,
    negative: str = "",
) -> Score:
    """e(0, 0) + s_I (e(I, 0) - e(0, 0)) + s_T (e(I, T) - e(I, 0)), the paper's equation 3.

    image [B, 3, H, W] in [0, 1], as large as the pictures to make; one instruction, or B of them.
    unet: of 8 channels, as load gives it; without one, the backbone's own, which knows no pictures.
    """
    base = opened(backbone, NAME)
    wide = with_unet(base, frozen(widened(base.unet, base.latent_channels), base.device,
                                  base.unet.dtype) if unet is None else unet)  # fmt: skip
    with torch.no_grad():
        shown = unscaled(base, base.encode_image(image.to(base.device)))
    words = [instruction] * len(shown) if isinstance(instruction, str) else list(instruction)
    both, only = (
        _shown(base.encode_text(texts), shown) for texts in (words, [negative] * len(shown))
    )
    neither = _shown(only, torch.zeros_like(shown))
    return score(wide, [both, only, neither], dual_cfg(text_scale, image_scale))


def _shown(text: Condition, latents: Tensor) -> Condition:
    return replace(text, channels=latents)


def load(backbone: Backbone, path: Path) -> Any:
    """The UNet of a training's folder, of a folder in diffusers' layout, or of the official file.

    The file (instruct-pix2pix-00-22000.ckpt) has the names of the latent-diffusion code base.
    """
    from diffusers import UNet2DConditionModel

    base = opened(backbone, NAME)
    if path.is_dir():
        inner = path / "unet"
        unet = load_folder(UNet2DConditionModel, inner if inner.is_dir() else path)
    else:
        state = below(read_state(path), PREFIX)
        layers = base.unet.config.layers_per_block
        config = {**base.unet.config, "in_channels": 2 * base.latent_channels}
        renamed = {diffusers_name(name, layers): value for name, value in state.items()}
        unet = filled(UNet2DConditionModel.from_config(config), renamed, str(path))
    return frozen(unet, base.device, base.unet.dtype)


def trained(backbone: Backbone, weights: Path | None) -> Any:
    """The UNet of these weights, or of those that came with the backbone; see find_trained."""
    base = opened(backbone, NAME)
    patterns = ("unet/*.json", "unet/*.safetensors")
    return load(base, find_trained(weights, base.folder, NAME, patterns))


def prepare(backbone: Backbone, request: Request) -> Ready:
    """The Score of a request: its prompt is the instruction."""
    unet = trained(backbone, request.weights)
    assert request.image is not None  # required
    knobs: dict[str, Any] = {"text_scale": request.scale, "negative": request.negative}
    image = load_image(request.image, request.size)
    return Ready(build(backbone, request.prompt, image, unet, **(knobs | {**request.knobs})))


def dropped(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which of n examples lose their text, and which their picture, both [n] bool."""
    r = torch.rand(n, generator=generator)
    return r < 2 * DROP, (r >= DROP) & (r < 3 * DROP)


def learn(backbone: Backbone, examples: Examples, about: Mapping[str, str], debias: bool) -> Task:
    """Training of the whole 8-channel UNet, from the backbone's, on (image, instruction, edited).

    Of 20 examples one loses its instruction, one its picture, and one both (section 3.2.1).
    """
    base = opened(backbone, NAME)
    unet = widened(base.unet, base.latent_channels)
    wide = with_unet(base, unet)
    before, after = Latents(base, examples, "image"), Latents(base, examples, "edited")
    empty = base.encode_text([""])

    def loss(net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        indices = examples.draw(n, generator)
        text = base.encode_text(examples.texts("instruction", indices))
        no_text, no_image = dropped(n, generator)
        kept = ~no_image[:, None, None, None].to(base.device)
        condition = _shown(
            without_text(text, empty, no_text), unscaled(base, before(indices)) * kept
        )
        return denoising_loss(wide, after(indices), condition, generator, debias=debias)

    def sheet(net: nn.Module) -> Tensor:
        few = list(range(min(SHOWN, len(examples))))
        shown, edited = (examples.pictures(role, few).to(base.device) for role in ROLES)
        guided = build(base, examples.texts("instruction", few), shown, net)
        made = paint(base, Ready(guided), n=len(few), steps=15, size=examples.size)
        return grid(torch.cat([shown, made, edited]), columns=len(few))

    return Task(unet, loss, save, about, sheet)


def save(unet: Any, out: Path) -> None:
    """Write the UNet in diffusers' layout, to out/unet."""
    unet.register_to_config(_name_or_path="")  # where it was loaded from is nobody else's business
    unet.save_pretrained(out / "unet")


SYSTEM = System(
    name=NAME,
    paper="InstructPix2Pix: Learning to Follow Image Editing Instructions",
    arxiv="2211.09800",
    claim="a picture changed as the prompt says, the rest of it kept",
    inputs=(
        Input("image", "the picture to change", required=True),
        Input("weights", "a training's folder, the official file, or owner/name of the hub"),
    ),
    trains="a UNet that is shown the picture",
    seams=("channels", "combine"),
    build=build,
    prepare=prepare,
)
