"""StableVITON's way in for a garment (arXiv:2312.01725): an encoder, and cross-attention to it.

The encoder is a copy of the UNet's, whose features go out as they are, with no convolutions of
zeros behind them. On the way up the picture's places look at the garment's, resolution by
resolution: so it is learned which point of the garment each place shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import Transformer2DModel, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from threed.core.errors import InputError
from threed.diffusion.condition import Condition
from threed.diffusion.models.convert import (
    CONTROL,
    averaged,
    diffusers_name,
    encoder_name,
    read_state,
)
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.attention import Layer, Processor, Record
from threed.diffusion.parts.channels import widened, with_unet
from threed.diffusion.parts.control import new_controlnet
from threed.diffusion.parts.image_encoder import ImageEncoder
from threed.diffusion.parts.image_word import ImageWord
from threed.diffusion.parts.skips import Joint, joints
from threed.diffusion.weights import NET, below, filled, load_folder, write_net

HEADS = 8  # of the cross-attention
WATCHED = 1  # how often the latents' sides are halved where attention's variation counts: in the
# middle block there; 32 × 24 places of a picture of 512 × 384, as published


def new_encoder(base: StableDiffusion) -> Any:
    """Make a trainable copy of a UNet's encoder, which is shown a garment's latents beside x_t.

    What nothing looks at, its last resolution and its middle, is left out.
    """
    body = new_controlnet(base)
    first = base.unet.config.block_out_channels[0]
    body.controlnet_cond_embedding = zeroed(nn.Conv2d(base.latent_channels, first, 3, padding=1))
    body.down_blocks = body.down_blocks[:-1]
    body.down_blocks[-1].downsamplers = None
    body.mid_block, body.controlnet_mid_block = None, nn.Identity()
    body.controlnet_down_blocks = nn.ModuleList(nn.Identity() for _ in range(_outs(body)))
    return body


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with zeros in it, so that at first it says nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _outs(body: Any) -> int:
    """How many features an encoder gives: of its first convolution, and of each layer."""
    return 1 + sum(len(block.resnets) + len(block.downsamplers or ()) for block in body.down_blocks)


class Crossing(nn.Module):
    """The blocks on the way up that look at a garment; names are as published.

    Each ends in a convolution of zeros, so that at first the UNet is as it was.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__()
        found = [(joint, width, layer.in_channels - width) for joint, width, layer in joints(unet)]
        lowest = found[0][0].halvings
        places = [(joint, width) for joint, width, _ in found if joint.halvings < lowest]
        self.first = places[0][0].order
        watched = min(WATCHED, places[0][0].halvings)
        level = [joint.order for joint, _ in places if joint.halvings == watched]
        self.watched = level[len(level) // 2]
        self.warp_flow_blks, self.warp_zero_convs = nn.ModuleList(), nn.ModuleList()
        for number, (joint, width) in enumerate(places):
            block = Transformer2DModel(
                HEADS, width // HEADS, width, cross_attention_dim=found[joint.order][2],
                norm_num_groups=unet.config.norm_num_groups,
            )  # fmt: skip
            for name, attention in block.named_modules():
                if hasattr(attention, "set_processor"):
                    layer = Layer(f"crossing.{number}.{name}", name.endswith("attn2"), HEADS)
                    attention.set_processor(Processor(layer))
            zeroed(block.proj_out)
            self.warp_flow_blks.append(block)
            self.warp_zero_convs.append(zeroed(nn.Conv2d(width, width, 1)))

    def forward(self, joint: Joint, h: Tensor, seen: Tensor, record: Record | None) -> Tensor:
        """h [B, C, h, w] after it has looked at a garment's features [B, C', h, w]."""
        number = joint.order - self.first
        told: dict[str, Any] = {}
        if record is not None and joint.order == self.watched:
            told = {"edits": (record,), "size": tuple(h.shape[-2:])}
        keys = seen.flatten(2).transpose(1, 2)
        block, zero = self.warp_flow_blks[number], self.warp_zero_convs[number]
        seen = block(h, keys, cross_attention_kwargs=told, return_dict=False)[0]
        added: Tensor = zero(seen)
        return h + added


class GarmentNets(nn.Module):
    """What is taught beside a UNet: the encoder, the blocks that look at it, and the one word."""

    def __init__(self, base: StableDiffusion, inputs: int, layers: int) -> None:
        super().__init__()
        self.body, self.crossing = new_encoder(base), Crossing(base.unet)
        self.word = ImageWord(inputs, int(base.unet.config.cross_attention_dim), layers)

    def begin(self, unet: Any) -> None:
        """Take over what a UNet's encoder has learned."""
        known = self.body.state_dict().keys()
        own = {name: value for name, value in unet.state_dict().items() if name in known}
        self.body.load_state_dict(own, strict=False)

    def features(self, x: Tensor, t: Tensor, tokens: Tensor, garment: Tensor) -> list[Tensor]:
        """x [B, K, h, w] as the UNet's, garment [B, C, h, w] -> features, from fine to coarse."""
        dtype = self.body.dtype
        x, tokens, garment = (value.to(dtype) for value in (x, tokens, garment))
        skips: Sequence[Tensor] = self.body(x, t, tokens, garment, return_dict=False)[0]
        return list(skips)


@dataclass(frozen=True, eq=False)
class Nets:
    """A UNet that is shown the person, what is taught beside it, and what sees the garment."""

    unet: Any
    garment: GarmentNets
    eye: ImageEncoder


@dataclass(frozen=True, eq=False)
class Looking:
    """The edit of the skips that lets one call's garment features in, and leaves the skips."""

    net: Crossing
    features: Sequence[Tensor]  # from fine to coarse
    record: Record | None = None
    apart: bool = False  # what comes before the way up gets no gradient, as published

    def __call__(self, joint: Joint, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Both, where the way up joins them."""
        if self.apart:
            h, skip = (h.detach() if joint.order == 0 else h), skip.detach()
        number = joint.order - self.net.first
        if number < 0:
            return h, skip
        seen = self.features[len(self.features) - 1 - number]
        return self.net(joint, h.to(seen), seen, self.record).to(h), skip


class Clothed(StableDiffusion):
    """A backbone whose every call looks at a garment, whose latents are the last channels."""

    def __init__(self, base: StableDiffusion, nets: Nets, record: Record | None = None) -> None:
        vars(self).update(vars(with_unet(base, nets.unet)))
        self.garment, self.record = nets.garment, record

    def predict_noise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The noise in x [B, C, h, w] at t [B]; channels are the UNet's own, then a garment's."""
        if condition.channels is None:
            raise ValueError("a clothed backbone needs a garment among its channels")
        own, garment = condition.channels.split(
            [condition.channels.shape[1] - self.latent_channels, self.latent_channels], 1
        )
        nets = self.garment
        seen = nets.features(torch.cat([x, own], 1), t, condition.tokens, garment)
        look = Looking(nets.crossing, seen, self.record, nets.training)
        told = replace(condition, channels=own, skips=(*condition.skips, look))
        return super().predict_noise(x, t, told)


def expected_places(weights: Tensor, columns: int) -> Tensor:
    """[B, h, w, 2] the mean (row, column) that attention [B, h, w, S] looks at, keys in rows."""
    number = torch.arange(weights.shape[-1], device=weights.device)
    places = torch.stack([number // columns, number % columns], -1)
    return weights.float() @ places.float()


def variation(places: Tensor, mask: Tensor) -> Tensor:
    """[] how unlike neighbouring places [B, h, w, 2] look, where mask [B, h, w] has both.

    Attention's total variation (section 3.3): a mean over neighbours in columns, and one in rows.
    An attention of each place to itself has 1 of both.
    """
    total = places.new_zeros(())
    for axis in (1, 2):
        size = places.shape[axis] - 1
        both = mask.narrow(axis, 0, size) * mask.narrow(axis, 1, size)
        change = places.diff(dim=axis).abs().sum(-1) * both
        total = total + change.sum() / both.sum().clamp_min(1)
    return total


def shown(agnostic: Tensor, mask: Tensor, dense: Tensor, garment: Tensor) -> Tensor:
    """[B, K, h, w] what is told beside x_t, in the published order, and then the garment.

    Latents [B, C, h, w] of the person without the garment, of the dense pose, and of the garment;
    mask [B, 1, H, W] is 1 where the garment is painted, and told as what is kept.
    """
    kept = 1 - F.interpolate(mask, agnostic.shape[-2:], mode="bilinear")
    return torch.cat([agnostic, kept, dense, garment], 1)


def new_nets(base: StableDiffusion, eye: ImageEncoder, layers: int) -> Nets:
    """Make untrained nets: of a UNet with further channels of zeros, and a copy of its encoder."""
    unet = widened(base.unet, 3 * base.latent_channels + 1 - base.unet.config.in_channels)
    inputs = int(eye.eye.hidden_size)
    garment = GarmentNets(with_unet(base, unet), inputs, layers).to(base.device)
    return Nets(unet, garment, eye)


def read_nets(base: StableDiffusion, place: Path, eye: ImageEncoder) -> Nets:
    """Read the nets of a training's folder, or of the official VITONHD.ckpt; they can learn.

    InputError for damage, another layout, or another backbone or image encoder.
    """
    if place.is_dir():
        unet, file = load_folder(UNet2DConditionModel, place / "unet"), place / "garment" / NET
        state = read_state(file)
    else:
        unet, state, file = *_official(base, place), place
    layers = len({name.split(".")[3] for name in state if name.startswith("word.mapper.")})
    blank = GarmentNets(with_unet(base, unet), int(eye.eye.hidden_size), layers)
    wanted = blank.state_dict().keys()
    known = {k: v for k, v in state.items() if k in wanted or not k.startswith("body.")}
    return Nets(unet, filled(blank, known, str(file)).to(base.device), eye)


def _official(base: StableDiffusion, path: Path) -> tuple[Any, dict[str, Tensor]]:
    """The UNet of VITONHD.ckpt, and the rest by our names. InputError for any other file.

    Its VAE, fine-tuned by itself, is not taken: the backbone's is used.
    """
    state, layers = read_state(path), base.unet.config.layers_per_block
    whole = averaged(state)
    crossing = {name: value for name, value in whole.items() if name.startswith("warp_")}
    first = whole.get("input_blocks.0.0.weight")
    if not crossing or first is None or "learnable_vector" not in state:
        raise InputError(f"{path} holds no StableVITON: it needs names like "
                         "model.diffusion_model.warp_flow_blks, and learnable_vector")  # fmt: skip
    renamed = {diffusers_name(k, layers): v for k, v in whole.items() if k not in crossing}
    config = {**base.unet.config, "in_channels": first.shape[1]}
    unet = filled(UNet2DConditionModel.from_config(config), renamed, str(path))
    found = {f"crossing.{name}": value for name, value in crossing.items()}
    for name, value in below(state, CONTROL).items():
        rest = name.removeprefix("cond_first_block.0.")
        own = encoder_name(name, layers) if rest == name else f"controlnet_cond_embedding.{rest}"
        found[f"body.{own}"] = value
    for head, names in (("cond_stage_model.", ("mapper.", "final_ln.")),
                        ("", ("proj_out.", "learnable_vector"))):  # fmt: skip
        found |= {f"word.{name}": value for name, value in below(state, head).items()
                  if name.startswith(names)}  # fmt: skip
    return unet, found


def write_nets(nets: Nets, out: Path) -> None:
    """Write them: the UNet in diffusers' layout, and what is beside it."""
    config = {"inputs": nets.eye.eye.hidden_size, "layers": len(nets.garment.word.blocks)}
    write_net(nets.garment, out / "garment", config)
    nets.unet.register_to_config(_name_or_path="")  # where it was loaded from is nobody's business
    nets.unet.save_pretrained(out / "unet")
