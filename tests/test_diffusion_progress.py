"""Shares of a sampling are whole steps of the sampler, whichever it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from threed.diffusion.parts.control import within
from threed.diffusion.parts.prompt_edits import Exchange
from threed.diffusion.parts.words import Alignment
from threed.diffusion.progress import counted, due, span
from threed.diffusion.sampler import SCHEDULERS, make_scheduler, sample
from threed.diffusion.score import Score
from threed.systems.control.controlnet import Window
from threed.systems.control.self_guidance import Knobs as Moves
from threed.systems.editing.prompt_to_prompt import Knobs as Edits

STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SPACINGS: tuple[dict[str, Any], ...] = (
    {"steps_offset": 1, "set_alpha_to_one": False, "timestep_spacing": "leading"},
    {"timestep_spacing": "trailing"},
    {"timestep_spacing": "linspace"},
)


def watched(sampler: str, config: dict[str, Any], steps: int, see: Score) -> None:
    """Sample with a Score that is only looked at."""
    scheduler = make_scheduler(sampler, {**STABLE, **config})
    sample(see, scheduler, torch.zeros(2, 1, 1, 1), steps=steps)


@pytest.mark.parametrize("steps", [20, 25, 30, 50])
@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_every_whole_number_of_steps_is_that_many(sampler: str, steps: int) -> None:
    whole = torch.arange(steps + 1) / steps
    for config in SPACINGS:
        first, last, begins = [], [], []

        def see(x: Tensor, t: Tensor) -> Tensor:
            first.append(due(t[:1], 0.0, whole))  # noqa: B023
            last.append(due(t[:1], whole, 1.0))  # noqa: B023
            begins.append(span(t)[0])  # noqa: B023
            return x

        watched(sampler, config, steps, see)
        step = torch.arange(steps)[:, None]
        assert torch.equal(torch.stack(first), step < torch.arange(steps + 1))
        assert torch.equal(torch.stack(last), step >= torch.arange(steps + 1))
        torch.testing.assert_close(torch.stack(begins), (step / steps).expand(-1, 2))


@pytest.mark.parametrize(("share", "steps", "count"), [
    (0.5, 25, 12), (0.99, 30, 29), (0.01, 30, 0), (1.0, 7, 7), (0.0, 7, 0), (1 / 3, 30, 10),
])  # fmt: skip
def test_of_other_shares_the_whole_steps_count(share: float, steps: int, count: int) -> None:
    """As diffusers keeps a ControlNet: until (i + 1) / steps > end, from i / steps >= start."""
    seen = []
    watched("ddim", SPACINGS[0], steps, lambda x, t: (seen.append(due(t, 0.0, share)), x)[1])
    assert sum(bool(on.all()) for on in seen) == count
    seen.clear()
    watched("ddim", SPACINGS[0], steps, lambda x, t: (seen.append(due(t, 1 - share, 1.0)), x)[1])
    assert sum(bool(on.all()) for on in seen) == count


def test_the_systems_defaults_are_the_published_counts_at_thirty_steps() -> None:
    """Public code: int(0.8 * 31) words' and int(30 * 0.6) own; a ControlNet to 0.5 has 15."""
    knobs, window, until = Edits(), Window(end=0.5), Moves().until
    spans = torch.tensor([0.0, knobs.cross_replace])[:, None].repeat(1, 3)
    exchange = Exchange(
        Alignment(torch.eye(3), torch.ones(3)), torch.ones(3), spans, knobs.self_replace, 16
    )
    net: Any = object()
    counts = {"edits": [], "nets": [], "moves": []}

    def made(nets: tuple[Any, ...]) -> Score:
        return lambda x, t: (counts["nets"].append(len(nets)), x)[1]

    controlled = within(made, [(net, window.start, window.end)])

    def see(x: Tensor, t: Tensor) -> Tensor:
        counts["edits"].append(len(exchange.edits(t)))
        counts["moves"].append(int(due(t, 0.0, until).all()))
        return controlled(x, t)

    watched("ddim", SPACINGS[0], 30, see)
    assert counts["edits"] == [2] * 18 + [1] * 6 + [0] * 6
    assert counts["nets"] == [1] * 15 + [0] * 15
    assert counts["moves"] == [1] * 24 + [0] * 6


def test_without_a_sampler_the_noise_tells() -> None:
    t = torch.tensor([1000, 750, 500, 499, 0])
    assert torch.equal(due(t, 0.25, 0.5), torch.tensor([False, True, True, False, False]))
    with counted(torch.tensor([900, 600, 300])):
        assert span(torch.tensor([600]))[0] == 1 / 3
        with counted(torch.tensor([600])):  # a sampling inside of one
            assert span(torch.tensor([600]))[0] == 0
        assert span(torch.tensor([600]))[1] == 2 / 3
    assert span(torch.tensor([600]))[0] == pytest.approx(0.4)
