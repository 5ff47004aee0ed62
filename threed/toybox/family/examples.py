"""Toybox as training folders: pictures with their truth, and exact edits.

Example i depends on (seed, i) alone, so that drawing can be cut and continued.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from threed.core.cameras import VIEWS
from threed.core.errors import InputError
from threed.diffusion.bodies import cut_out
from threed.diffusion.images import save_image
from threed.learning.data import METADATA, Row, write_examples
from threed.toybox.family.prompts import PERSONS, SITTINGS, prompted, shown, sitting
from threed.toybox.family.shelf import chunks
from threed.toybox.family.spread import spread
from threed.toybox.world.captions import BACKGROUNDS, Label, a, caption
from threed.toybox.world.chance import Rng
from threed.toybox.world.conditions import CONDITIONS, condition_map
from threed.toybox.world.dressed import (
    Dressed,
    Fitting,
    category_of,
    fitting_pictures,
    on_white,
    random_fitting,
    random_outfit,
    said,
)
from threed.toybox.world.edits import random_edit
from threed.toybox.world.garments import laid_flat
from threed.toybox.world.mix import random_scene
from threed.toybox.world.pairs import Pair
from threed.toybox.world.phrases import reworded
from threed.toybox.world.scenes import draw_scene, random_camera, staged
from threed.toybox.world.subjects import (
    Keepsake,
    random_subject,
    random_subject_pair,
    random_subject_scene,
)
from threed.toybox.world.toys import COLORS, FINISHES, KINDS, view_words

SCENES: dict[str, float] = {"toy": 0.5, "pair": 0.3, "figure": 0.2}  # the share of each in examples
TURNED = 0.3  # of those who try something on, seen from anywhere: assets are dressed all around
TRIED = 6  # tells who tries something on from others of a seed
LEAST = 12  # pixels that are seen of a garment that is worn


def draw_examples(
    what: str,
    folder: Path,
    count: int,
    seed: int,
    *,
    processes: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Draw what a folder lacks of `count` examples of SETS; a folder that has more stays as it is.

    "scenes": image, text, and a picture for each of toybox's conditions but edges. "edits": image,
    edited, instruction, and the edit's kind. "subjects": image, text, and a picture of each subject
    in it alone. "shown": image, text, and another picture of what it shows. "persons": image, text,
    person, mask and keypoints, SITTINGS in a row of one person. "tryon" and "outfits": persons and
    what they wear, by the roles of `tryon` and `outfit`. processes: as many as there are cores if
    not given. progress is told how many examples there are.
    """
    if what not in SETS and what != PERSONS:
        raise InputError(f"toybox draws no {what!r}; it draws {', '.join([*SETS, PERSONS])}")
    path = folder / METADATA
    there = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows: list[Row] = [json.loads(line) for line in there]
    for drawn in spread(partial(_some, what, folder, seed), chunks(len(rows), count), processes):
        rows += drawn
        write_examples(folder, rows)
        if progress is not None:
            progress(len(rows))
    return folder


def _some(what: str, folder: Path, seed: int, indices: range) -> list[Row]:
    """Draw some examples into a subfolder; return a row of metadata.jsonl for each."""
    place = folder / f"{indices[0] // 4096:03d}"
    return [
        texts | {role: f"{place.name}/{name}" for role, name in saved.items()}
        for texts, saved in (_one(what, place, seed, index) for index in indices)
    ]


def _one(what: str, place: Path, seed: int, index: int) -> tuple[Row, Row]:
    """Draw one example; return its texts, and the files of its pictures in `place` by role."""
    rng = np.random.default_rng([seed, index, len(what)])
    if what == PERSONS:
        whose = np.random.default_rng([seed, index // SITTINGS, len(what), 1])
        texts, pictures = sitting(rng, whose)
    else:
        texts, pictures = SETS[what](rng)
    names = {role: f"{index:06d}-{role}.png" for role in pictures}
    for role, picture in pictures.items():
        save_image(picture, place / names[role])
    return texts, names


def scene(rng: Rng) -> tuple[Row, dict[str, Tensor]]:
    """Draw a toy, a pair or a person; return its caption, and its truth as pictures.

    Not its edges: those are found in the picture, as they will be in a user's.
    """
    drawn = random_scene(rng, str(rng.choice(list(SCENES), p=list(SCENES.values()))))
    view = draw_scene(drawn)
    maps = {kind: condition_map(kind, view) for kind in CONDITIONS if kind != "edges"}
    return {"text": drawn.caption(rng)}, {"image": shown(view), **maps}


def edit(rng: Rng) -> tuple[Row, dict[str, Tensor]]:
    """Draw a scene before and after an edit; return the instruction and both pictures."""
    made = random_edit(rng)
    both = made.draw()
    return ({"instruction": made.instruction, "kind": made.kind},
            {"image": shown(both.before), "edited": shown(both.after)})  # fmt: skip


def subjects(rng: Rng) -> tuple[Row, dict[str, Tensor]]:
    """Draw one subject, or two together, and each alone, seen from another side.

    Texts: text, the same with <1> and <2> where the subjects are named, the subjects' boxes and
    kinds, and captions of other things, a line each: no words say what colours a subject has.
    """
    alone = rng.uniform() < 0.3
    made: Pair | Keepsake = random_subject(rng) if alone else random_subject_pair(rng)
    each: Any = (made,) if isinstance(made, Keepsake) else made.toys
    camera = random_camera(rng, (-60, 60) if alone else (-15, 15), (0, 30), (0.95, 1.05))
    view = draw_scene(staged(rng, made, camera))
    text, pictures = view.scene.caption(rng), {"image": shown(view)}
    pointed, places = text, []
    for number, (one, box) in enumerate(zip(each, view.boxes.tolist()), 1):
        other = staged(rng, replace(one, scale=1.0, turn_deg=0.0),
                       random_camera(rng, (-60, 60), (-10, 45)))  # fmt: skip
        pictures[f"subject{number}"] = shown(draw_scene(other))
        pointed = re.sub(rf"\b{a(one.kind)}\b", f"<{number}>", pointed, count=1)
        places.append(f"{','.join(f'{side:.4g}' for side in box)}:{one.kind}")
    texts = {"text": text, "pointed": pointed, "subjects": "; ".join(places)}
    return texts | {"captions": "\n".join(other_captions(rng))}, pictures


def other_captions(rng: Rng) -> list[str]:
    """Captions as the family has learned them: of two toys, with a view's word, and of a scene."""
    known = (KINDS, COLORS, FINISHES, BACKGROUNDS)
    labels = [Label(*(int(rng.integers(len(names))) for names in known)) for _ in range(2)]
    toys = [caption(rng, label, str(rng.choice(VIEWS))) for label in labels]
    return [reworded(rng, text) for text in (*toys, random_scene(rng).caption(rng))]


def tryon(rng: Rng) -> tuple[Row, dict[str, Tensor]]:
    """Draw a person, a garment that it wears, laid flat, and all that tells how it is worn.

    Texts: text, garment_text and category. The pictures are those of `fitting_pictures`.
    """
    made = random_fitting(rng, turned=TURNED)
    view, flat = draw_scene(made.scene), draw_scene(laid_flat(made.garment))
    pictures = fitting_pictures(view, made.garment, flat)
    texts = {"text": made.scene.caption(rng), "garment_text": said(made.garment),
             "category": made.category}  # fmt: skip
    return texts, {role: _picture(colors) for role, colors in pictures.items()}


def outfit(rng: Rng) -> tuple[Row, dict[str, Tensor]]:
    """Draw a person in up to three garments, and each alone: as it is worn, and laid flat.

    image: the person; worn_1, worn_2, worn_3: each garment cut out of it, on white; flat_1, ...
    Texts: text, and for each garment text_1, ... and category_1, ...: upper, lower, dress or hat.
    """
    scene = random_outfit(rng)
    view, person = draw_scene(scene), cast(Dressed, scene.subject)
    texts, pictures, number = {"text": scene.caption(rng)}, {"image": shown(view)}, 0
    for garment in person.worn():
        cut, seen = on_white(view, garment)
        if seen.sum() < LEAST:
            continue
        number += 1
        pixels = (cut * 255).round().astype(np.uint8)
        pictures[f"worn_{number}"] = _picture(cut_out(pixels, seen) / 255)
        pictures[f"flat_{number}"] = shown(draw_scene(laid_flat(garment)))
        texts |= {f"text_{number}": said(garment), f"category_{number}": category_of(garment)}
    return texts, pictures


def draw_subject(folder: Path, count: int, seed: int, kind: str | None = None) -> Keepsake:
    """Draw pictures of one subject, each from another side: 00.png, with 00.txt and masks/00.png.

    The caption names the ground and the view, and has {} where the subject's word is to stand.
    The subject depends on the seed and the kind alone, and picture i on these and i.
    """
    subject = random_subject(np.random.default_rng([seed]), kind)
    for index in range(count):
        view = draw_scene(random_subject_scene(np.random.default_rng([seed, index]), subject))
        save_image(shown(view), folder / f"{index:02d}.png")
        mask = torch.from_numpy(view.mask()).expand(3, -1, -1)
        save_image(mask, folder / "masks" / f"{index:02d}.png")
        (side,) = view_words(view.scene.camera)
        text = f"a {{}} on {view.scene.ground.words()}, {side} view\n"
        (folder / f"{index:02d}.txt").write_text(text, encoding="utf-8")
    return subject


def draw_fitting(folder: Path, seed: int, category: str | None = None) -> Fitting:
    """Draw one person who tries on another garment: person.png, garment.png, and all between.

    mask, pose, dense and parse are of the person, as systems take them; worn.png is what it wears,
    cut out on white; truth.png is the same person in the garment. garment.txt is what it is called.
    """
    made = random_fitting(np.random.default_rng([seed, TRIED]), category)
    view, flat = draw_scene(made.scene), draw_scene(laid_flat(made.other))
    known = fitting_pictures(view, made.garment, flat)
    cut, seen = on_white(view, made.garment)
    pictures: dict[str, NDArray[Any]] = {"person": view.picture.rgb, "garment": flat.picture.rgb}
    pictures |= {role: known[role] for role in ("mask", "pose", "dense", "parse")}
    pictures["worn"] = cut_out((cut * 255).round().astype(np.uint8), seen) / 255
    pictures["truth"] = draw_scene(made.changed()).picture.rgb
    for role, colors in pictures.items():
        save_image(_picture(colors), folder / f"{role}.png")
    (folder / "garment.txt").write_text(f"{said(made.other)}\n", encoding="utf-8")
    return made


def edit_triples(count: int, seed: int) -> list[tuple[str, str, str]]:
    """Make up captions before and after, and the instruction: for pairs that a model draws."""
    rng = np.random.default_rng(seed)
    triples = []
    for _ in range(count):
        kind, other = rng.choice(KINDS, 2, replace=False).tolist()
        color, new = rng.choice(list(COLORS), 2, replace=False).tolist()
        if rng.uniform() < 0.6:
            change, after = f"make it {new}", f"{new} {kind}"
        else:
            change, after = f"turn it into {a(other)}", f"{color} {other}"
        triples.append((a(f"{color} {kind}"), change, a(after)))
    return triples


def _picture(colors: NDArray[Any]) -> Tensor:
    """[3, H, W] of colours [H, W, 3] in [0, 1]."""
    return torch.from_numpy(colors.astype(np.float32)).permute(2, 0, 1)


SETS: dict[str, Callable[[Rng], tuple[Row, dict[str, Tensor]]]] = {
    "scenes": scene, "edits": edit, "subjects": subjects, "shown": prompted,
    "tryon": tryon, "outfits": outfit,
}  # fmt: skip
