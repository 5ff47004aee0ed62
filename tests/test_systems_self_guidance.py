"""Self-guidance: its energies against closed forms, its gradient, and toys that move."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.silhouette import centroids, silhouettes
from tests.systems import asked, prepared, sampled
from threed.core.errors import InputError
from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.images import make_images
from threed.diffusion.paint import Ready, paint
from threed.diffusion.parts import energies
from threed.diffusion.parts.goals import Goals as Plan
from threed.diffusion.parts.goals import Term, Weights, Wrong
from threed.diffusion.parts.words import phrases
from threed.systems.control.self_guidance import SYSTEM, Asked, Knobs, build
from threed.toybox.family.nets import WEIGHTS
from threed.toybox.judge.net import load_judge

PROMPT = "a red ball and a blue cube"
ALL = Weights(1.0, 1.0, 1.0, 1.0)


def box(x: int, y: int, size: int = 4, of: int = 16) -> Tensor:
    """[1, of, of] a square of ones whose left upper pixel is (x, y)."""
    mask = torch.zeros(1, of, of, dtype=torch.float64)
    mask[:, y : y + size, x : x + size] = 1
    return mask


# the energies


def test_the_centroid_is_where_the_map_is() -> None:
    delta = torch.zeros(2, 4, 8)
    delta[0, 1, 6] = 0.3
    delta[1, 3, 0] = delta[1, 3, 7] = 2.0
    expected = torch.tensor([[6.5 / 8, 1.5 / 4], [0.5, 3.5 / 4]])
    torch.testing.assert_close(energies.centroid(delta), expected, atol=1e-3, rtol=0)


def test_a_shape_does_not_depend_on_the_maps_contrast() -> None:
    square = box(3, 4)
    torch.testing.assert_close(energies.shape(0.2 + 0.01 * square), square, atol=2e-2, rtol=0)
    assert float(energies.size(square)) == pytest.approx(1 / 16, abs=2e-3)
    assert float(energies.size(torch.ones(1, 5, 5))) == 0  # the same everywhere: nothing


def test_appearance_is_the_mean_over_the_shape() -> None:
    features = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    maps = box(3, 4).requires_grad_()
    look = energies.appearance(maps, features)
    torch.testing.assert_close(look, features[..., 4:8, 3:7].mean((2, 3)), atol=1e-3, rtol=0)
    assert not look.requires_grad  # the map only selects
    # of features of another size, such as the decoder's, too: here each place four times
    larger = features.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(energies.appearance(maps, larger), look, atol=0.05, rtol=0)


def test_moving_a_map_moves_and_grows_it() -> None:
    torch.testing.assert_close(energies.moved(box(3, 4), (0.25, -0.125), 1.0), box(7, 2),
                               atol=1e-6, rtol=0)  # fmt: skip
    larger = energies.moved(box(6, 6), (0.0, 0.0), 4.0)
    torch.testing.assert_close(energies.centroid(larger), energies.centroid(box(6, 6)))
    assert float(larger.sum()) == pytest.approx(64, rel=0.05)
    away = energies.moved(box(12, 0), (0.5, 0.0), 1.0)
    assert float(away.abs().max()) < 1e-6  # out of the picture: nothing comes in from outside


@pytest.mark.parametrize(
    "energy",
    [
        lambda maps: energies.centroid(maps).square().sum(),
        lambda maps: energies.size(maps).sum(),
        lambda maps: energies.shape(maps).square().sum(),
        lambda maps: energies.moved(maps, (0.1, 0.2), 1.7).square().sum(),
    ],
)
def test_energies_are_differentiable(energy: Callable[[Tensor], Tensor]) -> None:
    maps = torch.rand(2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(energy, (maps,))


def test_the_gradient_is_that_of_the_energy(folder: Path) -> None:
    """Against differences along a direction, through the UNet, in double precision."""
    double = load_backbone(str(folder), device="cpu", dtype=torch.float64)
    text = double.encode_text([PROMPT, PROMPT])
    plan = Plan(double, PROMPT, PROMPT)
    aim = Weights(1.0, 1.0, 1.0)  # no looks: there the map's own gradient is left out
    plan.edit([("ball", (0.2, -0.1))], [("ball", 2.0)], aim)
    plan.keep(None, aim)
    wrong = Wrong(double, text, tuple(plan.terms), (), 1.0, 1024)
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([500, 500])
    energy = wrong(x, t)
    assert energy[0] == 0
    assert energy[1] > 0
    (gradient,) = torch.autograd.grad(energy.sum(), x)
    assert float(gradient[0].abs().max()) == 0
    step = torch.zeros_like(x)
    step[1] = torch.randn(4, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        ahead, behind = (wrong(x + h * step, t)[1] for h in (1e-5, -1e-5))
    found = float((gradient * step).sum())
    assert found == pytest.approx(float(ahead - behind) / 2e-5, rel=1e-3, abs=1e-6)


# the terms


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a red ball and a blue cube", [["red", "ball"], ["blue", "cube"]]),
        ("The Mug, on an old table", [["mug"], ["old", "table"]]),
        ("a photo of a duck", [["photo"], ["duck"]]),
        ("a", []),
    ],
)
def test_phrases(prompt: str, named: list[list[str]]) -> None:
    assert phrases(prompt) == named


def test_what_nothing_is_asked_of_is_kept(backbone: Backbone) -> None:
    plan = Plan(backbone, PROMPT, PROMPT)
    plan.edit([("ball", (0.1, 0.0))], [], ALL)
    kept = Weights(shape=1.0)
    plan.keep(None, kept)
    cube = tuple(plan._tokens(PROMPT, "cube"))
    assert plan.terms[1:] == [Term(cube, cube, 0, kept)]
    plan.keep(["blue"], kept)
    assert plan.terms[2].tokens == plan._tokens(PROMPT, "blue")


def test_replaced_words_take_the_place_of_others(backbone: Backbone) -> None:
    plan = Plan(backbone, "a red hat", "a red mug")
    plan.replace_words(ALL)
    (term,) = plan.terms
    assert term.tokens == plan._tokens("a red hat", "hat")
    assert term.model == plan._tokens("a red mug", "mug")
    assert term.weights == replace(ALL, look=0.0)


def test_the_original_is_never_changed_and_what_stays_is_left_alone(backbone: Backbone) -> None:
    x = torch.randn(1, 4, 8, 8).repeat(2, 1, 1, 1)
    t = torch.tensor([801, 801])
    plain = sampled(backbone, PROMPT, PROMPT)(x, t)
    moved = build(
        backbone, PROMPT, asked=Asked(move=(("ball", (0.3, 0.0)),)), knobs=Knobs(strength=5.0)
    )(x, t)
    assert torch.equal(moved[0], plain[0])
    assert float((moved[1] - plain[1]).norm()) > 1e-3 * float(plain[1].norm())
    still = build(backbone, PROMPT, asked=Asked(keep=("ball", "cube")), knobs=Knobs(strength=5.0))(
        x, t
    )
    torch.testing.assert_close(still, plain, atol=1e-4, rtol=1e-4)


def test_what_is_added_is_limited_and_ends(backbone: Backbone) -> None:
    x, t = torch.randn(1, 4, 8, 8).repeat(2, 1, 1, 1), torch.tensor([801, 801])
    plain = sampled(backbone, PROMPT, PROMPT)
    strong = build(
        backbone,
        PROMPT,
        asked=Asked(move=(("ball", (0.3, 0.0)),)),
        knobs=Knobs(strength=1e6, limit=0.25, until=0.5),
    )
    added = (strong(x, t) - plain(x, t))[1]
    assert float(added.norm()) == pytest.approx(0.25 * float(plain(x, t)[1].norm()), rel=1e-3)
    late = torch.tensor([401, 401])
    assert torch.equal(strong(x, late), plain(x, late))


def test_pictures_are_copied(backbone: Backbone) -> None:
    x, t = torch.randn(1, 4, 8, 8).repeat(2, 1, 1, 1), torch.tensor([801, 801])
    plain = sampled(backbone, PROMPT, PROMPT)(x, t)
    pictures = torch.rand(2, 1, 3, 32, 32)
    seen = []
    for name in ("appearance", "layout"):
        for picture in pictures:
            told = Asked(**{name: (("ball", picture),)})
            noise = build(backbone, PROMPT, asked=told, knobs=Knobs(strength=5.0))(x, t)
            assert torch.equal(noise[0], plain[0])
            seen.append(noise[1] - plain[1])
    for i, one in enumerate(seen):
        assert float(one.abs().max()) > 1e-4
        assert all(float((one - other).abs().max()) > 1e-4 for other in seen[:i])


@pytest.mark.parametrize("shift", [(0.2, 0.0), (0.0, 0.15)], ids=["right", "down"])
def test_a_toy_moves(shift: tuple[float, float]) -> None:
    """Seven tenths of the way, a red mug still, and the original is the plain sample.

    A small version of `python benchmarks/systems.py self_guidance`.
    """
    toybox = load_backbone("toybox", device="cpu")
    moved = build(toybox, "a red mug", asked=Asked(move=(("mug", shift),)))
    pictures = paint(toybox, Ready(moved, rows=2), steps=12, seed=3)
    original, edited = centroids(silhouettes(pictures))
    missing = (edited - original - torch.tensor(shift)).norm()
    assert float(missing) < 0.3 * math.hypot(*shift)
    verdict = load_judge(WEIGHTS / "judge").read(pictures)
    assert (verdict.names("color"), verdict.names("kind")) == (["red"] * 2, ["mug"] * 2)
    plain = make_images(toybox, "a red mug", steps=12, seed=3, guide=Guide(5.0))
    torch.testing.assert_close(pictures[:1], plain, atol=1e-4, rtol=0)


# what cannot be meant


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"move": (("mug", (0.1, 0.0)),)}, "no word 'mug' in the prompt"),
        ({"move": (("ball", (1.0, 0.0)),)}, r"move ball: fractions of the picture in -1\.\.1"),
        ({"resize": (("ball", 0.0),)}, "resize ball: a factor in 0.05..20 is needed, got 0"),
        ({"keep": ("hat",)}, "no word 'hat'"),
    ],
)
def test_what_cannot_be_meant(backbone: Backbone, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(backbone, PROMPT, asked=Asked(**options))


def test_a_source_has_as_many_words(backbone: Backbone) -> None:
    with pytest.raises(InputError, match="equally many words: 'a mug' has 2"):
        build(backbone, PROMPT, "a mug")


def test_maps_that_are_too_large_are_said(backbone: Backbone) -> None:
    small = build(
        backbone, PROMPT, asked=Asked(move=(("ball", (0.1, 0.0)),)), knobs=Knobs(tokens=3)
    )
    with pytest.raises(InputError, match="has at most 3 places; tokens must be larger"):
        small(torch.randn(2, 4, 8, 8), torch.tensor([901, 901]))


def test_something_has_to_be_asked(backbone: Backbone) -> None:
    with pytest.raises(InputError, match="needs something to do: --move, --resize"):
        prepared(SYSTEM, backbone, asked(PROMPT))
