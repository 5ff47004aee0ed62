"""What is taught about a thing with no name: a few pictures of it, a new word, and its kind.

A folder of pictures is enough: at least three, of one thing. A .txt beside a picture holds its
caption with the word in it, or {} where it is to stand; masks/NAME.png says by white where the
thing is. Instead, config.json of Direct Consistency Optimization's code names pictures, prompts,
base prompts and new words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from threed.core import files
from threed.core.errors import InputError
from threed.core.words import did_you_mean
from threed.diffusion.files import SETTINGS, read_json
from threed.diffusion.learned.names import spoken, unsaid
from threed.settings.base import Settings
from threed.systems.inputs import LEARNED, Input
from threed.systems.system import Training

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from threed.core.pictures import Size
    from threed.diffusion.backbone import Backbone
    from threed.diffusion.paint import Ready
    from threed.learning.data import Examples
    from threed.systems.system import Lesson, Request

LEAST = 3  # pictures
CONFIG = "config.json"
MASK, MASKS = "mask", "masks"  # a role, and the folder beside pictures where masks lie
TEXT, BASE = "text", "base"  # of an example: with the new word, and with its kind in that place
OTHERS = (".txt", ".json", ".jsonl", ".md", ".safetensors", ".pt", ".csv")  # are no pictures
TOGETHER = 8  # class pictures that are made at once,
STEPS, SCALE = 25, 5.0  # in so many steps, under so much guidance
LISTS = ("images", "prompts", "base_prompts", "inserting_tokens", "initializer_tokens")


WEIGHTS = Input(
    "weights",
    LEARNED,
    "what was learned: a training's folder or a file, and after a colon how much it counts",
    required=True,
    many=True,
)


class Options(Settings):
    """What is taught."""

    name: str = Field("", description='the new word, such as "<toy>"')
    kind: str = Field("", description="what sort of thing it is, such as mug; of a look: style")
    prompt: str = Field(
        "a photo of a {}", description="of pictures without a .txt; the word stands in place of {}"
    )
    config: str = Field("", description="which of config.json, if it has several")


def training(**own: Any) -> Training:
    """The training of a system that learns a thing from a folder of its pictures."""
    return Training(data=None, pictures=lambda options: ("image",), texts=(), read=read_subject,
                    **own)  # fmt: skip


def taught_words(options: Options, folder: Path) -> dict[str, str]:
    """The words to be learned, by name, with what each begins as. InputError if they are not said.

    Those of config.json where there is one, else name and kind.
    """
    if (folder / CONFIG).is_file():
        told = _config(folder, options.config)
        return dict(zip(told["inserting_tokens"], told["initializer_tokens"]))
    for name, example in (("name", '"<toy>"'), ("kind", "mug")):
        if not getattr(options, name).strip():
            raise InputError(f"say {name}={example}: what is taught needs a new word (name) and "
                             "the word for its sort of thing (kind)")  # fmt: skip
    if "{}" not in options.prompt:
        raise InputError(f"prompt={options.prompt!r} has no {{}}, where the word is to stand")
    return {options.name: options.kind.strip()}


def read_subject(folder: Path, size: Size, options: Options) -> Examples:
    """Open a folder of pictures of one thing: examples with image, text, base, and perhaps mask.

    InputError for fewer than three that can be read, for folders of several things, and for
    captions without the new word. A warning counts and names pictures that cannot be read.
    """
    from threed.learning.data import readable

    if not folder.is_dir():
        raise InputError(f"there is no folder of pictures {folder}")
    words = taught_words(options, folder)
    listed = (folder / CONFIG).is_file()
    rows = _listed(folder, options) if listed else _found(folder, options, words)
    examples = readable(folder, rows, size, ("image", MASK), {MASK: everywhere})
    if len(examples) < LEAST:
        raise InputError(
            f"{folder} holds {len(examples)} pictures that can be used, and at least {LEAST} of "
            "one thing are needed: from other sides, on other grounds"
        )
    return examples


def check_words(backbone: Backbone, words: Mapping[str, str]) -> None:
    """InputError for a name that is several words or known already, and for an unknown kind."""
    base: Any = backbone
    for name, kind in words.items():
        if not name or re.search(r"\s", name):
            raise InputError(f'name must be one new word, such as "<toy>", got {name!r}')
        known = backbone.vocabulary
        single = len(base.tokenizers[0](name).input_ids) == 3  # with start and end
        if single or (known is not None and name.lower() in known.words):
            plain = re.sub(r"\W", "", name) or "toy"
            raise InputError(
                f"name={name!r} is a word that backbone {backbone.name!r} knows already, and would "
                f'be lost: take a new one, such as "<{plain}>"'
            )
        unknown = known.unknown(kind) if known is not None else ()
        if unknown:
            assert known is not None
            raise InputError(f"kind={kind!r}: backbone {backbone.name!r} knows no "
                             f"{unknown[0]!r}{did_you_mean(kind, known.kinds)}")  # fmt: skip


def describe(examples: Examples) -> str:
    """Say what was found: "5 pictures of 640×480 to 1024×768 pixels, 2 with a mask"."""
    from PIL import Image

    found = []
    for row in examples.rows:
        with Image.open(examples.folder / row["image"]) as picture:
            found.append(picture.size)
    low, high = (f"{w}×{h}" for w, h in (min(found), max(found)))
    sizes = low if low == high else f"{low} to {high}"
    masks = sum(MASK in row for row in examples.rows)
    return f"{len(found)} pictures of {sizes} pixels" + (f", {masks} with a mask" if masks else "")


def prompted(backbone: Backbone, request: Request, weights: None = None) -> Ready:
    """Make the Score of a prompt alone: what was learned is the backbone's (System.equipped)."""
    from threed.diffusion.paint import Ready
    from threed.diffusion.score import guided

    text, other = (backbone.encode_text([p]) for p in (request.prompt, request.guide.negative))
    return Ready(guided(backbone, text, other, request.guide.scale))


def class_pictures(backbone: Backbone, lesson: Lesson, kind: str, count: int) -> Examples:
    """Pictures of the kind that the frozen model makes, in lesson.out/class; those there are kept.

    They are what prior preservation (DreamBooth, section 3.2) holds the model to. InputError if
    those there are of another kind, model or size.
    """
    from threed.diffusion.guide import Guide
    from threed.diffusion.images import make_images, save_image
    from threed.learning.data import read_examples, write_examples

    prompt, folder = f"a photo of a {kind}", lesson.out / "class"
    folder.mkdir(parents=True, exist_ok=True)
    about = {"prompt": prompt, "backbone": backbone.name, "size": str(lesson.examples.size)}
    made_before = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else about
    if made_before != about:
        raise InputError(f"{folder} holds pictures of other settings, {made_before}, where {about} "
                         "are needed: choose another --out")  # fmt: skip
    files.write(folder / SETTINGS, json.dumps(about).encode())
    for first in range(0, count, TOGETHER):
        names = [f"{number:04d}.png" for number in range(first, min(first + TOGETHER, count))]
        if all((folder / name).is_file() for name in names):
            continue
        made = make_images(backbone, prompt, n=len(names), steps=STEPS, guide=Guide(SCALE),
                           seed=first, size=lesson.examples.size)  # fmt: skip
        for name, picture in zip(names, made):
            save_image(picture, folder / name)
        lesson.say(f"pictures of {prompt!r}: {first + len(names)} of {count}")
    rows = [{"image": f"{number:04d}.png", TEXT: prompt, BASE: prompt} for number in range(count)]
    write_examples(folder, rows)
    found = {MASK: everywhere}
    return read_examples(folder, lesson.examples.size, texts=(TEXT, BASE), found=found)


def everywhere(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Make the mask of a picture without one: white."""
    white: NDArray[np.uint8] = picture * 0 + 255
    return white


def _found(folder: Path, options: Options, words: Mapping[str, str]) -> list[dict[str, str]]:
    """The pictures that lie in a folder, with their captions and masks."""
    rows = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() or path.name.startswith(".") or path.suffix.lower() in OTHERS:
            continue
        caption = path.with_suffix(".txt")
        said = files.read_text(caption).strip() if caption.is_file() else options.prompt
        text = said.replace("{}", options.name)
        if unsaid(words, text):
            raise InputError(f"{caption} does not say {options.name!r}, the word that is "
                             f"taught: {text[:80]!r}")  # fmt: skip
        row = {"image": path.name, TEXT: text, BASE: spoken(text, words)}
        mask = folder / MASKS / f"{path.stem}.png"
        rows.append(row | ({MASK: f"{MASKS}/{mask.name}"} if mask.is_file() else {}))
    inner = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name != MASKS)
    if not rows and inner:
        raise InputError(f"{folder} holds no pictures but folders, {', '.join(inner[:5])}: one "
                         "thing is taught at a time, so choose the one that holds it")  # fmt: skip
    if not rows:
        raise InputError(f"{folder} holds no pictures")
    return rows


def _listed(folder: Path, options: Options) -> list[dict[str, str]]:
    """The pictures that config.json names: by paths from its folder, or by their names in it."""
    told = _config(folder, options.config)
    rows = []
    for image, text, base in zip(*(told[name] for name in LISTS[:3])):
        places = [(folder / name).resolve() for name in (image, Path(image).name)]
        near = [p for p in places if p.is_file() and p.is_relative_to(folder.resolve())]
        if not near:
            raise InputError(f"{folder / CONFIG} names {image}, which is not in {folder}")
        inside = near[0].relative_to(folder.resolve()).as_posix()
        rows.append({"image": inside, TEXT: text, BASE: base})
    return rows


def _config(folder: Path, which: str) -> Mapping[str, Sequence[str]]:
    """One entry of config.json, whose lists are as long as one another."""
    path = folder / CONFIG
    try:
        data = json.loads(files.read_text(path))
        entries = {name: entry for name, entry in data.items() if _is_entry(entry)}
    except (ValueError, RecursionError, AttributeError) as error:
        raise InputError(f"{path} is damaged: it is no JSON object") from error
    if not entries or (which and which not in entries):
        have = f"; {', '.join(entries)} have" if entries else ""
        raise InputError(f"{path}: no entry {which or 'at all'} has the lists "
                         f"{', '.join(LISTS)}{have}")  # fmt: skip
    if len(entries) > 1 and not which:
        raise InputError(f"{path} has several entries: say config={' or config='.join(entries)}")
    entry: Mapping[str, Sequence[str]] = entries[which or next(iter(entries))]
    for first, *others in (LISTS[:3], LISTS[3:]):
        uneven = [name for name in others if len(entry[name]) != len(entry[first])]
        if uneven:
            raise InputError(f"{path}: {first} has {len(entry[first])} entries, and {uneven[0]} "
                             f"has {len(entry[uneven[0]])}")  # fmt: skip
    return entry


def _is_entry(value: object) -> bool:
    """Whether a value of config.json has all LISTS, of words."""
    lists = [value.get(name) for name in LISTS] if isinstance(value, dict) else [None]
    return all(isinstance(one, list) and all(isinstance(w, str) for w in one) for one in lists)
