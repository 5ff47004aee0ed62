"""What systems learned, on disk: finding it, and loading it without executing anything."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from threed.core.errors import InputError
from threed.core.files import check_out
from threed.diffusion.files import NUMBERS, SETTINGS, metadata, read_json
from threed.diffusion.models.convert import check_shapes, read_state
from threed.diffusion.packed import FORM, base_file, write_packed

STEM = "diffusion_pytorch_model"
ENDINGS = ("safetensors", "bin")
NET = "adapter.safetensors"  # of what hangs on a backbone, beside its config.json
PATTERNS = ("*.json", "*.safetensors")  # of the files that are fetched


def find_trained(
    given: Path | None, folder: Path, system: str, patterns: Sequence[str] = PATTERNS
) -> Path:
    """Where a system's weights are: as given (a file, a folder, or owner/name of the hub), or
    `folder`/`system`, if they came with the backbone. InputError says how to get some.
    """
    if given is None:
        if (beside := folder / system).is_dir():
            return beside
        raise InputError(f"system {system!r} needs --weights: its backbone comes without. Train "
                         f"them: threed train {system} --data DIR --out DIR")  # fmt: skip
    given = given.expanduser()
    if os.path.exists(given):
        return given
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(given)):
        return _from_hub(str(given), patterns)
    raise InputError(f"there are no weights at {given}")


def _from_hub(name: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Exception as error:  # the hub raises a dozen unrelated types; all mean "not there"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{name} is neither on this disk nor could it be fetched: {reason}"
                         ) from error  # fmt: skip


def weights_file(folder: Path) -> Path:
    """The weights in a net's folder of diffusers' layout; safetensors first."""
    names = (f"{STEM}{variant}.{ending}" for ending in ENDINGS for variant in ("", ".fp16"))
    if there := [folder / name for name in names if (folder / name).is_file()]:
        return there[0]
    found = sorted(path.name for path in folder.iterdir())
    raise InputError(f"{folder} holds no {STEM}.safetensors; found {', '.join(found) or 'nothing'}")


def load_folder(kind: Any, folder: Path) -> Any:
    """A net in float32 from its folder: config.json and the weights, in diffusers' layout.

    InputError if anything is missing, superfluous, damaged or of another shape.
    """
    config = read_json(folder / "config.json")
    named = config.get("_class_name", kind.__name__)
    if named != kind.__name__:
        raise InputError(f"{folder} holds a {named}, where a {kind.__name__} is needed")
    file = weights_file(folder)
    return described(kind, config, read_state(file), file)


def described(kind: Any, config: Mapping[str, Any], state: Mapping[str, Tensor], file: Path) -> Any:
    """The net that a config describes, with a file's weights. InputError as of `load_folder`."""
    try:
        with torch.device("meta"):
            blank = kind.from_config(config)
    except Exception as error:  # a config may say anything
        raise InputError(f"{file.parent} cannot be loaded as a {kind.__name__}: its config.json "
                         "describes none") from error  # fmt: skip
    check_shapes(blank, state, str(file))  # before a large net is made
    return filled(kind.from_config(config), state, str(file))


def write_net(net: nn.Module, out: Path, config: Mapping[str, Any], file: str = NET) -> None:
    """Write what hangs on a backbone: its tensors to a file, and what it was made for."""
    out.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in net.state_dict().items()}
    save_file(state, out / file, {"format": "pt"})
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def filled(net: Any, state: Mapping[str, Tensor], source: str) -> Any:
    """The net with these weights, in float32; InputError names the first tensor that is wrong."""
    check_shapes(net, state, source)
    net.load_state_dict({name: value.float() for name, value in state.items()})
    return net


def frozen(net: nn.Module, device: torch.device, dtype: torch.dtype) -> Any:
    """The net as it is used: on its device, in evaluation mode, without gradients."""
    # past diffusers' own, which warns of casts whatever is cast
    return nn.Module.to(net, device, dtype).eval().requires_grad_(False)


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items()
            if name.startswith(prefix)}  # fmt: skip


def pack(source: Path, out: Path, bits: Literal[16, 8] = 16) -> Path:
    """Copy what a training made, in 16 or 8 bits, without its checkpoint: what there is to keep.

    Configs, safetensors and the settings of the training, of the folder and those in it, as they
    lie there; what the last stage wrote anew is left out of those before it. In 8 bits they are
    differences from the UNet of the backbone in whose folder `out` lies. InputError if there are no
    weights, if `out` exists, or lies elsewhere.
    """
    check_out(out, folder=True)

    def found(pattern: str) -> list[Path]:
        return sorted(source.rglob(pattern)) if os.path.isdir(source) else []

    stages = [path.parent for path in found(SETTINGS) if "stage" in read_json(path)]

    def kept(pattern: str) -> list[Path]:
        return [path for path in found(pattern) if not any(
            path.is_relative_to(stage) and (source / path.relative_to(stage)).exists()
            for stage in stages
        )]  # fmt: skip

    files = kept("*.safetensors")
    if not files:
        raise InputError(f"{source} holds no weights to pack")
    if out.exists():
        raise InputError(f"{out} exists already; choose another --out")
    if bits == 8:
        base_file(out)  # before anything is written
    for file in files:
        place = out / file.parent.relative_to(source)
        place.mkdir(parents=True, exist_ok=True)
        state = read_state(file)
        said = {name: text for name, text in metadata(file).items() if name not in (FORM, NUMBERS)}
        if bits == 8:
            write_packed(state, place / file.name, bits, said)
        else:
            halved = {name: value.half().contiguous() for name, value in state.items()}
            save_file(halved, place / file.name, said)
    for file in (there for name in ("config.json", SETTINGS) for there in kept(name)):
        if (place := out / file.relative_to(source)).parent.is_dir():
            shutil.copyfile(file, place)
    return out
