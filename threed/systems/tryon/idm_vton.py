"""IDM-VTON (arXiv:2403.05139): a person in a garment, whose details a second UNet sees.

TryonNet repaints the person where the garment goes. What GarmentNet, a frozen UNet, sees of the
garment at the same noise level its self-attentions look at, too; and an IP-Adapter Plus tells it of
the garment's picture as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from threed.core.errors import InputError
from threed.diffusion.guide import Guide
from threed.learning.recipe import Recipe
from threed.settings.base import Settings
from threed.systems.inputs import BESIDE, WEIGHTS, Input
from threed.systems.system import Lesson, Request, System, Training
from threed.systems.tryon.outfits import read_fittings
from threed.systems.tryon.wear import INPUTS, Wear, check, worn

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from threed.diffusion.backbone import Backbone
    from threed.diffusion.condition import Condition
    from threed.diffusion.models.stable_diffusion import StableDiffusion
    from threed.diffusion.paint import Ready
    from threed.diffusion.parts.image_encoder import ImageEncoder
    from threed.diffusion.parts.tryon_net import TryonNet
    from threed.diffusion.score import Score
    from threed.learning.data import Examples
    from threed.learning.loop import Task

NAME = "idm_vton"
# so often the garment, its picture and the words are not told: what guidance goes away from
DROP = 0.1
SHOWN_EXAMPLES = 6  # of a sheet
WEARING, ALONE = "model is wearing {}", "a photo of {}"  # what TryonNet and GarmentNet are told
ROLES, TEXTS = ("image", "garment", "mask", "agnostic", "dense"), ("garment_text",)
FOLDERS = "unet", "unet_encoder", "image_encoder"
HUB = tuple(f"{folder}/*.{end}" for folder in FOLDERS for end in ("json", "safetensors", "bin"))


class Knobs(Settings):
    """How strongly the garment counts."""

    garment_scale: float = Field(
        2.0, ge=0, description="guidance towards the garment, in the place of --guidance"
    )
    details: float = Field(
        1.0, ge=0, description="how much of GarmentNet's features, beside the person's own 1"
    )
    picture: float = Field(
        1.0, description="of the attention to the garment's picture, beside the words' 1"
    )


class Options(Settings):
    """What is taught, and what it begins with."""

    layers: Literal["all", "decoder"] = Field(
        "all", description="decoder: only the way up, to make weights fit one person and garment"
    )
    adapter: str | None = Field(
        None,
        description="an IP-Adapter Plus to begin with; if not given, it is taught from nothing",
    )
    encoder: str | None = Field(
        None, description="the image encoder's folder; if not given, the one beside the backbone"
    )


@dataclass(frozen=True, eq=False)
class Nets:
    """TryonNet, GarmentNet with all around it, and what sees the garment's picture."""

    tryon: TryonNet
    garment: StableDiffusion
    encoder: ImageEncoder


def build(
    backbone: Backbone,
    prompt: str | Sequence[str],
    nets: Nets,
    wear: Wear,
    *,
    guide: Guide = Guide(),
    knobs: Knobs = Knobs(),
) -> Score:
    """Make guidance from no garment and no words towards both; the person is told on both sides.

    prompt: what the garment is, "a striped red shirt", or B of them for B persons. Without details
    and picture the garment is known by these words alone.
    """
    import torch

    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.channels import with_unet
    from threed.diffusion.score import guided

    base, count = require_unet(backbone, NAME), len(wear.person)
    garments = [prompt] * count if isinstance(prompt, str) else list(prompt)
    with torch.no_grad():
        told = channels(base, wear)
    seen = nets.encoder.see(wear.garment, pooled=False) if knobs.picture else None
    latents = base.encode_image(wear.garment.to(base.device)) if knobs.details else None

    def half(texts: Sequence[str], worn: bool) -> Condition:
        condition = replace(base.encode_text(texts), channels=told)
        there = torch.full((count,), worn, device=base.device)
        looks = looked_at(nets, garments, seen, latents, there, knobs)
        return replace(condition, attention=(*condition.attention, *looks))

    text = half([WEARING.format(words) for words in garments], True)
    other = half([guide.negative] * count, False)
    return guided(with_unet(base, nets.tryon.unet), text, other, knobs.garment_scale)


def channels(base: StableDiffusion, wear: Wear) -> Tensor:
    """[B, 2C + 1, h, w] beside the noise: the mask, the person without it, and the dense pose."""
    from torch.nn import functional as F

    assert wear.dense is not None  # `prepare` and the training folder see to it
    agnostic, dense = (base.encode_image(v.to(base.device)) for v in (wear.agnostic, wear.dense))
    mask = F.interpolate(wear.mask.to(agnostic), agnostic.shape[-2:])
    return stacked(mask, agnostic, dense)


def stacked(mask: Tensor, agnostic: Tensor, dense: Tensor) -> Tensor:
    """[B, 2C + 1, h, w] of latents and a mask of their size, in the published order."""
    import torch

    return torch.cat([mask, agnostic, dense], 1)


def looked_at(
    nets: Nets,
    garments: Sequence[str],
    seen: Tensor | None,
    latents: Tensor | None,
    there: Tensor,
    knobs: Knobs,
) -> list[Any]:
    """The attention to B garments: patches [B, S, C] of their pictures, and latents [B, C, h, w].

    Where they are not `there` ([B] bool) zeros stand for them, as published.
    """
    import torch

    from threed.diffusion.parts.image_adapter import ImageTokens, block_scales
    from threed.diffusion.parts.tryon_net import Garments

    looks: list[Any] = []
    if seen is not None:
        adapter = nets.tryon.adapter
        patches = torch.where(there[:, None, None], seen, nets.encoder.nothing(pooled=False))
        scales = block_scales([*adapter.places], "all", knobs.picture)
        looks.append(ImageTokens(adapter(patches[:, None]), adapter, scales))
    if latents is not None:
        alone = nets.garment.encode_text([ALONE.format(words) for words in garments]).tokens
        looks.append(Garments(nets.garment, latents, alone, there, knobs.details))
    return looks


def load(backbone: Backbone, request: Request) -> Nets:
    """Load the nets of a request's weights: a training's folder, or the published one."""
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.tryon_net import garment_net, load_tryon_net
    from threed.diffusion.weights import find_trained, frozen
    from threed.systems.reference.ip_adapter import find_encoder

    base = require_unet(backbone, NAME)
    place = find_trained(request.one("weights"), base.folder, NAME, HUB)
    tryon = frozen(load_tryon_net(base, place / "unet"), base.device, base.unet.dtype)
    encoder = find_encoder(base, request.one("encoder"), place / "unet", NAME)
    inputs, width = tryon.adapter.image_proj.inputs, encoder.width(pooled=False)
    if inputs != width:
        raise InputError(f"{place} takes {inputs} numbers of its image encoder's patches, and "
                         f"{encoder.folder} gives {width}: give the right one by --encoder"
                         )  # fmt: skip
    own = place / "unet_encoder"
    return Nets(tryon, garment_net(base, own if own.is_dir() else None), encoder)


def prepare(backbone: Backbone, request: Request, weights: Nets) -> Ready:
    """Make the Score of a request: its prompt, or --garment_text, is what the garment is."""
    from threed.diffusion.models.stable_diffusion import require_unet

    wear = worn(request, require_unet(backbone, NAME), needs=("dense",))
    return dressed(backbone, request, weights, wear)


def dressed(backbone: Backbone, request: Request, weights: Nets, wear: Wear) -> Ready:
    """Make the Score of a person and a garment that are known."""
    import torch

    from threed.diffusion.paint import Ready
    from threed.diffusion.parts.decoding import repainting

    with torch.no_grad():
        score = build(backbone, wear.text, weights, wear, guide=request.guide,
                      knobs=request.knobs or Knobs())  # fmt: skip
    return Ready(score, decode=repainting(backbone, wear.repainted))


def new_nets(base: StableDiffusion, options: Options) -> Nets:
    """Make the nets of a training: TryonNet as the backbone's UNet, with a new adapter or a given.

    With layers=decoder only the blocks on the way up learn (the paper's customisation).
    """
    from threed.diffusion.parts.channels import let_learn, widened, with_unet
    from threed.diffusion.parts.image_adapter import load_image_adapter
    from threed.diffusion.parts.image_tokens import Resampler
    from threed.diffusion.parts.tryon_net import TryonNet, channels_of, garment_net
    from threed.systems.reference.ip_adapter import adapter_file, find_encoder, new_adapter

    given = options.encoder
    encoder = find_encoder(base, None if given is None else Path(given), None, NAME)
    unet = widened(base.unet, channels_of(base) - base.unet.config.in_channels)
    view = with_unet(base, unet)
    if options.adapter is None:
        adapter = new_adapter(view, "plus", encoder)
    else:
        file = adapter_file(Path(options.adapter))
        adapter = load_image_adapter(view, file)[0].float().requires_grad_(True)
        kind: Any = adapter.image_proj
        if not isinstance(kind, Resampler) or kind.inputs != encoder.width(pooled=False):
            raise InputError(f"{file} is no IP-Adapter Plus of the image encoder {encoder.folder}")
    tryon = TryonNet(unet, adapter)
    if options.layers == "decoder":
        let_learn(tryon, lambda name: name.startswith("unet.up_blocks"))
    return Nets(tryon, garment_net(base), encoder)


def load_trained(backbone: Backbone, path: Path) -> nn.Module:
    """Load a trained TryonNet to go on from."""
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.tryon_net import load_tryon_net

    return load_tryon_net(require_unet(backbone, NAME), path / "unet")


def of_examples(examples: Examples, indices: Sequence[int]) -> Wear:
    """Persons and what they wear, as `build` takes them: B of them."""
    roles = {role: examples.pictures(role, indices) for role in ("garment", "dense")}
    mask = examples.pictures("mask", indices)[:, :1].round()
    person = examples.pictures("image", indices)
    return Wear(person, mask=mask, category="upper", text="", **roles)


def learn(backbone: Backbone, lesson: Lesson) -> Task:
    """Train TryonNet and its adapter on persons and what they wear; GarmentNet stays as it is.

    The official code never leaves the garment out, though guidance goes away from none.
    """
    import torch
    from torch.nn import functional as F

    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.channels import with_unet
    from threed.diffusion.parts.tryon_net import save_tryon_net
    from threed.learning.data import Latents
    from threed.learning.loop import Task
    from threed.learning.losses import chosen, denoising_loss, without_text

    base, examples = require_unet(backbone, NAME), lesson.examples
    nets = new_nets(base, lesson.options)
    view, knobs, empty = with_unet(base, nets.tryon.unet), Knobs(), base.encode_text([""])
    latents = {role: Latents(base, examples, role) for role in ROLES if role != "mask"}

    def loss(net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        indices = examples.draw(n, generator)
        lost = chosen(n, DROP, generator).to(base.device)
        garments = examples.texts("garment_text", indices)
        with torch.no_grad():
            shown = examples.pictures("garment", indices).to(base.device)
            seen = nets.encoder.see(shown, pooled=False)
        image, garment, agnostic, dense = (latents[role](indices) for role in latents)
        mask = examples.pictures("mask", indices)[:, :1].round().to(agnostic)
        told = stacked(F.interpolate(mask, agnostic.shape[-2:]), agnostic, dense)
        text = base.encode_text([WEARING.format(words) for words in garments])
        condition = replace(
            without_text(text, empty, lost),
            channels=told,
            attention=tuple(looked_at(nets, garments, seen, garment, ~lost, knobs)),
        )
        return denoising_loss(view, image, condition, generator, debias=lesson.debias)

    def save(net: nn.Module, out: Path) -> None:
        save_tryon_net(net, out / "unet")

    return Task(nets.tryon, loss, save, lesson.about, lambda net: sheet(base, examples, nets))


def sheet(base: StableDiffusion, examples: Examples, nets: Nets) -> Tensor:
    """[3, H, W] the first examples: garments, masked persons, what is made, and what was there."""
    import torch

    from threed.diffusion.images import grid
    from threed.diffusion.paint import Ready, paint
    from threed.diffusion.parts.decoding import repainting

    few = list(range(min(SHOWN_EXAMPLES, len(examples))))
    wear = of_examples(examples, few)
    with torch.no_grad():
        score = build(base, examples.texts("garment_text", few), nets, wear)
        ready = Ready(score, rows=len(few), own_noise=True, decode=repainting(base, wear.repainted))
        made = paint(base, ready, steps=15, size=examples.size)
    return grid(torch.cat([wear.garment, wear.agnostic, made.cpu(), wear.person]), len(few))


TRAINING = Training(
    data="tryon",
    pictures=lambda options: ROLES,
    texts=TEXTS,
    paper=Recipe(steps=63_000, batch=6, lr=1e-5, accumulate=4),  # 130 epochs of VITON-HD by 24
    small=Recipe(steps=3000, batch=64, lr=1e-3, cooldown=0.4, muon=True),
    learn=learn,
    load=lambda backbone, path, options: load_trained(backbone, path),
    options=Options,
    read=lambda folder, size, options: read_fittings(folder, size, ROLES),
)
SYSTEM = System(
    name=NAME,
    paper="Improving Diffusion Models for Authentic Virtual Try-on in the Wild",
    arxiv="2403.05139",
    claim="a person in a garment, with its details as a second UNet sees them",
    inputs=(
        *INPUTS,
        Input("weights", WEIGHTS, "a training's folder, the published one, or owner/name"),
        Input("encoder", WEIGHTS, "the image encoder's folder, if it is not beside the weights"),
        BESIDE,
    ),
    knobs=Knobs,
    trains="an inpainting UNet, and tokens of the garment's picture in every layer",
    training=TRAINING,
    shows=True,
    several=False,
    seams=("channels", "attention", "decoding"),
    load=load,
    prepare=prepare,
    dress=lambda backbone, request, nets, sight: dressed(
        backbone, request, nets, sight.wearing(request)
    ),
    check=check,
)
