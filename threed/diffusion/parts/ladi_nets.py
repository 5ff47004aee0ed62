"""LaDI-VTON's nets together (arXiv:2305.13501): their files, and what they tell a UNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from threed.core.errors import InputError
from threed.core.pictures import Size, sides
from threed.diffusion.condition import Condition
from threed.diffusion.models.convert import read_state
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.channels import widened
from threed.diffusion.parts.emasc import Emasc, load_emasc
from threed.diffusion.parts.garment_words import (
    InversionAdapter,
    load_adapter,
    new_adapter,
    worn_text,
)
from threed.diffusion.parts.image_encoder import ImageEncoder
from threed.diffusion.parts.joints import pose_channels
from threed.diffusion.parts.warping import Sizes, Warper, load_warper
from threed.diffusion.weights import filled, frozen, load_folder, write_net

OFFICIAL = {  # the files of the official release, by the folder of ours
    "warping": "warping_*.pth", "emasc": "emasc_*.pth", "words": "inversion_adapter_*.pth",
    "unet": "unet_*.pth",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Nets:
    """What was taught. Without one of the others the UNet is told nothing in its place."""

    unet: Any
    warper: Warper | None = None
    emasc: Emasc | None = None
    words: InversionAdapter | None = None
    encoder: ImageEncoder | None = None  # whose sight the words are made of


def pose_for(unet: Any, base: StableDiffusion, pose: Tensor) -> Tensor:
    """[B, P, H, W] a drawn pose [B, 3, H, W] as a UNet was taught it."""
    count = unet.config.in_channels - 3 * base.latent_channels - 1
    return pose_channels(pose.to(base.device), count)


def shown(mask: Tensor, masked: Tensor, pose: Tensor, garment: Tensor) -> Tensor:
    """[B, K, h, w] what a UNet is shown beside x_t, in the published order.

    mask [B, 1, H, W] and pose [B, P, H, W] are as large as pictures; the masked person and the
    bent garment are latents [B, C, h, w].
    """
    size = masked.shape[-2:]
    small = F.interpolate(mask, size), F.interpolate(pose, size, mode="bilinear")
    return torch.cat([small[0], masked, small[1], garment], 1)


def said(base: StableDiffusion, prompts: Sequence[str], garment: Tensor, nets: Nets) -> Condition:
    """What B prompts say, with pseudo-words of garments [B, 3, H, W] behind them."""
    if nets.words is None or nets.encoder is None:
        return base.encode_text(prompts)
    return worn_text(base, prompts, nets.words(nets.encoder.states(garment)[0]))


def new_nets(
    base: StableDiffusion, encoder: ImageEncoder, tokens: int, pose: int, small: Size | None
) -> Nets:
    """Make untrained nets; pose: how many channels tell it, tokens: pseudo-words of a garment.

    The UNet is the backbone's with further channels of zeros. small: the pictures' size, where the
    nets that bend are to be small, too.
    """
    sizes = Sizes(pose)
    if small is not None:
        width, height = sides(small)
        sizes = Sizes(pose, height, width, base=12, halvings=2)
    more = 3 * base.latent_channels + 1 + pose - base.unet.config.in_channels
    unet = widened(base.unet, more)
    warper, emasc = Warper(sizes).to(base.device), Emasc(base.vae).to(base.device)
    return Nets(unet, warper, emasc, new_adapter(base, encoder, tokens), encoder)


def read_nets(base: StableDiffusion, place: Path, encoder: ImageEncoder) -> Nets:
    """Read all four nets from a folder; the UNet can learn. InputError if one is missing."""
    where = {part: part_of(place, part) for part in OFFICIAL}
    warper, emasc, words = (
        frozen(net, base.device, torch.float32)
        for net in (load_warper(where["warping"]), load_emasc(base, where["emasc"]),
                    load_adapter(base, encoder, where["words"]))
    )  # fmt: skip
    return Nets(read_unet(base, where["unet"]), warper, emasc, words, encoder)


def part_of(place: Path, part: str) -> Path:
    """Where one of the nets is: in a folder of its own, or an official file. InputError if not."""
    if (place / part).is_dir():
        return place / part
    found = sorted(place.glob(OFFICIAL[part]))
    if len(found) == 1:
        return found[0]
    raise InputError(f"{place} must hold a folder {part}, or one official file {OFFICIAL[part]}, "
                     f"and there are {len(found)}")  # fmt: skip


def read_unet(base: StableDiffusion, path: Path) -> Any:
    """Read the UNet, in float32, from its folder or the official file. InputError if it is none."""
    from diffusers import UNet2DConditionModel

    if path.is_dir():
        return load_folder(UNet2DConditionModel, path)
    state = read_state(path)
    first = state.get("conv_in.weight")
    if first is None or first.ndim != 4:
        raise InputError(f"{path} holds no UNet: there is no conv_in.weight in it")
    config = {**base.unet.config, "in_channels": first.shape[1]}
    return filled(UNet2DConditionModel.from_config(config), state, str(path))


def write_nets(nets: Nets, out: Path) -> None:
    """Write all four, each into its folder in `out`."""
    if nets.warper is not None:
        write_net(nets.warper, out / "warping", asdict(nets.warper.sizes))
    if nets.emasc is not None:
        write_net(nets.emasc, out / "emasc", {"levels": len(nets.emasc.conv)})
    if nets.words is not None:
        write_net(nets.words, out / "words", {"tokens": nets.words.tokens})
    nets.unet.register_to_config(_name_or_path="")  # where it was loaded from is nobody's business
    nets.unet.save_pretrained(out / "unet")
