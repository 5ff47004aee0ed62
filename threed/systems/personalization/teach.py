"""How a model is taught a thing: its new words' rows, prior preservation, what a sheet shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from threed.diffusion.files import EMBEDDINGS
from threed.diffusion.images import grid
from threed.diffusion.learned.words import write_words
from threed.diffusion.models.stable_diffusion import StableDiffusion, require_unet
from threed.diffusion.models.text import Words
from threed.diffusion.paint import Ready, paint
from threed.diffusion.score import guided
from threed.learning.data import Examples, Latents, Mixed
from threed.learning.loop import Task
from threed.learning.losses import denoising_loss
from threed.systems.personalization.subject import (
    MASK,
    TEXT,
    check_words,
    class_pictures,
    describe,
    taught_words,
)

if TYPE_CHECKING:
    from threed.diffusion.backbone import Backbone
    from threed.systems.system import Lesson

FORMS = ("a {}", "a {}, back view", "a red {}", "a {} on a blue background")  # of a sheet
RARE, LENGTH = 64, 0.9  # rows drawn for a new word; the quantile of the table's lengths
OUTSIDE = 0.1  # how much of an error counts where a mask is black
SHOWN = 4  # pictures in a row of a sheet, made in
STEPS, SCALE = 12, 5.0  # so many steps under so much guidance
Save = Callable[[nn.Module, Path], None]


class Rows(nn.Module):
    """The rows of new words, which learn: in place of rows of the token tables.

    They are a net of their own, so whatever an optimiser does to them, no other row can move.
    """

    def __init__(self, words: Words) -> None:
        super().__init__()
        self.names = list(words)
        self.rows = nn.ParameterList(row.clone() for rows in words.values() for row in rows)

    def words(self) -> dict[str, tuple[Tensor, ...]]:
        """The words with their rows [n, C] as they are now, one tensor a text encoder."""
        each = len(self.rows) // len(self.names)
        parts = (self.rows[each * i : each * (i + 1)] for i in range(len(self.names)))
        return dict(zip(self.names, map(tuple, parts)))


def begin(backbone: Backbone, lesson: Lesson, what: str) -> tuple[StableDiffusion, dict[str, str]]:
    """The model that is taught, and the words by what they begin as; says what pictures there are.

    InputError for a model without a UNet, and for words as of `subject.check_words`.
    """
    base = require_unet(backbone, what)
    words = taught_words(lesson.options, lesson.examples.folder)
    check_words(base, words)
    lesson.say(describe(lesson.examples))
    return base, words


def rows_of(base: StableDiffusion, kind: str, vectors: int | None = None) -> tuple[Tensor, ...]:
    """The rows [n, C] of a word in each text encoder's token table, repeated or cut to `vectors`.

    Fewer vectors than the word has tokens begin as the tokens' mean.
    """
    found = []
    for tokenizer, encoder in zip(base.tokenizers, base.encoders):
        table = encoder.get_input_embeddings().weight.detach().float()
        rows = table[tokenizer(kind).input_ids[1:-1]]
        if vectors is not None:
            short = vectors < len(rows)
            rows = rows.mean(0, keepdim=True) if short else rows
            rows = rows.repeat(-(-vectors // len(rows)), 1)[:vectors]
        found.append(rows.clone())
    return tuple(found)


@torch.no_grad()
def rare_rows(base: StableDiffusion, name: str, kind: str) -> tuple[Tensor, ...]:
    """The rows of a new word and its kind: DreamBooth's "[V] mug" (arXiv:2208.12242, section 3.1).

    The paper takes a token that is hardly ever used for [V]. Here it is a row that never was, a
    random mixture of the table's: of so many that the name decides, the one that changes most of
    what the encoders say of the kind, for a frozen encoder reads most rows as nothing.
    """
    generator = torch.Generator().manual_seed(int.from_bytes(name.encode(), "big") % (2**61 - 1))
    drawn = []
    for encoder, rows in zip(base.encoders, rows_of(base, kind)):
        table = encoder.get_input_embeddings().weight.detach().float()
        weights = torch.randn(RARE, len(table), generator=generator).to(table.device)
        mixed = F.normalize(weights @ (table - table.mean(0)), dim=-1)
        mixed = mixed * table.norm(dim=-1).quantile(LENGTH)
        drawn.append([torch.cat([row[None], rows]) for row in mixed])
    words = {f"<rare{i}>": each for i, each in enumerate(zip(*drawn))}
    told = base.with_words(words).encode_text([f"a {word}" for word in words]).tokens
    loudest = int((told - told.median(0).values).flatten(1).norm(dim=1).argmax())
    return list(words.values())[loudest]


def subject_task(
    model: StableDiffusion,
    frozen: StableDiffusion,
    net: nn.Module,
    lesson: Lesson,
    words: Mapping[str, str],
    save: Save,
) -> Task:
    """Teach what the pictures show, and hold the model to what it makes of the kind (DreamBooth).

    model: what learns, as it predicts; frozen: what makes the pictures of the kind, as many as
    options.class_pictures, which count options.prior times.
    """
    told, examples = lesson.options, lesson.examples
    data: Examples | Mixed = examples
    weights = [1.0]
    if told.prior > 0:
        kind = next(iter(words.values()))
        weights.append(told.prior)
        data = Mixed([examples, class_pictures(frozen, lesson, kind, told.class_pictures)], weights)
    latents = Latents(frozen, data, "image")

    def loss(_: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        chosen = data.draw(n, generator)
        here = latents(chosen)
        condition = model.encode_text(data.texts(TEXT, chosen))
        mask = mask_of(examples, data, chosen, here)
        return denoising_loss(model, here, condition, generator, debias=lesson.debias,
                              weights=weights, mask=mask)  # fmt: skip

    return Task(net, loss, save, about(lesson, words), sheet_of(model, lesson, words))


def mask_of(examples: Examples, data: Examples | Mixed, chosen: list[int], like: Tensor) -> Any:
    """[B, 1, h, w] how much each place of latents counts; None if no picture has a mask.

    What lies outside of a mask counts a little, so that nothing is free to become anything.
    """
    if not any(MASK in row for row in examples.rows):
        return None
    masks = data.pictures(MASK, chosen).mean(1, keepdim=True).clamp(min=OUTSIDE)
    return F.adaptive_avg_pool2d(masks, (like.shape[-2], like.shape[-1])).to(like)


def about(lesson: Lesson, words: Mapping[str, str]) -> dict[str, Any]:
    """What settings.json says of a training: the words by name, with what each began as."""
    return {**lesson.about, "words": dict(words)}


def sheet_of(
    model: StableDiffusion, lesson: Lesson, words: Mapping[str, str]
) -> Callable[[nn.Module], Tensor]:
    """What makes a sheet, [3, H, W]: the pictures that are learned over what is made by now."""
    examples, name = lesson.examples, next(iter(words))
    prompts = [form.format(name) for form in FORMS]

    def sheet(_: nn.Module) -> Tensor:
        given = examples.pictures("image", [i % len(examples) for i in range(SHOWN)])
        told, other = model.encode_text(prompts), model.encode_text([""] * len(prompts))
        ready = Ready(guided(model, told, other, SCALE))
        made = paint(model, ready, n=len(prompts), steps=STEPS, size=examples.size)
        return grid(torch.cat([given.to(model.device), made]), columns=SHOWN)

    return sheet


def save_words(words: Words, out: Path) -> None:
    """Write the words' rows as diffusers has them."""
    out.mkdir(parents=True, exist_ok=True)
    write_words({name: tuple(row.detach().cpu() for row in rows) for name, rows in words.items()},
                out / EMBEDDINGS)  # fmt: skip
