"""The layers of a backbone that a LoRA may change, and what files of LoRAs call them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from threed.diffusion.catalog import facts
from threed.diffusion.files import has_part
from threed.diffusion.models.convert import latent_diffusion_names
from threed.diffusion.models.stable_diffusion import StableDiffusion

UNET, TEXT, TEXT_2 = "unet", "text_encoder", "text_encoder_2"
Layout = Literal["diffusers", "kohya", "comfyui"]
WIDTHS = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL",
          1280: "Stable Diffusion XL's refiner"}  # fmt: skip
"""Published models by the width of the text embeddings that their UNets attend to."""


@dataclass(frozen=True)
class Layers:
    """The linear maps and convolutions in the nets of a backbone: unet, text_encoder(_2)."""

    name: str  # of the backbone
    model: str  # which published one it is, "" if none
    resnets: int  # a block on the way down
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]]  # of weights, by net and path

    @property
    def what(self) -> str:
        """The backbone in words."""
        return f"backbone {self.name!r}" + (f" ({self.model})" if self.model else "")


def layers_of(backbone: StableDiffusion) -> Layers:
    """The layers of a backbone that is loaded."""
    return _layers(backbone.name, nets_of(backbone), backbone.unet.config)


def layers_in(name: str) -> Layers:
    """The layers of a backbone by its name, from its configs alone. Errors as of `facts`."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    known = facts(name)
    known.require_unet("a LoRA")
    kinds = {TEXT: CLIPTextModel, TEXT_2: CLIPTextModelWithProjection}
    with torch.device("meta"):
        nets = {UNET: UNet2DConditionModel.from_config(dict(known.net.config))}
        for encoder in known.encoders:
            config = CLIPTextConfig.from_dict(dict(encoder.config))
            nets[encoder.part] = kinds[encoder.part](config)
    return _layers(known.name, nets, known.net.config)


def nets_of(backbone: StableDiffusion) -> dict[str, nn.Module]:
    """The nets that a LoRA may change, by their names."""
    texts = [TEXT] * has_part(backbone.index, TEXT, default=True)
    texts += [TEXT_2] * has_part(backbone.index, TEXT_2)
    return {UNET: backbone.unet, **dict(zip(texts, backbone.encoders))}


def _layers(name: str, nets: Mapping[str, nn.Module], config: Mapping[str, Any]) -> Layers:
    model = WIDTHS.get(config["cross_attention_dim"], "")
    shapes = {
        net: {path.removesuffix(".base_layer"): tuple(layer.weight.shape)
              for path, layer in module.named_modules()
              if isinstance(layer, nn.Linear | nn.Conv2d) and ".lora_" not in path}
        for net, module in nets.items()
    }  # fmt: skip
    return Layers(name, model, config["layers_per_block"], shapes)


def stems(layers: Layers, layout: Layout) -> dict[tuple[str, str], str]:
    """What a layout calls each layer, by net and path; layers that it has no name for are left."""
    return {place: names[0] for place, names in _names(layers, layout).items() if names}


def places(layers: Layers) -> dict[str, tuple[str, str]]:
    """Net and path of each layer by all the names that it has in files."""
    return {
        name: place
        for layout in ("comfyui", "kohya", "diffusers")
        for place, names in _names(layers, layout).items()
        for name in names
    }


def _names(layers: Layers, layout: Layout) -> dict[tuple[str, str], list[str]]:
    """Names of the layers in a layout: the one that is written first."""
    paths = layers.shapes[UNET]
    older = latent_diffusion_names(paths, layers.resnets)
    named = {(UNET, p): list(_unet_names(p, older.get(p), layers, layout)) for p in paths}
    for net, inside in layers.shapes.items():
        if net != UNET:
            named |= {(net, path): list(_text_names(net, path, layers, layout)) for path in inside}
    return named


def _unet_names(path: str, older: str | None, layers: Layers, layout: Layout) -> Iterator[str]:
    """Names of a layer of the UNet; older: what latent diffusion calls it."""
    if layout == "comfyui" and older is not None:
        yield f"diffusion_model.{older}"
    if layout == "kohya":
        # kohya's own UNet of SDXL has the older names, that of SD 1.5 and 2 has diffusers'
        both = [name for name in (path, older) if name is not None]
        for name in reversed(both) if TEXT_2 in layers.shapes else both:
            yield "lora_unet_" + name.replace(".", "_")
    if layout == "diffusers":
        yield f"{UNET}.{path}"
        yield path
        before, _, last = path.removesuffix(".0").rpartition(".")
        if last in ("to_q", "to_k", "to_v", "to_out"):  # of a time when processors had the weights
            yield f"{UNET}.{before}.processor.{last}"
            yield f"{before}.processor.{last}"


def _text_names(net: str, path: str, layers: Layers, layout: Layout) -> Iterator[str]:
    """Names of a layer of a text encoder, which files give the prefix that CLIPTextModel had."""
    bare = path.removeprefix("text_model.")
    full = f"text_model.{bare}"
    if layout == "comfyui":
        usual = "clip_h" if layers.model == WIDTHS[1024] else "clip_l"
        yield f"text_encoders.{usual if net == TEXT else 'clip_g'}.transformer.{full}"
    if layout == "kohya":
        numbered = {TEXT: "lora_te1_", TEXT_2: "lora_te2_"}[net]
        alone = ["lora_te_"] if net == TEXT else []
        prefixes = [numbered, *alone] if TEXT_2 in layers.shapes else [*alone, numbered]
        for prefix in prefixes:
            yield prefix + full.replace(".", "_")
    if layout == "diffusers":
        for name in (full, bare):
            yield f"{net}.{name}"
            if "_attn." in name:  # to_q for q_proj, as in the UNet
                before, _, last = name.removesuffix("_proj").rpartition(".")
                yield f"{net}.{before}.to_{last}"
