"""Uni-ControlNet: any maps and a picture's content, by one set of weights (arXiv:2305.16322)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from threed.core.errors import InputError
from threed.diffusion.backbone import Backbone
from threed.diffusion.condition import Condition
from threed.diffusion.detect import MAP, read_map
from threed.diffusion.images import grid, load_image
from threed.diffusion.paint import Ready, paint
from threed.diffusion.parts.channels import opened
from threed.diffusion.parts.clip import clip_of
from threed.diffusion.parts.control import Control, check_window, within
from threed.diffusion.parts.local_adapter import dropped_maps
from threed.diffusion.parts.uni_adapters import (
    Adapters,
    load,
    new_part,
    save,
    side_by_side,
    with_content,
)
from threed.diffusion.score import Score, cfg, score
from threed.diffusion.weights import find_trained
from threed.learning.data import Examples, Latents
from threed.learning.loop import Task
from threed.learning.losses import chosen, denoising_loss, without_text
from threed.systems.system import Input, Request, System

NAME = "uni_controlnet"
SHOWN = 6  # examples of a sheet


def build(
    backbone: Backbone,
    prompt: str | Sequence[str],
    adapters: Adapters,
    maps: Mapping[str, Tensor] | None = None,
    content: Tensor | None = None,
    *,
    scale: float = 7.5,
    strength: float = 1.0,
    global_strength: float = 1.0,
    start: float = 0.0,
    end: float = 1.0,
    negative: str = "",
) -> Score:
    """Guidance with all maps in one net beside the UNet, and a picture's content as tokens.

    maps: by kind, [1 or B, 3, H, W] in [0, 1], as large as the pictures; a kind that is not given
    is black, as in training. content [1 or B, D]: CLIP's features of a picture. In the
    unconditional half the maps stay, and the content is zeros (section 3.4).
    """
    base = opened(backbone, NAME)
    check_window(start, end)
    words = [prompt] if isinstance(prompt, str) else list(prompt)
    text, other = base.encode_text(words), base.encode_text([negative] * len(words))
    if adapters.world is not None and content is not None:
        features = content.to(base.device).expand(len(words), -1)
        text = with_content(text, adapters.world, features, global_strength)
        other = with_content(other, adapters.world, torch.zeros_like(features), global_strength)
    nets = []
    if adapters.local is not None and maps:
        hint = side_by_side(adapters.kinds, maps).expand(len(words), -1, -1, -1)
        nets.append((Control(base, adapters.local, hint, strength), start, end))
    return within(
        lambda at_work: score(
            base, [replace(half, residuals=at_work) for half in (text, other)], cfg(scale)
        ),
        nets,
    )


def prepare(backbone: Backbone, request: Request) -> Ready:
    """The Score of a request: its controls by kind, its image for the content."""
    base = opened(backbone, NAME)
    if not request.control and request.image is None:
        raise InputError(f"system {NAME!r} needs --control, --image or both")
    place = find_trained(request.weights, base.folder, NAME)
    adapters = load(base, place)
    maps = {kind.removesuffix(MAP): read_map(kind, picture, request.size)
            for kind, picture in request.control}  # fmt: skip
    content = None
    for part, net, given in (("local", adapters.local, maps), ("global", adapters.world,
                                                               request.image)):  # fmt: skip
        if given and net is None:
            raise InputError(f"{place} holds no {part} adapter: train one with "
                             f"threed train {NAME} part={part}")  # fmt: skip
    if request.image is not None:
        content = clip_of(base).images(load_image(request.image, base.image_size))
    return Ready(build(base, request.prompt, adapters, maps, content, **request.options()))


def learn(
    backbone: Backbone, examples: Examples, about: Mapping[str, str], debias: bool, *,
    part: str = "local", kinds: tuple[str, ...] = (), dropout: bool = True,
) -> Task:  # fmt: skip
    """Training of one adapter on (image, text, maps of these kinds); the other is not needed.

    Half of the texts are left out, and maps as dropped_maps says (section 3.5); without `dropout`
    nothing is, which shows what it is for. The global adapter is told zeros in a tenth.
    """
    base = opened(backbone, NAME)
    latents, empty = Latents(base, examples, "image"), base.encode_text([""])
    clip = clip_of(base) if part == "global" else None
    share = 0.5 if dropout else 0.0

    def condition(net: Any, n: int, indices: list[int], generator: torch.Generator) -> Condition:
        text = base.encode_text(examples.texts("text", indices))
        text = without_text(text, empty, chosen(n, share, generator))
        if clip is not None:
            features = clip.images(examples.pictures("image", indices))
            zero = chosen(n, 0.2 * share, generator)[:, None].to(base.device)
            return with_content(text, net, features * ~zero, 1.0)
        maps = torch.stack([examples.pictures(kind, indices) for kind in kinds], 1)
        if dropout:
            maps = maps * ~dropped_maps(n, len(kinds), generator)[..., None, None, None]
        return replace(text, residuals=(Control(base, net, maps.flatten(1, 2)),))

    def loss(net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        indices = examples.draw(n, generator)
        told = condition(net, n, indices, generator)
        return denoising_loss(base, latents(indices), told, generator, debias=debias)

    def sheet(net: nn.Module) -> Tensor:
        few = list(range(min(SHOWN, len(examples))))
        shown = [examples.pictures(kind, few).to(base.device) for kind in kinds]
        real = examples.pictures("image", few).to(base.device)
        trained: Any = net
        adapters = Adapters(kinds, None if clip else trained, trained if clip else None)
        guided = build(base, examples.texts("text", few) if clip is None else [""] * len(few),
                       adapters, dict(zip(kinds, shown)),
                       None if clip is None else clip.images(real))  # fmt: skip
        made = paint(base, Ready(guided), n=len(few), steps=15, size=examples.size)
        return grid(torch.cat([*shown, made, real]), columns=len(few))

    net = new_part(base, part, len(kinds), 0 if clip is None else clip.width)
    config = {"kinds": list(kinds)} if clip is None else {"inputs": clip.width}
    return Task(net, loss, lambda net, out: save(net, out, config), about, sheet)


SYSTEM = System(
    name=NAME,
    paper="Uni-ControlNet: All-in-One Control to Text-to-Image Diffusion Models",
    arxiv="2305.16322",
    claim="several maps and a picture's content together, by one set of weights",
    inputs=(
        Input("control", "a map to follow, such as edges:photo.png; repeat for more"),
        Input("image", "a picture whose content to show"),
        Input("weights", "a training's folder, or the official uni.ckpt"),
    ),
    trains="an adapter for all maps, and one for content",
    seams=("residuals", "tokens"),
    build=build,
    prepare=prepare,
)
