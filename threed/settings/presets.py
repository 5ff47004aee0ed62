"""Presets: runs as YAML that come with threed or that a user wrote, and which to choose."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from threed.core.errors import InputError
from threed.core.files import read_text
from threed.core.words import did_you_mean
from threed.settings.base import override, read, read_yaml
from threed.settings.run import Run

DEFAULT_PRESET = "toybox-mvdream"
Task = Literal["make", "draft", "refine", "texture", "edit"]


def load_run(preset: str | Path = DEFAULT_PRESET, overrides: Sequence[str] = ()) -> Run:
    """The defaults, changed by a preset (a name or a YAML file), changed by name=value words.

    InputError says which setting is unknown or wrong, and what it takes.
    """
    return override(parse_run(_preset_text(str(preset)), str(preset)), overrides)


@lru_cache(maxsize=64)
def parse_run(text: str, where: str) -> Run:
    """A run from the text of a preset; `where` begins the errors."""
    data = read_yaml(text, where)
    return read(Run, {} if data is None else data, where)


def preset_for(backbone: str, task: Task = "make") -> str:
    """The preset that suits a backbone, judged by its name, or by the files of a local folder.

    The task is to make something of nothing, to do so in a hurry, to refine a mesh, to paint one,
    or to edit one. InputError for a draft by a backbone that has none.
    """
    small = backbone.startswith("toybox")
    several = any(word in backbone.lower() for word in ("multiview", "mvdream"))
    config = Path(backbone) / "config.json"  # of a UNet's folder
    if not os.path.isfile(config):
        config = Path(backbone) / "unet" / "config.json"
    if os.path.isfile(config):
        try:
            unet = json.loads(config.read_text(encoding="utf-8"))
            small = int(unet.get("sample_size") or 64) <= 32
            several = unet.get("class_embed_type") == "projection"
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{config} is not the configuration of a UNet") from error
    if task == "draft" and not (small and several):
        raise InputError(f"there is no draft by backbone {backbone!r}, only by toybox-multiview: "
                         "ask for fewer steps, such as steps=200")  # fmt: skip
    return PRESETS[(task, small, several) if task == "make" else (task, small)]


# by what is to be done, whether the model is small, and for a start whether it sees several views
PRESETS: dict[tuple[str, bool] | tuple[str, bool, bool], str] = {
    ("make", True, True): "toybox-mvdream",
    ("make", True, False): "toybox-sds",
    ("make", False, True): "mvdream",
    ("make", False, False): "dreamfusion",
    ("draft", True): "toybox-draft",
    ("refine", True): "toybox-magic3d",
    ("refine", False): "magic3d",
    ("texture", True): "toybox-texture",
    ("texture", False): "texture",
    ("edit", True): "toybox-edit",
    ("edit", False): "edit",
}


def presets() -> dict[str, str]:
    """Names of the presets that come with threed, and what their first line says they are."""
    found = {}
    for entry in files("configs").iterdir():
        if entry.name.endswith(".yaml"):
            first = entry.read_text(encoding="utf-8").partition("\n")[0]
            found[entry.name.removesuffix(".yaml")] = first.lstrip("# ").strip()
    return dict(sorted(found.items()))


def paper(name: str) -> str | None:
    """The first paper that a preset's comments cite, such as "arXiv:2209.14988"."""
    found = re.search(r"arXiv:\d+\.\d+", _preset_text(name))
    return found and found[0]


FACTS = ("good at", "on a GPU", "on a CPU")
"""What a preset's comments say of it, a line each: "# good at: ..."."""


def facts(name: str) -> dict[str, str | None]:
    """Read the FACTS of a preset; None where its comments say nothing."""
    text = _preset_text(name)
    matches = {fact: re.search(rf"^# {fact}: (.+)$", text, re.MULTILINE) for fact in FACTS}
    return {fact: match[1] if match else None for fact, match in matches.items()}


def _preset_text(name: str) -> str:
    entry = files("configs") / f"{name}.yaml"
    if re.fullmatch(r"[\w-]+", name) and entry.is_file():
        return entry.read_text(encoding="utf-8")
    path = Path(name)
    if os.path.isfile(path):
        return read_text(path)
    raise InputError(f"no preset {name!r}, and no such file{did_you_mean(name, presets())}")
