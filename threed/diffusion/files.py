"""Diffusers folders on disk: what is in them, and whether it can be trusted to load.

Every check reads headers only, so it runs before any long step; nothing is ever unpickled here.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from threed.core.errors import InputError
from threed.core.files import read_text

INDEX = "model_index.json"
SETTINGS = "settings.json"  # how a net was trained
EMBEDDINGS = "learned_embeds.safetensors"  # words of one's own, in a training's folder
NUMBERS = "numbers"  # how many a file stands for, if not for those of its tensors
_METADATA = "__metadata__"
_NAMES = dict.fromkeys(("unet", "vae", "transformer"), "diffusion_pytorch_model")
_MAX_HEADER = 100_000_000  # bytes: the safetensors format's own limit


def parts(folder: Path, unet: str = "unet") -> tuple[str, ...]:
    """The subfolders that a text-to-image model needs."""
    index = read_json(folder / INDEX)
    texts = [f"{what}{number}" for number in ("", "_2", "_3")
             if has_part(index, f"text_encoder{number}", default=not number)
             for what in ("tokenizer", "text_encoder")]  # fmt: skip
    return (*texts, "vae", denoiser(folder, unet), "scheduler")


def denoiser(folder: Path, unet: str = "unet") -> str:
    """The subfolder of what predicts: a transformer where the model has one, else the UNet."""
    return "transformer" if has_part(read_json(folder / INDEX), "transformer") else unet


def has_part(index: Mapping[str, Any], part: str, *, default: bool = False) -> bool:
    """Whether an index names a part; [null, null] says that a model was saved without it."""
    if part not in index:
        return default
    named = index[part]
    return not (isinstance(named, list) and all(word is None for word in named))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. InputError names the file if it is missing or damaged."""
    if not os.path.isfile(path):
        raise InputError(f"{path} is missing: a backbone is a folder in diffusers' layout")
    try:
        value = json.loads(read_text(path))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: it is no JSON") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object, found {type(value).__name__}")
    return value


def check_folder(folder: Path, unet: str = "unet", *, half: bool = False) -> None:
    """Refuse, with an InputError, a folder that would fail to load: parts missing or cut short."""
    for part in parts(folder, unet):
        if part.startswith("tokenizer"):
            either = ("vocab.json", "tokenizer.json")
            if not any((folder / part / name).is_file() for name in either):
                raise InputError(f"{folder / part} holds neither vocab.json nor tokenizer.json")
        elif part == "scheduler":
            read_json(folder / part / "scheduler_config.json")
        else:
            read_json(folder / part / "config.json")
            for file in _shards(weights(folder / part, half=half)[0]):
                check_weights(file)


def weights(part: Path, *, half: bool) -> tuple[Path, str | None, bool]:
    """The file to load a part from, its variant ("fp16") and whether it is safetensors.

    safetensors before .bin; the fp16 variant first when half is asked for, last otherwise.
    """
    stem = _NAMES.get(part.name.split("_")[0], "model")
    variants = ("fp16", None) if half else (None, "fp16")
    for safe in (True, False):
        name = stem if safe else stem.replace("model", "pytorch_model") if stem == "model" else stem
        suffix = "safetensors" if safe else "bin"
        for variant in variants:
            dotted = f".{variant}" if variant else ""
            for file in (f"{name}{dotted}.{suffix}", f"{name}.{suffix}.index{dotted}.json"):
                if (part / file).is_file():
                    return part / file, variant, safe
    found = sorted(p.name for p in part.glob("*")) if part.is_dir() else []
    raise InputError(
        f"{part} holds no weights: expected {stem}.safetensors, found {found or 'no such folder'}"
    )


def _shards(file: Path) -> Iterable[Path]:
    if file.suffix != ".json":
        return [file]
    return [file.parent / name for name in sorted(set(read_json(file)["weight_map"].values()))]


def check_weights(path: Path) -> None:
    """InputError if a .safetensors or .bin file is cut short or is something else."""
    try:
        size = path.stat().st_size
        expected = _safetensors_size(path) if path.suffix == ".safetensors" else None
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None
    except InputError:
        raise
    except Exception as error:  # the header may hold anything
        raise InputError(f"{path} is no safetensors file, or it is damaged") from error
    if expected is not None and size != expected:
        raise InputError(f"{path} is {'truncated' if size < expected else 'damaged'}: it has "
                         f"{size:,} bytes of {expected:,}; copy or download it again")  # fmt: skip
    if path.suffix == ".bin" and not zipfile.is_zipfile(path):
        raise InputError(f"{path} is truncated, or an old pickle, which is never opened; save it "
                         "again as safetensors")  # fmt: skip


def count_numbers(part: Path, *, half: bool) -> int:
    """Count the numbers that the weights of a part hold, whatever their precision.

    Headers are read; of a .bin file the size, at two bytes a number in its fp16 variant, else four.
    """
    file, variant, _ = weights(part, half=half)
    total, width = 0, 2 if variant == "fp16" else 4
    for shard in _shards(file):
        if shard.suffix == ".safetensors":
            sizes = (math.prod(entry["shape"]) for entry in header(shard)[1].values())
            said = metadata(shard).get(NUMBERS, "")
            total += int(said) if said.isdecimal() else sum(sizes)
        else:
            total += shard.stat().st_size // width
    return total


def _safetensors_size(path: Path) -> int:
    """The number of bytes that the header promises. InputError if there is no such header."""
    length, tensors = header(path)
    return length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)


def header(path: Path) -> tuple[int, dict[str, Any]]:
    """Read how long a safetensors header is, in bytes, and what it says of each tensor.

    InputError if there is no such header.
    """
    damage = f"{path} is no safetensors file, or it is damaged: "
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise InputError(f"{damage}only {len(start)} bytes long")
        (length,) = struct.unpack("<Q", start)
        if length > _MAX_HEADER:
            raise InputError(f"{damage}no safetensors header")
        text = file.read(length)
    if len(text) < length:
        raise InputError(f"{damage}truncated within its header")
    tensors: dict[str, Any] = json.loads(text)
    tensors.pop(_METADATA, None)
    return 8 + int(length), tensors


def metadata(path: Path) -> dict[str, str]:
    """Read what a safetensors file whose header is in order says of itself beside its tensors."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        said = json.loads(file.read(length)).get(_METADATA, {})
    return {name: str(value) for name, value in said.items()} if isinstance(said, dict) else {}


def wanted(files: Iterable[str], *, half: bool) -> list[str]:
    """Which of a hub repository's files to download: configs, tokenizers, one weight a part."""
    files = sorted(files)
    chosen = [f for f in files if f == INDEX]
    folders = {f.split("/")[0] for f in files if f.count("/") == 1}
    numbered = {f"{what}{number}" for what in ("tokenizer", "text_encoder")
                for number in ("", "_2", "_3")}  # fmt: skip
    known = {"vae", "unet", "transformer", "scheduler"} | numbered
    for folder in sorted(folders & known):
        inside = [f for f in files if f.startswith(f"{folder}/") and f.count("/") == 1]
        chosen += [f for f in inside if f.endswith((".json", ".txt", ".model"))]
        candidates = [f for f in inside if f.endswith((".safetensors", ".bin"))]
        candidates = [f for f in candidates if "non_ema" not in f and "onnx" not in f]
        safe = [f for f in candidates if f.endswith(".safetensors")] or candidates
        fp16 = [f for f in safe if ".fp16" in f]
        plain = [f for f in safe if f not in fp16]
        chosen += (fp16 or plain) if half else (plain or fp16)
    return chosen
