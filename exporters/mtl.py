"""Materials of OBJ files: MTL, as it is written in practice."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from exporters.parse import read_file
from exporters.surfaces import Layer, Surface, Wrap
from exporters.text import decode, find_beside, say, to_lines
from threed.core import pictures
from threed.core.errors import InputError
from threed.core.mesh import Material

Entries = Mapping[str, str]  # of a material: what follows each keyword
OPTION = re.compile(r"-([a-z]+)\s+")
VALUES = {"s": 3, "o": 3, "t": 3, "mm": 2}  # of options: numbers at most; others have one word
# what changes looks and has no place in a mesh of ours
LOST = {
    "map_d": "opacity",
    "map_bump": "bump map", "bump": "bump map", "map_kn": "normal map", "norm": "normal map",
    "disp": "displacement", "map_disp": "displacement", "decal": "decal",
    "map_ke": "emission", "map_pr": "roughness map", "map_pm": "metallic map",
}  # fmt: skip


def read_materials(folder: Path, library: str) -> dict[str, Entries]:
    """Read the materials of a `mtllib` line: one file, or several with blanks between them.

    Those that are not there are said.
    """
    found: dict[str, Entries] = {}
    names = [library] if find_beside(folder, library) else library.split()
    for name in names:
        place = find_beside(folder, name)
        if place is None:
            say(f"its materials {name!r} are not there; they are left out")
        else:
            found |= _parse(read_file(place))
    return found


def _parse(content: bytes) -> Mapping[str, Entries]:
    text = re.sub(r"\\[ \t]*\n(?=[ \t])", " ", decode(to_lines(content)))
    found: dict[str, dict[str, str]] = {}
    mine: dict[str, str] = {}
    for line in text.split("\n"):
        keyword, _, rest = line.strip().replace("\t", " ").partition(" ")
        if keyword.lower() == "newmtl":
            mine = found.setdefault(rest.strip(), {})
        elif keyword and keyword[0] != "#":
            mine[keyword.lower()] = rest.strip()
    return found


def to_surface(entries: Entries, folder: Path) -> Surface:
    """Make a surface of a material; what cannot be kept of it is said.

    Its picture is placed by texture coordinates of the name (scale u, v, offset u, v), v upwards,
    where these are not 1 and 0.
    """
    layer = _read_layer(entries["map_kd"], folder) if "map_kd" in entries else None
    color = _read_color(entries.get("kd", ""))
    if layer is not None and color == (0, 0, 0):
        say("the black Kd of a material with a texture is taken for white")
        color = (1.0, 1.0, 1.0)
    lost = {name for keyword, name in LOST.items() if keyword in entries}
    if _number(entries, "d", 1 - _number(entries, "tr", 0)) < 1:
        lost.add("opacity")
    if any(_numbers(entries.get("ke", ""))):
        lost.add("emission")
    for name in sorted(lost):
        say(f"the {name} of its materials is left out")
    return Surface(
        color=color,
        metallic=_number(entries, "pm", Material.metallic),
        roughness=_number(entries, "pr", Material.roughness),
        albedo=layer,
    )


def _numbers(text: str) -> list[float]:
    """The numbers that a text begins with."""
    found = []
    for word in text.split():
        try:
            found.append(float(word))
        except ValueError:
            break
    return found


def _number(entries: Entries, keyword: str, default: float) -> float:
    """The number in [0, 1] that follows a keyword."""
    found = [value for value in _numbers(entries.get(keyword, "")) if value == value]
    return min(max(found[0], 0.0), 1.0) if found else default


def _read_color(text: str) -> tuple[float, float, float]:
    """sRGB in [0, 1]; one number is a grey."""
    values = [min(max(v, 0.0), 1.0) for v in _numbers(text)[:3] if v == v]
    if not values:
        if text:
            say(f"the colour {text!r} is left out: only numbers are read")
        return 1.0, 1.0, 1.0
    return (values[0], values[1], values[2]) if len(values) == 3 else (values[0],) * 3


def _read_layer(text: str, folder: Path) -> Layer | None:
    """The picture that a line of options and a name asks for; said where it cannot be had."""
    options, name = _split_options(text)
    image = read_texture(name, folder)
    if image is None:
        return None
    if any(_numbers(options.get("t", ""))) or _numbers(options.get("mm", "0 1")) != [0, 1]:
        say(f"-mm and -t of its texture {name!r} are left out")
    scale = [*_numbers(options.get("s", "")), 1.0, 1.0][:2]
    offset = [*_numbers(options.get("o", "")), 0.0, 0.0][:2]
    uv = (*scale, *offset)
    wrap: Wrap = "clamp" if options.get("clamp") == "on" else "repeat"
    return Layer(image, 0 if uv == (1, 1, 0, 0) else uv, (wrap, wrap))


def placed(surface: Surface, uv: Mapping[Hashable, Tensor]) -> Surface:
    """The surface, without a picture that no texture coordinates place; that is said.

    uv: coordinates [N, 2] by what the surface calls them.
    """
    if surface.albedo is None or surface.albedo.uv in uv:
        return surface
    say("a texture of faces without texture coordinates is left out")
    return replace(surface, albedo=None)


def read_texture(name: str, folder: Path) -> Tensor | None:
    """The picture [H, W, 3] in [0, 1] that a file in `folder` names; said if it cannot be had."""
    place = find_beside(folder, name)
    if place is None:
        say(f"its texture {name!r} is not there; it is left out")
        return None
    try:
        image = pictures.to_rgb(pictures.open_picture(place), str(place), ground=None)
    except InputError as error:
        say(f"its texture {name!r} is left out: {error}")
        return None
    return torch.from_numpy(np.asarray(image, np.float32) / 255)


def _split_options(text: str) -> tuple[dict[str, str], str]:
    """The options of a texture, and the name of its file, which may have blanks."""
    options = {}
    while found := OPTION.match(text):
        name, text = found[1], text[found.end() :]
        words, most = text.split(), VALUES.get(name)
        count = 1 if most is None else min(len(_numbers(text)), most)
        options[name] = " ".join(words[:count])
        text = text.split(None, count)[-1] if len(words) > count else ""
    return options, text.strip()
