"""IDM-VTON's two nets (arXiv:2403.05139), by their published names.

TryonNet is an inpainting UNet that is shown a dense pose, too, with an IP-Adapter in its file.
GarmentNet is a frozen text-to-image UNet: what it sees of a garment, TryonNet looks at.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

from threed.core.errors import InputError
from threed.diffusion.condition import Condition
from threed.diffusion.files import read_json
from threed.diffusion.models.convert import read_state
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.channels import with_unet
from threed.diffusion.parts.image_adapter import ImageAdapter, attentions, image_adapter_of
from threed.diffusion.parts.reference_attention import Reference, recorded
from threed.diffusion.weights import STEM, described, frozen, weights_file

PROJECTION, MAPS = "encoder_hid_proj.", ".processor."  # the adapter's parts in the UNet's file
ADAPTED = ("encoder_hid_dim", "encoder_hid_dim_type")  # what config.json says of them
POOLED = "add_embedding."  # of SDXL's pooled text and sizes, which GarmentNet is not told


class TryonNet(nn.Module):
    """A UNet of noise, mask, masked latents and dense pose, and the garment's image tokens."""

    def __init__(self, unet: Any, adapter: ImageAdapter) -> None:
        super().__init__()
        self.unet, self.adapter = unet, adapter


def channels_of(backbone: StableDiffusion) -> int:
    """How many channels a TryonNet takes: 13 with latents of 4."""
    return 3 * int(backbone.latent_channels) + 1


def load_tryon_net(backbone: StableDiffusion, folder: Path) -> TryonNet:
    """Load a TryonNet in float32 from its folder. InputError if it is none, or does not fit."""
    config, file = read_json(folder / "config.json"), weights_file(folder)
    state = read_state(file)
    if not any(name.startswith(PROJECTION) for name in state):
        raise InputError(f"{file} is no TryonNet: no name in it begins with {PROJECTION}")
    own = {name: value for name, value in state.items()
           if not name.startswith(PROJECTION) and MAPS not in name}  # fmt: skip
    unet = described(UNet2DConditionModel, config | dict.fromkeys(ADAPTED), own, file)
    if unet.config.in_channels != (needed := channels_of(backbone)):
        raise InputError(f"{file} is no TryonNet: it takes {unet.config.in_channels} channels, "
                         f"where {needed} are needed")  # fmt: skip
    numbers = {name: number for number, name in enumerate(attentions(unet))}
    adapter = {f"image_proj.{name.removeprefix(PROJECTION)}": value
               for name, value in state.items() if name.startswith(PROJECTION)}  # fmt: skip
    for name, value in state.items():
        layer, dot, part = name.partition(MAPS)
        if dot:
            adapter[f"ip_adapter.{numbers.get(layer, layer)}.{part}"] = value
    return TryonNet(unet, image_adapter_of(with_unet(backbone, unet), adapter, file))


def save_tryon_net(net: Any, folder: Path) -> None:
    """Write a TryonNet as it is published: one file of the UNet's, with the adapter in it."""
    unet, adapter = net.unet, net.adapter
    state = dict(unet.state_dict())
    state |= {f"{PROJECTION}{name}": v for name, v in adapter.image_proj.state_dict().items()}
    for layer, number in adapter.places.items():
        maps = adapter.ip_adapter[number].state_dict()
        state |= {f"{layer}{MAPS}{name}": value for name, value in maps.items()}
    config = json.loads(unet.to_json_string()) | {"_name_or_path": ""}
    config |= dict(zip(ADAPTED, (adapter.image_proj.inputs, "ip_image_proj")))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    contiguous = {name: value.contiguous() for name, value in state.items()}
    save_file(contiguous, folder / f"{STEM}.safetensors", {"format": "pt"})


def garment_net(backbone: StableDiffusion, folder: Path | None = None) -> StableDiffusion:
    """The backbone around GarmentNet: its own UNet, or that of a folder, told of no sizes."""
    told_less = {"addition_embed_type": None}
    if folder is None and not backbone.xl:
        return backbone
    if folder is None:
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config({**backbone.unet.config, **told_less})
        state = backbone.unet.state_dict()  # its tensors are shared, not copied
        unet.load_state_dict({name: value for name, value in state.items()
                              if not name.startswith(POOLED)}, assign=True)  # fmt: skip
    else:
        config, file = read_json(folder / "config.json"), weights_file(folder)
        state = {k: v for k, v in read_state(file).items() if not k.startswith(POOLED)}
        unet = described(UNet2DConditionModel, config | told_less, state, file)
    return with_unet(backbone, frozen(unet, backbone.device, backbone.unet.dtype))


@dataclass(frozen=True, eq=False)
class Garments:
    """A garment for each item, which GarmentNet sees at the noise level of those who look at it.

    Its latents are clean at every level. Where it is not `worn` its features are zeros.
    """

    net: StableDiffusion
    latents: Tensor  # [B, C, h, w]
    tokens: Tensor  # [B, L, C'] of the garments' own texts
    worn: Tensor  # [B] bool
    strength: float = 1.0  # how much it counts beside the person

    def select(self, index: Tensor) -> Garments:
        """The rows of index ([N] int64)."""
        index = index.to(self.latents.device)
        return replace(self, latents=self.latents[index], tokens=self.tokens[index],
                       worn=self.worn[index])  # fmt: skip

    def join(self, others: Sequence[Any]) -> Garments | None:
        """One for all that one net sees in one size."""
        if not all(isinstance(o, Garments) and o._kind() == self._kind() for o in others):
            return None
        every = [(one.latents, one.tokens, one.worn) for one in (self, *others)]
        latents, tokens, worn = map(torch.cat, zip(*every))
        return replace(self, latents=latents, tokens=tokens, worn=worn)

    def _kind(self) -> tuple[Any, ...]:
        return id(self.net.unet), self.latents.shape[1:], self.tokens.shape[1:], self.strength

    def at(self, t: Tensor) -> Reference:
        """What is seen at t [B]. Items that are alike are seen once."""
        whole = t[:, None], self.latents, self.tokens
        every = [value.flatten(1).to(self.latents) for value in whole]
        back = torch.cat(every, 1).detach().unique(dim=0, return_inverse=True)[1]
        numbers = torch.arange(len(back), device=back.device)
        some = torch.zeros_like(numbers[: int(back.max()) + 1]).scatter(0, back, numbers)
        told = Condition(self.tokens[some])
        seen = recorded(self.net, self.latents[some], t[some], told)
        return seen.select(back).kept(self.worn).counting(self.strength)
