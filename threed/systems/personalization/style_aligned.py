"""StyleAligned (arXiv:2312.02133): a series of pictures in the style of its first.

The first picture of a group is the reference: made from a prompt, or a real one that is inverted.
The others attend to it. Nothing is trained, and it composes with ControlNet and with LoRA: `build`
takes nets beside the UNet, which leave the reference alone, and adapters, which hold for all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from threed.diffusion.guide import Guide
from threed.settings.base import Settings
from threed.systems.inputs import BESIDE, PROMPT, SHOWN, Input
from threed.systems.system import Request, System

if TYPE_CHECKING:
    from torch import Tensor

    from threed.diffusion.backbone import Backbone
    from threed.diffusion.condition import Residuals
    from threed.diffusion.paint import Ready
    from threed.diffusion.parts.shared_style import Follow
    from threed.diffusion.score import Score

NAME = "style_aligned"
INVERSION_SCALE = 2.0  # guidance on the way from a real picture to its noise, as published


class Knobs(Settings):
    """What is shared, and how strongly."""

    shift: float | None = Field(
        None,
        description="added to the logits of the reference's keys; if not given, log 2 for a real "
        "picture and 0 for a made one",
    )
    scale: float = Field(1.0, ge=0, description="of the reference's keys")
    plain_share: float = Field(
        0.0, ge=0, le=1, description="share of the self-attentions that share nothing"
    )
    norms: bool = Field(True, description="group norms share the reference's statistics, too")
    queries: bool = Field(True, description="queries take the reference's mean and deviation")
    keys: bool = Field(True, description="keys do")
    values: bool = Field(False, description="values do")
    offset: int = Field(
        5, ge=0, description="steps that a real picture is ahead of the others at the beginning"
    )


def build(
    backbone: Backbone,
    prompts: Sequence[str],
    *,
    follow: Follow | None = None,
    residuals: Sequence[Residuals] = (),
    guide: Guide = Guide(),
    knobs: Knobs = Knobs(),
) -> Score:
    """Make the Score of groups of len(prompts) neighbours, the first of which is the reference.

    follow: puts a real picture's latents in the reference's place. residuals: nets beside the UNet,
    with a row for each of the prompts, of which the reference's counts for nothing.
    """
    import torch

    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.shared_style import SharedAttention, SharedNorms, Spared, sharing
    from threed.diffusion.score import guided

    unet, rows = require_unet(backbone, NAME).unet, len(prompts)
    names = [name for name, _ in unet.named_modules() if name.endswith(".attn1")]
    shift = (0.0 if follow is None else math.log(2)) if knobs.shift is None else knobs.shift
    attention = SharedAttention(
        rows, sharing(names, knobs.plain_share), knobs.queries, knobs.keys, knobs.values,
        knobs.scale, shift,
    )  # fmt: skip
    texts = backbone.encode_text([*prompts, guide.negative])
    told, other = (
        replace(
            texts.select(torch.tensor(items, device=texts.tokens.device)),
            attention=(attention,),
            norms=(SharedNorms(rows),) if knobs.norms else (),
            residuals=tuple(Spared(net, rows) for net in residuals),
        )
        for items in (list(range(rows)), [rows] * rows)
    )
    series = guided(backbone, told, other, guide.scale)
    return series if follow is None else lambda x, t: series(follow(x, t), t)


def follow_picture(backbone: Backbone, image: Tensor, request: Request) -> Follow:
    """Invert a picture [1, 3, H, W] that the reference's prompt describes."""
    import torch

    from threed.diffusion.inversion import invert, levels
    from threed.diffusion.parts.shared_style import followed
    from threed.diffusion.score import guided

    texts = backbone.encode_text([request.one("reference"), request.guide.negative])
    text, other = (texts.select(torch.tensor([i], device=texts.tokens.device)) for i in (0, 1))
    with torch.no_grad():
        clean = backbone.encode_image(image.to(backbone.device))
    timesteps = levels(backbone, request.steps)
    there = guided(backbone, text, other, INVERSION_SCALE)
    way = invert(there, clean, timesteps, backbone.alphas_cumprod)
    return followed(torch.cat(way), timesteps, rows_of(request), request.knobs.offset)


def rows_of(request: Request) -> int:
    """Count the pictures of a group."""
    return 2 + len(request.all("also"))


def prepare(backbone: Backbone, request: Request, weights: None = None) -> Ready:
    """Make the Score of the reference, the prompt, and the prompts beside it."""
    from threed.diffusion.images import load_image
    from threed.diffusion.paint import Ready

    knobs = request.knobs or Knobs()
    request, follow = replace(request, knobs=knobs), None
    if request.one("image") is not None:
        image = load_image(request.one("image"), request.size)
        follow = follow_picture(backbone, image, request)
    prompts = [request.one("reference"), request.prompt, *request.all("also")]
    series = build(backbone, prompts, follow=follow, guide=request.guide, knobs=knobs)
    return Ready(series, len(prompts), results=tuple(range(1, len(prompts))), own_noise=True)


SYSTEM = System(
    name=NAME,
    paper="Style Aligned Image Generation via Shared Attention",
    arxiv="2312.02133",
    claim="makes a series of pictures in one style, that of its first or of a real picture",
    inputs=(
        Input(
            "reference",
            PROMPT,
            "the prompt of the picture whose style is shared, or what --image shows",
            required=True,
        ),
        Input("image", SHOWN, "a real picture in that style, which the reference describes"),
        Input("also", PROMPT, "a further prompt of the series", many=True),
        BESIDE,
    ),
    knobs=Knobs,
    several=False,
    seams=("attention", "norms", "results"),
    prepare=prepare,
)
