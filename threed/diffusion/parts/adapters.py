"""LoRA through peft: small trainable matrices in a frozen net, in force by name and weight."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""The linear maps of every attention."""


class Lora:
    """A LoRA (arXiv:2106.09685) in all attentions of a UNet, under a name of its own.

    The weights are float32 whatever the UNet's are, and begin as no change: A is normal with a
    spread of 1 / rank, as in diffusers' LoRA layers, and B is 0. The UNet computes with it only
    where Condition.adapters names it. Made again under the same name, it takes the place of the
    one before.
    """

    def __init__(self, unet: nn.Module, name: str, *, rank: int, seed: int) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        self.name = name
        for layer in _layers(unet):
            layer.delete_adapter(name)
        others = {key: value.requires_grad for key, value in unet.named_parameters()}
        config = LoraConfig(
            r=rank, lora_alpha=rank, target_modules=list(TARGETS), init_lora_weights="gaussian"
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several may live
            torch.manual_seed(seed)
            inject_adapter_in_model(config, unet, name)
        self.parameters: dict[str, nn.Parameter] = {}
        for key, parameter in unet.named_parameters():
            if f".{name}." in key:
                parameter.data = parameter.data.float()
                self.parameters[key] = parameter
            elif key in others:  # peft freezes the adapters that were there
                parameter.requires_grad_(others[key])
        _choose(_layers(unet), {})


@contextmanager
def adapted(net: nn.Module, adapters: Mapping[str, float]) -> Iterator[None]:
    """Within, the net computes with the adapters of these names, each times its weight.

    Without any, and at weights of 0, it is bitwise the net as it was made. ValueError for a name
    that the net does not have.
    """
    weights = {name: weight for name, weight in adapters.items() if weight}
    layers = _layers(net) if weights else []
    unknown = weights.keys() - {name for layer in layers for name in layer.lora_A}
    if unknown:
        raise ValueError(f"the net has no adapter {sorted(unknown)[0]!r}")
    try:
        _choose(layers, weights)
        yield
    finally:
        _choose(layers, {})


def _choose(layers: Sequence[Any], weights: Mapping[str, float]) -> None:
    """Let layers compute with these adapters and no others.

    Not by peft's set_adapter, which would also freeze the adapters that are left out.
    """
    for layer in layers:
        layer._active_adapter = list(weights)
        for name, weight in weights.items():
            layer.set_scale(name, weight)


def _layers(net: nn.Module) -> list[Any]:
    """The modules of peft in a net."""
    from peft.tuners.lora import LoraLayer

    return [module for module in net.modules() if isinstance(module, LoraLayer)]
