"""LoRA through peft: small trainable matrices in a frozen net, in force by name and weight."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""The linear maps of every attention of a UNet."""
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")
"""The same of CLIP's text encoders."""


@dataclass(frozen=True)
class Pair:
    """What a LoRA adds to one layer's weight: alpha / r * up @ down, of rank r."""

    down: Tensor  # [r, in], of a convolution [r, in, k, k]
    up: Tensor  # [out, r], of a convolution [out, r, 1, 1]
    alpha: float

    @property
    def rank(self) -> int:
        """r."""
        return len(self.down)


class Lora:
    """A LoRA (arXiv:2106.09685) in layers of a net, under a name of its own.

    The weights are float32 whatever the net's are, and begin as no change: A is normal with a
    spread of 1 / rank, as in diffusers' LoRA layers, and B is 0. The net computes with it only
    within `adapted`; a UNet where Condition.adapters names it. Made again under the same name, it
    takes the place of the one before.

    alpha: by default the rank, so that B A counts once. targets: how the names of its layers end.
    """

    def __init__(
        self,
        net: nn.Module,
        name: str,
        *,
        rank: int,
        seed: int,
        alpha: float | None = None,
        targets: Sequence[str] = TARGETS,
    ) -> None:
        with _injecting(net, name, seed) as self.parameters:
            _inject(net, name, rank, rank if alpha is None else alpha, list(targets))
        self.name = name

    @classmethod
    def loaded(cls, net: nn.Module, name: str, pairs: Mapping[str, Pair]) -> Lora:
        """The LoRA of these pairs, by the paths of their layers; ranks and alphas may differ.

        Copies of them are its weights, and can be trained. The net must have the layers.
        """

        def kind(path: str) -> tuple[int, float]:
            return pairs[path].rank, pairs[path].alpha

        lora = cls.__new__(cls)
        lora.name = name
        with _injecting(net, name, seed=0) as lora.parameters:
            for (rank, alpha), paths in groupby(sorted(pairs, key=kind), kind):
                _inject(net, name, rank, alpha, "|".join(map(re.escape, paths)))
        with torch.no_grad():
            for path, pair in pairs.items():
                lora.parameters[f"{path}.lora_A.{name}.weight"].copy_(pair.down)
                lora.parameters[f"{path}.lora_B.{name}.weight"].copy_(pair.up)
        return lora


def pairs_of(net: nn.Module, name: str) -> dict[str, Pair]:
    """What the adapter of this name is now, by the paths of its layers: copies on the CPU."""

    def weight(factors: Any) -> Tensor:
        value: Tensor = factors[name].weight
        return value.detach().cpu().clone()

    return {
        path: Pair(weight(layer.lora_A), weight(layer.lora_B), float(layer.lora_alpha[name]))
        for path, layer in _layers(net).items()
        if name in layer.lora_A
    }


@contextmanager
def _injecting(net: nn.Module, name: str, seed: int) -> Iterator[dict[str, nn.Parameter]]:
    """Within, adapters of this name are put into a net; afterwards, theirs are the parameters.

    The ones before are gone, none is in force, and others learn or do not as they did.
    """
    for layer in _layers(net).values():
        layer.delete_adapter(name)
    others = {key: value.requires_grad for key, value in net.named_parameters()}
    parameters: dict[str, nn.Parameter] = {}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several may live
        torch.manual_seed(seed)
        yield parameters
    for key, parameter in net.named_parameters():
        if key.endswith((f".lora_A.{name}.weight", f".lora_B.{name}.weight")):
            parameter.data = parameter.data.float()
            parameters[key] = parameter
        elif key in others:  # peft freezes the adapters that were there
            parameter.requires_grad_(others[key])
    _choose(_layers(net).values(), {})


def _inject(net: nn.Module, name: str, rank: int, alpha: float, targets: list[str] | str) -> None:
    """Put an adapter into layers: those whose names end so, or match the whole expression."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=targets, init_lora_weights="gaussian"
    )
    inject_adapter_in_model(config, net, name)


@contextmanager
def adapted(net: nn.Module, adapters: Mapping[str, float]) -> Iterator[None]:
    """Within, the net computes with the adapters of these names, each times its weight.

    Without any, and at weights of 0, it is bitwise the net as it was made. ValueError for a name
    that the net does not have.
    """
    weights = {name: weight for name, weight in adapters.items() if weight}
    layers = _layers(net).values() if weights else ()
    unknown = weights.keys() - {name for layer in layers for name in layer.lora_A}
    if unknown:
        raise ValueError(f"the net has no adapter {sorted(unknown)[0]!r}")
    try:
        _choose(layers, weights)
        yield
    finally:
        _choose(layers, {})


def _choose(layers: Iterable[Any], weights: Mapping[str, float]) -> None:
    """Let layers compute with these adapters and no others.

    Not by peft's set_adapter, which would also freeze the adapters that are left out.
    """
    for layer in layers:
        layer._active_adapter = list(weights)
        for name, weight in weights.items():
            layer.set_scale(name, weight)


def _layers(net: nn.Module) -> dict[str, Any]:
    """The modules of peft in a net, by their paths."""
    from peft.tuners.lora import LoraLayer

    return {path: module for path, module in net.named_modules() if isinstance(module, LoraLayer)}
