"""Examples for InstructPix2Pix out of a text-to-image model: pictures of pairs of prompts.

Both pictures of a pair begin from the same noise, and the second takes the self-attention of the
first for a random share of the sampling (Prompt-to-Prompt); of many tries those are kept of which
CLIP says that they changed as the prompts do (arXiv:2211.09800, section 3.1).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from threed.core.errors import InputError
from threed.core.files import make_folder, read_text
from threed.diffusion.backbone import Backbone
from threed.diffusion.guide import Guide
from threed.diffusion.images import save_image
from threed.diffusion.paint import Ready, paint
from threed.diffusion.parts.attention import Rewrite
from threed.diffusion.parts.prompt_edits import ROWS
from threed.diffusion.score import Score, guided, switch
from threed.learning.data import Row, write_examples

TRIPLE = ("input", "edit", "output")  # of a file of triples: caption, instruction, new caption


class Space(Protocol):
    """What CLIP gives: vectors of pictures and texts in one space."""

    def images(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, D]."""
        ...

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """B texts -> [B, D]."""
        ...


@dataclass(frozen=True)
class Triple:
    """A caption, an instruction, and the caption after it."""

    source: str
    instruction: str
    target: str


@dataclass(frozen=True)
class Likeness:
    """What CLIP says of a pair: cosines."""

    image: float  # between the two pictures
    direction: float  # between the change of the pictures and that of the captions
    source: float  # between the first picture and its caption
    target: float  # between the second and its


@dataclass(frozen=True)
class Filter:
    """The least likeness of a pair that is kept; the paper's, for CLIP ViT-L/14."""

    image: float = 0.7
    direction: float = 0.2
    text: float = 0.2

    def passes(self, seen: Likeness) -> bool:
        """Whether a pair is good enough."""
        return (seen.image >= self.image and seen.direction >= self.direction
                and min(seen.source, seen.target) >= self.text)  # fmt: skip


@dataclass(frozen=True)
class Search:
    """How pairs are looked for."""

    keep: Filter = Filter()
    tries: int = 100  # pairs made for each triple
    most: int = 4  # of these, as many are kept at most
    steps: int = 100  # of the sampler
    seed: int = 0


def likeness(clip: Space, pictures: Tensor, triple: Triple) -> Likeness:
    """How a pair [2, 3, H, W] of pictures fits the captions and each other."""
    before, after = F.normalize(clip.images(pictures), dim=-1)
    source, target = F.normalize(clip.texts([triple.source, triple.target]), dim=-1)

    def cosine(a: Tensor, b: Tensor) -> float:
        return float(F.cosine_similarity(a, b, 0))

    return Likeness(cosine(before, after), cosine(after - before, target - source),
                    cosine(before, source), cosine(after, target))  # fmt: skip


def read_triples(path: Path) -> list[Triple]:
    """A file of one JSON object a line, with input (or caption), edit and output."""
    triples = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            words = [row.get("input", row.get("caption")), row.get("edit"), row.get("output")]
        except (ValueError, AttributeError):
            words = []
        if len(words) != 3 or not all(isinstance(word, str) and word for word in words):
            raise InputError(f"{path}, line {number}, must be a JSON object with "
                             f"{', '.join(TRIPLE)}: {line[:60]!r}")  # fmt: skip
        triples.append(Triple(*words))
    if not triples:
        raise InputError(f"{path} holds no triples of {', '.join(TRIPLE)}")
    return triples


def make_pairs(
    backbone: Backbone,
    clip: Space,
    triple: Triple,
    rng: np.random.Generator,
    *,
    tries: int,
    steps: int,
) -> Iterator[tuple[Tensor, Likeness]]:
    """Pairs [2, 3, S, S] in [0, 1] with what CLIP says of them; each from another noise.

    The share of the sampling in which attention is shared is uniform in 0.1..0.9, the scale of
    guidance in 7.5..15. The paper's ancestral sampler would need the same chance in both pictures;
    this one, DDIM, has none.
    """
    for _ in range(tries):
        threshold, scale = rng.uniform(0.1, 0.9), rng.uniform(7.5, 15)
        share = math.ceil(threshold * (steps - 1)) / steps  # while threshold > step / (steps - 1)
        ready = Ready(side_by_side(backbone, triple, share, Guide(float(scale))), rows=ROWS)
        pair = paint(backbone, ready, steps=steps, seed=int(rng.integers(2**31))).cpu()
        yield pair, likeness(clip, pair, triple)


def side_by_side(backbone: Backbone, triple: Triple, share: float, guide: Guide) -> Score:
    """Make the Score of pairs [source, target] of neighbours that share their self-attention.

    In all layers the target has the source's weights up to a share of the sampling, with the text
    and without it, each half its own (the public code's `prompt_to_prompt`).
    """
    texts = backbone.encode_text([triple.source, triple.target, guide.negative])
    pair, other = (
        texts.select(torch.tensor(rows, device=texts.tokens.device)) for rows in ([0, 1], [2, 2])
    )

    def alike(weights: Tensor) -> Tensor:
        return weights[::ROWS].repeat_interleave(ROWS, 0)

    edits = (Rewrite(lambda site: not site.layer.cross, alike),)
    halves = replace(pair, attention=edits), replace(other, attention=edits)
    apart = guided(backbone, pair, other, guide.scale)
    return switch(guided(backbone, *halves, guide.scale), apart, share)


def write_pairs(
    backbone: Backbone,
    clip: Space,
    triples: Sequence[Triple],
    out: Path,
    search: Search = Search(),
    *,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write a training folder of up to `search.most` pairs a triple, those of the best direction.

    A folder that was cut is continued: triples of which it knows are passed over. progress is told
    (triples done, pairs kept). Returns the number of pairs; InputError if none passed, and for a
    folder of other triples, another model or another search.
    """
    make_folder(out)
    log = out / "triples.jsonl"  # a line for each triple that is done: of what, then its examples
    of = [[*astuple(triple), backbone.name, str(search)] for triple in triples]
    lines = [*map(json.loads, read_text(log).splitlines())] if log.is_file() else []
    for number, (line, own) in enumerate(zip(lines, of), 1):
        if line[:1] != [own]:
            raise InputError(f"{out} holds pairs of others: number {number} was made of "
                             f"{line[:1]}, not {own}; choose another --out")  # fmt: skip
    rows: list[Row] = [row for line in lines for row in line[1:]]
    for index in range(len(lines), len(triples)):
        rng = np.random.default_rng([search.seed, index])
        made = make_pairs(
            backbone, clip, triples[index], rng, tries=search.tries, steps=search.steps
        )
        good = sorted(((seen, pair) for pair, seen in made if search.keep.passes(seen)),
                      key=lambda item: -item[0].direction)[: search.most]  # fmt: skip
        best = enumerate(pair for _, pair in good)
        found = [_write(out, index, number, triples[index], pair) for number, pair in best]
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps([of[index], *found]) + "\n")
        rows += found
        if progress is not None:
            progress(index + 1, len(rows))
    if not rows:
        raise InputError(
            f"none of {len(triples) * search.tries} pairs passed the filter {search.keep}; lower "
            "it, or make more tries"
        )
    write_examples(out, rows)
    return len(rows)


def _write(out: Path, index: int, number: int, triple: Triple, pair: Tensor) -> Row:
    names = [f"{index:07d}/{number}_{side}.png" for side in (0, 1)]
    for name, picture in zip(names, pair):
        save_image(picture, out / name)
    return {"image": names[0], "edited": names[1], "instruction": triple.instruction,
            "input": triple.source, "output": triple.target}  # fmt: skip
