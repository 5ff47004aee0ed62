"""PhotoMaker (arXiv:2312.04461): pictures of a person become the word that says who it is.

In "a man img in a garden" the trigger img marks the class word. Its token is repeated, and fused
with what an eye sees in each picture; of the second version's weights, with the face's embedding,
too. A LoRA comes with them. The face comes in late, so that the words decide what is where.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from threed.core.errors import InputError
from threed.diffusion.guide import Guide
from threed.diffusion.parts.trigger import TRIGGER, class_word, with_trigger
from threed.learning.recipe import Recipe
from threed.settings.base import Settings
from threed.systems.inputs import BESIDE, SHOWN, WEIGHTS, Input
from threed.systems.reference import ip_adapter
from threed.systems.reference.faces import RECOGNISER, embeddings, face_input
from threed.systems.reference.shown import Seeing, read_shown, same_people
from threed.systems.system import Lesson, Request, System, Training

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from threed.diffusion.backbone import Backbone
    from threed.diffusion.condition import Condition
    from threed.diffusion.models.stable_diffusion import StableDiffusion
    from threed.diffusion.paint import Ready
    from threed.diffusion.parts.id_encoder import IdEncoder
    from threed.diffusion.score import Score
    from threed.learning.data import Examples
    from threed.learning.loop import Task

NAME = "photo_maker"
FILES = "photomaker"  # how its files are called
LORA = "photomaker"  # what the LoRA is called in the UNet
EYE, UNET = "id_encoder", "unet"  # the nets that learn
MASK = "mask"  # where the person is in an example's picture, white on black
MOST = 4  # pictures of a person that are shown at once in training
DROP, MASKED = 0.1, 0.5  # how often the words are left out, and how often a mask counts
LORA_RATE = 10.0  # times the recipe's rate, as published: 1e-4, and 1e-5 for all else
SHOWN_EXAMPLES = 6  # of a sheet


class Knobs(Settings):
    """When, and how strongly, the person counts."""

    start_merge: float = Field(
        0.22, ge=0, le=1, description="share of the sampling in which the words alone count, first "
        "of all; 0.22 is the published 10, which are the first 11 of 50 steps",
    )  # fmt: skip
    lora: float = Field(1.0, description="weight of the LoRA that comes with the weights")


class Options(Seeing):
    """What is taught."""

    kind: str = Field(
        "person", min_length=1, description="the word of the captions that is the person"
    )
    rank: int = Field(64, ge=1, le=1024, description="of the LoRA's matrices")


@dataclass(frozen=True, eq=False)
class Loaded:
    """A trained net, whose LoRA is in the UNet by the name LORA, and the faces of a request."""

    net: IdEncoder
    faces: Tensor | None = None  # [N, numbers], for the second version's weights


def build(
    backbone: Backbone,
    prompt: str | Sequence[str],
    loaded: Loaded,
    who: Tensor,
    *,
    guide: Guide = Guide(5.0),
    knobs: Knobs = Knobs(),
) -> Score:
    """Make guidance towards the words alone first, then towards those with a person in them.

    One prompt, or B of them, each with the trigger once; who: [1 or B, N, tokens, C], what the net
    makes of N pictures. With start_merge 1 and without the LoRA it is that of the prompts without
    the trigger, to the bit.
    """
    from threed.diffusion.condition import stack
    from threed.diffusion.learned.names import spoken
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.id_encoder import told
    from threed.diffusion.score import guided, switch

    base = require_unet(backbone, NAME)
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    each = who.expand(len(texts), -1, -1, -1)
    plain = base.encode_text([spoken(text, {TRIGGER: ""}) for text in texts])
    merged = stack([told(base, text, loaded.net, one) for text, one in zip(texts, each)])
    other = base.encode_text([guide.negative] * len(texts))
    first, then = (guided(base, _with_lora(text, knobs.lora), _with_lora(other, knobs.lora),
                          guide.scale) for text in (plain, merged))  # fmt: skip
    return switch(first, then, knobs.start_merge)


def _with_lora(condition: Condition, weight: float) -> Condition:
    return replace(condition, adapters={**condition.adapters, LORA: weight})


def load(backbone: Backbone, request: Request) -> Loaded:
    """Load the net of a request's weights and their LoRA, and find its faces if they count."""
    import torch

    from threed.diffusion.learned.lora import put_in
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.id_encoder import load_photomaker
    from threed.diffusion.weights import find_trained, frozen

    base = require_unet(backbone, NAME)
    patterns = ("*.json", f"{FILES}*.safetensors", f"{FILES}*.bin")
    place = find_trained(request.one("weights"), base.folder, NAME, patterns)
    net, lora = load_photomaker(base, ip_adapter.adapter_file(place, FILES))
    put_in(lora, base, LORA)
    if not net.faces and (request.all("face") or request.one("recogniser")):
        raise InputError("--face and --recogniser are for weights of PhotoMaker's second version; "
                         "these take pictures alone")  # fmt: skip
    faces = embeddings(base, request, net.faces).to(base.device) if net.faces else None
    return Loaded(frozen(net, base.device, torch.float32), faces)


def check(request: Request) -> None:
    """InputError unless the prompt has the trigger once, and there is a face for each picture."""
    if request.prompt:  # what a system is may be asked before there is a prompt
        class_word(request.prompt)
    images, faces = request.all("image"), request.all("face")
    if faces and len(faces) != len(images):
        raise InputError(f"--face must be said once for each --image: there are {len(faces)} for "
                         f"{len(images)}")  # fmt: skip


def prepare(backbone: Backbone, request: Request, weights: Loaded) -> Ready:
    """Make the Score of a request's prompt and pictures."""
    from threed.diffusion.paint import Ready

    return Ready(build(backbone, request.prompt, weights, look(request, weights),
                       guide=request.guide, knobs=request.knobs or Knobs()))  # fmt: skip


def look(request: Request, loaded: Loaded) -> Tensor:
    """[1, N, tokens, C] what the net makes of a request's pictures, and of the faces in them."""
    import torch

    net = loaded.net
    pictures = torch.cat([read_shown(path, net.size) for path in request.all("image")])
    with torch.no_grad():
        who: Tensor = net(pictures.to(next(net.parameters())), loaded.faces)
    return who[None]


def learn(backbone: Backbone, lesson: Lesson) -> Task:
    """Train the fusing, half of the eye's layers and a LoRA on people, with several pictures each.

    Each is told by 1 to MOST others of the same person. A tenth loses its words. Where examples
    have masks, half the time errors count within them alone (section 3.2; which of the eye's layers
    learn is not published).
    """
    import torch

    from threed.diffusion.condition import stack
    from threed.diffusion.learned.lora import lora_of
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.adapters import Lora
    from threed.diffusion.parts.id_encoder import save_photomaker, told
    from threed.learning.data import Latents
    from threed.learning.loop import Task
    from threed.learning.losses import chosen, denoising_loss, without_text

    base, examples = require_unet(backbone, NAME), lesson.examples
    texts = [with_trigger(row["text"], lesson.options.kind) for row in examples.rows]
    net = _untrained(base, lesson.options)
    Lora(base.unet, LORA, rank=lesson.options.rank, seed=lesson.seed)
    latents, empty = Latents(base, examples, "image"), base.encode_text([""])

    def loss(nets: Any, n: int, generator: torch.Generator) -> Tensor:
        indices = examples.draw(n, generator)
        count = int(torch.randint(1, MOST + 1, (), generator=generator))
        others = same_people(examples, indices, count, generator)
        who = _seen(nets[EYE], examples, others).unflatten(0, (n, count))
        text = stack([told(base, texts[i], nets[EYE], one) for i, one in zip(indices, who)])
        text = without_text(text, empty, chosen(n, DROP, generator))
        here = latents(indices)
        mask = masks(examples, indices, here, chosen(n, MASKED, generator))
        return denoising_loss(base, here, _with_lora(text, 1.0), generator, debias=lesson.debias,
                              mask=mask)  # fmt: skip

    def save(nets: Any, out: Path) -> None:
        save_photomaker(nets[EYE], lora_of(base, LORA), out)

    nets = torch.nn.ModuleDict({EYE: net, UNET: base.unet})
    return Task(nets, loss, save, lesson.about, lambda _: _sheet(base, lesson, texts, net),
                {f"{UNET}.": 1.0 if lesson.debias else LORA_RATE})  # fmt: skip


def _seen(net: Any, examples: Examples, indices: Sequence[int]) -> Tensor:
    """[B, tokens, C] what a net that learns makes of examples' pictures."""
    from torch.nn import functional as F

    pictures = examples.pictures("image", indices).to(net.fuse_module.layer_norm.weight)
    who: Tensor = net(F.interpolate(pictures, (net.size,) * 2, mode="bicubic", antialias=True))
    return who


def _sheet(base: StableDiffusion, lesson: Lesson, texts: Sequence[str], net: Any) -> Tensor:
    """[3, H, W] the first examples, and below what is made of their captions and themselves."""
    import torch

    from threed.diffusion.images import grid
    from threed.diffusion.paint import Ready, paint

    few = list(range(min(SHOWN_EXAMPLES, len(lesson.examples))))
    with torch.no_grad():
        who = _seen(net, lesson.examples, few)[:, None]
        ready = Ready(build(base, [texts[i] for i in few], Loaded(net), who), rows=len(few))
        made = paint(base, ready, steps=15, size=lesson.examples.size)
    real = lesson.examples.pictures("image", few).to(base.device)
    return grid(torch.cat([real, made]), columns=len(few))


def _untrained(base: StableDiffusion, options: Options) -> IdEncoder:
    """A net that begins with a CLIP's eye, of which the first half stays as it is."""
    from threed.diffusion.parts.id_encoder import new_encoder

    encoder = ip_adapter.find_encoder(base, options.encoder, None, NAME)
    net = new_encoder(encoder, int(base.unet.config.cross_attention_dim)).requires_grad_(True)
    eye: Any = net.vision_model.requires_grad_(False)
    layers = eye.encoder.layers
    for part in (*layers[len(layers) // 2 :], eye.post_layernorm):
        part.requires_grad_(True)
    return net


def masks(examples: Examples, indices: Sequence[int], like: Tensor, chosen: Tensor) -> Any:
    """[B, 1, h, w] where errors count: within the masks of the chosen, everywhere for others.

    None if not all examples have a mask.
    """
    import torch
    from torch.nn import functional as F

    if not all(MASK in row for row in examples.rows):
        return None
    drawn = examples.pictures(MASK, indices).mean(1, keepdim=True)
    small = F.adaptive_avg_pool2d(drawn, (like.shape[-2], like.shape[-1])).to(like)
    everywhere = chosen.logical_not().to(like.device)[:, None, None, None]
    return torch.where(everywhere, torch.ones_like(small), small)


def load_trained(backbone: Backbone, path: Path, options: Options) -> nn.Module:
    """Load a trained net and its LoRA to go on from."""
    import torch

    from threed.diffusion.learned.lora import put_in
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.id_encoder import load_photomaker

    base = require_unet(backbone, NAME)
    net, lora = load_photomaker(base, ip_adapter.adapter_file(path, FILES))
    put_in(lora, base, LORA)
    return torch.nn.ModuleDict({EYE: net, UNET: base.unet})


TRAINING = Training(
    data="persons",
    pictures=lambda options: ("image",),
    texts=("text",),
    names=("person",),
    # 48: 6 × 8 GPUs; how many steps is not published (two weeks of 8 A100)
    paper=Recipe(steps=100_000, batch=6, lr=1e-5, accumulate=8),
    small=Recipe(steps=900, batch=64, lr=1e-3, cooldown=0.4, muon=True),
    learn=learn,
    load=load_trained,
    options=Options,
)
SYSTEM = System(
    name=NAME,
    paper="PhotoMaker: Customizing Realistic Human Photos via Stacked ID Embedding",
    arxiv="2312.04461",
    claim="a word of the prompt is the person of a few pictures",
    inputs=(
        Input("image", SHOWN, "a picture of the person; repeat for more", required=True, many=True),
        face_input(", once for each --image, for weights of version 2", many=True),
        RECOGNISER,
        Input("weights", WEIGHTS, "a training's folder, an official file, or owner/name"),
        BESIDE,
    ),
    knobs=Knobs,
    trains="the fusing of words and pictures, half of an eye, and a LoRA",
    training=TRAINING,
    seams=("words", "weights", "step"),
    load=load,
    prepare=prepare,
    check=check,
    marks=lambda request: (TRIGGER,),
)
