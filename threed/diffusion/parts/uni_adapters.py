"""Uni-ControlNet's adapters (arXiv:2305.16322): one for all maps, one for a picture's content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from threed.core.errors import InputError
from threed.diffusion.backbone import Backbone
from threed.diffusion.condition import Condition
from threed.diffusion.files import read_json
from threed.diffusion.models.convert import read_state
from threed.diffusion.models.stable_diffusion import StableDiffusion, require_unet
from threed.diffusion.parts.image_tokens import GlobalAdapter, appended
from threed.diffusion.parts.local_adapter import LocalAdapter, local_name
from threed.diffusion.weights import NET, below, filled, frozen

OFFICIAL = ("canny", "mlsd", "hed", "sketch", "openpose", "midas", "seg")  # uni.ckpt's maps


PARTS = ("local", "global")


@dataclass(frozen=True, eq=False)
class Adapters:
    """What was trained: either may be missing."""

    kinds: tuple[str, ...]  # the maps of the local adapter, in order
    local: LocalAdapter | None = None
    world: GlobalAdapter | None = None
    constant: bool = False  # without content, tell the tokens of zeros, as the public code does


def with_content(
    text: Condition, world: GlobalAdapter, features: Tensor, strength: float
) -> Condition:
    """The text with the content of pictures after it: CLIP's features [B, D]."""
    with torch.set_grad_enabled(world.training):
        tokens = world(features.to(world.norm1.weight))
    return replace(text, tokens=appended(text.tokens, tokens, strength))


def side_by_side(kinds: Sequence[str], maps: Mapping[str, Tensor]) -> Tensor:
    """[B, 3 n, H, W]: the maps in the adapter's order. InputError for one that it does not know."""
    unknown = sorted(maps.keys() - set(kinds))
    if unknown:
        raise InputError(f"these weights know no {unknown[0]!r}; their maps are {', '.join(kinds)}")
    black = torch.zeros_like(next(iter(maps.values())))
    return torch.cat([maps.get(kind, black) for kind in kinds], 1)


def load_adapters(backbone: Backbone, path: Path) -> Adapters:
    """Load the adapters of a training's folder (either or both), or of the official uni.ckpt."""
    base = require_unet(backbone, "uni_controlnet")
    if path.is_dir():
        there = [part for part in PARTS if (path / part / "config.json").is_file()]
        if not there:
            raise InputError(f"{path} holds no adapters: neither local nor global is in it")
        kinds: tuple[str, ...] = ()
        nets: dict[str, Any] = {}
        for part in there:
            file = path / part / NET
            config = read_json(path / part / "config.json")
            named, inputs = config.get("kinds", list(kinds)), config.get("inputs", 0)
            right = isinstance(named, list) and isinstance(inputs, int)
            if not right or not (named if part == PARTS[0] else inputs):
                raise InputError(f"{path / part / 'config.json'} describes no adapter")
            kinds = tuple(map(str, named))
            blank = new_part(base, part, len(kinds), inputs)
            nets[part] = _ready(base, filled(blank, read_state(file), str(file)))
        return Adapters(kinds, nets.get("local"), nets.get("global"))
    return _official(base, path)


def _official(base: StableDiffusion, path: Path) -> Adapters:
    state = read_state(path)
    found, world = below(state, "local_adapter."), below(state, "global_adapter.")
    if not found or "norm1.weight" not in world:
        raise InputError(f"{path} holds no adapters: no names in it begin with local_adapter. and "
                         "global_adapter.")  # fmt: skip
    layers = base.unet.config.layers_per_block
    local = {local_name(name, layers): value for name, value in found.items()}
    blank = new_part(base, "local", len(OFFICIAL), 0)
    other = new_part(base, "global", 0, world["norm1.weight"].numel())
    return Adapters(OFFICIAL, _ready(base, filled(blank, local, str(path))),
                    _ready(base, filled(other, world, str(path))), constant=True)  # fmt: skip


def new_part(backbone: StableDiffusion, part: str, maps: int, inputs: int) -> Any:
    """An untrained adapter: the local one, of so many maps, or the global, of so many features."""
    if part == "local":
        return LocalAdapter(backbone, maps)
    return GlobalAdapter(inputs, int(backbone.unet.config.cross_attention_dim))


def _ready(backbone: StableDiffusion, net: Any) -> Any:
    return frozen(net, backbone.device, backbone.unet.dtype)
