"""RPG (arXiv:2401.11708): recaption, plan and generate.

A planner divides the picture into regions with a prompt each, and complementary regional diffusion
gives each region the noise of its own prompt, mixed with that of the whole prompt at the base
ratio. Nothing is trained.

Two ways: "attention" is what the published code does, every cross-attention once for each prompt
over the whole picture, cut to the regions. "latents" is what the paper describes: at every step a
whole picture is predicted from each prompt, made as small as its region, and put there. Since each
step starts from pictures that are small already, that makes them smaller and smaller; here it ends
at `resize_until`, when it is decided what is where, and from then on the pictures are cut, too.

SDXL is also told a text as one vector, for the whole picture. Here that is the whole prompt's; the
published code leaves the last region's there, since it encodes that last.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from threed.core.errors import InputError
from threed.diffusion.guide import Guide
from threed.diffusion.parts.plans import Plan, read_regions
from threed.settings.base import Settings
from threed.systems.control.planners import find_planner
from threed.systems.inputs import BESIDE, PLANNER, REGION, TEXT, Input
from threed.systems.system import Request, System

if TYPE_CHECKING:
    from threed.diffusion.backbone import Backbone
    from threed.diffusion.paint import Ready
    from threed.diffusion.score import Score


class Knobs(Settings):
    """How the regions' prompts and the whole prompt are mixed."""

    way: Literal["attention", "latents"] = Field(
        "attention", description="attention: as the published code; latents: as the paper"
    )
    base_ratio: float = Field(
        0.2, ge=0, le=1, description="share of the whole prompt; 0 is the regions' prompts alone"
    )
    resize_until: float = Field(
        0.7, ge=0, le=1, description="noise level down to which way=latents makes pictures small"
    )


def build(
    backbone: Backbone, plan: Plan, *, guide: Guide = Guide(), knobs: Knobs = Knobs()
) -> Score:
    """Make the Score of a plan."""
    import torch

    from threed.diffusion.parts.regions import Regions, joined, resized
    from threed.diffusion.score import cfg, score

    prompts = [region.prompt for region in plan.regions]
    texts = backbone.encode_text([plan.prompt, *prompts, guide.negative])
    whole, *parts, other = (texts.select(torch.tensor([i])) for i in range(len(prompts) + 2))
    if knobs.base_ratio == 1:
        return score(backbone, [whole, other], cfg(guide.scale))
    if knobs.way == "latents":
        mixed = resized(
            plan.regions, knobs.base_ratio, guide.scale, knobs.resize_until, backbone.alphas_cumprod
        )
        return score(backbone, [whole, *parts, other], mixed)
    regions = Regions(plan.regions, knobs.base_ratio)
    both = [replace(joined(texts), attention=(regions,))
            for texts in ([whole, *parts], [other] * (len(parts) + 1))]  # fmt: skip
    return score(backbone, both, cfg(guide.scale))


def plan_of(request: Request) -> Plan:
    """The plan of a request: its own regions, or those that its planner finds for the prompt."""
    split = request.one("split")
    if request.all("region"):
        return read_regions(request.prompt, request.all("region"), split)
    if split is not None:
        raise InputError(f"the split {split!r} needs a --region for each of its regions")
    return find_planner(request.one("planner") or "rules")(request.prompt)


def settle(request: Request) -> Request:
    """The request with its plan's regions, so that nobody has to plan again."""
    regions = tuple(region.words() for region in plan_of(request).regions)
    kept = {name: values for name, values in request.inputs.items() if name == BESIDE.name}
    return replace(request, inputs={**kept, "region": regions})


def prepare(backbone: Backbone, request: Request, weights: None = None) -> Ready:
    """Make the Score of a request's plan."""
    from threed.diffusion.paint import Ready

    plan = plan_of(replace(request, prompt=backbone.reads(request.prompt)))
    return Ready(build(backbone, plan, guide=request.guide, knobs=request.knobs or Knobs()))


SYSTEM = System(
    name="rpg",
    paper="Mastering Text-to-Image Diffusion: Recaptioning, Planning, and Generating",
    arxiv="2401.11708",
    claim="several things in one picture, each with its own attributes, where they belong",
    inputs=(
        Input(
            "planner", PLANNER, "rules, http://HOST/v1#MODEL, or a language model's name or folder"
        ),
        Input("split", TEXT, "regions in columns and rows: 1,1 or 1;2,1,1"),
        Input(
            "region",
            REGION,
            "a prompt for each region of a split, or LEFT,TOP,RIGHT,BOTTOM:PROMPT",
            many=True,
        ),
        BESIDE,
    ),
    knobs=Knobs,
    several=False,
    seams=("attention", "blend"),
    prepare=prepare,
    settle=settle,
)
