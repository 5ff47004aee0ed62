"""Folders that try-on learns from: our own, VITON-HD's and DressCode's as published.

Ours is a training folder (metadata.jsonl) with pictures of ROLES and with TEXTS. The others are
lists of pairs beside folders of pictures, labels and keypoints.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threed.core import files
from threed.core.errors import InputError
from threed.core.pictures import Size
from threed.systems.tryon.wear import WORDS

if TYPE_CHECKING:
    from threed.learning.data import Examples, Row

ROLES = ("image", "garment", "garment_mask", "agnostic", "mask", "pose", "dense", "parse", "warped")
TEXTS = ("text", "garment_text", "category")
MADE = {  # of what a picture without a file is made
    "garment_mask": "garment", "mask": "parse", "parse": "labels", "pose": "points",
    "dense": "parts", "agnostic": "mask", "warped": "parse",
}  # fmt: skip
CALLED = {
    "upper": "an upper body garment", "lower": "a lower body garment", "dress": "a dress",
}  # fmt: skip
FOLDERS = {"upper_body": "upper", "lower_body": "lower", "dresses": "dress"}  # of DressCode
TAGS = ("sleeveLength", "neckLine", "item")  # that IDM-VTON's captions of VITON-HD are made of
Named = Callable[[str, str], dict[str, str]]


def read_fittings(
    folder: Path, size: Size, roles: Sequence[str], phase: str = "train", *, paired: bool = True
) -> Examples:
    """Open a folder of persons and garments: examples with pictures of these roles, and TEXTS.

    phase: train, or test, of published sets. paired: each person with what it wears; else as the
    list for tests has them. InputError names the line of a list that is damaged, and what is
    missing of what the roles need.
    """
    from threed.learning.data import METADATA, readable
    from threed.learning.worn import Fittings

    if (folder / METADATA).is_file():
        rows = _own(folder, size, roles)
    elif (folder / f"{phase}_pairs.txt").is_file():
        rows = _viton_hd(folder, phase, paired, roles)
    elif any((folder / name).is_dir() for name in FOLDERS):
        rows = _dress_code(folder, phase, paired, roles)
    else:
        raise InputError(f"{folder} holds neither {METADATA}, nor {phase}_pairs.txt as VITON-HD "
                         f"has it, nor {', '.join(FOLDERS)} as DressCode")  # fmt: skip
    held = [role for role in roles if any(role in row for row in rows)]
    return Fittings(folder, readable(folder, rows, size, held).rows, size)


def _own(folder: Path, size: Size, roles: Sequence[str]) -> Sequence[Row]:
    from threed.learning.data import METADATA, read_examples

    rows = read_examples(folder, size, pictures=("image", "garment"), texts=TEXTS).rows
    for row in rows:
        if row["category"] not in WORDS:
            raise InputError(f"{folder / METADATA}: the category of {row['image']} is "
                             f"{row['category']!r}, and must be one of {', '.join(WORDS)}"
                             )  # fmt: skip
        for role in roles:
            _check_there(row, role, {}, f"{folder / METADATA}: {row['image']}")
    return rows


def _viton_hd(folder: Path, phase: str, paired: bool, roles: Sequence[str]) -> list[Row]:
    def named(person: str, garment: str) -> dict[str, str]:
        p, g = Path(person), Path(garment)
        return {
            "image": f"image/{p}", "garment": f"cloth/{g}", "garment_mask": f"cloth-mask/{g}",
            "mask": f"agnostic-mask/{p.stem}_mask.png", "dense": f"image-densepose/{p}",
            "labels": f"image-parse-v3/{p.stem}.png",
            "points": f"openpose_json/{p.stem}_keypoints.json",
        }  # fmt: skip

    pairs, said = folder / f"{phase}_pairs.txt", _tags(folder / phase, phase)
    return [
        {**row, "set": "viton_hd", **_texts("upper", said.get(Path(row["garment"]).name))}
        for row in _rows(folder, pairs, phase, named, roles, same=paired)
    ]


def _dress_code(folder: Path, phase: str, paired: bool, roles: Sequence[str]) -> list[Row]:
    def named(person: str, garment: str) -> dict[str, str]:
        base = Path(person).stem.removesuffix("_0")
        return {
            "image": f"images/{person}", "garment": f"images/{garment}",
            "garment_mask": f"masks/{Path(garment).stem}.png", "parts": f"dense/{base}_5.png",
            "labels": f"label_maps/{base}_4.png", "points": f"keypoints/{base}_2.json",
        }  # fmt: skip

    tail = "" if phase == "train" else "_paired" if paired else "_unpaired"
    rows: list[Row] = []
    for name, category in FOLDERS.items():
        pairs = folder / name / f"{phase}_pairs{tail}.txt"
        if pairs.parent.is_dir():
            rows += [{**row, "set": "dress_code", **_texts(category)}
                     for row in _rows(folder, pairs, name, named, roles)]  # fmt: skip
    return rows


def _rows(
    folder: Path, pairs: Path, place: str, named: Named, roles: Sequence[str], *, same: bool = False
) -> Iterator[Row]:
    """The files of each pair of a list that are there.

    place: the folder of the pictures. same: each person's garment has the person's name, whatever
    the list says.
    """
    for number, line in enumerate(files.read_text(pairs).splitlines(), 1):
        at, words = f"{pairs}, line {number}", line.split()
        if not words:
            continue
        if len(words) != 2 or any(Path(word).name != word for word in words):
            raise InputError(f"{at}, must name a person's picture and a garment's, got "
                             f"{line[:80]!r}")  # fmt: skip
        wanted = {role: f"{place}/{file}"
                  for role, file in named(words[0], words[0 if same else 1]).items()}  # fmt: skip
        row = {role: file for role, file in wanted.items() if (folder / file).is_file()}
        for role in ("image", "garment", *roles):
            _check_there(row, role, wanted, at)
        yield row


def _check_there(row: Row, role: str, wanted: dict[str, str], at: str) -> None:
    """InputError, beginning with `at`, for a picture that has no file and nothing to be made of."""
    source = role
    while source not in row and source in MADE:
        source = MADE[source]
    if source not in row:
        missing = [wanted[name] for name in (role, source) if name in wanted]
        lost = f"there is no {' or '.join(dict.fromkeys(missing))}" if missing else "it is not said"
        raise InputError(f"{at}, has no picture {role!r}: {lost}")


def _texts(category: str, said: str | None = None) -> Row:
    text = said or CALLED[category]
    return {"text": f"a person wearing {text}", "garment_text": text, "category": category}


def _tags(folder: Path, phase: str) -> dict[str, str]:
    """What IDM-VTON's file of tags calls each garment of VITON-HD, by its picture's name."""
    path = folder / f"vitonhd_{phase}_tagged.json"
    if not path.is_file():
        return {}
    try:
        entries: Any = [entry for each in json.loads(files.read_text(path)).values()
                        for entry in each]  # fmt: skip
        return {entry["file_name"]: "a " + " ".join(_categories(entry)) for entry in entries}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged: it must hold lists of garments with file_name and "
                         "tag_info") from error  # fmt: skip


def _categories(entry: Any) -> list[str]:
    known = {tag["tag_name"]: tag["tag_category"] for tag in entry["tag_info"]}
    return [known[name] for name in TAGS if known.get(name)]
