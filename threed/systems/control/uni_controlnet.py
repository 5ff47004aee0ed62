"""Uni-ControlNet: any maps and a picture's content, by one set of weights (arXiv:2305.16322)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from threed.core.errors import InputError
from threed.diffusion.guide import Guide
from threed.learning.recipe import Recipe
from threed.settings.base import Settings
from threed.systems.control.controlnet import Window
from threed.systems.inputs import BESIDE, MAP, PICTURE, WEIGHTS, Input
from threed.systems.system import Lesson, Request, System, Training

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from threed.diffusion.backbone import Backbone
    from threed.diffusion.condition import Condition
    from threed.diffusion.paint import Ready
    from threed.diffusion.parts.uni_adapters import Adapters
    from threed.diffusion.score import Score
    from threed.learning.loop import Task

NAME = "uni_controlnet"
SHOWN = 6  # examples of a sheet


class Knobs(Window):
    """How strongly, and when, the maps and the content are followed."""

    strength: float = Field(1.0, description="of what the maps add")
    global_strength: float = Field(1.0, description="of the picture's content")


class Options(Settings):
    """Which adapter is taught, and what."""

    part: Literal["local", "global"] = Field(
        "local", description="local: the adapter of all maps; global: the one of content"
    )
    kinds: str = Field(
        "edges,depth,segmentation,keypoints", description="the local adapter's maps, in order"
    )
    dropout: bool = Field(True, description="leave out texts and maps, so that each counts alone")

    @field_validator("kinds")
    @classmethod
    def _check_kinds(cls, text: str) -> str:
        kinds = [kind.strip() for kind in text.split(",")]
        if not all(kinds) or len(set(kinds)) < len(kinds):
            raise InputError(f"must name each map once, as in edges,depth; got {text!r}")
        return text

    @property
    def maps(self) -> tuple[str, ...]:
        """The maps that a local adapter is taught; none for the global one."""
        if self.part == "global":
            return ()
        return tuple(kind.strip() for kind in self.kinds.split(","))


def build(
    backbone: Backbone,
    prompt: str | Sequence[str],
    adapters: Adapters,
    maps: Mapping[str, Tensor] | None = None,
    content: Tensor | None = None,
    *,
    guide: Guide = Guide(7.5),
    knobs: Knobs = Knobs(),
) -> Score:
    """Make guidance with all maps in one net beside the UNet, and a picture's content as tokens.

    maps: by kind, [1 or B, 3, H, W] in [0, 1], as large as the pictures; a kind that is not given
    is black, as in training. content [1 or B, D]: CLIP's features of a picture; without one, the
    official weights are told zeros, whose tokens are constants, and others nothing. In the
    unconditional half the maps stay, and the content is zeros (section 3.4).
    """
    import torch

    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.control import Control, within
    from threed.diffusion.parts.uni_adapters import side_by_side, with_content
    from threed.diffusion.score import cfg, score

    base = require_unet(backbone, NAME)
    words = [prompt] if isinstance(prompt, str) else list(prompt)
    text, other = base.encode_text(words), base.encode_text([guide.negative] * len(words))
    if adapters.world is not None and (content is not None or adapters.constant):
        nothing = torch.zeros(len(words), adapters.world.inputs, device=base.device)
        features = nothing if content is None else content.to(base.device).expand_as(nothing)
        text = with_content(text, adapters.world, features, knobs.global_strength)
        other = with_content(other, adapters.world, nothing, knobs.global_strength)
    nets = []
    if adapters.local is not None and maps:
        hint = side_by_side(adapters.kinds, maps).expand(len(words), -1, -1, -1)
        nets.append((Control(base, adapters.local, hint, knobs.strength), knobs.start, knobs.end))
    return within(
        lambda at_work: score(
            base, [replace(half, residuals=at_work) for half in (text, other)], cfg(guide.scale)
        ),
        nets,
    )


def check(request: Request) -> None:
    """InputError if there is nothing to follow."""
    if not request.inputs.keys() & {"control", "image"}:
        raise InputError(f"system {NAME!r} needs --control, --image or both")


def load(backbone: Backbone, request: Request) -> Adapters:
    """Load the adapters of a request's weights. InputError if the one that it needs is missing."""
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.uni_adapters import load_adapters
    from threed.diffusion.weights import find_trained

    base = require_unet(backbone, NAME)
    place = find_trained(request.one("weights"), base.folder, NAME)
    adapters = load_adapters(base, place)
    needed = ("local", adapters.local, "control"), ("global", adapters.world, "image")
    for part, net, name in needed:
        if request.all(name) and net is None:
            raise InputError(f"{place} holds no {part} adapter: train one with "
                             f"threed train {NAME} part={part}")  # fmt: skip
    return adapters


def prepare(backbone: Backbone, request: Request, weights: Adapters) -> Ready:
    """Make the Score of a request: its controls by kind, its image for the content."""
    from threed.diffusion.detect import MAP as READY
    from threed.diffusion.detect import read_map
    from threed.diffusion.images import load_image
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.paint import Ready
    from threed.diffusion.parts.clip import clip_of

    base = require_unet(backbone, NAME)
    maps = {kind.removesuffix(READY): read_map(kind, picture, request.size)
            for kind, picture in request.all("control")}  # fmt: skip
    if len(maps) < len(request.all("control")):
        raise InputError(f"--control: system {NAME!r} takes one map of each kind, got "
                         f"{', '.join(kind for kind, _ in request.all('control'))}")  # fmt: skip
    content = None
    if request.one("image") is not None:
        content = clip_of(base).images(load_image(request.one("image"), base.image_size))
    guide, knobs = request.guide, request.knobs or Knobs()
    return Ready(build(base, request.prompt, weights, maps, content, guide=guide, knobs=knobs))


def learn(backbone: Backbone, lesson: Lesson) -> Task:
    """Train one adapter on (image, text, maps of the options' kinds); the other is not needed.

    Half of the texts are left out, and maps as dropped_maps says (section 3.5); without the option
    `dropout` nothing is, which shows what it is for. To the global adapter the content is the only
    map: in half of the examples it is zeros.
    """
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.clip import clip_of
    from threed.diffusion.parts.uni_adapters import new_part
    from threed.diffusion.weights import write_net
    from threed.learning.data import Latents
    from threed.learning.loop import Task
    from threed.learning.losses import denoising_loss

    base, options = require_unet(backbone, NAME), lesson.options
    latents = Latents(base, lesson.examples, "image")
    clip = clip_of(base) if options.part == "global" else None
    told = _condition(base, lesson, clip)

    def loss(net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        indices = lesson.examples.draw(n, generator)
        condition = told(net, indices, generator)
        return denoising_loss(base, latents(indices), condition, generator, debias=lesson.debias)

    net = new_part(base, options.part, len(options.maps), 0 if clip is None else clip.width)
    config = {"kinds": list(options.maps)} if clip is None else {"inputs": clip.width}
    return Task(net, loss, lambda net, out: write_net(net, out, config), lesson.about,
                lambda net: _sheet(base, net, lesson, clip))  # fmt: skip


def _condition(base: Any, lesson: Lesson, clip: Any) -> Any:
    """What the UNet is told in training: (net, examples, chance) -> Condition."""
    import torch

    from threed.diffusion.parts.control import Control
    from threed.diffusion.parts.local_adapter import dropped_maps
    from threed.diffusion.parts.uni_adapters import with_content
    from threed.learning.losses import chosen, without_text

    examples, kinds, dropout = lesson.examples, lesson.options.maps, lesson.options.dropout
    empty, share = base.encode_text([""]), 0.5 if dropout else 0.0

    def condition(net: Any, indices: list[int], generator: torch.Generator) -> Condition:
        n = len(indices)
        text = base.encode_text(examples.texts("text", indices))
        text = without_text(text, empty, chosen(n, share, generator))
        if clip is not None:
            features = clip.images(examples.pictures("image", indices))
            zero = dropped_maps(n, 1, generator).to(base.device) & dropout
            return with_content(text, net, features * ~zero, 1.0)
        maps = torch.stack([examples.pictures(kind, indices) for kind in kinds], 1)
        if dropout:
            maps = maps * ~dropped_maps(n, len(kinds), generator)[..., None, None, None]
        return replace(text, residuals=(Control(base, net, maps.flatten(1, 2)),))

    return condition


def _sheet(base: Any, net: Any, lesson: Lesson, clip: Any) -> Tensor:
    """Show maps, what is made of them, and the real pictures."""
    import torch

    from threed.diffusion.images import grid
    from threed.diffusion.paint import Ready, paint
    from threed.diffusion.parts.uni_adapters import Adapters

    examples, kinds = lesson.examples, lesson.options.maps
    few = list(range(min(SHOWN, len(examples))))
    shown = [examples.pictures(kind, few).to(base.device) for kind in kinds]
    real = examples.pictures("image", few).to(base.device)
    adapters = Adapters(kinds, None if clip else net, net if clip else None)
    texts = examples.texts("text", few) if clip is None else [""] * len(few)
    content = None if clip is None else clip.images(real)
    guided = build(base, texts, adapters, dict(zip(kinds, shown)), content)
    made = paint(base, Ready(guided), n=len(few), steps=15, size=examples.size)
    return grid(torch.cat([*shown, made, real]), columns=len(few))


def load_part(backbone: Backbone, path: Path, options: Options) -> nn.Module:
    """Load a trained adapter to go on from. InputError if it is of other maps, or not there."""
    from threed.diffusion.parts.uni_adapters import load_adapters

    adapters = load_adapters(backbone, path)
    net = adapters.local if options.part == "local" else adapters.world
    if net is None:
        raise InputError(f"{path} holds no {options.part} adapter to go on from")
    if options.part == "local" and adapters.kinds != options.maps:
        raise InputError(f"{path} was taught the maps {','.join(adapters.kinds)}, in this "
                         f"order; go on with kinds={','.join(adapters.kinds)}")  # fmt: skip
    return net


TRAINING = Training(
    data="scenes",
    pictures=lambda options: ("image", *options.maps),
    texts=("text",),
    paper=Recipe(steps=100_000, batch=4, lr=1e-5),
    small=Recipe(steps=800, batch=64, lr=1e-3, cooldown=0.4, muon=True),
    learn=learn,
    load=load_part,
    options=Options,
    folder=lambda options: options.part,
)
SYSTEM = System(
    name=NAME,
    paper="Uni-ControlNet: All-in-One Control to Text-to-Image Diffusion Models",
    arxiv="2305.16322",
    claim="several maps and a picture's content together, by one set of weights",
    inputs=(
        Input(
            "control", MAP, "a map to follow, such as edges:photo.png; repeat for more", many=True
        ),
        Input("image", PICTURE, "a picture whose content to show"),
        Input("weights", WEIGHTS, "a training's folder, or the official uni.ckpt"),
        BESIDE,
    ),
    knobs=Knobs,
    trains="an adapter for all maps, and one for content",
    training=TRAINING,
    seams=("residuals", "tokens"),
    load=load,
    prepare=prepare,
    check=check,
)
