"""How BootComp learns: to lay flat what is worn, then, from what it laid flat, to dress a person.

An example is a picture of a person with its text, and of each garment what is seen of it (`worn_1`,
cut out of the picture), a picture of it laid flat (`flat_1`), and what it is (`category_1`).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from threed.core.errors import InputError
from threed.core.files import make_folder, read_text
from threed.core.pictures import Size
from threed.diffusion.backbone import Backbone
from threed.diffusion.images import grid, save_image
from threed.diffusion.models.stable_diffusion import require_unet
from threed.diffusion.paint import Ready, paint
from threed.diffusion.parts.channels import let_learn, with_unet
from threed.learning.data import (
    METADATA,
    Examples,
    Latents,
    Row,
    read_examples,
    readable,
    write_examples,
)
from threed.learning.loop import Task
from threed.learning.losses import denoising_loss, dropped, without_text
from threed.systems.reference.ip_adapter import find_encoder
from threed.systems.system import Lesson
from threed.systems.tryon import composition
from threed.systems.tryon.composition import COMPOSITION, DECOMPOSITION, NAME, PRODUCT, Outfit

MOST = 3  # garments of an example
ROLES = tuple(f"{role}_{number}" for role in ("worn", "flat") for number in range(1, MOST + 1))
DROP = 0.05  # text only, garments only, and both: each so often
SHOWN = 6  # examples of a sheet
MADE = "made"  # the folder of what was laid flat
AT_ONCE = 16  # garments laid flat in one batch
STEPS = 20  # of all that is made


def read_outfits(folder: Path, size: Size) -> Examples:
    """Open a training folder. InputError if nobody's garments are known, or one has no name."""
    examples = read_examples(folder, size, texts=("text",))
    unnamed = [(row, number) for row in examples.rows for number in pieces(row)
               if f"category_{number}" not in row]  # fmt: skip
    if unnamed:
        row, number = unnamed[0]
        raise InputError(f"{folder}: the example of {row['image']} has worn_{number}, and no "
                         f"category_{number}, which says what that is")  # fmt: skip
    if not any(map(pieces, examples.rows)):
        raise InputError(f"{folder}: no example has a garment: each needs worn_1 and category_1, "
                         "and some need flat_1")  # fmt: skip
    return readable(folder, examples.rows, size, ROLES)


def pieces(row: Row) -> list[int]:
    """The numbers of an example's garments."""
    return [number for number in range(1, MOST + 1) if f"worn_{number}" in row]


@dataclass(frozen=True, eq=False)
class Dressed:
    """Persons, and garments laid flat that each of them wears."""

    persons: Examples  # image, text
    garments: Examples  # image, garment
    worn: Sequence[Sequence[int]]  # the numbers of each person's garments

    def outfits(self, indices: Sequence[int]) -> tuple[list[int], Tensor]:
        """The garments of these persons, one after the other, and their places [B, N]."""
        lists = [self.worn[i] for i in indices]
        most = max(map(len, lists))
        there = torch.tensor([[place < len(one) for place in range(most)] for one in lists])
        return [number for one in lists for number in one], there


class School:
    """The two UNets that learn, and what they learn from."""

    def __init__(self, backbone: Backbone, lesson: Lesson) -> None:
        self.base, self.lesson, self.examples = (
            require_unet(backbone, NAME), lesson, lesson.examples
        )  # fmt: skip
        given = lesson.options.encoder
        path = None if given is None else Path(given)
        self.encoder = find_encoder(self.base, path, None, NAME)
        self.decomp = self._pupil(lesson.start)
        self.comp = self._pupil(None)
        self.lays, self.sees = (with_unet(self.base, net) for net in (self.decomp, self.comp))
        self.empty = self.base.encode_text([""])
        rows, folder = self.examples.rows, self.examples.folder
        count = round(lesson.options.paired * len(rows))
        pairs = [pair for row in rows[:count] for pair in _pairs(row)]
        self.others = [row for number, row in enumerate(rows)
                       if pieces(row) and (number >= count or "flat_1" not in row)]  # fmt: skip
        if not pairs or not self.others:
            raise InputError(f"{folder}: garments laid flat are known of {len(pairs)}, and persons "
                             f"for whom they can be made are {len(self.others)}; some are needed "
                             "of both")  # fmt: skip
        self.pairs = Examples(folder, pairs, self.examples.size)
        self.flat, self.worn = (Latents(self.base, self.pairs, role) for role in ("image", "worn"))

    def _pupil(self, start: Path | None) -> Any:
        """A UNet to be taught: the backbone's, or a decomposition that was taught before."""
        unet = copy.deepcopy(self.base.unet)
        if start is not None:
            unet = composition.load_unet(self.base, start / DECOMPOSITION)
        unet.float().requires_grad_(True)
        if self.lesson.options.layers == "attention":
            let_learn(unet, lambda name: ".attentions." in name)
        return unet

    def decomposition_loss(self, net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        """[] of garments laid flat, told what is seen of them where they are worn."""
        indices = self.pairs.draw(n, generator)
        no_text, no_worn = dropped(n, DROP, generator)
        names = self.pairs.texts("garment", indices)
        text = self.lays.encode_text([PRODUCT.format(name) for name in names])
        worn = self.worn(indices) * ~no_worn[:, None, None, None].to(self.base.device)
        condition = composition.looking(self.lays, without_text(text, self.empty, no_text), worn)
        return denoising_loss(self.lays, self.flat(indices), condition, generator,
                              debias=self.lesson.debias)  # fmt: skip

    def composition_loss(self, net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        """[] of persons, told garments that were laid flat; the generator stays as it is."""
        made, latents = self.made
        indices = made.persons.draw(n, generator)
        no_text, no_garments = dropped(n, DROP, generator)
        garments, there = made.outfits(indices)
        names = made.garments.texts("garment", garments)
        seen = composition.seen_flat(self.sees, latents["garments"](garments), names).spread(there)
        text = self.base.encode_text(made.persons.texts("text", indices))
        condition = replace(
            without_text(text, self.empty, no_text), attention=(seen.kept(~no_garments),)
        )
        return denoising_loss(self.base, latents["persons"](indices), condition, generator,
                              debias=self.lesson.debias)  # fmt: skip

    @cached_property
    def made(self) -> tuple[Dressed, dict[str, Latents]]:
        """The examples that the decomposition makes, once it has learned, and their latents."""
        folder = self.lesson.out / MADE
        if not (folder / METADATA).is_file():
            self._make(folder)
        rows = [json.loads(line) for line in read_text(folder / METADATA).splitlines()]
        dressed = self._dressed(folder, filtered(rows, self.lesson.options.kept))
        return dressed, {"persons": Latents(self.base, dressed.persons, "image"),
                         "garments": Latents(self.base, dressed.garments, "image")}  # fmt: skip

    def _dressed(self, folder: Path, rows: Sequence[Row]) -> Dressed:
        """The persons of what was made and kept."""
        numbers: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            numbers.setdefault(row["person"], []).append(number)
        persons = [row for row in self.others if row["image"] in numbers]
        size = self.examples.size
        return Dressed(Examples(self.examples.folder, persons, size), Examples(folder, rows, size),
                       [numbers[row["image"]] for row in persons])  # fmt: skip

    def _make(self, folder: Path) -> None:
        """Lay flat what persons wear, and note how alike it is to what is seen of it.

        What an interrupted training has made already is not made again.
        """
        make_folder(folder)
        worn = [{"image": row[f"worn_{number}"], "garment": row[f"category_{number}"],
                 "person": row["image"], "number": str(number)}
                for row in self.others[: self.lesson.options.made] for number in pieces(row)
                ]  # fmt: skip
        source = Examples(self.examples.folder, worn, self.examples.size)
        self.lesson.say(f"laying flat {len(worn)} garments, as examples to learn from")
        rows: list[Row] = []
        for first in range(0, len(worn), AT_ONCE):
            batch = range(first, min(first + AT_ONCE, len(worn)))
            files = [f"{number:06}.png" for number in batch]
            shown = source.pictures("image", batch)
            if not all((folder / file).is_file() for file in files):
                for file, picture in zip(files, self.lay(shown, source.texts("garment", batch),
                                                         first)):  # fmt: skip
                    save_image(picture, folder / file)
            laid = Examples(folder, [{"image": file} for file in files], self.examples.size)
            flat = laid.pictures("image", range(len(files)))
            alike = composition.likeness(self.encoder, shown, flat)
            rows += [worn[i] | {"image": file, "likeness": f"{value:.4f}"}
                     for i, file, value in zip(batch, files, alike.tolist())]  # fmt: skip
        write_examples(folder, rows)

    def lay(self, worn: Tensor, names: Sequence[str], seed: int) -> Tensor:
        """[B, 3, H, W] pictures of garments laid flat, made of what is seen of them."""
        with torch.no_grad():
            score = composition.laid_flat(self.base, worn, names, self.decomp)
            ready = Ready(score, rows=len(worn), own_noise=True)
            return paint(self.base, ready, steps=STEPS, seed=seed, size=self.examples.size)

    def save(self, net: nn.Module, out: Path) -> None:
        """Write the encoder, and the decomposition if it was not taught here, as published."""
        _write(net, out / COMPOSITION)
        if not (out / DECOMPOSITION / "config.json").is_file():
            _write(self.decomp, out / DECOMPOSITION)

    def products(self, net: nn.Module) -> Tensor:
        """[3, H, W] garments as they are worn, what is made of them, and the truth."""
        few = list(range(min(SHOWN, len(self.pairs))))
        worn, flat = (self.pairs.pictures(role, few) for role in ("worn", "image"))
        made = self.lay(worn, self.pairs.texts("garment", few), 0)
        return grid(torch.cat([worn, made.cpu(), flat]), columns=len(few))

    def sheet(self, net: nn.Module) -> Tensor:
        """[3, H, W] persons, and what is made of their garments and words."""
        made, _ = self.made
        few = list(range(min(SHOWN, len(made.persons))))
        garments, there = made.outfits(few)
        worn = Outfit(made.garments.pictures("image", garments),
                        made.garments.texts("garment", garments), there)  # fmt: skip
        with torch.no_grad():
            score = composition.build(self.base, made.persons.texts("text", few), self.comp, worn)
            ready = Ready(score, rows=len(few), own_noise=True)
            pictures = paint(self.base, ready, steps=STEPS, size=self.examples.size)
        return grid(torch.cat([made.persons.pictures("image", few), pictures.cpu()]),
                    columns=len(few))  # fmt: skip


def _pairs(row: Row) -> list[Row]:
    """An example's garments that are known both laid flat and worn."""
    return [{"image": row[f"flat_{number}"], "worn": row[f"worn_{number}"],
             "garment": row[f"category_{number}"]}
            for number in pieces(row) if f"flat_{number}" in row]  # fmt: skip


def filtered(rows: Sequence[Row], kept: float) -> list[Row]:
    """The share of what was made that is most like what is worn, in its order; one at least."""
    values = sorted((float(row["likeness"]) for row in rows), reverse=True)
    least = values[max(round(kept * len(values)), 1) - 1]
    return [row for row in rows if float(row["likeness"]) >= least]


def _write(unet: Any, out: Path) -> None:
    unet.register_to_config(_name_or_path="")  # where it was loaded from is nobody else's business
    unet.save_pretrained(out)


def lessons(backbone: Backbone, lesson: Lesson) -> Task:
    """The training of both UNets, one after the other."""
    school = School(backbone, lesson)
    about = {**lesson.about, "stage": DECOMPOSITION}
    first = Task(school.decomp, school.decomposition_loss, _write, about, school.products)
    return Task(school.comp, school.composition_loss, school.save, lesson.about, school.sheet,
                first=(first,))  # fmt: skip
