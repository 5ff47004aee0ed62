"""IP-Adapter (arXiv:2308.06721): a picture is a prompt, beside the words.

Tokens of what an image encoder sees in it have an attention of their own in every layer, which is
added to the text's. Four kinds of weights, told apart by what is in their file: base (a few tokens
of the encoder's one vector), Plus and full face (tokens of its patches), and FaceID (tokens of a
face's embedding, with a LoRA). It composes with whatever else a condition may be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from threed.core.errors import InputError
from threed.diffusion.guide import Guide
from threed.learning.recipe import Recipe
from threed.settings.base import Settings
from threed.settings.base import replace as changed
from threed.systems.inputs import BESIDE, MASK, SHOWN, WEIGHTS, Input
from threed.systems.reference.faces import RECOGNISER, embeddings, face_input
from threed.systems.reference.shown import (
    Seeing,
    prompts,
    read_numbers,
    read_prompted,
    read_shown,
)
from threed.systems.system import Lesson, Request, System, Training

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from threed.diffusion.backbone import Backbone
    from threed.diffusion.models.stable_diffusion import StableDiffusion
    from threed.diffusion.paint import Ready
    from threed.diffusion.parts.image_adapter import ImageAdapter
    from threed.diffusion.parts.image_encoder import ImageEncoder
    from threed.diffusion.score import Score
    from threed.learning.loop import Task

NAME = "ip_adapter"
DROP = 0.05  # text only, picture only, and both: each so often
SHOWN_EXAMPLES = 6  # of a sheet
TOKENS, QUERIES = 4, 16  # of the base and of Plus
HUB = {  # what is fetched of the official repository, by the width of the text's tokens
    768: ("models/ip-adapter_sd15.safetensors", "models/image_encoder/*"),
    2048: ("sdxl_models/ip-adapter_sdxl.safetensors", "sdxl_models/image_encoder/*"),
}


class Knobs(Settings):
    """How strongly, and where, the pictures count."""

    scale: float = Field(1.0, description="of the pictures' attention, beside the words' 1")
    blocks: str = Field(
        "all", description="where they count: all, style, layout, or parts such as up_blocks.1:0.5"
    )
    shares: str | None = Field(
        None, description="how much each picture counts, as in 2,1; if not given, all the same"
    )
    lora: float = Field(1.0, description="weight of the LoRA that comes with FaceID")
    variate: bool = Field(
        False, description="in 3D what is seen without the picture is subtracted, not the noise"
    )

    @field_validator("shares")
    @classmethod
    def _check_shares(cls, text: str | None) -> str | None:
        if text is not None and not any(read_numbers(text)):
            raise InputError(f"must not all be 0, got {text!r}")
        return text


class Options(Seeing):
    """What kind of adapter is taught."""

    kind: Literal["base", "plus"] = Field(
        "base", description="base: tokens of the picture's one vector; plus: of its patches"
    )


@dataclass(frozen=True, eq=False)
class Told:
    """What pictures say: their features, as the adapter takes them."""

    features: Tensor  # [1 or B, N, ...] of N pictures
    other: Tensor  # [1, ...] told in the unconditional half
    masks: Tensor | None = None  # [N, 1, H, W] where each picture counts


@dataclass(frozen=True, eq=False)
class Loaded:
    """A trained adapter, the encoder that it was taught with, and whether there is a LoRA."""

    net: ImageAdapter
    encoder: ImageEncoder | None = None  # FaceID's is no part of it
    lora: bool = False


def build(
    backbone: Backbone,
    prompt: str | Sequence[str],
    loaded: Loaded,
    told: Told,
    *,
    guide: Guide = Guide(7.5),
    knobs: Knobs = Knobs(),
) -> Score:
    """Make guidance from no picture and no words towards both.

    One prompt, or B of them. At scale 0, and without a LoRA, it is the words' alone, to the bit.
    """
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.image_adapter import LORA, ImageTokens, block_scales
    from threed.diffusion.score import guided

    base = require_unet(backbone, NAME)
    words = [prompt] if isinstance(prompt, str) else list(prompt)
    count = told.features.shape[1]
    scales = block_scales([*loaded.net.places], knobs.blocks, knobs.scale)
    shares = read_numbers(knobs.shares)
    if shares and len(shares) != count:
        raise InputError(f"shares={knobs.shares} are {len(shares)}, and there are {count} pictures")

    def half(texts: Sequence[str], features: Tensor) -> Any:
        condition = base.encode_text(texts)
        if any(scales.values()):
            tokens = loaded.net(features.to(base.device)).expand(len(texts), count, -1, -1)
            edit = ImageTokens(tokens, loaded.net, scales, shares, told.masks)
            condition = replace(condition, attention=(edit,))
        own = {LORA: knobs.lora} if loaded.lora else {}
        return replace(condition, adapters={**condition.adapters, **own})

    text = half(words, told.features)
    other = half([guide.negative] * len(words), told.other[None])
    return guided(base, text, other, guide.scale)


def load(backbone: Backbone, request: Request) -> Loaded:
    """Load the adapter of a request's weights, and its image encoder."""
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.image_adapter import load_image_adapter
    from threed.diffusion.weights import PATTERNS, find_trained

    base = require_unet(backbone, NAME)
    width = int(base.unet.config.cross_attention_dim)
    place = find_trained(request.one("weights"), base.folder, NAME, HUB.get(width, PATTERNS))
    file = adapter_file(place)
    net, lora = load_image_adapter(base, file)
    kind: Any = net.image_proj
    if kind.face:
        return Loaded(net, None, lora)
    encoder = find_encoder(base, request.one("encoder"), file)
    check_encoder(encoder, int(kind.inputs), file, pooled=bool(kind.pooled))
    return Loaded(net, encoder, lora)


def adapter_file(place: Path, stem: str = "ip-adapter") -> Path:
    """Find the adapter's file: itself, or the only one of a folder. InputError if none, or many."""
    if place.is_file():
        return place
    found = {path.with_suffix(""): path for ending in ("bin", "safetensors")
             for path in place.rglob(f"{stem}*.{ending}")}  # fmt: skip
    if len(found) == 1:
        return next(iter(found.values()))
    names = ", ".join(sorted(path.name for path in found.values())) or "none"
    raise InputError(f"{place} must hold one file {stem}*.safetensors or .bin, and there are: "
                     f"{names}; name one by --weights")  # fmt: skip


def check_encoder(encoder: ImageEncoder, inputs: int, source: Path, *, pooled: bool) -> None:
    """InputError unless an image encoder's one vector, or patches, are what weights take."""
    if (width := encoder.width(pooled=pooled)) != inputs:
        what = "" if pooled else "'s patches"
        raise InputError(f"{source} takes {inputs} numbers of its image encoder{what}, and "
                         f"{encoder.folder} gives {width}: give the right one by --encoder"
                         )  # fmt: skip


def find_encoder(
    base: StableDiffusion, given: Path | str | None, beside: Path | None, system: str = NAME
) -> ImageEncoder:
    """Load the image encoder: as given, beside the adapter's file, or with the backbone."""
    from threed.diffusion.parts.image_encoder import ImageEncoder
    from threed.diffusion.weights import find_trained

    own = base.folder / "clip"
    if given is not None:
        place = find_trained(Path(given), base.folder, system, ("*.json", "model.safetensors"))
        return ImageEncoder(place, base.device)
    for place in [own] if beside is None else [beside.parent / "image_encoder", own]:
        if place.is_dir():
            return ImageEncoder(place, base.device, own=place == own)
    raise InputError(
        f"system {system!r} needs the folder of the image encoder that its weights are taught "
        "with, such as models/image_encoder of h94/IP-Adapter: --encoder FOLDER, in training "
        "encoder="
    )


def check(request: Request) -> None:
    """InputError if nothing is shown, or masks do not fit."""
    images, masks = request.all("image"), request.all("mask")
    if not images and request.one("face") is None:
        raise InputError(f"system {NAME!r} needs --image, the picture that is the prompt (or "
                         "--face, with weights of FaceID)")  # fmt: skip
    if masks and len(masks) != len(images):
        raise InputError(f"--mask must be said once for each --image: there are {len(masks)} for "
                         f"{len(images)}")  # fmt: skip


def prepare(backbone: Backbone, request: Request, weights: Loaded) -> Ready:
    """Make the Score of a request's pictures and prompt."""
    import torch

    from threed.diffusion.images import load_image
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.paint import Ready

    base = require_unet(backbone, NAME)
    masks = [load_image(path, request.size).mean(1, keepdim=True) for path in request.all("mask")]
    with torch.no_grad():
        features, other = look(base, request, weights)
    told = Told(features, other, torch.cat(masks).to(base.device) if masks else None)
    knobs = request.knobs or Knobs()
    score = build(base, request.prompt, weights, told, guide=request.guide, knobs=knobs)
    if not knobs.variate:
        return Ready(score)
    # ModeDreamer's control variate (arXiv:2411.18135): the adapter, not prompted by a picture
    alone = changed(knobs, shares=None)
    none = build(base, request.prompt, weights, Told(other[None], other), guide=Guide(1.0),
                 knobs=alone)  # fmt: skip
    return Ready(score, against=none)


def look(base: StableDiffusion, request: Request, loaded: Loaded) -> tuple[Tensor, Tensor]:
    """What a request shows, [1, N, ...], and what its unconditional half is told, [1, ...]."""
    import torch
    from torch.nn import functional as F

    encoder, kind = loaded.encoder, loaded.net.image_proj
    if encoder is None:
        faces = F.normalize(
            embeddings(base, request, int(kind.inputs)), dim=1
        )  # as FaceID was taught
        return faces[None], torch.zeros_like(faces[:1])
    if not request.all("image"):
        raise InputError("--face is for weights of FaceID; these take --image")
    size, pooled = encoder.size, bool(kind.pooled)

    def seen(path: Path) -> Tensor:
        return encoder.see(read_shown(path, size), pooled=pooled)

    shown, unlike = torch.stack([*map(seen, request.all("image"))], 1), request.one("unlike")
    return shown, encoder.nothing(pooled=pooled) if unlike is None else seen(unlike)


def new_adapter(base: StableDiffusion, kind: str, encoder: ImageEncoder) -> ImageAdapter:
    """Make an untrained adapter, whose maps to keys and values are the text's."""
    from threed.diffusion.parts.image_adapter import ImageAdapter
    from threed.diffusion.parts.image_tokens import HEAD, Projection, Resampler

    width = int(base.unet.config.cross_attention_dim)
    inputs = encoder.width(pooled=kind == "base")
    if kind == "base":
        return ImageAdapter(base, Projection(inputs, width, TOKENS)).float()
    heads = max(width // HEAD, 1)  # 12 for SD 1.5, as published
    return ImageAdapter(base, Resampler(inputs, width, inner=heads * HEAD, heads=heads,
                                        tokens=QUERIES)).float()  # fmt: skip


def learn(backbone: Backbone, lesson: Lesson) -> Task:
    """Train the adapter on (image, text); the UNet and the encoder stay as they are.

    The prompt is the image itself, or another picture, `shown`, of the same. Of 20 examples one
    loses its text, one its picture, and one both, as in the official code.
    """
    import torch

    from threed.diffusion.images import grid
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.paint import Ready, paint
    from threed.diffusion.parts.image_adapter import (
        ImageTokens,
        block_scales,
        save_image_adapter,
    )
    from threed.learning.data import Latents
    from threed.learning.loop import Task
    from threed.learning.losses import denoising_loss, dropped, without_text

    base, examples = require_unet(backbone, NAME), lesson.examples
    encoder = find_encoder(base, lesson.options.encoder, None)
    net = new_adapter(base, lesson.options.kind, encoder)
    pooled, scales = bool(net.image_proj.pooled), block_scales([*net.places], "all", 1.0)
    latents, empty = Latents(base, examples, "image"), base.encode_text([""])
    nothing = encoder.nothing(pooled=pooled)

    def see(indices: Sequence[int]) -> Tensor:
        with torch.no_grad():
            return encoder.see(prompts(examples, indices), pooled=pooled)

    def loss(net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        indices = examples.draw(n, generator)
        no_text, no_image = (drop.to(base.device) for drop in dropped(n, DROP, generator))
        text = without_text(base.encode_text(examples.texts("text", indices)), empty, no_text)
        seen = see(indices)
        seen = torch.where(no_image.view(-1, *[1] * (seen.ndim - 1)), nothing, seen)
        own: Any = net
        condition = replace(text, attention=(ImageTokens(own(seen[:, None]), own, scales),))
        return denoising_loss(base, latents(indices), condition, generator, debias=lesson.debias)

    def sheet(net: nn.Module) -> Tensor:
        few = list(range(min(SHOWN_EXAMPLES, len(examples))))
        own: Any = net
        told = Told(see(few)[:, None], nothing)
        guided = build(base, [""] * len(few), Loaded(own, encoder), told)
        made = paint(base, Ready(guided), n=len(few), steps=15, size=examples.size)
        return grid(torch.cat([prompts(examples, few).to(base.device), made]), columns=len(few))

    return Task(net, loss, save_image_adapter, lesson.about, sheet)


def load_trained(backbone: Backbone, path: Path, options: Options) -> nn.Module:
    """Load a trained adapter to go on from. InputError if it is of another kind."""
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.image_adapter import load_image_adapter

    return load_image_adapter(require_unet(backbone, NAME), adapter_file(path))[0]


TRAINING = Training(
    data="shown",
    pictures=lambda options: ("image",),
    texts=("text",),
    paper=Recipe(steps=1_000_000, batch=8, lr=1e-4, accumulate=8),  # 64: 8 × 8 GPUs
    small=Recipe(steps=1000, batch=64, lr=1e-3, cooldown=0.4, muon=True),
    learn=learn,
    load=load_trained,
    options=Options,
    read=read_prompted,
)
SYSTEM = System(
    name=NAME,
    paper="IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models",
    arxiv="2308.06721",
    claim="shows what a picture shows, or a face, as the words say",
    inputs=(
        Input("image", SHOWN, "a picture that is a prompt; repeat for more", many=True),
        Input("mask", MASK, "where a picture counts, white on black; once for each", many=True),
        Input("unlike", SHOWN, "a picture that the result is to be unlike"),
        face_input(", for weights of FaceID"),
        RECOGNISER,
        Input("weights", WEIGHTS, "a training's folder, an official file, or owner/name"),
        Input("encoder", WEIGHTS, "the image encoder's folder, if it is not beside the weights"),
        BESIDE,
    ),
    knobs=Knobs,
    trains="tokens of a picture, and their keys and values in every layer",
    training=TRAINING,
    shows=True,
    seams=("attention", "weights"),
    load=load,
    prepare=prepare,
    check=check,
)
