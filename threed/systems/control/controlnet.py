"""ControlNet: pictures that follow edges, depth, a pose (Zhang et al., arXiv:2302.05543)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from threed.core.errors import InputError
from threed.diffusion.backbone import Backbone
from threed.diffusion.condition import Condition, Residuals
from threed.diffusion.detect import MAP, MapWarning, read_map
from threed.diffusion.images import grid
from threed.diffusion.models.convert import controlnet_state, read_state
from threed.diffusion.paint import Ready, paint
from threed.diffusion.parts.attention import install
from threed.diffusion.parts.channels import opened
from threed.diffusion.parts.control import (
    Around,
    Control,
    check_fits,
    check_window,
    new_controlnet,
    within,
)
from threed.diffusion.score import Score, cfg, score
from threed.diffusion.weights import filled, find_trained, frozen, load_folder
from threed.learning.data import Examples, Latents
from threed.learning.loop import Task
from threed.learning.losses import chosen, denoising_loss, without_text
from threed.systems.system import Input, Request, System

NAME = "controlnet"
SHOWN = 6  # examples of a sheet
KIND = "_kind"  # in a net's config: the maps that it was taught; diffusers passes over the name


@dataclass(frozen=True, eq=False)
class Given:
    """A trained net and the map that it is to follow."""

    net: Any
    hint: Tensor  # [1 or B, 3, H, W] in [0, 1], as large as the pictures to make
    strength: float = 1.0
    start: float = 0.0  # of the sampling, 0 to 1
    end: float = 1.0


def build(
    backbone: Backbone,
    prompt: str | Sequence[str],
    controls: Sequence[Given] = (),
    *,
    scale: float = 7.5,
    strength: float = 1.0,
    start: float = 0.0,
    end: float = 1.0,
    guess: bool = False,
    negative: str = "",
) -> Score:
    """Guidance with nets beside the UNet, whose outputs are added up.

    strength, start and end are of all controls together, beside their own. guess: the nets work
    without the help of a prompt; finer layers count less, and the unconditional half is free.
    """
    base = opened(backbone, NAME)
    check_window(start, end)
    words = [prompt] if isinstance(prompt, str) else list(prompt)
    text, other = base.encode_text(words), base.encode_text([negative] * len(words))
    nets: list[tuple[Residuals, float, float]] = []
    for given in controls:
        check_window(given.start, given.end)
        hint = given.hint.expand(len(words), -1, -1, -1)
        net = Control(base, Around(given.net), hint, strength * given.strength, guess)
        nets.append((net, max(start, given.start), min(end, given.end)))

    def guided(at_work: tuple[Residuals, ...]) -> Score:
        first = replace(text, residuals=at_work)
        second = other if guess else replace(other, residuals=at_work)
        return score(base, [first, second], cfg(scale))

    return within(guided, nets)


def load(backbone: Backbone, path: Path) -> Any:
    """A ControlNetModel: from a folder in diffusers' layout, or from a file of the original's.

    The original's files are control_sd15_canny.pth, with the UNet beside it, and
    control_v11p_sd15_canny.pth, without.
    """
    from diffusers import ControlNetModel

    base = opened(backbone, NAME)
    if path.is_dir():
        net = load_folder(ControlNetModel, path)
        check_fits(base, net, str(path))
    else:
        blank = new_controlnet(base)
        state = controlnet_state(read_state(path), base.unet.config.layers_per_block, str(path))
        net = filled(blank, state, str(path))
    install(net)
    return frozen(net, base.device, base.unet.dtype)


def prepare(backbone: Backbone, request: Request) -> Ready:
    """The Score of a request: each of its controls with the net of its kind.

    Weights are a net's file or folder, or a folder with one of those for each kind.
    """
    base = opened(backbone, NAME)
    place = find_trained(request.weights, base.folder, NAME, ("*.json", "*.safetensors"))
    controls = []
    for kind, picture in request.control:
        name = kind.removesuffix(MAP)
        source = of_kind(place, name, len(request.control))
        net = load(base, source)
        _warn_of_kind(net, name, source)
        controls.append(Given(net, read_map(kind, picture, request.size)))
    return Ready(build(base, request.prompt, controls, **request.options()))


def of_kind(place: Path, kind: str, several: int) -> Path:
    """The net for a kind of map: in a folder of nets the one of its name, else what is there.

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
    taught = net.config.get(KIND)
    if taught not in (None, kind):
        warnings.warn(f"{source} was taught maps of the kind {taught!r}, and is given one of "
                      f"{kind!r}: it will hardly follow it", MapWarning, stacklevel=3)  # fmt: skip


def learn(
    backbone: Backbone, examples: Examples, about: Mapping[str, str], debias: bool, *, kind: str
) -> Task:
    """Training of a copy of the encoder on (image, text, a map of this kind).

    Half of the prompts are left out, so that the map says what the text does not (section 3.4).
    """
    base = opened(backbone, NAME)
    latents, empty = Latents(base, examples, "image"), base.encode_text([""])
    copy = new_controlnet(base)
    copy.register_to_config(**{KIND: kind})

    def loss(net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        indices = examples.draw(n, generator)
        text = base.encode_text(examples.texts("text", indices))
        text = without_text(text, empty, chosen(n, 0.5, generator))
        control = Control(base, Around(net), examples.pictures(kind, indices))
        condition: Condition = replace(text, residuals=(control,))
        return denoising_loss(base, latents(indices), condition, generator, debias=debias)

    def sheet(net: nn.Module) -> Tensor:
        few = list(range(min(SHOWN, len(examples))))
        hint = examples.pictures(kind, few).to(base.device)
        guided = build(base, examples.texts("text", few), [Given(net, hint)])
        made = paint(base, Ready(guided), n=len(few), steps=15, size=examples.size)
        real = examples.pictures("image", few).to(base.device)
        return grid(torch.cat([hint, made, real]), columns=len(few))

    return Task(copy, loss, save, about, sheet)


def save(net: Any, out: Path) -> None:
    """Write a ControlNetModel in diffusers' layout."""
    net.save_pretrained(out)


SYSTEM = System(
    name=NAME,
    paper="Adding Conditional Control to Text-to-Image Diffusion Models",
    arxiv="2302.05543",
    claim="pictures that follow edges, depth, a pose or another map",
    inputs=(
        Input("control", "a map to follow, such as edges:photo.png (edges-map: the map itself)",
              required=True),
        Input("weights", "a training's folder, a file of the original's, a hub id, or a folder "
              "with one for each kind"),
    ),
    trains="a copy of the UNet's encoder for each kind of map",
    seams=("residuals",),
    build=build,
    prepare=prepare,
)  # fmt: skip
