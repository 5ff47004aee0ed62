"""RPG (arXiv:2401.11708): recaption, plan and generate.

A planner divides the picture into regions with a prompt each, and complementary regional diffusion
gives each region the noise of its own prompt, mixed with that of the whole prompt at the base
ratio. Nothing is trained.

Two ways: "attention" is what the published code does, every cross-attention once for each prompt
over the whole picture, cut to the regions. "latents" is what the paper describes: at every step a
whole picture is predicted from each prompt, made as small as its region, and put there. Since each
step starts from pictures that are small already, that makes them smaller and smaller; here it ends
at `resize_until`, when it is decided what is where, and from then on the pictures are cut, too.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from threed.core.errors import InputError
from threed.diffusion.backbone import Backbone
from threed.diffusion.paint import Ready
from threed.diffusion.parts.plans import Plan, read_regions
from threed.diffusion.parts.regions import Regions, joined, resized
from threed.diffusion.score import Score, cfg, score
from threed.systems.control.planners import find_planner
from threed.systems.system import Input, Request, System

WAYS = ("attention", "latents")


def build(
    backbone: Backbone,
    plan: Plan,
    *,
    negative: str = "",
    scale: float = 5.0,
    way: str = "attention",
    base_ratio: float = 0.2,
    resize_until: float = 0.7,
) -> Score:
    """The Score of a plan: base_ratio 1 is the whole prompt alone, 0 the regions' alone.

    resize_until (way "latents") is the noise level, as a share of the 1000, down to which whole
    pictures are made small. InputError for another way, and for shares outside 0..1.
    """
    if way not in WAYS:
        raise InputError(f"way must be one of {', '.join(WAYS)}, got {way!r}")
    for name, share in (("base_ratio", base_ratio), ("resize_until", resize_until)):
        if not 0 <= share <= 1:
            raise InputError(f"{name} must be in 0..1, got {share:g}")
    prompts = [region.prompt for region in plan.regions]
    texts = backbone.encode_text([plan.prompt, *prompts, negative])
    whole, *parts, other = (texts.select(torch.tensor([i])) for i in range(len(prompts) + 2))
    if base_ratio == 1:
        return score(backbone, [whole, other], cfg(scale))
    if way == "latents":
        mixed = resized(plan.regions, base_ratio, scale, resize_until, backbone.alphas_cumprod)
        return score(backbone, [whole, *parts, other], mixed)
    regions = Regions(plan.regions, base_ratio)
    both = [replace(joined(texts), attention=(regions,))
            for texts in ([whole, *parts], [other] * (len(parts) + 1))]  # fmt: skip
    return score(backbone, both, cfg(scale))


def planned(request: Request) -> Plan:
    """The plan of a request: its own regions, or those that its planner finds for the prompt."""
    if request.region:
        return read_regions(request.prompt, request.region, request.split)
    if request.split is not None:
        raise InputError(f"the split {request.split!r} needs a --region for each of its regions")
    return find_planner(request.planner or "rules")(request.prompt)


def prepare(backbone: Backbone, request: Request) -> Ready:
    """The Score of a request's plan."""
    return Ready(build(backbone, planned(request), **request.options()))


SYSTEM = System(
    name="rpg",
    paper="Mastering Text-to-Image Diffusion: Recaptioning, Planning, and Generating",
    arxiv="2401.11708",
    claim="several things in one picture, each with its own attributes, where they belong",
    inputs=(
        Input("planner", "rules, http://HOST/v1#MODEL, or a language model's name or folder"),
        Input("split", "regions in columns and rows: 1,1 or 1;2,1,1"),
        Input("region", "a prompt for each region of a split, or LEFT,TOP,RIGHT,BOTTOM:PROMPT"),
    ),
    trains="nothing",
    seams=("attention", "blend"),
    build=build,
    prepare=prepare,
)
