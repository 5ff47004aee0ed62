"""Prompt-to-Prompt against its equations, its identities, and on toys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.silhouette import overlap, silhouettes
from tests.systems import asked, prepared, sampled
from tests.tiny import Kind, tiny_folder
from threed.core.errors import InputError
from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.images import save_image
from threed.diffusion.inversion import Nulls, levels
from threed.diffusion.paint import Ready, paint
from threed.diffusion.parts.prompt_edits import Exchange as Plan
from threed.diffusion.parts.prompt_edits import keep_outside
from threed.diffusion.parts.words import Alignment
from threed.systems.editing.prompt_to_prompt import SYSTEM, Knobs, Words, build
from threed.toybox.family.nets import WEIGHTS
from threed.toybox.judge.net import load_judge

SOURCE, EDITED = "a red mug", "a blue mug"


@pytest.fixture(scope="module", params=["sd15", "sd21", "sdxl"])
def any_kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    kind: Kind = request.param
    folder = tiny_folder(tmp_path_factory.mktemp("tiny") / kind, kind)
    return load_backbone(str(folder), device="cpu")


def pair(backbone: Backbone, size: int = 8, t: int = 901) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(1, 4, size, size, generator=g).repeat(2, 1, 1, 1), torch.tensor([t, t])


# the equations


def plan(matrix: Tensor, taken: Tensor, factors: Tensor, until: float = 1.0) -> Plan:
    spans = torch.tensor([0.0, until])[:, None].repeat(1, len(taken))
    return Plan(Alignment(matrix, taken), factors, spans, 0.5, 16)


def weights(rows: int, places: int, tokens: int) -> Tensor:
    return torch.rand(rows, 3, places, tokens).softmax(-1)


def test_cross_attention_is_mapped_weighed_and_mixed_by_the_papers_equations() -> None:
    """Those of AttentionReplace, AttentionRefine and AttentionReweight, written out here."""
    old = weights(4, 5, 3)
    source, edited = old[::2], old[1::2]
    mapper, taken = torch.rand(3, 3), torch.tensor([1.0, 0.0, 1.0])
    factors = torch.tensor([1.0, 1.0, -2.0])
    held = torch.tensor([[True, True, True], [False, True, True]])
    new = plan(mapper, taken, factors).cross(held)(old)
    assert torch.equal(new[::2], source)
    replaced = torch.einsum("bhpw,wn->bhpn", source, mapper)
    refined = (replaced * taken + edited * (1 - taken)) * factors
    on = held.float()[:, None, None]
    torch.testing.assert_close(new[1::2], refined * on + edited * (1 - on))


def test_self_attention_is_the_sources_in_small_layers_while_it_is_due() -> None:
    old, large = weights(4, 16, 16), weights(4, 17, 17)
    change = plan(torch.eye(3), torch.ones(3), torch.ones(3)).alike(torch.tensor([True, False]))
    new = change(old)
    assert torch.equal(new[:2], old[[0, 0]])
    assert torch.equal(new[2:], old[2:])
    assert torch.equal(change(large), large)


def test_edits_are_there_only_while_something_is_due() -> None:
    some = plan(torch.eye(3), torch.ones(3), torch.ones(3), until=0.8)
    due = [len(some.edits(torch.tensor([t]))) for t in (1000, 500, 490, 200, 190, 0)]
    assert due == [2, 2, 1, 1, 0, 0]


def test_outside_of_the_mask_a_step_gives_the_sources_latents() -> None:
    x = torch.randn(1, 4, 4, 4).repeat(2, 1, 1, 1)
    noises, sigma = torch.randn(2, 4, 4, 4), torch.full((2, 1, 1, 1), 0.6)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    kept = keep_outside(mask, noises, x, sigma)
    assert torch.equal(kept[0], noises[0])
    assert torch.equal(kept[1, ..., :2], noises[1, ..., :2])
    assert torch.equal(kept[1, ..., 2:], noises[0, ..., 2:])
    x[1] += torch.randn(4, 4, 4)  # apart already: the clean picture behind is the source's
    kept = keep_outside(mask, noises, x, sigma)
    clean = x - sigma * kept
    torch.testing.assert_close(clean[1, ..., 2:], clean[0, ..., 2:])


# the identities of the published code


def test_the_source_is_never_changed(any_kind: Backbone) -> None:
    x, t = pair(any_kind)
    expected = sampled(any_kind, SOURCE, EDITED)(x, t)[0]
    for words, knobs in (
        (Words(), Knobs(cross_replace=1.0, self_replace=1.0)),
        (Words(weigh=(("blue", 5.0),), blend=("mug",)), Knobs(blend_start=0.0)),
        (Words(hold=(("blue", (0.0, 0.2)),)), Knobs(self_replace=0.0)),
    ):
        found = build(any_kind, EDITED, SOURCE, words=words, knobs=knobs)(x, t)[0]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_identical_prompts_give_identical_pictures(any_kind: Backbone) -> None:
    both = build(any_kind, SOURCE, SOURCE, knobs=Knobs(cross_replace=0.5, self_replace=0.5))
    pictures = paint(any_kind, Ready(both, rows=2), n=2, steps=3)
    torch.testing.assert_close(pictures[1::2], pictures[::2], atol=1e-5, rtol=0)
    assert float((pictures[2] - pictures[0]).abs().max()) > 1e-3


def test_zero_fractions_give_plain_samples(any_kind: Backbone) -> None:
    none = build(any_kind, EDITED, SOURCE, knobs=Knobs(cross_replace=0.0, self_replace=0.0))
    x, t = pair(any_kind)
    assert torch.equal(none(x, t), sampled(any_kind, SOURCE, EDITED)(x, t))


def test_weights_of_one_change_nothing_and_others_do(backbone: Backbone) -> None:
    x, t = pair(backbone)

    def edited(factor: float) -> Tensor:
        knobs = Knobs(cross_replace=1.0, self_replace=1.0)
        return build(backbone, SOURCE, words=Words(weigh=(("red", factor),)), knobs=knobs)(x, t)

    same, more = edited(1.0), edited(4.0)
    torch.testing.assert_close(same[1], same[0], atol=1e-5, rtol=1e-5)
    assert float((more[1] - more[0]).abs().max()) > 1e-4


def test_a_word_has_its_own_fraction(backbone: Backbone) -> None:
    held = build(
        backbone,
        EDITED,
        SOURCE,
        words=Words(hold=(("a", (0.0, 0.0)), ("blue", (0.0, 0.0)), ("mug", (0.0, 0.0)))),
        knobs=Knobs(cross_replace=1.0, self_replace=0.0),
    )
    for t in (901, 301):
        x, times = pair(backbone, t=t)
        late = build(
            backbone,
            EDITED,
            SOURCE,
            words=Words(hold=(("blue", (0.5, 1.0)),)),
            knobs=Knobs(self_replace=0.0, cross_replace=0.0),
        )(x, times)
        plain = sampled(backbone, SOURCE, EDITED)(x, times)
        # begins when the sampling is half done
        assert (float((late - plain).abs().max()) > 1e-5) == (t == 301)
        # start, end and padding are still held
        assert float((held(x, times) - plain).abs().max()) > 1e-5


def test_any_size_and_no_guidance(backbone: Backbone) -> None:
    for height, width in ((16, 8), (8, 24)):
        x = torch.randn(1, 4, height, width).repeat(2, 1, 1, 1)
        blended = build(
            backbone,
            EDITED,
            SOURCE,
            words=Words(blend=("mug",)),
            guide=Guide(1.0),
            knobs=Knobs(blend_start=0.0),
        )
        noise = blended(x, torch.tensor([901, 901]))
        expected = backbone.predict_noise(
            x[:1], torch.tensor([901]), backbone.encode_text([SOURCE])
        )
        torch.testing.assert_close(noise[:1], expected, atol=1e-5, rtol=1e-5)
        assert float((noise[1] - noise[0]).abs().max()) > 1e-5


def test_null_tokens_stand_for_the_negative_prompt_at_their_level(backbone: Backbone) -> None:
    timesteps = levels(backbone, 2)
    tokens = backbone.encode_text(["", "a hat"]).tokens
    nulls = Nulls(timesteps, tokens)
    x = torch.randn(1, 4, 8, 8).repeat(2, 1, 1, 1)
    for t, negative in zip(timesteps.tolist(), ("", "a hat")):
        times = torch.tensor([t + 3, t + 3])
        with_nulls = build(backbone, EDITED, SOURCE, nulls=nulls)(x, times)
        torch.testing.assert_close(
            with_nulls, build(backbone, EDITED, SOURCE, guide=Guide(negative=negative))(x, times)
        )


# toys


@pytest.fixture(scope="module")
def toybox() -> Backbone:
    return load_backbone("toybox", device="cpu")


def test_a_recoloured_toy_keeps_its_outline(toybox: Backbone) -> None:
    """A small version of `python benchmarks/systems.py prompt_to_prompt`."""
    kept, hits = [], []
    for kind, old, new in (("chair", "pink", "brown"), ("teapot", "blue", "purple")):
        edited = build(toybox, f"a {new} {kind}", f"a {old} {kind}", words=Words(blend=(kind,)))
        pictures = paint(toybox, Ready(edited, rows=2), steps=12, seed=6)
        kept.append(float(overlap(silhouettes(pictures[:1]), silhouettes(pictures[1:]))))
        verdict = load_judge(WEIGHTS / "judge").read(pictures)
        hits.append(verdict.names("color") == [old, new])
    assert min(kept) > 0.75
    assert all(hits)


def test_a_real_picture_is_edited(toybox: Backbone, tmp_path: Path) -> None:
    """Inverted, reconstructed, and recoloured."""
    from tests.test_diffusion_inversion import drawn

    image = drawn("mug", "red")
    save_image(image[0], tmp_path / "mug.png")
    request = asked(EDITED, steps=8, source=SOURCE, image=tmp_path / "mug.png", blend="mug")
    source, edited = paint(toybox, prepared(SYSTEM, toybox, request), steps=8)
    assert float((source - image[0]).square().mean()) < 0.02
    assert load_judge(WEIGHTS / "judge").read(edited[None]).names("color") == ["blue"]
    kept = overlap(silhouettes(source[None]), silhouettes(edited[None]))
    assert float(kept) > 0.8


# what cannot be meant


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weigh": (("green", 2.0),)}, "no word 'green' in the prompt 'a blue mug'"),
        ({"hold": (("red", (0.0, 1.0)),)}, "no word 'red' in the prompt 'a blue mug'"),
        ({"blend": ("hat",)}, "no word 'hat' in the prompt"),
        ({"hold": (("mug", (0.6, 0.5)),)}, "hold mug: two shares.*got 0.6 and 0.5"),
    ],
)
def test_what_cannot_be_meant(backbone: Backbone, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(backbone, EDITED, SOURCE, words=Words(**options))


def test_a_swap_needs_equally_many_words(backbone: Backbone) -> None:
    with pytest.raises(InputError, match="'a mug' has 2, 'a blue mug' has 3"):
        build(backbone, EDITED, "a mug", knobs=Knobs(mode="swap"))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"mode": "swop"}, "mode must be one of auto, swap, refine, got 'swop'; did you mean"),
        ({"cross_replace": 1.2}, r"cross_replace must be .*in 0\.\.1, got 1.2"),
        ({"self_replace": -0.1}, r"self_replace must be .*in 0\.\.1, got -0.1"),
    ],
)
def test_knobs_that_cannot_be(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Knobs(**knobs)


def test_mistakes_show_before_the_picture_is_inverted(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        pytest.fail("inverted before the request was checked")

    monkeypatch.setattr("threed.diffusion.inversion.invert_picture", never)
    save_image(torch.rand(3, 32, 32), tmp_path / "x.png")
    request = asked(EDITED, 32, source=SOURCE, image=tmp_path / "x.png", blend="hat")
    with pytest.raises(InputError, match="no word 'hat'"):
        prepared(SYSTEM, backbone, request)
