"""Prompts with pictures among their words, as KOSMOS-G's reader (arXiv:2310.02992) reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from threed.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from threed.diffusion.models.stable_diffusion import StableDiffusion
    from threed.diffusion.parts.reader import Interleaved, Reader

NAME = "kosmos_g"


def read(
    base: StableDiffusion, reader: Reader, texts: Sequence[str], pictures: Sequence[Tensor]
) -> Tensor:
    """[B, L, C] what texts say, with the patches [N, S, C] of the pictures that they point at.

    InputError for one that is not there, and for a learned word, which only a text encoder knows.
    """
    from threed.diffusion.parts.reader import interleaved

    for text in texts:
        if said := [word for word in base.words if word in text]:
            raise InputError(f"system {NAME!r} reads no learned words, and the prompt says "
                             f"{said[0]}: LoRAs can be used beside it")  # fmt: skip
    known = interleaved(base, texts, reader)
    tokens: Tensor = reader(known, gathered(known, pictures))
    return tokens


def gathered(known: Interleaved, pictures: Sequence[Tensor]) -> Tensor | None:
    """[K, S, C] of the pictures that texts point at, in their order; None if they do at none.

    pictures: [N, S, C] of each text; none at all for texts without. InputError for one not there.
    """
    import torch

    for row, numbers in enumerate(known.pictures):
        check_pointed(numbers, len(pictures[row]) if pictures else 0)
    seen = [pictures[row][number] for row, numbers in enumerate(known.pictures)
            for number in numbers]  # fmt: skip
    return torch.stack(seen) if seen else None


def check_pointed(numbers: Sequence[int], count: int) -> None:
    """InputError for a picture, counted from 0, that is not among so many."""
    for number in numbers:
        if not 0 <= number < count:
            raise InputError(f"the prompt says <{number + 1}>, and there are {count} pictures, "
                             "each by an --image, <1> the first")  # fmt: skip
