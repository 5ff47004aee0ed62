"""ControlNet: pictures that follow edges, depth, a pose (Zhang et al., arXiv:2302.05543)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from threed.core.errors import InputError
from threed.diffusion.guide import Guide
from threed.learning.recipe import Recipe
from threed.settings.base import Settings
from threed.systems.inputs import BESIDE, MAP, WEIGHTS, Input
from threed.systems.system import Lesson, Request, System, Training

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from threed.diffusion.backbone import Backbone
    from threed.diffusion.condition import Condition, Residuals
    from threed.diffusion.paint import Ready
    from threed.diffusion.score import Score
    from threed.learning.loop import Task

NAME = "controlnet"
SHOWN = 6  # examples of a sheet
POOLED = "shuffle"  # in the names of the original's files whose nets pool
KIND = "_kind"  # in a net's config: the maps that it was taught; diffusers passes over the name


class Window(Settings):
    """When nets beside the UNet are at work."""

    start: float = Field(0.0, ge=0, le=1, description="share of the sampling where they begin")
    end: float = Field(1.0, ge=0, le=1, description="share of the sampling where they end")

    @model_validator(mode="after")
    def _check_order(self) -> Window:
        if self.start >= self.end:
            raise InputError(
                f"control must start before it ends, got {self.start:g} and {self.end:g}"
            )
        return self


class Knobs(Window):
    """How strongly, and when, all controls together are followed."""

    strength: float = Field(1.0, description="of what the nets add")
    guess: bool = Field(
        False,
        description="work without the help of a prompt; finer layers count less, and the "
        "unconditional half is free",
    )


class Options(Settings):
    """What a ControlNet is taught."""

    kind: str = Field("edges", min_length=1, description="the maps that it is to follow")


@dataclass(frozen=True, eq=False)
class Given:
    """A trained net and the map that it is to follow."""

    net: Any
    hint: Tensor  # [1 or B, 3, H, W] in [0, 1], as large as the pictures to make
    strength: float = 1.0
    window: Window = Window()  # of the sampling


def build(
    backbone: Backbone,
    prompt: str | Sequence[str],
    controls: Sequence[Given] = (),
    *,
    guide: Guide = Guide(7.5),
    knobs: Knobs = Knobs(),
) -> Score:
    """Make guidance with nets beside the UNet, whose outputs are added up.

    The knobs are of all controls together, beside their own strength and window. A net that pools
    its outputs over the picture (shuffle) works in guess mode only, and then all do, as in
    diffusers; finer layers of such a net count as much as others.
    """
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.control import Around, Control, within
    from threed.diffusion.score import cfg, score

    base = require_unet(backbone, NAME)
    words = [prompt] if isinstance(prompt, str) else list(prompt)
    text, other = base.encode_text(words), base.encode_text([guide.negative] * len(words))
    guess = knobs.guess or any(map(pools, (given.net for given in controls)))
    nets: list[tuple[Residuals, float, float]] = []
    for given in controls:
        strength = knobs.strength * given.strength
        hint = given.hint.expand(len(words), -1, -1, -1)
        gentle = guess and not pools(given.net)
        net = Control(base, Around(given.net), hint, strength, gentle)
        start, end = max(knobs.start, given.window.start), min(knobs.end, given.window.end)
        nets.append((net, start, end))

    def guided(at_work: tuple[Residuals, ...]) -> Score:
        first = replace(text, residuals=at_work)
        second = other if guess else replace(other, residuals=at_work)
        return score(base, [first, second], cfg(guide.scale))

    return within(guided, nets)


def pools(net: Any) -> bool:
    """Whether a net's outputs are means over the picture: what is where does not come through."""
    return bool(net.config.get("global_pool_conditions"))


def load_net(backbone: Backbone, path: Path) -> Any:
    """Load a ControlNetModel from a folder in diffusers' layout, or from a file of the original's.

    The original's files are control_sd15_canny.pth, with the UNet beside it, and
    control_v11p_sd15_canny.pth, without. Only its name tells that a file of theirs pools its
    outputs: control_v11e_sd15_shuffle.pth.
    """
    from diffusers import ControlNetModel

    from threed.diffusion.models.convert import controlnet_state, read_state
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.parts.attention import install
    from threed.diffusion.parts.control import check_fits, new_controlnet
    from threed.diffusion.weights import filled, frozen, load_folder

    base = require_unet(backbone, NAME)
    if path.is_dir():
        net = load_folder(ControlNetModel, path)
        check_fits(base, net, str(path))
    else:
        blank = new_controlnet(base)
        state = controlnet_state(read_state(path), base.unet.config.layers_per_block, str(path))
        net = filled(blank, state, str(path))
        net.register_to_config(global_pool_conditions=POOLED in path.stem)
    install(net)
    return frozen(net, base.device, base.unet.dtype)


def load(backbone: Backbone, request: Request) -> dict[str, Any]:
    """Load one ControlNet per kind of map.

    Weights are a net's file or folder, or a folder with one of those for each kind.
    """
    from threed.diffusion.detect import MAP as READY
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.weights import find_trained

    base = require_unet(backbone, NAME)
    place = find_trained(request.one("weights"), base.folder, NAME, ("*.json", "*.safetensors"))
    nets: dict[str, Any] = {}
    kinds = {kind.removesuffix(READY) for kind, _ in request.all("control")}
    for kind in sorted(kinds):
        source = find_kind(place, kind, len(kinds))
        nets[kind] = load_net(base, source)
        _warn_of_kind(nets[kind], kind, source)
    return nets


def prepare(backbone: Backbone, request: Request, weights: dict[str, Any]) -> Ready:
    """Make the Score of a request: each of its maps with the net of its kind."""
    from threed.diffusion.detect import MAP as READY
    from threed.diffusion.detect import read_map
    from threed.diffusion.paint import Ready

    controls = [Given(weights[kind.removesuffix(READY)], read_map(kind, picture, request.size))
                for kind, picture in request.all("control")]  # fmt: skip
    knobs = request.knobs or Knobs()
    return Ready(build(backbone, request.prompt, controls, guide=request.guide, knobs=knobs))


def find_kind(place: Path, kind: str, several: int) -> Path:
    """Find the net for a kind of map: in a folder of nets the one of its name, else what is there.

    several: how many kinds are asked for. InputError where there is no net for this one.
    """
    if (place / kind).is_dir():
        return place / kind
    alone = place.is_file() or (place / "config.json").is_file()
    if alone and several == 1:
        return place
    kinds = [] if alone else sorted(path.name for path in place.iterdir() if path.is_dir())
    raise InputError(
        f"{place} holds no net for {kind!r}: with several controls it must be a folder with one "
        f"net for each kind (there are: {', '.join(kinds) or 'none'}). Train one: threed train "
        f"{NAME} kind={kind} --data DIR --out DIR/{kind}"
    )


def _warn_of_kind(net: Any, kind: str, source: Path) -> None:
    """Warn of a net that says it was taught other maps than these; nets of others say nothing."""
    from threed.diffusion.detect import MapWarning

    taught = net.config.get(KIND)
    if taught not in (None, kind):
        warnings.warn(f"{source} was taught maps of the kind {taught!r}, and is given one of "
                      f"{kind!r}: it will hardly follow it", MapWarning, stacklevel=3)  # fmt: skip


def learn(backbone: Backbone, lesson: Lesson) -> Task:
    """Train a copy of the encoder on (image, text, a map of the kind that the options name).

    Half of the prompts are left out, so that the map says what the text does not (section 3.4).
    """
    import torch

    from threed.diffusion.images import grid
    from threed.diffusion.models.stable_diffusion import require_unet
    from threed.diffusion.paint import Ready, paint
    from threed.diffusion.parts.control import Around, Control, new_controlnet
    from threed.learning.data import Latents
    from threed.learning.loop import Task
    from threed.learning.losses import chosen, denoising_loss, without_text

    base, examples, kind = require_unet(backbone, NAME), lesson.examples, lesson.options.kind
    latents, empty = Latents(base, examples, "image"), base.encode_text([""])
    copy = new_controlnet(base)
    copy.register_to_config(**{KIND: kind})

    def loss(net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        indices = examples.draw(n, generator)
        text = base.encode_text(examples.texts("text", indices))
        text = without_text(text, empty, chosen(n, 0.5, generator))
        control = Control(base, Around(net), examples.pictures(kind, indices))
        condition: Condition = replace(text, residuals=(control,))
        return denoising_loss(base, latents(indices), condition, generator, debias=lesson.debias)

    def sheet(net: nn.Module) -> Tensor:
        few = list(range(min(SHOWN, len(examples))))
        hint = examples.pictures(kind, few).to(base.device)
        guided = build(base, examples.texts("text", few), [Given(net, hint)])
        made = paint(base, Ready(guided), n=len(few), steps=15, size=examples.size)
        real = examples.pictures("image", few).to(base.device)
        return grid(torch.cat([hint, made, real]), columns=len(few))

    return Task(copy, loss, save, lesson.about, sheet)


def save(net: Any, out: Path) -> None:
    """Write a ControlNetModel in diffusers' layout."""
    net.save_pretrained(out)


TRAINING = Training(
    data="scenes",
    pictures=lambda options: ("image", options.kind),
    texts=("text",),
    paper=Recipe(steps=20_000, batch=4, lr=1e-5, accumulate=8),
    small=Recipe(steps=700, batch=64, lr=1e-3, cooldown=0.4, muon=True),
    learn=learn,
    load=lambda backbone, path, options: load_net(backbone, find_kind(path, options.kind, 1)),
    options=Options,
)
SYSTEM = System(
    name=NAME,
    paper="Adding Conditional Control to Text-to-Image Diffusion Models",
    arxiv="2302.05543",
    claim="pictures that follow edges, depth, a pose or another map",
    inputs=(
        Input(
            "control",
            MAP,
            "a map to follow, such as edges:photo.png (edges-map: the map itself)",
            required=True,
            many=True,
        ),
        Input(
            "weights",
            WEIGHTS,
            "a training's folder, a file of the original's, a hub id, or a folder with one for "
            "each kind",
        ),
        BESIDE,
    ),
    knobs=Knobs,
    trains="a copy of the UNet's encoder for each kind of map",
    training=TRAINING,
    seams=("residuals",),
    load=load,
    prepare=prepare,
)
