"""Several LoRAs as one, and a LoRA as part of a net's own weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from threed.diffusion.learned.lora import LoraWeights, scaled
from threed.diffusion.parts.adapters import Pair


def merged(loras: Sequence[tuple[LoraWeights, float]]) -> LoraWeights:
    """The LoRA that adds what these add together, each times its weight.

    Nothing is lost: a layer's rank is the sum of its ranks, its `down` and `up` stand beside each
    other. ValueError if they are of different backbones.
    """
    of = loras[0][0].of
    if any(lora.of.name != of.name for lora, _ in loras):
        raise ValueError("LoRAs of different backbones cannot be merged")
    nets: dict[str, dict[str, Pair]] = {net: {} for net in of.shapes}
    for lora, weight in loras:
        for net, pairs in lora.nets.items():
            for path, pair in pairs.items():
                one = Pair(pair.down, pair.up * weight, pair.alpha)
                before = nets[net].get(path)
                nets[net][path] = one if before is None else _beside(before, one)
    return LoraWeights(of, nets)


def _beside(a: Pair, b: Pair) -> Pair:
    down, up = torch.cat([a.down, b.down]), torch.cat([scaled(a, 1.0), scaled(b, 1.0)], 1)
    return Pair(down, up, float(len(down)))


def bake(net: nn.Module, pairs: Mapping[str, Pair], weight: float = 1.0) -> None:
    """Add pairs times a weight to the net's own weights, which need no adapter from then on.

    The sum is made in float32 whatever the weights are.
    """
    for path, pair in pairs.items():
        layer: Any = net.get_submodule(path)
        own: Tensor = getattr(layer, "base_layer", layer).weight  # where adapters hang
        added = scaled(pair, weight).flatten(1) @ pair.down.flatten(1)
        own.data = (own.data.float() + added.to(own.device).view_as(own)).to(own.dtype)
