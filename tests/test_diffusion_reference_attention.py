"""Another picture's features as further keys: IDM-VTON's and BootComp's attention, written out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.test_diffusion_condition import T, same_one_by_one, shares_a_call
from threed.diffusion.condition import Condition
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.reference_attention import Reference, recorded

ZERO = torch.zeros(4, dtype=torch.long)


Make = Callable[[str], Any]


@contextmanager
def processors(backbone: StableDiffusion, make: Make) -> Iterator[None]:
    """Other processors where `make` of a layer's name gives one."""
    before = dict(backbone.unet.attn_processors)
    try:
        for name in before:
            other = make(name.removesuffix(".processor"))
            if other is not None:
                backbone.unet.get_submodule(name.removesuffix(".processor")).set_processor(other)
        yield
    finally:
        backbone.unet.set_attn_processor(before)


def probabilities(attn: Any, q: Tensor, context: Tensor) -> Tensor:
    """Attention of hidden states to a context, through the last map."""
    heads = [attn.head_to_batch_dim(part(y)) for part, y in
             ((attn.to_q, q), (attn.to_k, context), (attn.to_v, context))]  # fmt: skip
    out = attn.batch_to_head_dim(attn.get_attention_scores(*heads[:2]) @ heads[2])
    result: Tensor = attn.to_out[0](out)
    return result


class Sliced:
    """IDM-VTON's: concatenate the features, attend, and keep the picture's own."""

    def __init__(self, features: Tensor) -> None:
        self.features = features

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None,
                 attention_mask: Any = None, temb: Any = None) -> Tensor:  # fmt: skip
        both = torch.cat([hidden_states, self.features], 1)
        return probabilities(attn, both, both)[:, : hidden_states.shape[1]]


class Paired:
    """BootComp's decomposition: a noisy picture and its reference are neighbours in the batch.

    The noisy one attends to both, the reference to itself; of the text only the noisy one knows.
    """

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None,
                 attention_mask: Any = None, temb: Any = None) -> Tensor:  # fmt: skip
        noisy, reference = hidden_states.unflatten(0, (-1, 2)).unbind(1)
        if encoder_hidden_states is None:
            own = probabilities(attn, noisy, torch.cat([noisy, reference], 1))
            other = probabilities(attn, reference, reference)
        else:
            own = probabilities(attn, noisy, encoder_hidden_states[::2])
            other = torch.zeros_like(own)
        return torch.stack([own, other], 1).flatten(0, 1)


def test_features_are_concatenated_attended_and_sliced(
    backbone: StableDiffusion, x: Tensor, told: Condition, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = recorded(backbone, torch.randn(4, 4, 8, 10), T, told)  # of another size
    order = [name for name, _ in backbone.unet.named_modules() if name.endswith("attn1")]
    assert [*seen.features] == sorted(order, key=lambda name: "dmu".index(name[0]))
    dressed = replace(told, attention=(seen,))
    ours = backbone.predict_noise(x, T, dressed)
    features = seen.features
    with processors(backbone, lambda at: Sliced(features[at][:, 0]) if at in features else None):
        expected = backbone.predict_noise(x, T, told)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)
    assert float((ours - backbone.predict_noise(x, T, told)).abs().max()) > 1e-3
    same_one_by_one(backbone, x, dressed)
    conditions = [dressed, replace(told, attention=(seen.nothing(),)), told]
    shares_a_call(backbone, x, conditions, monkeypatch)


def test_a_silent_reference_at_time_zero_is_the_pair_in_one_call(
    backbone: StableDiffusion, x: Tensor, told: Condition
) -> None:
    shown = torch.randn_like(x)
    reference = recorded(backbone, shown, ZERO, told, silent=True)
    ours = backbone.predict_noise(x, T, replace(told, attention=(reference,)))
    pairs = torch.stack([x, shown], 1).flatten(0, 1)
    times = torch.stack([T, ZERO], 1).flatten()
    with processors(backbone, lambda at: Paired()):
        expected = backbone.predict_noise(
            pairs, times, told.select(torch.arange(4).repeat_interleave(2))
        )
    torch.testing.assert_close(ours, expected[::2], atol=1e-6, rtol=1e-5)
    spoken = recorded(backbone, shown, ZERO, told)
    assert float((backbone.predict_noise(x, T, replace(told, attention=(spoken,))) - ours
                  ).abs().max()) > 1e-4  # fmt: skip


def test_several_pictures_are_one_after_the_other_and_missing_ones_count_nothing(
    backbone: StableDiffusion, x: Tensor, told: Condition
) -> None:
    """Items have none, one, or two of the pictures."""
    there = torch.tensor([[True, True], [False, False], [False, True], [True, False]])
    few = recorded(backbone, torch.randn(4, 4, 8, 6), ZERO, told)
    every = few.spread(there)
    together = backbone.predict_noise(x, T, replace(told, attention=(every,)))
    for row, numbers in enumerate(([0, 1], [], [2], [3])):
        here, item = torch.tensor([row]), slice(row, row + 1)
        one = told.select(here)
        if numbers:
            own = {name: value[numbers].transpose(0, 1) for name, value in few.features.items()}
            one = replace(one, attention=(Reference(own),))
        alone = backbone.predict_noise(x[item], T[item], one)
        torch.testing.assert_close(together[item], alone, atol=1e-5, rtol=1e-5)
    full = few.spread(torch.ones(2, 2, dtype=torch.bool))
    assert full.shares is None
    for name, value in full.features.items():
        assert torch.equal(value.flatten(0, 1), few.features[name][:, 0])


def test_a_picture_that_counts_twice_is_there_twice(
    backbone: StableDiffusion, x: Tensor, told: Condition
) -> None:
    few = recorded(backbone, torch.randn(4, 4, 8, 6), ZERO, told)

    def noise(reference: Reference) -> Tensor:
        return backbone.predict_noise(x, T, replace(told, attention=(reference,)))

    twice = Reference({name: value.repeat(1, 2, 1, 1) for name, value in few.features.items()})
    torch.testing.assert_close(noise(few.counting(2)), noise(twice), atol=1e-5, rtol=1e-5)
    none = few.counting(0)
    torch.testing.assert_close(noise(none), backbone.predict_noise(x, T, told), atol=1e-5, rtol=0)
    same_one_by_one(backbone, x, replace(told, attention=(few.counting(0.5),)))


def test_gradients_reach_the_pictures_that_are_looked_at_and_no_others(
    backbone: StableDiffusion, x: Tensor, told: Condition
) -> None:
    shown = torch.randn(4, 4, 8, 8, requires_grad=True)
    seen = recorded(backbone, shown, ZERO, told).kept(torch.tensor([True, True, False, True]))
    noise = backbone.predict_noise(x, T, replace(told, attention=(seen,)))
    (gradient,) = torch.autograd.grad(noise[1:3].sum(), shown)
    assert float(gradient[1].abs().max()) > 0
    assert float(gradient[[0, 2, 3]].abs().max()) == 0
