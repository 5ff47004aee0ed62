"""Published checkpoints of the latent-diffusion code base, in diffusers' names and layout.

MVDream's (sd-v2.1-base-4view.pt) holds the UNet under the names of the latent-diffusion code
base, beside the text encoder and VAE of the model that it was fine-tuned from. Those two are
taken from a folder of that model, and compared with the file's, so that a wrong one is noticed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from threed.core.errors import InputError
from threed.core.files import check_out
from threed.core.saved import read_saved
from threed.diffusion.files import INDEX, check_folder, check_weights, parts, read_json, weights
from threed.diffusion.packed import base_file, is_packed, unpacked

PREFIX = "model.diffusion_model."
CONTROL = "control_model."
AVERAGED = "model_ema."  # before the averaged weights, whose names have lost their dots
_RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
_OUTER = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "camera_embed.0": "class_embedding.linear_1", "camera_embed.2": "class_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
}  # fmt: skip
# the first convolutions over a ControlNet's hint: place in the sequence, name in diffusers
_HINT = {0: "conv_in", **{2 * i + 2: f"blocks.{i}" for i in range(6)}, 14: "conv_out"}
# a tensor of each frozen part: its name in the file, the part's folder, how its name ends there
_FROZEN = (
    ("first_stage_model.decoder.conv_out.weight", "vae", "decoder.conv_out.weight"),
    ("cond_stage_model.model.token_embedding.weight", "text_encoder", "token_embedding.weight"),
    ("cond_stage_model.transformer.text_model.embeddings.token_embedding.weight", "text_encoder",
     "token_embedding.weight"),
)  # fmt: skip


def convert_mvdream(source: Path, like: Path, out: Path) -> None:
    """Write a multi-view backbone to the new folder `out`.

    source: the official file (.pt, .ckpt or .safetensors), or the folder of a conversion whose
    UNet kept the names of the file. like: a folder in diffusers' layout of the model that it was
    fine-tuned from (SD 2.1 base, or 1.5). Nothing is executed on the way. InputError for damage,
    for another kind of model, or another base.
    """
    from diffusers import UNet2DConditionModel

    check_out(out, folder=True)
    if out.exists():
        raise InputError(f"{out} exists already; choose another --out")
    check_folder(like)
    if read_json(like / "scheduler/scheduler_config.json").get("prediction_type") == "v_prediction":
        raise InputError(f"{like} predicts v, and MVDream predicts noise: it was fine-tuned from "
                         "sd21-base or sd15")  # fmt: skip
    state = read_state(source)
    _check_base(state, like, source)
    unet = {name.removeprefix(PREFIX): value for name, value in state.items()
            if name.startswith(PREFIX) or source.is_dir()}  # fmt: skip
    if "camera_embed.0.weight" not in unet or unet["camera_embed.0.weight"].ndim != 2:
        raise InputError(f"{source} holds no MVDream UNet: there is no camera_embed in it")
    config = unet_config(read_json(like / "unet/config.json"), unet)
    layers = config["layers_per_block"]
    renamed = {diffusers_name(name, layers): unet[name].contiguous() for name in unet}
    with torch.device("meta"):
        blank = UNet2DConditionModel.from_config(config)
    check_shapes(blank, renamed, source)
    for part in parts(like):
        if part != "unet":
            shutil.copytree(like / part, out / part)
    (out / "unet").mkdir()
    save_file(renamed, out / "unet/diffusion_pytorch_model.safetensors", {"format": "pt"})
    (out / "unet/config.json").write_text(json.dumps(config, indent=2))
    shutil.copyfile(like / INDEX, out / INDEX)  # last: a folder without it is none


def read_state(source: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, or of the UNet of a folder; nothing is executed.

    What else is in it, as Lightning's files hold their callbacks, is passed over.
    """
    if os.path.isdir(source):
        source = weights(source / "unet", half=False)[0]
    if source.suffix == ".safetensors":
        return read_safetensors(source)
    state = read_saved(source, others=True)
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    named = state.items() if isinstance(state, dict) else ()
    return {k: v for k, v in named if isinstance(k, str) and isinstance(v, Tensor)}


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file by name. InputError if it is damaged.

    Differences from a backbone's UNet are added to it.
    """
    check_weights(path)
    base = base_file(path) if is_packed(path) else None
    try:
        state = dict(load_file(path))
        return state if base is None else unpacked(state, load_file(base))
    except Exception as error:  # a reader in Rust has one type for all it stumbles over
        raise InputError(f"{path} is damaged: its tensors are not what its header says") from error


def averaged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of latent diffusion's UNet by their names, averaged over the training if stored.

    The code base samples under the averages (its `ema_scope`), so they are the published model.
    What was not trained has none.
    """
    found = {name: state.get(AVERAGED + name.removeprefix("model.").replace(".", ""), value)
             for name, value in state.items() if name.startswith(PREFIX)}  # fmt: skip
    return {name.removeprefix(PREFIX): value for name, value in found.items()}


def unet_config(base: Mapping[str, Any], unet: Mapping[str, Tensor]) -> dict[str, Any]:
    """The base's config with cameras, at half its size: MVDream was trained at 256 of 512."""
    width = unet["camera_embed.0.weight"].shape[1]
    cameras = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": width}
    return {**base, **cameras, "sample_size": base["sample_size"] // 2}


def diffusers_name(name: str, layers: int) -> str:
    """What diffusers' UNet2DConditionModel calls a tensor of latent diffusion's UNet.

    layers: resnets a block on the way down; there is one more on the way up.
    """
    for theirs, ours in _OUTER.items():
        if name.startswith(theirs + "."):
            return ours + name.removeprefix(theirs)
    if match := re.fullmatch(r"middle_block\.(\d)\.(.+)", name):
        part = int(match[1])  # resnet, attention, resnet
        return _inside("mid_block", part // 2, part == 1, match[2])
    match = re.fullmatch(r"(in|out)put_blocks\.(\d+)\.(\d)\.(.+)", name)
    if match is None:
        raise InputError(f"{name} is no tensor of a UNet of latent diffusion")
    way, index, part, rest = match[1], int(match[2]), int(match[3]), match[4]
    # on the way down, the first convolution counts as a block
    block, layer = divmod(index - (way == "in"), layers + 1)
    where = f"{'down' if way == 'in' else 'up'}_blocks.{block}"
    if rest.startswith("op."):
        return f"{where}.downsamplers.0.conv.{rest.removeprefix('op.')}"
    if rest.startswith("conv."):
        return f"{where}.upsamplers.0.{rest}"
    return _inside(where, layer, part == 1, rest)


def latent_diffusion_names(paths: Collection[str], layers: int) -> dict[str, str]:
    """What latent diffusion calls these layers of diffusers' UNet2DConditionModel; others are left.

    paths: of all its layers, as an upsampler's name depends on whether its block has attentions.
    layers: as in diffusers_name.
    """
    attended = {path.split(".attentions.")[0] for path in paths if ".attentions." in path}
    outer = {ours: theirs for theirs, ours in _OUTER.items()}
    resnet = {ours: theirs for theirs, ours in _RESNET.items()}
    named = {path: outer[path] for path in paths if path in outer}
    for path in paths:
        if match := re.fullmatch(r"mid_block\.(resnet|attention)s\.(\d)\.(.+)", path):
            kind, part, rest = match[1], int(match[2]), match[3]
            place = f"middle_block.{2 * part if kind == 'resnet' else 1}"
        elif match := re.fullmatch(
            r"((down|up)_blocks\.(\d+))\.(resnet|attention|(?:down|up)sampler)s\.(\d)\.(.+)", path
        ):
            block, kind, rest = int(match[3]), match[4], match[6]
            layer = layers if kind.endswith("sampler") else int(match[5])
            way, first = ("input", 1) if match[2] == "down" else ("output", 0)
            part = {"attention": 1, "upsampler": 1 + (match[1] in attended)}.get(kind, 0)
            place = f"{way}_blocks.{block * (layers + 1) + layer + first}.{part}"
        else:
            continue
        inside = {"resnet": resnet.get(rest, rest), "downsampler": "op"}.get(kind, rest)
        named[path] = f"{place}.{inside}"
    return named


def controlnet_state(state: Mapping[str, Tensor], layers: int, source: str) -> dict[str, Tensor]:
    """A ControlNet's tensors by diffusers' names, of a file of the original's, or of diffusers'.

    layers: resnets a block on the way down. InputError if the file holds no ControlNet.
    """
    if "controlnet_mid_block.weight" in state:
        return dict(state)
    found = {k.removeprefix(CONTROL): v for k, v in state.items() if k.startswith(CONTROL)}
    if not found:
        raise InputError(f"{source} holds no ControlNet: no name in it begins with {CONTROL}")
    return {encoder_name(name, layers): value for name, value in found.items()}


def encoder_name(name: str, layers: int) -> str:
    """What diffusers' ControlNetModel calls a tensor of a trainable copy of the encoder."""
    if match := re.fullmatch(r"input_hint_block\.(\d+)\.(.+)", name):
        return f"controlnet_cond_embedding.{_HINT.get(int(match[1]), match[1])}.{match[2]}"
    if match := re.fullmatch(r"zero_convs\.(\d+)\.0\.(.+)", name):
        return f"controlnet_down_blocks.{match[1]}.{match[2]}"
    if name.startswith("middle_block_out.0."):
        return f"controlnet_mid_block.{name.removeprefix('middle_block_out.0.')}"
    return diffusers_name(name, layers)


def _inside(where: str, layer: int, attention: bool, rest: str) -> str:
    if attention:
        return f"{where}.attentions.{layer}.{rest}"
    stem, _, kind = rest.rpartition(".")
    return f"{where}.resnets.{layer}.{_RESNET.get(stem, stem)}.{kind}"


def _check_base(state: Mapping[str, Tensor], like: Path, source: Path) -> None:
    """InputError if the frozen parts in a file are not those of the base."""
    for theirs, part, ours in _FROZEN:
        if theirs not in state:
            continue
        file = weights(like / part, half=False)[0]
        known = read_state(file)
        (name,) = (name for name in known if name.endswith(ours))
        a, b = state[theirs].float(), known[name].float()
        if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-2, atol=1e-3):
            raise InputError(f"{source} was not fine-tuned from {like}: their {part}s differ; "
                             "MVDream has models of sd21-base and of sd15")  # fmt: skip


def check_shapes(net: nn.Module, state: Mapping[str, Tensor], source: Path | str) -> None:
    """InputError if a tensor is missing, superfluous or of another shape than the net's."""
    expected = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    wrong = sorted(name for name, _ in expected.items() ^ found.items())
    if wrong:
        raise InputError(f"{source} does not fit: {wrong[0]} is {found.get(wrong[0])}, and "
                         f"{expected.get(wrong[0])} was expected")  # fmt: skip
