"""LoRAs in files: read and written as diffusers (peft), kohya and ComfyUI have them.

A layer's weight becomes W + alpha / r * up @ down, r the rank. Files hold `down` and `up` for each
layer; kohya's and ComfyUI's alpha too, where the others have alpha = r, or say it in the header.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from threed.core.errors import InputError
from threed.core.files import check_name, write_aside
from threed.diffusion.files import metadata
from threed.diffusion.learned.layers import (
    WIDTHS,
    Layers,
    Layout,
    layers_of,
    nets_of,
    places,
    stems,
)
from threed.diffusion.models.convert import read_state
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.adapters import Lora, Pair, pairs_of

FILE = "pytorch_lora_weights.safetensors"
"""The file in a folder."""
_HEADER = "lora_adapter_metadata"  # where diffusers says a LoRA's settings in a file's header
_KEY = re.compile(
    r"(?P<stem>.+?)(\.lora_|\.lora\.|_lora\.|\.lora_linear_layer\.)(?P<what>down|up|A|B)\.weight"
    r"|(?P<layer>.+?)\.alpha"
)
NOTHING: Mapping[str, Any] = MappingProxyType({})
_OTHERS = {"hada_": "LoHa", "lokr_": "LoKr", "dora_scale": "DoRA", "lora_magnitude_vector": "DoRA",
           "lora_mid": "LoCon with a core tensor", "oft_": "OFT", "glora": "GLoRA",
           ".diff": "full differences of weights"}  # fmt: skip


@dataclass(frozen=True)
class LoraWeights:
    """What is added to layers of a backbone's nets, by net and path."""

    of: Layers
    nets: Mapping[str, Mapping[str, Pair]]


def read_lora(path: Path, backbone: StableDiffusion) -> LoraWeights:
    """A LoRA's file, or folder with one, for this backbone. InputError as from `lora_in`."""
    return lora_in(path, layers_of(backbone))


def lora_in(path: Path, layers: Layers) -> LoraWeights:
    """A LoRA of a file, or of a folder with one, for these layers. InputError as of `lora_from`."""
    file = _file(path)
    return lora_from(read_state(file), layers, file, _header(file))


def lora_from(
    state: Mapping[str, Tensor], layers: Layers, file: Path, said: Mapping[str, Any] = NOTHING
) -> LoraWeights:
    """A LoRA of the tensors of a file, for these layers; float32 on the CPU.

    said: what the file's header says of it. InputError for damage, for another kind of adapter
    (LoHa, DoRA, ...), and if it was made for another model: the model is named where it can be
    told, else the first layer that differs.
    """
    found = _sorted(state, file)
    known = places(layers)
    nets: dict[str, dict[str, Pair]] = {net: {} for net in layers.shapes}
    for stem, parts in found.items():
        if stem not in known:
            raise _misfit(file, found, layers, f"it changes {stem}, which is no layer there")
        net, layer = known[stem]
        shape = layers.shapes[net][layer]
        down, up = _factors(stem, parts, file)
        if not _fit(down, up, shape):
            reason = (f"its {stem} is {[*down.shape]} and {[*up.shape]}, where the layer's weight "
                      f"is {[*shape]}")  # fmt: skip
            raise _misfit(file, found, layers, reason)
        if layer in nets[net]:
            raise InputError(f"{file} is damaged: it changes {layer} twice")
        try:
            stored = parts.get("alpha")
            alpha = _alpha(said, net, layer, len(down)) if stored is None else float(stored)
        except (ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise InputError(f"{file} is damaged: the alpha of {stem} is no number") from error
        # convolutions of one pixel are written as linear maps, and linear maps as such, too
        wide = up.reshape(*up.shape[:2], *[1] * len(shape[2:]))
        nets[net][layer] = Pair(down.reshape(len(down), *shape[1:]), wide, alpha)
    return LoraWeights(layers, nets)


def write_lora(lora: LoraWeights, path: Path, layout: Layout = "diffusers") -> None:
    """Write a LoRA to a .safetensors file.

    Where the layout has no alpha (diffusers), `up` is written times alpha / r. InputError for
    another ending, or a layer that the layout has no name for.
    """
    check_name(path, [".safetensors"])
    with write_aside(path) as part:
        save_file(tensors_of(lora, layout), part, {"format": "pt"})


def tensors_of(lora: LoraWeights, layout: Layout = "diffusers") -> dict[str, Tensor]:
    """The tensors of a LoRA by their names in a layout. InputError for a layer without one."""
    named = stems(lora.of, layout)
    tensors: dict[str, Tensor] = {}
    for net, pairs in lora.nets.items():
        for layer, pair in pairs.items():
            if (net, layer) not in named:
                raise InputError(f"the layout {layout} has no name for {layer} of {lora.of.what}")
            stem = named[net, layer]
            if layout == "diffusers":
                written = {"lora_A.weight": pair.down, "lora_B.weight": scaled(pair, 1.0)}
            else:
                alpha = torch.tensor(pair.alpha)
                written = {"lora_down.weight": pair.down, "lora_up.weight": pair.up, "alpha": alpha}
            tensors |= {f"{stem}.{part}": value.contiguous() for part, value in written.items()}
    return tensors


def scaled(pair: Pair, weight: float) -> Tensor:
    """`up` [out, r, ...] times alpha / r and a weight: times `down` it is what is added."""
    return pair.up * (weight * pair.alpha / pair.rank)


def lora_of(backbone: StableDiffusion, adapter: str) -> LoraWeights:
    """What the adapter of this name is now, in all nets of a backbone."""
    pairs = {net: pairs_of(module, adapter) for net, module in nets_of(backbone).items()}
    return LoraWeights(layers_of(backbone), pairs)


def put_in(lora: LoraWeights, backbone: StableDiffusion, adapter: str) -> dict[str, Lora]:
    """Make a LoRA the adapter of this name, in those nets that it has pairs for."""
    nets = nets_of(backbone)
    return {
        net: Lora.loaded(nets[net], adapter, pairs) for net, pairs in lora.nets.items() if pairs
    }


def _file(path: Path) -> Path:
    if not os.path.isdir(path):
        return path
    for name in (FILE, FILE.replace(".safetensors", ".bin")):
        if (path / name).is_file():
            return path / name
    raise InputError(f"{path} holds no {FILE}; name a file, or a folder with one of that name")


def _sorted(state: Mapping[str, Tensor], file: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of each layer: down, up and, where stored, alpha, by the layer's name."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        other = next((kind for mark, kind in _OTHERS.items() if mark in key), None)
        if other is not None:
            raise InputError(f"{file} is no LoRA but {other} ({key}), which cannot be used here")
        match = _KEY.fullmatch(key)
        if match is None:
            raise InputError(f"{file} is no LoRA: {key} is not what a layer of one is called")
        part = {"A": "down", "B": "up", None: "alpha"}.get(match["what"], match["what"])
        stem = match["stem"] or re.sub("[._]lora$", "", match["layer"])
        found.setdefault(stem, {})[part] = value
    if not found:
        raise InputError(f"{file} is no LoRA: there is nothing in it")
    return found


def _factors(stem: str, parts: Mapping[str, Tensor], file: Path) -> tuple[Tensor, Tensor]:
    """`down` and `up` of a layer in float32, of one rank."""
    down, up = (parts.get(part, torch.empty(0)).float() for part in ("down", "up"))
    if down.ndim < 2 or up.ndim < 2 or not up.shape[1] == len(down) > 0:
        raise InputError(f"{file} is damaged: the two factors of {stem} are {[*down.shape]} and "
                         f"{[*up.shape]}, which have no rank in common")  # fmt: skip
    if not all(bool(part.isfinite().all()) for part in (down, up, parts.get("alpha", up))):
        raise InputError(f"{file} is damaged: not all numbers of {stem} are finite")
    return down, up


def _header(file: Path) -> dict[str, Any]:
    """What the header of a file of diffusers' says of the settings of a LoRA."""
    if file.suffix != ".safetensors":
        return {}
    text = metadata(file).get(_HEADER, "{}")
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{file} is damaged: {_HEADER} in its header is no JSON") from error


def _alpha(said: Mapping[str, Any], net: str, layer: str, rank: int) -> float:
    """Alpha of a layer that has none in the file: by default its rank."""
    bare = layer.removeprefix("text_model.")
    special = said.get(f"{net}.alpha_pattern") or {}
    alpha = next((value for path, value in special.items()
                  if f".{bare}".endswith(f".{path.removeprefix('text_model.')}")),
                 said.get(f"{net}.lora_alpha", rank))  # fmt: skip
    return float(alpha) * (math.sqrt(rank) if said.get(f"{net}.use_rslora") else 1)


def _fit(down: Tensor, up: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether two factors are those of a weight of this shape, ones at the ends aside."""

    def bare(shape: tuple[int, ...]) -> tuple[int, ...]:
        return bare(shape[:-1]) if shape and shape[-1] == 1 else shape

    inner = bare(down.shape[1:]) == bare(shape[1:])
    return inner and not bare(up.shape[2:]) and len(up) == shape[0]


def _misfit(
    file: Path, found: Mapping[str, Mapping[str, Tensor]], layers: Layers, said: str
) -> InputError:
    """What to say of a LoRA that does not fit: which model it is of, if that can be told."""
    model = ""
    if any(re.match(r"lora_te2_|text_encoder_2\.|text_encoders\.clip_g", stem) for stem in found):
        model = WIDTHS[2048]
    for stem, parts in found.items():
        if re.search(r"attn2[._](processor\.)?to_k$", stem) and "down" in parts:
            model = WIDTHS.get(math.prod(parts["down"].shape[1:]), model)
    if model and model != layers.model:
        return InputError(f"{file} is a LoRA of {model}, and does not fit {layers.what}")
    return InputError(f"{file} is a LoRA of another model than {layers.what}: {said}")
