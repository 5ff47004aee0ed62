"""IP-Adapter's nets and their attention (arXiv:2308.06721): image tokens beside the text's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threed.core.errors import InputError
from threed.core.saved import read_saved
from threed.diffusion.models.convert import read_safetensors
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.adapters import TARGETS, Lora, Pair
from threed.diffusion.parts.attention import Attend, Bias, Site, Via, plain
from threed.diffusion.parts.image_tokens import HEAD, Patchwise, Projection, Resampler
from threed.diffusion.weights import filled, frozen, write_net

LORA = "ip_adapter"  # what FaceID's LoRA is called in the UNet
FILE = "ip-adapter.safetensors"
TRAINER = {"image_proj_model": "image_proj", "adapter_modules": "ip_adapter"}  # the official one's
PARTS = ("image_proj", "ip_adapter")


class Maps(nn.Module):
    """One cross-attention's maps from image tokens to keys and values; they begin as the text's."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.to_k_ip, self.to_v_ip = (_copied(text) for text in (attention.to_k, attention.to_v))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, C'] -> keys and values [B, T, C]."""
        return self.to_k_ip(tokens), self.to_v_ip(tokens)


def _copied(text: Any) -> nn.Linear:
    own = nn.Linear(text.in_features, text.out_features, bias=False)
    own.weight.data.copy_(text.weight.detach())
    return own


class ImageAdapter(nn.Module):
    """What is trained: tokens of a picture's features, and maps for every cross-attention.

    Its tensors have their published names.
    """

    def __init__(self, backbone: StableDiffusion, image_proj: Any) -> None:
        super().__init__()
        self.image_proj = image_proj
        self.places, self.ip_adapter = new_maps(backbone.unet)

    def forward(self, features: Tensor) -> Tensor:
        """[B, N, ...] of N pictures each -> tokens [B, N, T, C]."""
        flat = features.flatten(0, 1).to(next(self.parameters()))
        tokens: Tensor = self.image_proj(flat).unflatten(0, features.shape[:2])
        return tokens


def new_maps(unet: nn.Module) -> tuple[dict[str, str], nn.ModuleDict]:
    """The numbers of a UNet's cross-attentions by their names, and maps for each by its number."""
    numbered = enumerate(attentions(unet))
    places = {name: str(number) for number, name in numbered if name.endswith("attn2")}
    maps = {number: Maps(unet.get_submodule(name)) for name, number in places.items()}
    return places, nn.ModuleDict(maps)


def attentions(unet: nn.Module) -> list[str]:
    """The names of a UNet's attentions in the order in which diffusers numbers them."""
    return [name for name, part in unet.named_modules() if hasattr(part, "set_processor")]


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """A second cross-attention, to tokens of pictures, which is added to the text's (equation 5).

    Several pictures share one softmax, in which a share is how much a picture's tokens count. With
    masks each has its own, which counts where its mask is (both as in diffusers).
    """

    tokens: Tensor  # [B, N, T, C] of N pictures
    net: ImageAdapter
    scales: Mapping[str, float]  # by the layer's name
    shares: tuple[float, ...] = ()  # of the N pictures; all the same if empty
    masks: Tensor | None = None  # [N, 1, H, W] in [0, 1]

    def select(self, index: Tensor) -> ImageTokens:
        """The rows of index ([N] int64)."""
        return replace(self, tokens=self.tokens[index.to(self.tokens.device)])

    def join(self, others: Sequence[Any]) -> ImageTokens | None:
        """One for all, if they are of one net, with pictures alike in number, size and place."""
        every = [self, *others]
        if not all(isinstance(o, ImageTokens) and o._kind() == self._kind() for o in others):
            return None
        return replace(self, tokens=torch.cat([one.tokens for one in every]))

    def _kind(self) -> tuple[Any, ...]:
        masks = None if self.masks is None else id(self.masks)
        return id(self.net), self.tokens.shape[1:], dict(self.scales), self.shares, masks

    def __call__(self, site: Site, attend: Attend) -> Attend:
        """Both attentions, at the sites whose scale is not zero."""
        scale = self.scales.get(site.layer.name, 0.0)
        if not scale:
            return attend

        def both(q: Tensor, k: Tensor, v: Tensor, bias: Bias = None, change: Via = None) -> Tensor:
            return attend(q, k, v, bias=bias, change=change) + scale * self._seen(site, q)

        return both

    def _seen(self, site: Site, q: Tensor) -> Tensor:
        """[B, L, C] what the pictures say to the queries."""
        look = plain(site.layer.heads)
        maps: Any = self.net.ip_adapter[self.net.places[site.layer.name]]
        count, length = self.tokens.shape[1:3]
        shares = q.new_tensor(self.shares or [1.0] * count)
        keys, values = maps(self.tokens.to(q).flatten(1, 2))
        if self.masks is None:
            bias = shares.log().repeat_interleave(length).expand(1, 1, 1, -1)
            return look(q, keys, values, bias=bias if self.shares else None)
        small = F.interpolate(self.masks.to(q), (site.rows, site.columns), mode="bicubic")
        each = zip(keys.split(length, 1), values.split(length, 1), small.flatten(1), shares)
        seen = [share * mask[:, None] * look(q, k, v) for k, v, mask, share in each]
        return torch.stack(seen).sum(0)


def block_scales(names: Sequence[str], blocks: str, scale: float) -> dict[str, float]:
    """The scale of each cross-attention, by the names of their layers.

    blocks: "all"; or, with commas between, how names begin ("up_blocks.1", "mid_block"), "style" or
    "layout", each with a factor after a colon if it is not 1. Style is the second attention of the
    way up, layout the last of the way down: of SDXL those of InstantStyle (arXiv:2404.02733).
    InputError for what is nowhere.
    """
    if blocks == "all":
        return dict.fromkeys(names, scale)
    found: dict[str, float] = {}
    for part in blocks.split(","):
        name, _, factor = part.strip().partition(":")
        start = _named(names, name) if name in ("style", "layout") else name
        there = [layer for layer in names if f"{layer}.".startswith(f"{start}.")]
        try:
            found |= dict.fromkeys(there, scale * float(factor or 1))
        except ValueError:
            there = []
        if not there:
            known = ", ".join(sorted({_block(layer, 2) for layer in names}))
            raise InputError(f"blocks must be all, style, layout, or parts of {known}, each with "
                             f"a factor as in style:0.5; got {part!r}")  # fmt: skip
    return found


def _named(names: Sequence[str], which: str) -> str:
    """How the names of the style's or the layout's layers begin."""
    way = sorted({_block(name, 4) for name in names
                  if name.startswith("up" if which == "style" else "down")})  # fmt: skip
    first = [block for block in way if _block(block, 2) == _block(way[0], 2)]
    return first[:2][-1] if which == "style" else way[-1]


def _block(name: str, depth: int) -> str:
    return ".".join(name.split(".")[: 1 if name.startswith("mid") else depth])


def load_image_adapter(backbone: StableDiffusion, path: Path) -> tuple[ImageAdapter, bool]:
    """Load an adapter from its file, and FaceID's LoRA into the UNet; whether there is one.

    .bin or .safetensors as published, or as the official trainer writes them. Nothing in the file
    is executed. InputError for one of another layout, another backbone, or that is damaged.
    """
    state = read_parts(path, PARTS, "IP-Adapter", TRAINER)
    own = {name: value for name, value in state.items() if "_lora." not in name}
    net = image_adapter_of(backbone, own, path)
    pairs = _pairs(backbone.unet, state, path)
    net = frozen(net, backbone.device, backbone.unet.dtype)
    if pairs:
        Lora.loaded(backbone.unet, LORA, pairs)
    return net, bool(pairs)


def image_adapter_of(
    backbone: StableDiffusion, state: Mapping[str, Tensor], path: Path
) -> ImageAdapter:
    """The adapter with the tensors of a file, in float32. InputError as of `load_image_adapter`."""
    width = int(backbone.unet.config.cross_attention_dim)
    net = ImageAdapter(backbone, _projection(state, path))
    if net.image_proj.width != width:
        raise InputError(f"{path} was made for another backbone than {backbone.name!r}: its "
                         f"tokens have {net.image_proj.width} numbers, not {width}")  # fmt: skip
    made: ImageAdapter = filled(net, state, str(path))
    return made


def read_parts(
    path: Path, parts: Sequence[str], what: str, renamed: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """The tensors of a file, by names that begin with one of `parts`: "image_proj.norm.weight".

    Nested by part, as .bin files are, or flat. renamed: what else parts are called in some files.
    InputError, which says what it should hold, if a part is missing. Nothing is executed.
    """
    safe = path.suffix == ".safetensors"
    saved: Any = read_safetensors(path) if safe else read_saved(path, others=True)
    flat: dict[str, Tensor] = {}
    for name, value in saved.items() if isinstance(saved, dict) else ():
        nested = value.items() if isinstance(value, dict) else [("", value)]
        flat |= {f"{name}.{rest}".rstrip("."): v for rest, v in nested if isinstance(v, Tensor)}
    heads = ((name.partition("."), value) for name, value in flat.items())
    other = renamed or {}
    named = {f"{other.get(head, head)}{dot}{rest}": v for (head, dot, rest), v in heads}
    state = {name: value for name, value in named.items() if name.partition(".")[0] in parts}
    missing = [part for part in parts if not any(name.startswith(part) for name in state)]
    if missing:
        raise InputError(f"{path} holds no {what}: no name in it begins with {missing[0]}.")
    return state


def _projection(state: Mapping[str, Tensor], path: Path) -> Any:
    """The net of tokens, untrained, whose shapes are those of a file."""

    def shape(name: str) -> tuple[int, ...]:
        value = state.get(f"image_proj.{name}")
        return () if value is None else tuple(value.shape)

    if len(shape("latents")) == 3 and shape("proj_in.weight") and shape("norm_out.weight"):
        _, tokens, inner = shape("latents")
        depth = len({name.split(".")[2] for name in state if name.startswith("image_proj.layers")})
        heads = (shape("layers.0.0.to_q.weight") or (HEAD,))[0] // HEAD
        return Resampler(shape("proj_in.weight")[1], shape("norm_out.weight")[0], inner=inner,
                         heads=heads, depth=depth, tokens=tokens)  # fmt: skip
    if len(shape("proj.weight")) == 2 and shape("norm.weight"):
        (out, inputs), (width,) = shape("proj.weight"), shape("norm.weight")
        return Projection(inputs, width, out // width)
    if len(shape("proj.0.weight")) == 2 and shape("proj.3.weight"):
        return Patchwise(shape("proj.0.weight")[1], shape("proj.3.weight")[0])
    more = any("perceiver" in name for name in state)  # FaceID Plus sees patches, too
    if len(shape("proj.2.weight")) == 2 and shape("norm.weight") and not more:
        (out, inner), (width,) = shape("proj.2.weight"), shape("norm.weight")
        return Projection(inner // 2, width, out // width, face=True)
    raise InputError(f"{path} is an IP-Adapter of an unknown kind: known are the base, Plus, full "
                     "face and FaceID")  # fmt: skip


def _pairs(unet: nn.Module, state: Mapping[str, Tensor], path: Path) -> dict[str, Pair]:
    """FaceID's LoRA, by the paths of its layers in the UNet."""
    layers = {
        f"ip_adapter.{number}.{layer.removesuffix('.0')}_lora": f"{name}.{layer}"
        for number, name in enumerate(attentions(unet))
        for layer in TARGETS
    }
    pairs = {}
    for name in state:
        if name.endswith("_lora.down.weight"):
            stem = name.removesuffix(".down.weight")
            down, up = (state.get(f"{stem}.{way}.weight", Tensor()) for way in ("down", "up"))
            fits = stem in layers and down.ndim == up.ndim == 2 and len(down) == up.shape[1]
            weight: Any = unet.get_submodule(layers[stem]).weight if fits else Tensor()
            if tuple(weight.shape) != (*up.shape[:1], *down.shape[1:]):
                raise InputError(f"{path} does not fit: {stem} has no place in the UNet")
            pairs[layers[stem]] = Pair(down, up, float(len(down)))
    return pairs


def save_image_adapter(net: nn.Module, out: Path) -> None:
    """Write an adapter as it is published, and what kind it is."""
    kind: Any = net.image_proj
    about = {"image_proj": type(kind).__name__, "inputs": kind.inputs, "width": kind.width}
    write_net(net, out, about, FILE)
