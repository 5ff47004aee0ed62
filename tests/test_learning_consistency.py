"""The loss of Direct Consistency Optimization, and masks in losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from threed.diffusion.catalog import load_backbone
from threed.diffusion.condition import Condition
from threed.learning.losses import consistency_loss, denoising_loss


@pytest.fixture
def tiny(folder: Path) -> Any:
    return load_backbone(str(folder), device="cpu")


class Linear:
    """A backbone whose noise is a parameter times x, and with the adapter one more."""

    alphas_cumprod = torch.linspace(0.999, 0.005, 1000)

    def __init__(self) -> None:
        self.weight = torch.tensor(0.3, requires_grad=True)

    def predict_noise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return x * (self.weight if condition.adapters else 0.3)


def test_dcos_loss_is_the_papers() -> None:
    model, z = Linear(), torch.randn(1, 4, 8, 8, generator=torch.manual_seed(0))
    learning = Condition(torch.zeros(1, 2, 3), adapters={"taught": 1.0})
    base = Condition(torch.zeros(1, 2, 3))
    for beta in (1.0, 1000.0):
        for gamma in (None, 5.0):
            model.weight.grad = None
            loss = consistency_loss(model, z, learning, base, torch.Generator().manual_seed(1),
                                    beta=beta, snr_gamma=gamma)  # fmt: skip
            loss.backward()
            torch.testing.assert_close(loss, torch.tensor(2.0).log())
            if gamma is None:
                plain = torch.tensor(0.3, requires_grad=True)
                model.weight, kept = plain, model.weight
                denoising_loss(model, z, learning, torch.Generator().manual_seed(1)).backward()
                model.weight = kept
                assert kept.grad is not None
                assert plain.grad is not None
                torch.testing.assert_close(kept.grad, beta / 2 * plain.grad)


def test_dcos_loss_is_one_term_a_picture() -> None:
    model, z = Linear(), torch.randn(3, 4, 8, 8, generator=torch.manual_seed(0))
    model.weight = torch.tensor(0.6)
    told = [Condition(torch.zeros(3, 2, 3), adapters=a) for a in ({"taught": 1.0}, {})]
    chances = [torch.Generator().manual_seed(1) for _ in range(2)]
    loss = consistency_loss(model, z, *told, chances[0], beta=20.0)
    place = torch.randperm(3, generator=chances[1]) + torch.rand(3, generator=chances[1])
    t = (place * (1000 / 3)).long()
    eps = torch.randn(z.shape, generator=chances[1])
    a = model.alphas_cumprod[t].view(-1, 1, 1, 1)
    x = a.sqrt() * z + (1 - a).sqrt() * eps
    better = [((w * x - eps) ** 2).mean((1, 2, 3)) for w in (0.6, 0.3)]
    expected = torch.stack([-torch.log(torch.sigmoid(-20 * (l1 - l0)))
                            for l1, l0 in zip(*better)]).mean()  # fmt: skip
    torch.testing.assert_close(loss, expected)


def test_a_mask_says_where_errors_count(tiny: Any) -> None:
    z = torch.randn(2, 4, 8, 8, generator=torch.manual_seed(0))
    text = tiny.encode_text(["a mug", "a box"])
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., :2] = 0.5

    def loss(mask: Tensor | None) -> Tensor:
        return denoising_loss(tiny, z, text, torch.Generator().manual_seed(4), mask=mask)

    torch.testing.assert_close(loss(torch.full_like(mask, 0.3)), loss(None))
    model = Linear()
    condition = Condition(torch.zeros(1, 2, 3))
    z = torch.zeros(1, 4, 8, 8)
    z[..., :2] = 2.0
    half = torch.zeros(1, 1, 8, 8)
    half[..., :2] = 1
    here, cut = (
        denoising_loss(model, part, condition, torch.Generator().manual_seed(4), mask=m)
        for part, m in ((z, half), (torch.full_like(z, 2.0), half))
    )
    torch.testing.assert_close(here, cut)
