"""Examples for InstructPix2Pix out of Prompt-to-Prompt, filtered by what CLIP says of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from threed.apps.cli.weights import EditPairs
from threed.apps.cli.weights import make_pairs as make_pairs_of
from threed.core.errors import InputError
from threed.diffusion.backbone import Backbone
from threed.diffusion.guide import Guide
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.progress import counted
from threed.learning.data import read_examples
from threed.systems.editing.edit_pairs import (
    Filter,
    Likeness,
    Search,
    Triple,
    likeness,
    make_pairs,
    read_triples,
    side_by_side,
    write_pairs,
)
from threed.systems.editing.instruct_pix2pix import ROLES, TEXTS

TRIPLE = Triple("a red mug", "make it blue", "a blue mug")
ANY = Filter(image=-2, direction=-2, text=-2)


@dataclass
class Plane:
    """A CLIP of two dimensions: mean red and blue of a picture, and what texts are told to be."""

    words: dict[str, tuple[float, float]]

    def images(self, pictures: Tensor) -> Tensor:
        return pictures.mean((2, 3))[:, [0, 2]]

    def texts(self, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([self.words[prompt] for prompt in prompts])


PLANE = Plane({"a red mug": (3.0, 0.0), "a blue mug": (0.0, 5.0)})


def pair(one: tuple[float, float], other: tuple[float, float]) -> Tensor:
    """Two pictures of one colour each: red and blue of them."""
    return torch.stack([torch.tensor([red, 0.5, blue])[:, None, None].expand(3, 4, 4)
                        for red, blue in (one, other)])  # fmt: skip


def test_likenesses_are_cosines_of_vectors_and_of_their_changes() -> None:
    seen = likeness(PLANE, pair((1.0, 0.0), (0.6, 0.8)), TRIPLE)
    assert seen.image == pytest.approx(0.6)
    assert (seen.source, seen.target) == pytest.approx((1.0, 0.8))
    # of lengths 1: from (1, 0) to (.6, .8), against from (1, 0) to (0, 1)
    assert seen.direction == pytest.approx((0.4 + 0.8) / (0.8**0.5 * 2**0.5))
    back = likeness(PLANE, pair((0.0, 1.0), (1.0, 0.0)), TRIPLE)
    assert back.direction == pytest.approx(-1)


@pytest.mark.parametrize(("change", "passes"), [
    ({}, True), ({"image": 0.69}, False), ({"direction": 0.19}, False), ({"source": 0.19}, False),
    ({"target": 0.19}, False),
])  # fmt: skip
def test_a_pair_has_to_pass_all_four(change: dict[str, float], passes: bool) -> None:
    least = {"image": 0.7, "direction": 0.2, "source": 0.2, "target": 0.2}
    assert Filter().passes(Likeness(**(least | change))) is passes


def test_the_first_picture_is_the_sources_and_chance_is_decided(backbone: Backbone) -> None:
    def pairs(seed: int) -> list[Tensor]:
        rng = np.random.default_rng(seed)
        made = make_pairs(backbone, PLANE, TRIPLE, rng, tries=2, steps=3)
        return [pictures for pictures, _ in made]

    first, again, other = pairs(0), pairs(0), pairs(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == (2, 3, 32, 32)
    # one noise, two prompts: alike, but not the same
    one, two = first[0]
    assert 0 < float((one - two).abs().max())
    assert float((one - two).norm()) < float((one - first[1][0]).norm())


class Public(AttnProcessor):  # type: ignore[misc]
    """The public code's `prompt_to_prompt`: of [neither, neither, source, target] in a batch the
    second and the last have the self-attention of the one before.
    """

    def __call__(
        self, attn: Any, x: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        context = x if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            attn.head_to_batch_dim(p)
            for p in (attn.to_q(x), attn.to_k(context), attn.to_v(context))
        )
        weights = attn.get_attention_scores(q, k)
        if encoder_hidden_states is None:
            each = weights.chunk(4)
            weights = torch.cat([each[0], each[0], each[2], each[2]])
        return attn.to_out[0](attn.batch_to_head_dim(weights @ v))


def test_both_halves_share_self_attention_as_in_the_public_code(backbone: StableDiffusion) -> None:
    score = side_by_side(backbone, TRIPLE, 0.5, Guide(9.0))
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([900, 900])
    tokens = backbone.encode_text(["", "", TRIPLE.source, TRIPLE.target]).tokens

    def noise() -> Tensor:
        other, text = backbone.unet(x.repeat(2, 1, 1, 1), t[0], tokens).sample.chunk(2)
        return other + (text - other) * 9.0

    plain, before = noise(), backbone.unet.attn_processors
    backbone.unet.set_attn_processor(Public())
    try:
        shared = noise()
    finally:
        backbone.unet.set_attn_processor(before)
    with counted(torch.tensor([900, 400])):
        torch.testing.assert_close(score(x, t), shared, atol=2e-5, rtol=0)
    with counted(torch.tensor([950, 900])):
        torch.testing.assert_close(score(x, t), plain, atol=2e-5, rtol=0)
    assert float((shared - plain)[1].abs().max()) > 1e-2


@pytest.mark.parametrize("steps", [3, 30, 100])
def test_it_is_shared_while_the_public_code_shares_it(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """There, in step i while a threshold that is uniform in 0.1..0.9 is above i / (steps - 1)."""
    shares: list[float] = []
    monkeypatch.setattr("threed.systems.editing.edit_pairs.side_by_side",
                        lambda model, triple, share, guide: shares.append(share))  # fmt: skip
    monkeypatch.setattr("threed.systems.editing.edit_pairs.paint",
                        lambda *_, **__: torch.rand(2, 3, 4, 4))  # fmt: skip
    rng = np.random.default_rng(0)
    list(make_pairs(backbone, PLANE, TRIPLE, rng, tries=50, steps=steps))
    rng, counts = np.random.default_rng(0), []
    for _ in range(50):
        threshold = rng.uniform(0.1, 0.9)
        rng.uniform(7.5, 15)
        rng.integers(2**31)
        counts.append(sum(threshold > i / (steps - 1) for i in range(steps)))
    assert [share * steps for share in shares] == pytest.approx(counts)


def test_the_best_pairs_become_a_training_folder(backbone: Backbone, tmp_path: Path) -> None:
    triples = [TRIPLE, Triple("a blue mug", "make it red", "a red mug")]
    told: list[tuple[int, int]] = []
    search = Search(ANY, tries=3, most=2, steps=2)
    count = write_pairs(backbone, PLANE, triples, tmp_path / "out", search,
                        progress=lambda *n: told.append(n))  # fmt: skip
    assert count == 4
    assert told == [(1, 2), (2, 4)]
    examples = read_examples(tmp_path / "out", 32, pictures=ROLES, texts=TEXTS)
    words = ["make it blue", "make it blue", "make it red", "make it red"]
    assert examples.texts("instruction", range(4)) == words
    # the two of three tries whose change is most like the captions'
    rng = np.random.default_rng([0, 1])
    made = list(make_pairs(backbone, PLANE, triples[1], rng, tries=3, steps=2))
    best = max(made, key=lambda item: item[1].direction)[0]
    shown = torch.stack([examples.pictures(role, [2])[0] for role in ROLES])
    assert float((shown - best).abs().max()) < 0.6 / 255
    seen = [likeness(PLANE, torch.stack([examples.pictures(role, [i])[0] for role in ROLES]),
                     triples[1]).direction for i in (2, 3)]  # fmt: skip
    assert seen[0] >= seen[1]


def test_a_folder_that_was_cut_is_continued(backbone: Backbone, tmp_path: Path) -> None:
    triples = [TRIPLE, TRIPLE, TRIPLE]
    search = Search(ANY, tries=1, steps=2)
    write_pairs(backbone, PLANE, triples, tmp_path / "whole", search)
    write_pairs(backbone, PLANE, triples[:1], tmp_path / "parts", search)
    told: list[tuple[int, int]] = []
    write_pairs(backbone, PLANE, triples, tmp_path / "parts", search,
                progress=lambda *n: told.append(n))  # fmt: skip
    assert told == [(2, 2), (3, 3)]
    other = Triple("a red mug", "make it a cup", "a red cup")
    for told_now, found in (([other], search), (triples, replace(search, steps=3))):
        with pytest.raises(InputError, match=r"parts holds pairs of others: number 1 was made of"):
            write_pairs(backbone, PLANE, told_now, tmp_path / "parts", found)
    whole, parts = ({str(p.relative_to(tmp_path / name)): p.read_bytes()
                     for p in sorted((tmp_path / name).rglob("*")) if p.is_file()}
                    for name in ("whole", "parts"))  # fmt: skip
    assert whole == parts
    search = Search(Filter(image=1.5), tries=1, steps=1)
    with pytest.raises(InputError, match=r"none of 3 pairs passed the filter .*; lower it"):
        write_pairs(backbone, PLANE, triples, tmp_path / "none", search)


def test_triples_are_read_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = [{"input": "a red mug", "edit": "make it blue", "output": "a blue mug"},
            {"caption": "a cat", "edit": "add a hat", "output": "a cat in a hat"}]  # fmt: skip
    path.write_text("\n\n".join(json.dumps(row) for row in rows))
    assert read_triples(path) == [TRIPLE, Triple("a cat", "add a hat", "a cat in a hat")]
    for text, message in (
        ('{"input": "a", "edit": "b"}', r"line 1, must be a JSON object with input, edit, output"),
        ("[1]", "line 1, must be"),
        ("{oh", "line 1, must be"),
        ("", "holds no triples of input"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_triples(path)
    with pytest.raises(InputError, match=r"there is no file .*/no.jsonl"):
        read_triples(tmp_path / "no.jsonl")


def test_clips_vectors_need_no_length() -> None:
    doubled = Plane({name: (2 * a, 2 * b) for name, (a, b) in PLANE.words.items()})
    pictures = pair((1.0, 0.2), (0.3, 0.9))
    assert likeness(doubled, pictures, TRIPLE) == likeness(PLANE, pictures, TRIPLE)


def test_the_command_makes_a_folder_that_trains(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"input": "a red mug", "edit": "make it blue",
                                "output": "a blue mug"}))  # fmt: skip
    options = {"tries": 1, "most": 1, "steps": 1, "seed": 0, "device": "cpu", "count": 1}
    low = {"image": -1.0, "direction": -1.0, "text": -1.0}
    make_pairs_of(EditPairs(triples=str(path), out=tmp_path / "out", **options, **low))
    examples = read_examples(tmp_path / "out", 64, pictures=ROLES, texts=TEXTS)
    assert examples.texts("instruction", [0]) == ["make it blue"]
    make_pairs_of(EditPairs(triples="toybox", out=tmp_path / "made up", **options, **low))
    assert len(read_examples(tmp_path / "made up", 64, pictures=ROLES, texts=TEXTS)) == 1
    with pytest.raises(InputError, match="none of 1 pairs passed the filter"):
        make_pairs_of(EditPairs(triples=str(path), out=tmp_path / "none", **options, image=1.0))
