"""LoRA through peft: small trainable matrices in a frozen UNet, in force only where asked for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""The linear maps of every attention."""


class Lora:
    """A LoRA (arXiv:2106.09685) in all attentions of a UNet, under a name of its own.

    The weights are float32 whatever the UNet's are, and begin as no change. Made again under the
    same name, it takes the place of the one before.
    """

    def __init__(self, unet: nn.Module, name: str, *, rank: int, seed: int) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        self.name = name
        for layer in _layers(unet):
            layer.delete_adapter(name)
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS))
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several may live
            torch.manual_seed(seed)
            inject_adapter_in_model(config, unet, name)
        self._layers = _layers(unet)
        self.parameters: dict[str, nn.Parameter] = {}
        for key, parameter in unet.named_parameters():
            if f".{name}." in key:
                parameter.data = parameter.data.float()
                self.parameters[key] = parameter
        self._switch(on=False)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within, the UNet computes with it; its gradients have to be taken within, too."""
        self._switch(on=True)
        try:
            yield
        finally:
            self._switch(on=False)

    def _switch(self, *, on: bool) -> None:
        for layer in self._layers:
            layer.set_adapter([self.name] if on else [])


def _layers(unet: nn.Module) -> list[Any]:
    """The modules of peft in a UNet."""
    from peft.tuners.lora import LoraLayer

    return [module for module in unet.modules() if isinstance(module, LoraLayer)]
