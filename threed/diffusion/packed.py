"""Nets that hang on a backbone, kept small beside it: what they have of its UNet is left out.

Such a file lies in the backbone's folder, at any depth, and is read as if it were an ordinary one.
Tensors that are the UNet's own are empty in it, the others are float16. In 8 bits, matrices become
whole numbers from -127 to 127, one a weight, and a step for every row; mostly of the difference
from the UNet, which is small, so that its steps are fine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from threed.core.errors import InputError
from threed.diffusion.files import INDEX, NUMBERS, check_weights, metadata, weights

FORM, BASE = "differences_from", "unet"  # in the metadata of such a file
CHANGE, WHOLE, STEP = ".change", ".whole", ".step"  # endings of names
MOST = 127
NOTHING: Mapping[str, str] = MappingProxyType({})


def packed(
    state: Mapping[str, Tensor], base: Mapping[str, Tensor], bits: Literal[16, 8]
) -> dict[str, Tensor]:
    """Turn a net's tensors into those of a file, beside a UNet's."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        like = _like(name, value.shape, base)
        if like is not None and torch.equal(like.half(), value.half()):
            found[f"{name}{CHANGE}"] = torch.zeros(0, dtype=torch.int8)
        elif bits == 16 or value.ndim < 2:
            found[name] = value.half()
        else:
            change = value.float() if like is None else value.float() - like.float()
            pays = like is not None and bool(change.square().sum() < value.float().square().sum())
            numbers, step = _rounded(change if pays else value.float())
            found[f"{name}{CHANGE if pays else WHOLE}"], found[f"{name}{STEP}"] = numbers, step
    return {name: value.contiguous() for name, value in found.items()}


def unpacked(found: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the tensors of a file into a net's, in float32 where they were in 8 bits.

    ValueError for a difference from what the UNet does not have.
    """
    state: dict[str, Tensor] = {}
    for key, value in found.items():
        name, dot, ending = key.rpartition(".")
        if dot + ending == STEP:
            continue
        if dot + ending not in (CHANGE, WHOLE):
            state[key] = value
            continue
        step = found.get(f"{name}{STEP}")
        change = value if step is None else value.float() * _spread(step, value.ndim)
        if dot + ending == CHANGE:
            like = _like(name, None if step is None else value.shape, base)
            if like is None:
                raise ValueError(f"the UNet has no tensor like {name}")
            change = like if step is None else like.float() + change
        state[name] = change
    return state


def write_packed(
    state: Mapping[str, Tensor], file: Path, bits: Literal[16, 8], said: Mapping[str, str] = NOTHING
) -> None:
    """Write a net beside a backbone; said: more for its file's `metadata`.

    InputError if the file lies in no backbone's folder.
    """
    numbers = sum(value.numel() for value in state.values())
    found = packed(state, load_file(base_file(file)), bits)
    save_file(found, file, {"format": "pt", **said, FORM: BASE, NUMBERS: str(numbers)})


def is_packed(file: Path) -> bool:
    """Tell whether a safetensors file, whose header is in order, holds differences."""
    return metadata(file).get(FORM) == BASE


def base_file(file: Path) -> Path:
    """Find the weights that a file's differences are from. InputError if it lies elsewhere."""
    for folder in file.absolute().parents:
        if (folder / INDEX).is_file():
            base, _, safe = weights(folder / BASE, half=False)
            if safe and base.suffix == ".safetensors":
                check_weights(base)
                return base
    raise InputError(f"{file} is to hold differences from a backbone's UNet: it must lie in that "
                     f"backbone's folder, whose {BASE}/ has one file of safetensors")  # fmt: skip


def _rounded(value: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers like value [A, ...], and the step [A] of each row."""
    step = value.flatten(1).abs().amax(1) / MOST
    numbers = (value / _spread(step, value.ndim).clamp_min(1e-30)).round()
    return numbers.clamp(-MOST, MOST).to(torch.int8), step


def _spread(step: Tensor, ndim: int) -> Tensor:
    return step.view(-1, *[1] * (ndim - 1))


def _like(name: str, shape: torch.Size | None, base: Mapping[str, Tensor]) -> Tensor | None:
    """The UNet's tensor of this name, or of it without its first word, if its shape is this."""
    for own in (name, name.partition(".")[2]):
        if own in base and shape in (None, base[own].shape):
            return base[own]
    return None
