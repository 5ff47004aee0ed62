"""The loss that diffusion models are trained with: DDPM's, its weights, and parts of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_folder
from threed.diffusion.catalog import load_backbone
from threed.diffusion.condition import Condition
from threed.diffusion.noise import alpha_sigma
from threed.learning.data import beside
from threed.learning.losses import chosen, denoising_loss, without_text


class Exact:
    """A backbone whose noise is x itself; remembers what it was asked."""

    alphas_cumprod = torch.linspace(0.999, 0.005, 1000)

    def predict_noise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.x, self.t = x, t
        return x


@pytest.mark.parametrize("debias", [False, True])
def test_the_loss_is_ddpms(debias: bool) -> None:
    backbone, z = Exact(), torch.randn(6, 4, 8, 8)
    condition = Condition(torch.zeros(6, 3, 5))
    loss = denoising_loss(backbone, z, condition, torch.Generator().manual_seed(3), debias=debias)
    alpha, sigma = alpha_sigma(backbone.alphas_cumprod, backbone.t)
    noise = (backbone.x - alpha * z) / sigma  # what must have been added
    assert abs(float(noise.std()) - 1) < 0.05
    weight = sigma / alpha if debias else 1.0
    torch.testing.assert_close(loss, (weight * (backbone.x - noise) ** 2).mean(), rtol=1e-4, atol=0)
    # one timestep in each sixth of the schedule
    assert sorted((backbone.t * 6 // 1000).tolist()) == [0, 1, 2, 3, 4, 5]


def test_a_share_of_the_conditions_is_left_out() -> None:
    drop = chosen(20_000, 0.3, torch.Generator().manual_seed(0))
    assert abs(float(drop.float().mean()) - 0.3) < 0.015
    full = Condition(torch.ones(4, 3, 5), pooled=torch.ones(4, 2))
    empty = Condition(torch.zeros(1, 3, 5), pooled=torch.zeros(1, 2))
    kept = without_text(full, empty, torch.tensor([True, False, False, True]))
    assert kept.tokens.mean((1, 2)).tolist() == [0, 1, 1, 0]
    assert kept.pooled is not None
    assert kept.pooled.mean(1).tolist() == [0, 1, 1, 0]


def test_neighbours_of_a_group_share_a_timestep() -> None:
    backbone, z = Exact(), torch.randn(12, 4, 8, 8)
    denoising_loss(backbone, z, Condition(torch.zeros(12, 3, 5)),
                   torch.Generator().manual_seed(3), group=4)  # fmt: skip
    t = backbone.t.view(3, 4)
    assert (t == t[:, :1]).all()
    assert sorted((t[:, 0] * 3 // 1000).tolist()) == [0, 1, 2]
    alpha, _ = alpha_sigma(backbone.alphas_cumprod, backbone.t)
    noise = backbone.x - alpha * z
    assert not torch.isclose(noise[0], noise[1]).any()


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def test_a_class_keeps_its_prior_beside_an_instance(tmp_path: Path) -> None:
    # DreamBooth (arXiv:2208.12242): pictures of the instance and of its class in one batch
    backbone: Any = load_backbone(str(tiny_folder(tmp_path)), device="cpu", dtype=torch.float32)
    texts = backbone.encode_text(["a sks dog"] * 3 + ["a dog"] * 3)
    z = torch.randn(6, 4, 8, 8)
    one, other = (texts.select(torch.arange(start, start + 3)) for start in (0, 3))
    instance = denoising_loss(backbone, z[:3], one, chance())
    prior = denoising_loss(backbone, z[3:], other, beside(chance(), 1))
    for weight in (0.0, 0.5, 1.0):
        both = denoising_loss(backbone, z, texts, chance(), weights=(1.0, weight))
        torch.testing.assert_close(both, instance + weight * prior, rtol=1e-5, atol=1e-6)
    twice = denoising_loss(Exact(), z, texts, chance(), weights=(1.0, 0.0))
    assert torch.equal(twice, denoising_loss(Exact(), z[:3], one, chance()))
