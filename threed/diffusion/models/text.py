"""Text in the steps that a model reads it by: ids, embeddings, encoder; with words of one's own.

A word of one's own has rows in the place of those in the token table. Gradients reach them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from threed.core.errors import InputError
from threed.diffusion.parts.hooks import hooked

Words = Mapping[str, Sequence[Tensor]]
"""Words by their name in prompts ("<toy>"), each with its rows [n, C] for every text encoder.

A model with two encoders (SDXL) has two tensors a word, of the widths of its token tables; n is the
same in all of them, and so many tokens the word takes.
"""


OWN = 1 << 20
"""Where the ids of words of one's own begin: beyond any token table."""


def check_words(words: Words, encoders: Sequence[Any]) -> None:
    """InputError unless each word has rows for every encoder, of its width and equally many."""
    widths = [encoder.get_input_embeddings().weight.shape[1] for encoder in encoders]
    for word, rows in words.items():
        if not word or word != word.strip() or re.search(r"\s", word):
            raise InputError(f"a word of one's own must be one word without blanks, got {word!r}")
        shapes = [tuple(part.shape) for part in rows]
        fits = [len(shape) == 2 and shape[0] == shapes[0][0] > 0 and shape[1] == width
                for shape, width in zip(shapes, widths)]  # fmt: skip
        if len(shapes) != len(widths) or not all(fits):
            needed = ", ".join(f"[n, {width}]" for width in widths)
            raise InputError(f"the word {word!r} needs rows {needed}, one for each text encoder, "
                             f"and has {', '.join(str([*shape]) for shape in shapes)}")  # fmt: skip


def ids_of(tokenizer: Any, prompt: str, words: Words) -> list[int]:
    """The tokens of a prompt, start and end included, however many.

    A word of `words` becomes ids beyond the tokenizer's own, one for each of its rows.
    """
    if not any(word in prompt for word in words):
        ids: list[int] = tokenizer(prompt, verbose=False).input_ids
        return ids
    own, place = {}, OWN
    for word, rows in words.items():
        own[word] = list(range(place, place + len(rows[0])))
        place += len(rows[0])
    *head, end = tokenizer("").input_ids
    longest_first = sorted(own, key=len, reverse=True)
    pattern = rf"(?<!\w)({'|'.join(map(re.escape, longest_first))})(?!\w)"
    for piece in re.split(pattern, prompt):
        head += own.get(piece) or tokenizer(piece, add_special_tokens=False).input_ids
    return [*head, end]


def filled_up(ids: list[int], tokenizer: Any, length: int) -> list[int]:
    """The ids cut to a length, the end kept, or filled up to it with padding."""
    kept = ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]
    return kept + [tokenizer.pad_token_id] * (length - len(kept))


def encode(encoder: Any, ids: Tensor, rows: Sequence[Tensor], **options: Any) -> Any:
    """What an encoder makes of ids [B, L], some of which may stand for rows [n, C] of words.

    Ids from OWN on are those of the rows, in their order. The encoder itself sees id 0 there,
    which no rule for the pooled token takes for the end of the text.
    """
    here = ids >= OWN
    if not bool(here.any()):
        return encoder(ids, **options)
    own = torch.cat([part.to(ids.device) for part in rows])[(ids - OWN).clamp(min=0)]

    def replaced(module: Any, given: Any, output: Tensor) -> Tensor:
        return torch.where(here[..., None], own.to(output.dtype), output)

    table = encoder.get_input_embeddings()
    with hooked([table.register_forward_hook(replaced)]):
        return encoder(ids.masked_fill(here, 0), **options)
