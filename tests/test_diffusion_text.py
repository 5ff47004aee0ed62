"""Words of one's own: ids, embeddings and encoder, each in its place, and gradients to the rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import LENGTH, WIDTH, Kind, tiny_folder
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.models.text import OWN
from threed.diffusion.parts.words import refine, word_spans, word_tokens

TOY = "<toy>"


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    kind: Kind = request.param
    loaded = load_backbone(str(tiny_folder(tmp_path_factory.mktemp("tiny") / kind, kind)))
    assert isinstance(loaded, StableDiffusion)
    return loaded


def rows_of(backbone: StableDiffusion, word: str) -> list[Tensor]:
    """The rows of a word of the tokenizer's own, in every encoder's table."""
    ids = list(backbone.token_ids(word)[1:-1])
    return [encoder.get_input_embeddings().weight[ids].clone() for encoder in backbone.encoders]


def random_rows(backbone: StableDiffusion, n: int) -> list[Tensor]:
    return [torch.randn(n, WIDTH, requires_grad=True) for _ in backbone.encoders]


@pytest.mark.parametrize("word", ["x", "mug"])  # one token, and three
def test_a_word_with_the_rows_of_another_is_that_word(backbone: StableDiffusion, word: str) -> None:
    prompts = ["a red {}", "{}, a {} and a hat", "({})", "no word of it", ""]
    said = backbone.encode_text([p.format(TOY, TOY) for p in prompts],
                                words={TOY: rows_of(backbone, word)})  # fmt: skip
    plain = backbone.encode_text([p.format(word, word) for p in prompts])
    assert torch.equal(said.tokens, plain.tokens)
    if plain.pooled is not None:
        assert said.pooled is not None
        assert torch.equal(said.pooled, plain.pooled), "the end of the text is where it was"


def test_prompts_without_it_are_bitwise_plain(backbone: StableDiffusion) -> None:
    prompts = ["a red mug", "a toy", "<toys>", "<toy>s"]
    knowing = backbone.with_words({TOY: random_rows(backbone, 2)})
    assert torch.equal(knowing.encode_text(prompts).tokens, backbone.encode_text(prompts).tokens)
    assert not knowing.encode_text(prompts).tokens.requires_grad
    assert knowing.token_ids("a red mug") == backbone.token_ids("a red mug")


def test_a_batch_is_its_prompts_one_by_one(backbone: StableDiffusion) -> None:
    words = {TOY: random_rows(backbone, 2), "<style>": random_rows(backbone, 1)}
    prompts = ["a <toy>", "in <style>", "a <toy> in <style> <toy>", "a hat"]
    together = backbone.encode_text(prompts, words).tokens
    for prompt, tokens in zip(prompts, together):
        alone = backbone.encode_text([prompt], words).tokens[0]
        torch.testing.assert_close(alone, tokens, atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_rows_of_every_encoder_and_nothing_else(
    backbone: StableDiffusion,
) -> None:
    rows, other = random_rows(backbone, 2), random_rows(backbone, 1)
    text = backbone.encode_text(["a <toy>"], {TOY: rows, "<style>": other})
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([400])
    noise = backbone.predict_noise(x, t, text)
    gradients = torch.autograd.grad(noise.sum(), [*rows, *other])
    assert all(bool((g.abs().amax(1) > 0).all()) for g in gradients[: len(rows)])
    assert all(float(g.abs().max()) == 0 for g in gradients[len(rows) :])
    assert not any(p.requires_grad for e in backbone.encoders for p in e.parameters())


def test_words_are_found_where_their_tokens_are(backbone: StableDiffusion) -> None:
    knowing = backbone.with_words({TOY: random_rows(backbone, 2)})
    knowing = knowing.with_words({"<style>": random_rows(backbone, 3)})
    prompt = "x <toy>, in <style>"
    ids = knowing.token_ids(prompt)
    assert [i for i in ids if i >= OWN] == [OWN, OWN + 1, OWN + 2, OWN + 3, OWN + 4]
    assert knowing.token_count(prompt) == (len(ids), LENGTH) == (11, LENGTH)
    assert word_tokens(knowing, prompt, TOY) == [2, 3]
    assert word_tokens(knowing, prompt, "<style>") == [7, 8, 9]
    assert [len(span) for span in word_spans(knowing, prompt)] == [1, 3, 2, 3]
    moved = refine(knowing, "x <toy>", "an x <toy>", LENGTH)
    assert moved.matrix[[2, 3], [4, 5]].tolist() == [1, 1]
    assert moved.taken[:8].tolist() == [1, 0, 0, 1, 1, 1, 1, 1]


def test_long_prompts_are_cut_before_their_end(backbone: StableDiffusion) -> None:
    knowing = backbone.with_words({TOY: random_rows(backbone, 40)})
    ids = knowing.token_ids(TOY)
    assert ids == (backbone.token_ids("")[0], *range(OWN, OWN + LENGTH - 2), ids[-1])
    assert ids[-1] == backbone.token_ids("")[-1]
    assert knowing.encode_text([TOY]).tokens.shape[1] == LENGTH
    assert knowing.token_count(TOY) == (42, LENGTH)


def test_rows_that_do_not_fit_are_named(backbone: StableDiffusion) -> None:
    good = random_rows(backbone, 2)
    cases: list[list[Tensor]] = [
        [],
        [*good, torch.zeros(2, WIDTH)],
        [torch.zeros(WIDTH)] * len(good),
        [torch.zeros(2, WIDTH + 1)] * len(good),
        [torch.zeros(0, WIDTH)] * len(good),
    ]
    for rows in cases:
        with pytest.raises(InputError, match=r"word '<toy>' needs rows \[n, 32\].*, and has"):
            backbone.with_words({TOY: rows})
    with pytest.raises(InputError, match="one word without blanks, got 'a toy'"):
        backbone.with_words({"a toy": good})


def test_two_encoders_need_equally_many_rows(backbone: StableDiffusion) -> None:
    uneven = [torch.zeros(1 + i, WIDTH) for i in range(len(backbone.encoders))]
    if len(uneven) == 1:
        backbone.with_words({TOY: uneven})
    else:
        with pytest.raises(InputError, match=r"has \[1, 32\], \[2, 32\]"):
            backbone.with_words({TOY: uneven})
