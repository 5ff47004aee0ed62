"""BootComp (arXiv:2411.16801): a person in several garments, and how it makes its own examples.

An encoder, a UNet at t = 0, sees each garment laid flat, and the generator's self-attentions look
at what it saw. Few people are shown beside their garments laid flat; so another UNet learns to lay
flat what is worn (`outfit_school`), and what it makes teaches the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from threed.core.errors import InputError
from threed.learning.recipe import Recipe
from threed.settings.base import Settings
from threed.systems.inputs import BESIDE, GARMENT, WEIGHTS, Input
from threed.systems.system import Lesson, Request, System, Training
from threed.systems.tryon.composition import (
    COMPOSITION,
    DECOMPOSITION,
    NAME,
    Knobs,
    Outfit,
    build,
    laid_flat,
    load_unet,
)
from threed.systems.tryon.sight import Sight
from threed.systems.tryon.wear import category_named, check_flat, read_flat

if TYPE_CHECKING:
    from torch import Tensor, nn

    from threed.core.pictures import Size
    from threed.diffusion.backbone import Backbone
    from threed.diffusion.paint import Ready
    from threed.learning.loop import Task

HUB = tuple(f"{folder}/*.{end}" for folder in (DECOMPOSITION, COMPOSITION)
            for end in ("json", "safetensors"))  # fmt: skip


class Options(Settings):
    """What is taught, and with what."""

    layers: Literal["all", "attention"] = Field(
        "all", description="attention: of the two UNets only what surrounds their attention"
    )
    paired: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="share of the examples whose flat garments are used; for the others they are "
        "made of what is worn",
    )
    kept: float = Field(
        0.5, gt=0, le=1, description="share of what is made, by likeness to what is worn, to use"
    )
    made: int = Field(2000, ge=1, description="at most so many persons' garments are laid flat")
    encoder: str | None = Field(
        None, description="the folder of the image encoder that judges likeness; if not given, the "
        "one beside the backbone"
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Loaded:
    """The encoder, and the garments of a request, laid flat."""

    unet: Any
    outfit: Outfit


def load(backbone: Backbone, request: Request) -> Loaded:
    """Load the encoder of a request's weights, and lay flat what is given as it is worn."""
    import torch

    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.paint import Ready, paint
    from threed.diffusion.weights import find_trained

    base, knobs = require_unet(backbone, NAME), request.knobs or Knobs()
    place = find_trained(request.one("weights"), base.folder, NAME, HUB)
    encoder = load_unet(base, place / COMPOSITION)
    pictures = {said: [read_flat(path, request.size, said) for _, path in request.all(said)]
                for said in ("garment", "worn")}  # fmt: skip
    for garment in pictures["garment"]:
        check_flat(base, garment)
    names = [name for said in pictures for name, _ in request.all(said)]
    flat = [*pictures["garment"]]
    if worn := pictures["worn"]:
        unet = load_unet(base, place / DECOMPOSITION)
        with torch.no_grad():
            guided = laid_flat(base, torch.cat(worn), names[len(flat) :], unet,
                               scale=knobs.product_scale)  # fmt: skip
            ready = Ready(guided, rows=len(worn), own_noise=True)
            flat.append(paint(base, ready, steps=knobs.product_steps, size=request.size).cpu())
    there = torch.ones(1, len(names), dtype=torch.bool)
    return Loaded(encoder, Outfit(torch.cat(flat), names, there))


def check(request: Request) -> None:
    """InputError if nothing is to be worn."""
    if not (request.all("garment") or request.all("worn")):
        raise InputError(f"system {NAME!r} needs --garment, a picture of one laid flat, or --worn, "
                         "one cut out of a person's picture; repeat for more")  # fmt: skip


def prepare(backbone: Backbone, request: Request, weights: Loaded) -> Ready:
    """Make the Score of a request."""
    import torch

    from threed.diffusion.paint import Ready

    with torch.no_grad():
        score = build(backbone, request.prompt, weights.unet, weights.outfit, guide=request.guide,
                      knobs=request.knobs or Knobs())  # fmt: skip
    return Ready(score)


def dress(backbone: Backbone, request: Request, weights: Loaded, sight: Sight) -> Ready:
    """Make the Score that paints a request's garments into a person; the rest stays as it is.

    InputError for a garment whose name does not say where it is worn.
    """
    import torch

    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.paint import Ready
    from threed.diffusion.parts.decoding import repaint, repainting
    from threed.diffusion.score import inside

    base = require_unet(backbone, NAME)
    mask = sight.mask([category_named(name) for name in weights.outfit.names])
    with torch.no_grad():
        score = build(base, request.prompt, weights.unet, weights.outfit, guide=request.guide,
                      knobs=request.knobs or Knobs())  # fmt: skip
        clean = base.encode_image(sight.person.to(base.device))
    painted = inside(score, mask, clean, base.alphas_cumprod)

    def whole(made: Tensor) -> Tensor:
        return repaint(made, sight.person.to(made), mask.to(made))

    return Ready(painted, decode=repainting(base, whole))


def learn(backbone: Backbone, lesson: Lesson) -> Task:
    """Train the decomposition, make examples with it, and train the encoder on those."""
    from threed.systems.tryon.outfit_school import lessons

    return lessons(backbone, lesson)


def read(folder: Path, size: Size, options: Options) -> Any:
    """Open a training folder: image, text, worn_1, flat_1, category_1, ..."""
    from threed.systems.tryon.outfit_school import read_outfits

    return read_outfits(folder, size)


def load_trained(backbone: Backbone, path: Path, options: Options) -> nn.Module:
    """Load a trained encoder to go on from."""
    from threed.diffusion.models.stable_diffusion import require_unet

    net: nn.Module = load_unet(require_unet(backbone, NAME), path / COMPOSITION).float()
    return net


TRAINING = Training(
    data="outfits",
    pictures=lambda options: ("image",),
    texts=("text",),
    paper=Recipe(steps=100_000, batch=4, lr=1e-5, accumulate=8),  # ours: no code of it is published
    small=Recipe(steps=3000, batch=32, lr=1e-3, cooldown=0.4, muon=True),
    learn=learn,
    load=load_trained,
    options=Options,
    read=read,
    stages=(DECOMPOSITION,),
)
SYSTEM = System(
    name=NAME,
    paper="Controllable Human Image Generation with Personalized Multi-Garments",
    arxiv="2411.16801",
    claim="a person in several garments, as the words say",
    inputs=(
        Input(
            "garment", GARMENT, "a garment laid flat, and what it is; repeat for more", many=True
        ),
        Input("worn", GARMENT, "one cut out of a picture of a person, to be laid flat", many=True),
        Input("weights", WEIGHTS, "a training's folder, the published one, or owner/name"),
        BESIDE,
    ),
    knobs=Knobs,
    trains="a UNet that sees garments, and one that lays flat what is worn",
    training=TRAINING,
    shows=True,
    seams=("attention", "blend"),
    load=load,
    prepare=prepare,
    dress=dress,
    check=check,
)
