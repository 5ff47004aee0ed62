"""BootComp's formulas (arXiv:2411.16801): an outfit on a person, and a garment laid flat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from threed.diffusion.guide import Guide
from threed.settings.base import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from threed.diffusion.backbone import Backbone
    from threed.diffusion.condition import Condition
    from threed.diffusion.models.stable_diffusion import StableDiffusion
    from threed.diffusion.parts.reference_attention import Reference
    from threed.diffusion.score import Score

NAME = "bootcomp"
DECOMPOSITION, COMPOSITION = "decomp", "comp"  # folders, as published
FLAT, PRODUCT = "A photo of {}", "A product photo of {}"  # what the two UNets are told of a garment


class Knobs(Settings):
    """How strongly garments and words pull."""

    text_scale: float | None = Field(
        None, ge=0, description="towards the words; if not given, that of --guidance"
    )
    garment_scale: float = Field(2.0, ge=0, description="towards the garments")
    strength: float = Field(
        1.0, ge=0, description="how much garments count in attention, beside the picture's own 1"
    )
    product_scale: float = Field(
        2.0, ge=0, description="guidance of laying flat what is worn, where --worn is given"
    )
    product_steps: int = Field(20, ge=1, le=1000, description="steps of laying it flat")


@dataclass(frozen=True, eq=False)
class Outfit:
    """Garments laid flat: M of them, at places in the outfits of B persons."""

    flat: Tensor  # [M, 3, H, W] in [0, 1]
    names: Sequence[str]  # what each is: "shirt"
    there: Tensor  # [B, N] bool, with M true


def build(
    backbone: Backbone,
    prompt: str | Sequence[str],
    unet: Any,
    outfit: Outfit,
    *,
    guide: Guide = Guide(4.0),
    knobs: Knobs = Knobs(),
) -> Score:
    """Make e(0, 0) + s_G (e(G, 0) - e(0, 0)) + s_T (e(G, T) - e(G, 0)) of garments and text.

    One prompt, or B of them. unet: the encoder. At strength 0 it is the words' alone, to the bit.
    """
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.channels import with_unet
    from threed.diffusion.score import dual_cfg, guided, score

    base, count = require_unet(backbone, NAME), len(outfit.there)
    texts = [prompt] * count if isinstance(prompt, str) else list(prompt)
    text, other = base.encode_text(texts), base.encode_text([guide.negative] * count)
    text_scale = guide.scale if knobs.text_scale is None else knobs.text_scale
    if not knobs.strength:
        return guided(base, text, other, text_scale)
    latents = base.encode_image(outfit.flat.to(base.device))
    seen = seen_flat(with_unet(base, unet), latents, outfit.names)
    seen = seen.spread(outfit.there).counting(knobs.strength)
    both, only, neither = (
        replace(condition, attention=(*condition.attention, look))
        for condition, look in ((text, seen), (other, seen), (other, seen.nothing()))
    )
    return score(base, [both, only, neither], dual_cfg(text_scale, knobs.garment_scale))


def seen_flat(encoder: StableDiffusion, latents: Tensor, names: Sequence[str]) -> Reference:
    """What the encoder sees in latents [M, C, h, w] of garments laid flat, at t = 0."""
    import torch

    from threed.diffusion.parts.reference_attention import recorded

    told = encoder.encode_text([FLAT.format(name) for name in names])
    t = torch.zeros(len(latents), dtype=torch.long, device=encoder.device)
    return recorded(encoder, latents, t, told)


def laid_flat(
    backbone: Backbone,
    worn: Tensor,
    names: Sequence[str],
    unet: Any,
    *,
    scale: float = 2.0,
    negative: str = "",
) -> Score:
    """Make the Score of product pictures of B garments [B, 3, H, W], cut out as they are worn.

    Published as one call for noise and garment, the latter at t = 0: it does not depend on the
    noise, so it is seen once.
    """
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.channels import with_unet
    from threed.diffusion.score import guided

    view = with_unet(require_unet(backbone, NAME), unet)
    latents = view.encode_image(worn.to(view.device))
    text = view.encode_text([PRODUCT.format(name) for name in names])
    other = view.encode_text([negative] * len(worn))
    return guided(view, looking(view, text, latents), looking(view, other, latents * 0), scale)


def looking(view: StableDiffusion, condition: Condition, worn: Tensor) -> Condition:
    """The condition with what the same UNet sees in latents [B, C, h, w] of what is worn, at t = 0.

    There no words say anything, and SDXL's vector of them is zero.
    """
    import torch

    from threed.diffusion.parts.reference_attention import recorded

    pooled = condition.pooled
    silent = replace(condition, pooled=None if pooled is None else torch.zeros_like(pooled))
    t = torch.zeros(len(worn), dtype=torch.long, device=view.device)
    return replace(condition, attention=(recorded(view, worn, t, silent, silent=True),))


def likeness(encoder: Any, worn: Tensor, flat: Tensor) -> Tensor:
    """[B] how alike an image encoder finds garments worn and laid flat, [B, 3, H, W]: cosines.

    The paper's filter (it asks DreamSim): what was made wrong is unlike what is worn.
    """
    import torch
    from torch.nn import functional as F

    with torch.no_grad():
        seen = [encoder.see(pictures, pooled=True) for pictures in (worn, flat)]
        return F.cosine_similarity(seen[0], seen[1], dim=1)


def load_unet(base: StableDiffusion, folder: Path) -> Any:
    """Load one of the two UNets, frozen."""
    from diffusers import UNet2DConditionModel

    from threed.diffusion.weights import frozen, load_folder

    return frozen(load_folder(UNet2DConditionModel, folder), base.device, base.unet.dtype)
