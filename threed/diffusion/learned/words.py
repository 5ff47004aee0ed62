"""Words of one's own in files: learned embeddings, read and written as others have them.

diffusers has {"<toy>": [n, C]}, for SDXL {clip_l: [n, C], clip_g: [n, C]}; AUTOMATIC1111 has
string_to_param {"*": [n, C]} and a name in a .pt file, or emb_params in a .safetensors file; the
code of Textual Inversion (arXiv:2208.01618) string_to_token and string_to_param.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from threed.core.errors import InputError
from threed.core.files import check_name, write_aside
from threed.core.saved import Inert, read_saved
from threed.diffusion.files import EMBEDDINGS, metadata
from threed.diffusion.models.convert import read_safetensors
from threed.diffusion.models.latent import LatentModel
from threed.diffusion.models.text import Words, check_words

Layout = Literal["diffusers", "automatic1111", "official"]
_HEADER = "words"  # where our files say whose rows they hold: {name: number of rows}, in order
_BOTH = ("clip_l", "clip_g")  # SDXL's text encoders
_STAR = torch.tensor(265)  # CLIP's token for "*", which stands for the word in older files


def read_words(path: Path, backbone: LatentModel) -> dict[str, tuple[Tensor, ...]]:
    """The words of a file, or folder with one, with rows [n, C] for each text encoder.

    InputError as from `words_in`, and if the backbone's encoders have other widths.
    """
    words = words_in(path)
    try:
        check_words(words, backbone.encoders)
    except InputError as error:
        raise InputError(f"{path} was not learned with backbone {backbone.name!r}, or with one "
                         f"like it: {error}") from error  # fmt: skip
    return words


def words_in(path: Path) -> dict[str, tuple[Tensor, ...]]:
    """The words of a file, or of a folder with one: rows [n, C] float32, one or two tensors each.

    A word whose name is not in the file is called as the file is, without its ending. Nothing in
    the file is executed. InputError if it is damaged or holds no words.
    """
    file = _file(path)
    safe = file.suffix == ".safetensors"
    found: Any = read_safetensors(file) if safe else read_saved(file, others=True)
    sizes = _header(file) if safe else {}
    if isinstance(found, dict) and "string_to_param" in found:
        named = _older(found, file)
    elif isinstance(found, dict) and found.keys() == {*_BOTH}:
        named = _parted([_rows(found[key], key, file) for key in _BOTH], sizes, file)
    elif isinstance(found, dict) and found.keys() == {"emb_params"}:
        named = _parted([_rows(found["emb_params"], "emb_params", file)], sizes, file)
    elif isinstance(found, dict) and found:
        named = {str(name): (_rows(rows, name, file),) for name, rows in found.items()}
    else:
        raise InputError(f"{file} holds no learned words: there are no rows in it")
    return named


def write_words(words: Words, path: Path, layout: Layout = "diffusers") -> None:
    """Write words to a file.

    diffusers: to .safetensors, and its own reader takes one word a file. automatic1111: one word,
    to .safetensors, or for one text encoder to .pt. official: the same, to .pt. InputError for
    another ending, or for words that the layout has no room for.
    """
    endings = {"diffusers": [".safetensors"], "automatic1111": [".safetensors", ".pt"],
               "official": [".pt"]}[layout]  # fmt: skip
    check_name(path, endings)
    pickled = path.suffix.lower() == ".pt"
    said = ", ".join(words) or "none"
    if layout != "diffusers" and len(words) != 1:
        raise InputError(f"the layout {layout} has one word a file, and these are {said}: write "
                         "each to a file of its own")  # fmt: skip
    if pickled and {len(rows) for rows in words.values()} != {1}:
        raise InputError(f"{path} has room for the rows of one text encoder, and {said} has those "
                         "of two (SDXL): choose .safetensors, and the layout diffusers or "
                         "automatic1111")  # fmt: skip
    rows = {name: [part.detach().float().cpu() for part in parts] for name, parts in words.items()}
    with write_aside(path) as part:
        if pickled:
            _save_older(rows, part, layout)
        else:
            _save(rows, part, layout)


def _save(words: Mapping[str, Sequence[Tensor]], file: Path, layout: Layout) -> None:
    tensors = {name: rows[0].clone() for name, rows in words.items()}
    if {len(rows) for rows in words.values()} == {2}:
        each = list(words.values())
        tensors = {key: torch.cat([rows[i] for rows in each]) for i, key in enumerate(_BOTH)}
    elif layout == "automatic1111":
        tensors = {"emb_params": next(iter(tensors.values()))}
    sizes = {name: len(rows[0]) for name, rows in words.items()}
    save_file(tensors, file, {"format": "pt", _HEADER: json.dumps(sizes)})


def _save_older(words: Mapping[str, Sequence[Tensor]], file: Path, layout: Layout) -> None:
    ((name, (rows,)),) = words.items()
    token = _STAR if layout == "official" else int(_STAR)
    found = {"string_to_token": {"*": token}, "string_to_param": {"*": rows}, "name": name}
    torch.save(found, file)


def _file(path: Path) -> Path:
    if not os.path.isdir(path):
        return path
    for name in (EMBEDDINGS, EMBEDDINGS.replace(".safetensors", ".bin"), "embeddings.pt"):
        if (path / name).is_file():
            return path / name
    steps = {int(match[1]): path / match[0] for name in os.listdir(path)
             if (match := re.fullmatch(r"embeddings_gs-(\d+)\.pt", name))}  # fmt: skip
    if steps:
        return steps[max(steps)]
    raise InputError(f"{path} holds no {EMBEDDINGS}; name a file, or a folder with one so called")


def _header(file: Path) -> dict[str, int]:
    """Words and their numbers of rows, as our files say them."""
    text = metadata(file).get(_HEADER, "{}")
    try:
        return {str(name): int(count) for name, count in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{file} is damaged: {_HEADER!r} in its header is none") from error


def _parted(
    rows: Sequence[Tensor], sizes: Mapping[str, int], file: Path
) -> dict[str, tuple[Tensor, ...]]:
    """The rows of each word, of those of all; without sizes they are one word's."""
    if not sizes:
        return {file.stem: tuple(rows)}
    counts = list(sizes.values())
    if min(counts) < 1 or {sum(counts)} != {len(part) for part in rows}:
        raise InputError(f"{file} is damaged: its header has words of {counts} rows, and there are "
                         f"{', '.join(str(len(part)) for part in rows)}")  # fmt: skip
    return dict(zip(sizes, zip(*(part.split(counts) for part in rows))))


def _older(found: Mapping[str, Any], file: Path) -> dict[str, tuple[Tensor, ...]]:
    """The words of a file with string_to_param: a mapping, or the state of a ParameterDict."""
    given = found["string_to_param"]
    if isinstance(given, Inert):
        given = given.state.get("_parameters") if isinstance(given.state, dict) else None
    if not isinstance(given, dict) or not given:
        raise InputError(f"{file} holds no learned words: its string_to_param is empty")
    named: dict[str, tuple[Tensor, ...]] = {
        str(name): (_rows(rows, name, file),) for name, rows in given.items()
    }
    name = found.get("name")
    if isinstance(name, str) and name and len(named) == 1:
        return {name: next(iter(named.values()))}
    return named


def _rows(value: Any, name: object, file: Path) -> Tensor:
    """[n, C] float32 of rows, or of one."""
    good = isinstance(value, Tensor) and value.ndim in (1, 2) and value.numel() > 0
    if not good or str(name).endswith((".weight", ".bias")):
        raise InputError(f"{file} holds no learned words: {str(name)[:80]!r} in it is not the rows "
                         "of one")  # fmt: skip
    rows: Tensor = value.detach().float().view(-1, value.shape[-1])
    if not bool(rows.isfinite().all()):
        raise InputError(f"{file} is damaged: not all numbers of {name!r} are finite")
    return rows
