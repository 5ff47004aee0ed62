"""A backbone with what was learned in force: words of one's own, LoRAs, whole UNets."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from threed.core.errors import InputError
from threed.diffusion.backbone import Backbone
from threed.diffusion.files import EMBEDDINGS, SETTINGS, header, read_json
from threed.diffusion.learned.lora import FILE as LORA
from threed.diffusion.learned.lora import LoraWeights, put_in, read_lora
from threed.diffusion.learned.names import Learned, own_words
from threed.diffusion.learned.words import read_words
from threed.diffusion.models.convert import check_shapes
from threed.diffusion.models.latent import load_net
from threed.diffusion.models.stable_diffusion import StableDiffusion, require_unet
from threed.diffusion.models.text import Words, check_words
from threed.diffusion.parts.channels import with_unet
from threed.diffusion.weights import find_trained, frozen, load_folder

NETS = ("unet", "text_encoder", "text_encoder_2")
PATTERNS = ("*.json", "*.safetensors", "*.bin", "*.pt")


@dataclass(frozen=True)
class Found:
    """What one place holds."""

    place: Path
    words: Words = field(default_factory=dict)
    lora: LoraWeights | None = None
    nets: Mapping[str, Path] = field(default_factory=dict)  # folders of whole nets, of NETS


def equipped(backbone: Backbone, given: Sequence[Learned], what: str) -> StableDiffusion:
    """The backbone with all that was learned at places, each times its weight.

    Words count whole. A whole net (DreamBooth) counts by its difference to the backbone's. The
    backbone itself stays what it is.
    InputError for two words of one name, and for what was learned on another model.
    """
    base = require_unet(backbone, what)
    own_words(place for place, _ in given)
    found = [(read_learned(base, place, what), weight) for place, weight in given]
    words = {name: rows for one, _ in found for name, rows in one.words.items()}
    model = base.with_words(words)
    for net in NETS[: 1 + len(base.encoders)]:
        folders = [(one.nets[net], weight) for one, weight in found if net in one.nets]
        if folders:
            moved = frozen(_moved(base, net, folders), base.device, base.dtype)
            model = _with(model, net, moved)
    loras = [(one.place, one.lora, weight) for one, weight in found if one.lora]
    return _with_loras(model, loras) if loras else model


def marked(backbone: Backbone, marks: Sequence[str]) -> Backbone:
    """The backbone, which leaves these words in what it `reads`, for a system to find."""
    other = copy.copy(backbone)
    if other.vocabulary is not None:
        other.vocabulary = replace(other.vocabulary, own=(*other.vocabulary.own, *marks))
    return other


def read_learned(base: StableDiffusion, place: Path, what: str) -> Found:
    """What a training's folder, or a file of words or of a LoRA, holds.

    InputError if it fits another model: it is named where the folder says which.
    """
    place = find_trained(place, base.folder, what, PATTERNS)
    try:
        found = _from_folder(base, place) if place.is_dir() else _from_file(base, place)
        check_words(found.words, base.encoders)
    except InputError as error:
        settings = place / SETTINGS
        there = read_json(settings).get("backbone") if settings.is_file() else None
        if there in (None, base.name):
            raise
        raise InputError(f"{place} was learned on backbone {there!r} and does not fit "
                         f"{base.name!r}: {error}") from error  # fmt: skip
    if not (found.words or found.lora or found.nets):
        raise InputError(f"{place} holds nothing that was learned: no {EMBEDDINGS}, no {LORA} and "
                         "no unet/")  # fmt: skip
    return found


def _from_folder(base: StableDiffusion, place: Path) -> Found:
    words = read_words(place / EMBEDDINGS, base) if (place / EMBEDDINGS).is_file() else {}
    lora = read_lora(place / LORA, base) if (place / LORA).is_file() else None
    settings = place / SETTINGS
    trained = read_json(settings).get("nets", []) if settings.is_file() else NETS
    nets = {net: place / net for net in trained if (place / net / "config.json").is_file()}
    return Found(place, words, lora, nets)


def _from_file(base: StableDiffusion, place: Path) -> Found:
    safe = place.suffix == ".safetensors"
    if safe and any("lora" in key for key in header(place)[1]):
        return Found(place, lora=read_lora(place, base))
    return Found(place, read_words(place, base))


def _net(base: StableDiffusion, name: str) -> Any:
    return base.unet if name == "unet" else base.encoders[NETS.index(name) - 1]


@torch.no_grad()
def _moved(base: StableDiffusion, name: str, folders: Sequence[tuple[Path, float]]) -> nn.Module:
    """The model's net, moved by the weighted differences that nets in folders have to their origin.

    One that counts once is taken as it is. In float32 on the CPU.
    """
    net, origin = _net(base, name), _origin(base, name)
    others = [(_load(origin, folder), weight) for folder, weight in folders]
    if net is origin and len(others) == 1 and others[0][1] == 1:
        return others[0][0]
    moved: nn.Module = copy.deepcopy(net).to("cpu", torch.float32)
    for key, before in origin.named_parameters():
        value, start = moved.get_parameter(key), before.to("cpu", torch.float32, copy=True)
        for other, weight in others:
            value.add_(other.get_parameter(key) - start, alpha=weight)
    return moved


def _origin(base: StableDiffusion, name: str) -> nn.Module:
    """The net with which whole nets began to learn: of a multi-view model the UNet beside its own.

    That makes single pictures, and of it the multi-view one was made.
    """
    place, net = base.folder / "unet", _net(base, name)
    if name != "unet" or base.views == 1 or not (place / "config.json").is_file():
        return cast("nn.Module", net)
    loaded: nn.Module = load_net(type(net), place, device=torch.device("cpu"), dtype=torch.float32)
    return loaded


def _load(like: nn.Module, folder: Path) -> nn.Module:
    """A net of the same class and shapes from its folder, in float32 on the CPU."""
    net: nn.Module
    if folder.name == "unet":
        net = load_folder(type(like), folder)
    else:
        net = load_net(type(like), folder, device=torch.device("cpu"), dtype=torch.float32)
    check_shapes(like, net.state_dict(), str(folder))
    return net


def _with(model: StableDiffusion, name: str, net: nn.Module) -> StableDiffusion:
    """The model with another net, already where and as it is to be used."""
    if name == "unet":
        return with_unet(model, net)
    other = copy.copy(model)
    other.encoders = [*model.encoders]
    other.encoders[NETS.index(name) - 1] = net
    return other


def _twin(net: nn.Module) -> nn.Module:
    """A net of its own with the same weights, not copies of them: LoRAs in it change no other."""
    shared = {id(value): value for value in (*net.parameters(), *net.buffers())}
    return copy.deepcopy(net, shared)


def _with_loras(
    model: StableDiffusion, loras: Sequence[tuple[Path, LoraWeights, float]]
) -> StableDiffusion:
    """The model with LoRAs in force, under names by where they lie."""
    nets = NETS[: 1 + len(model.encoders)]
    for net in nets:
        if any(lora.nets.get(net) for _, lora, _ in loras):
            model = _with(model, net, _twin(_net(model, net)))
    other = copy.copy(model)
    force: dict[str, dict[str, float]] = {net: {} for net in nets}
    for place, lora, weight in loras:
        name = f"learned-{hashlib.sha256(str(place.resolve()).encode()).hexdigest()[:12]}"
        for net, held in put_in(lora, other, name).items():
            force[net][name] = weight
            for parameter in held.parameters.values():
                parameter.requires_grad_(False)
    other.adapters = {**model.adapters, **force["unet"]}
    other.text_adapters = tuple(force[net] for net in nets[1:])
    return other
